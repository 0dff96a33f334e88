"""What may be believed of the counts that a provider reports."""

from __future__ import annotations

from typing import TypeAlias

from isthmus.core.usage import Usage

Count: TypeAlias = int | float | None
"""A count as it is reported: some servers write 12.0."""

MOST_TOKENS = 2**53
"""The largest integer that JSON carries exactly (RFC 8259, section 6), far above any real count."""


def believable(usage: Usage) -> Usage | None:
    """The usage, or None where a count is beyond `MOST_TOKENS`: then it counts as not told."""
    # The other counts are parts of these.
    most = max(usage.prompt, usage.output, usage.input_audio, usage.output_audio)
    return usage if most <= MOST_TOKENS else None


def whole(count: Count) -> int:
    """A reported count as a whole number, 0 where it is missing or below."""
    return int(count) if count and count > 0 else 0
