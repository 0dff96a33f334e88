"""Protected documents and source files, recognised by a piece of them, however it is spaced and wrapped.

Source: S. Schleimer, D. S. Wilkerson, A. Aiken, "Winnowing: Local Algorithms for Document Fingerprinting",
SIGMOD 2003. The grams are of words here, not of characters: spaces, line ends and punctuation do not count.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import lru_cache
from hashlib import blake2b

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.lowercase import lowered

NOISE = 12
"""k: what agrees in fewer words than this is never found."""

GUARANTEE = 20
"""t: what agrees in at least so many words in a row is always found."""

_MAGIC = b"isthmus fingerprints 1\n"
# A script without spaces counts by its characters.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4ff\uf900-\ufaff]|[^\W_\u2e80-\ua4ff]+"
)
_PRIME = (1 << 61) - 1
_BASE = 0x1F3D5B79A2C4E681 % _PRIME


class Head(msgspec.Struct, frozen=True):
    """What stands before the prints in a file: how many there are."""

    prints: int


def prints_of(text: str) -> set[int]:
    """The fingerprints of a text. What has fewer than `GUARANTEE` words is not sure to be found by them."""
    grams = _grams([word for word, _, _ in _words(text)])
    # The least hash of every window, so that each run of `GUARANTEE` words has one that is kept.
    window = GUARANTEE - NOISE + 1
    return {min(grams[at : at + window]) for at in range(max(1, len(grams) - window + 1)) if grams}


def dump(prints: Iterable[int]) -> bytes:
    """The prints as a file: a line, a line of JSON, then 8 bytes a print, little-endian, in rising order."""
    rising = _little_endian(array("Q", sorted(set(prints))))
    return b"".join((_MAGIC, msgspec.json.encode(Head(len(rising))), b"\n", rising.tobytes()))


def load(data: bytes) -> frozenset[int]:
    """The prints that `dump` wrote. Raises ValueError for anything else."""
    head_line, newline, body = data.removeprefix(_MAGIC).partition(b"\n")
    try:
        head = msgspec.json.decode(head_line, type=Head)
    except msgspec.DecodeError:
        head = Head(-1)
    if not data.startswith(_MAGIC) or not newline or len(body) != 8 * head.prints:
        raise ValueError("This is no file of fingerprints, or a part of one: build it anew.")
    return frozenset(_little_endian(array("Q", body)))


class Fingerprints:
    """Finds what a text has in common with the texts of which `prints` are the fingerprints.

    A run of `GUARANTEE` words or more is always found, one of fewer than `NOISE` never. A span reaches over
    words that were changed in between, if no more than `GUARANTEE` of them; it may lack up to
    `GUARANTEE - NOISE` words at either end, as not every gram of a text is kept. A finding's kind is
    `fingerprint.` and `name`.
    """

    name = "fingerprints"

    def __init__(self, name: str, prints: Set[int]) -> None:
        self._kind = f"fingerprint.{name}"
        self._prints = prints

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start."""
        words = _words(text)
        # Every gram is looked up, not only the winnowed ones: the spans become as long as what agrees.
        grams = _grams([word for word, _, _ in words])
        seen = (at for at, value in enumerate(grams) if value in self._prints)
        return [
            Finding(self._kind, words[first][1], words[last + NOISE - 1][2], self.name)
            for first, last in _runs(seen)
        ]


def _words(text: str) -> list[tuple[str, int, int]]:
    return [(match[0], *match.span()) for match in _WORD.finditer(lowered(text))]


def _grams(words: Sequence[str]) -> list[int]:
    """A hash for each `NOISE` words in a row, by Karp and Rabin's rolling scheme."""
    values = [_value(word) for word in words]
    if len(values) < NOISE:
        return []
    leaving = pow(_BASE, NOISE, _PRIME)
    rolled, grams = 0, []
    for at, value in enumerate(values):
        gone = values[at - NOISE] * leaving if at >= NOISE else 0
        rolled = (rolled * _BASE + value - gone) % _PRIME
        if at >= NOISE - 1:
            grams.append(rolled)
    return grams


@lru_cache(maxsize=1 << 15)
def _value(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") % _PRIME


def _runs(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last gram of each run; grams belong together unless too many words lie between."""
    first = last = -1
    for at in places:
        if first >= 0 and at - last > NOISE + GUARANTEE:
            yield first, last
            first = at
        first = at if first < 0 else first
        last = at
    if first >= 0:
        yield first, last


def _little_endian(values: array[int]) -> array[int]:
    """The values with the bytes that a file has, or back: on most machines it is the same."""
    if sys.byteorder == "big":
        values.byteswap()
    return values
