"""What a request's text shows without a model: its surface, and hashed words and pairs of words.

Feature hashing: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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
_ASCII_WORD = re.compile(rb"\w+")
_MARK = re.compile(r"[^\w\s]")
_ASCII = "".join(map(chr, range(128)))
_KINDS = (str.isdigit, str.isupper, _MARK.fullmatch)
_KINDS_OF_SIGNS = np.array([[bool(is_one(sign)) for is_one in _KINDS] for sign in _ASCII], np.int64)
_PAIRING = 0x9E3779B1
"""An odd number without a pattern in its bits (2^32 over the golden ratio): it keeps "a b" from "b a"."""


def words_of(text: str) -> list[bytes]:
    """The words of the beginning of a text, in lower case and UTF-8."""
    begins = text[:LOOKED_AT].lower()
    if begins.isascii():
        return _ASCII_WORD.findall(begins.encode())
    return [word.encode("utf-8", "replace") for word in _WORD.findall(begins)]


def surface(text: str, words: Sequence[bytes]) -> Vector:
    """Lengths, and shares of digits, signs, capitals, distinct words and letters beyond ASCII; `words` are
    those of the text."""
    text = text[:LOOKED_AT]
    size, many = len(text) + 1, len(words) + 1
    digits, capitals, marks, beyond = _counts(text)
    return np.array(
        (
            log1p(len(text)),
            log1p(len(words)),
            len(text) / many,
            digits / size,
            log1p(digits),
            marks / size,
            log1p(text.count("\n")),
            capitals / size,
            len(set(words)) / many,
            beyond / size,
            log1p(text.count("?")),
        ),
        np.float32,
    )


def _counts(text: str) -> tuple[int, int, int, int]:
    """How many of its characters are digits, capitals, marks, and beyond ASCII."""
    if text.isascii():
        signs = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=128)
        digits, capitals, marks = (signs @ _KINDS_OF_SIGNS).tolist()
        return digits, capitals, marks, 0
    # Texts have few signs, each of them often.
    counts = Counter(text)
    digits, capitals, marks, ascii_ = (
        sum(many for sign, many in counts.items() if is_one(sign)) for is_one in (*_KINDS, str.isascii)
    )
    return digits, capitals, marks, len(text) - ascii_


def buckets(words: Sequence[bytes]) -> NDArray[np.intp]:
    """The buckets of the words and of their pairs, each once, in order."""
    hashes = np.array([crc32(word) for word in words], np.uint64)
    pairs = (hashes[:-1] * _PAIRING + hashes[1:]) >> 16
    # Of so few bits they are sorted by counting, without a comparison.
    found = (np.concatenate((hashes, pairs)) % BUCKETS).astype(np.uint16)
    found.sort(kind="stable")
    first = np.append(True, found[1:] != found[:-1])[: len(found)]
    return np.asarray(found[first], np.intp)
