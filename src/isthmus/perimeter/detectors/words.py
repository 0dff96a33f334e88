"""A text as words: where each stands, how it is written, and what the gazetteer knows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from isthmus.perimeter.detectors.gazetteer import Gazetteer

_WORD = re.compile(r"[^\W\d_]+(?:['’\-‐][^\W\d_]+)*\.?")
_POSSESSIVES = ("'s", "’s", "'S", "’S")
_SHORT = 4


class Word(msgspec.Struct, frozen=True, gc=False):
    """A word at `start:end` of a text. `gap` is what stands between the word before and this one.

    `said` is without the possessive and the dot of an abbreviation, and so is `end`.
    """

    start: int
    end: int
    said: str
    gap: str
    traits: int

    @property
    def capital(self) -> bool:
        """True where it begins with a capital letter."""
        return self.said[0].isupper()

    @property
    def initial(self) -> bool:
        """True where it is a single capital letter, as between a given name and a surname."""
        return len(self.said) == 1 and self.capital

    @property
    def acronym(self) -> bool:
        """True where it is short and in capitals only."""
        return 1 < len(self.said) <= _SHORT and self.said.isupper()

    @property
    def key(self) -> str:
        """The word in lower case."""
        return self.said.lower()


def split(text: str, gazetteer: Gazetteer) -> list[Word]:
    """The words of the text in order."""
    return list(_words(text, gazetteer))


def _words(text: str, gazetteer: Gazetteer) -> Iterator[Word]:
    last = 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        said = match.group()
        if said.endswith("."):
            said, end = said[:-1], end - 1
        if said.endswith(_POSSESSIVES):
            said, end = said[:-2], end - 2
        if said:
            yield Word(start, end, said, text[last:start], _traits(said, gazetteer))
            last = end


def _traits(said: str, gazetteer: Gazetteer) -> int:
    known = gazetteer.of(said)
    if known or "-" not in said:
        return known
    # Of a double name such as Anne-Lotte it is enough to know both halves.
    halves = [gazetteer.of(half) for half in said.split("-") if half]
    return min(halves) if halves and all(halves) else 0
