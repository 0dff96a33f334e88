"""What a request's text shows without a model: its surface, and hashed words and pairs of words.

Feature hashing: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
"""

from __future__ import annotations

import re
from itertools import pairwise
from math import log1p
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

BUCKETS = 1 << 16
"""Words and pairs are told apart by so many buckets."""

LOOKED_AT = 2_000
"""So many characters of a text are looked at, so that a decision takes no longer for a long one."""

_WORD = re.compile(r"\w+")
_MARK = re.compile(r"[^\w\s]")


def surface(text: str) -> Vector:
    """Lengths, and shares of digits, signs, capitals, distinct words and letters beyond ASCII."""
    text = text[:LOOKED_AT]
    words = _WORD.findall(text)
    size, many = len(text) + 1, len(words) + 1
    digits = sum(map(str.isdigit, text))
    marks = len(_MARK.findall(text))
    return np.array(
        (
            log1p(len(text)),
            log1p(len(words)),
            len(text) / many,
            digits / size,
            log1p(digits),
            marks / size,
            log1p(text.count("\n")),
            sum(map(str.isupper, text)) / size,
            len({word.lower() for word in words}) / many,
            (0 if text.isascii() else sum(not it.isascii() for it in text)) / size,
            log1p(text.count("?")),
        ),
        np.float32,
    )


def buckets(text: str) -> NDArray[np.intp]:
    """The buckets of its words and pairs of words, each once, in order."""
    words = _WORD.findall(text[:LOOKED_AT].lower())
    grams = {*words, *(f"{one} {two}" for one, two in pairwise(words))}
    return np.array(sorted({crc32(gram.encode("utf-8", "replace")) % BUCKETS for gram in grams}), np.intp)
