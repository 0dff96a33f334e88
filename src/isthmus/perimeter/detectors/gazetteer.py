"""The gazetteer: which words are given names, surnames or places, and which are everyday words as well.

It is read from gazetteer.txt on first use (tools/gazetteer.py makes that file, and says from what).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from importlib import resources

import msgspec

_ENDINGS = (
    ("ies", ("y",)),
    ("ied", ("y",)),
    ("es", ("", "e")),
    ("s", ("",)),
    ("ed", ("", "e")),
    ("ing", ("", "e")),
    ("ly", ("",)),
    ("ers", ("", "e")),
    ("er", ("", "e")),
    ("ness", ("",)),
)


_BORDER = re.compile(r"[ -]")


class Trait(IntEnum):
    """What is known of a word, as bits that are added up.

    `WORD`: it also means something else, so that alone it is no evidence.
    """

    GIVEN = 1
    SURNAME = 2
    WORD = 4
    PLACE = 8


class Gazetteer(msgspec.Struct, frozen=True):
    """Folded words and phrases, each with its traits.

    `longest` has, by the word that begins them, the most words that a phrase has.
    """

    traits: dict[str, int]
    longest: dict[str, int]

    def of(self, phrase: str) -> int:
        """The traits of a word or phrase, in any spelling that folds to the same; 0 for an unknown one."""
        folded = fold(phrase)
        if known := self.traits.get(folded, 0):
            return known
        return Trait.WORD.value if any(self.traits.get(stem) == Trait.WORD for stem in stems(folded)) else 0


@lru_cache(maxsize=1)
def load() -> Gazetteer:
    """The gazetteer, read once."""
    text = resources.files(__package__).joinpath("gazetteer.txt").read_text(encoding="utf-8")
    traits: dict[str, int] = {}
    for section in text.split("\n=")[1:]:
        trait, _, names = section.partition("\n")
        traits.update(dict.fromkeys(names.split("\n"), int(trait)))
    traits.pop("", None)
    longest: dict[str, int] = {}
    for phrase in filter(_BORDER.search, traits):
        parts = _BORDER.split(phrase)
        longest[parts[0]] = max(longest.get(parts[0], 1), len(parts))
    return Gazetteer(traits, longest)


def stems(word: str) -> Iterator[str]:
    """What an English word may be a form of: watches → watch, making → make, tried → try."""
    for ending, others in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            bare = word[: -len(ending)]
            yield from (bare + other for other in others)
            if bare[-1] == bare[-2]:
                yield bare[:-1]


def fold(text: str) -> str:
    """The text without case, accents and doubled spaces, as the gazetteer spells it."""
    if text.isascii():
        return text.lower()
    bare = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in bare if not unicodedata.combining(letter))
