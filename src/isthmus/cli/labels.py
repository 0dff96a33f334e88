"""Labels in words."""

from __future__ import annotations

from isthmus.core.label import Label


def in_words(label: Label) -> str:
    """The level, and where it may be processed if that is bound: `confidential, only in eu`."""
    if label.zones is None:
        return label.level
    return f"{label.level}, only in {', '.join(sorted(label.zones)) or 'no zone at all'}"
