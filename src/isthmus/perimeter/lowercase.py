"""Lower case that moves nothing: every character of the text keeps its place."""

from __future__ import annotations

import re

# They are no characters, and UTF-8 has no bytes for them.
_SURROGATES = re.compile("[\ud800-\udfff]")


def lowered(text: str) -> str:
    """`text` in lower case, of the same length, and without lone surrogates."""
    low = text.lower()
    if len(low) != len(text):
        low = "".join(one if len(one := letter.lower()) == 1 else letter for letter in text)
    return low if low.isascii() else _SURROGATES.sub("\ufffd", low)
