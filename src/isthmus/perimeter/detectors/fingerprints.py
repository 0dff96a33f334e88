"""Protected documents and source files, recognised by a piece of them, however it is spaced and wrapped.

Source: S. Schleimer, D. S. Wilkerson, A. Aiken, "Winnowing: Local Algorithms for Document Fingerprinting",
SIGMOD 2003. The grams are of words here, not of characters: spaces, line ends and punctuation do not count.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.lowercase import lowered

NOISE = 8
"""k: what agrees in fewer words than this is never found."""

GUARANTEE = 16
"""t: what agrees in at least so many words in a row is always found."""

_MAGIC = b"isthmus fingerprints 1\n"
# A script without spaces counts by its characters.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4ff\uf900-\ufaff]|[^\W_\u2e80-\ua4ff]+"
)
_PRIME = (1 << 61) - 1
_BASE = 0x1F3D5B79A2C4E681 % _PRIME


class Head(msgspec.Struct, frozen=True):
    """What stands before the fingerprints in a file: the documents' names, and how many prints there are."""

    names: tuple[str, ...]
    prints: int


class Index(msgspec.Struct, frozen=True):
    """The fingerprints of documents, in rising order, each with the number of its document in `names`."""

    names: tuple[str, ...]
    prints: Sequence[int]
    documents: Sequence[int]

    def dump(self) -> bytes:
        """The index as a file: a line, a line of JSON, then 8 and 4 bytes a fingerprint, little-endian."""
        head = msgspec.json.encode(Head(self.names, len(self.prints)))
        prints = b"".join(value.to_bytes(8, "little") for value in self.prints)
        documents = b"".join(value.to_bytes(4, "little") for value in self.documents)
        return b"".join((_MAGIC, head, b"\n", prints, documents))


def build(documents: Mapping[str, str]) -> Index:
    """The index of documents by name. What has fewer than `GUARANTEE` words is not sure to be found."""
    names = tuple(documents)
    pairs = sorted(
        {(value, number) for number, name in enumerate(names) for value in _winnowed(documents[name])}
    )
    return Index(
        names, array("Q", (value for value, _ in pairs)), array("L", (number for _, number in pairs))
    )


def load(data: bytes) -> Index:
    """The index that `dump` wrote. Raises ValueError for anything else."""
    head_line, newline, body = data.removeprefix(_MAGIC).partition(b"\n")
    try:
        head = msgspec.json.decode(head_line, type=Head)
    except msgspec.DecodeError:
        head = Head((), -1)
    if not data.startswith(_MAGIC) or not newline or len(body) != 12 * head.prints:
        raise ValueError("This is no file of fingerprints, or a part of one: build the index anew.")
    prints = array("Q", _integers(body[: 8 * head.prints], 8))
    documents = array("L", _integers(body[8 * head.prints :], 4))
    if any(number >= len(head.names) for number in documents) or list(prints) != sorted(prints):
        raise ValueError("The fingerprints of this file are in disorder: build the index anew.")
    return Index(head.names, prints, documents)


class Fingerprints:
    """Finds what a text has in common with the documents of an index.

    A run of `GUARANTEE` words or more is always found, one of fewer than `NOISE` never. A span reaches over
    words that were changed in between, if no more than `GUARANTEE` of them; it may lack up to
    `GUARANTEE - NOISE` words at either end, as not every gram of a document is kept. A finding's kind is
    `term.` and the document's name.
    """

    name = "fingerprints"

    def __init__(self, index: Index) -> None:
        self._index = index

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start."""
        words = _words(text)
        # Every gram is looked up, not only the winnowed ones: the spans become as long as what agrees.
        seen = sorted(
            (document, at)
            for at, value in enumerate(_grams([word for word, _, _ in words]))
            for document in self._documents(value)
        )
        found = [
            Finding(
                f"term.{self._index.names[document]}", words[first][1], words[last + NOISE - 1][2], self.name
            )
            for document, places in groupby(seen, key=lambda pair: pair[0])
            for first, last in _runs(at for _, at in places)
        ]
        return sorted(found, key=lambda finding: (finding.start, finding.end, finding.kind))

    def _documents(self, value: int) -> Iterator[int]:
        prints = self._index.prints
        at = bisect_left(prints, value)
        while at < len(prints) and prints[at] == value:
            yield self._index.documents[at]
            at += 1


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


def _winnowed(text: str) -> set[int]:
    """The least hash of every window, so that each run of `GUARANTEE` words has one that is kept."""
    grams = _grams([word for word, _, _ in _words(text)])
    window = GUARANTEE - NOISE + 1
    return {min(grams[at : at + window]) for at in range(max(1, len(grams) - window + 1)) if grams}


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


def _integers(data: bytes, size: int) -> Iterator[int]:
    return (int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size))
