"""A text that every pattern engine can read, as long as the original."""

from __future__ import annotations


def legible(text: str) -> str:
    """The text with what UTF-8 cannot say (lone surrogates) replaced, so that every offset stays the same."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
