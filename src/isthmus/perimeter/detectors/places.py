"""Places and groups by their names: countries, regions, large towns; nationalities, religions, parties."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.gazetteer import Gazetteer, Trait, fold, load
from isthmus.perimeter.detectors.vocabulary import vocabulary
from isthmus.perimeter.detectors.words import Word, split

LOCATION = "pii.location"
GROUP = "pii.group"

#: What stands before a place, and seldom before a person or a product. Languages: en de fr es it pt nl pl sv.
_WHERE = vocabulary("where")
_WHERE_STRONG = vocabulary("where-surely")
#: What comes from, or lies in, a place whose own name nobody knows: "the university of", "originally from".
_ORIGIN = re.compile(
    r"(?:\b(?:grew\sup|lives?|lived|living|born|based|moved\s(?:here\s)?|reside[sd]?|located|travel(?:l?ing|led)?|flew|fly"
    r"|flying|arrived|returned|visit(?:ed|ing)?|originally|headquartered|vacation|trip|stationed|studied)\s(?:in|to|from|at)"
    r"|\b(?:city|town|village|university|state|province|county|republic|mayor|people|streets)\sof"
    r"|\b(?:i'm|we're|i\sam|we\sare|he's|she's|is|was|are)\s(?:currently\s)?(?:in|from)|\bvisit(?:ed|ing)?|\bcoming\sto"
    r"|\b(?:wohnt|lebt|komme|kommt|geboren)\s(?:in|aus)|\b(?:habite|né|née|vit)\sà|\b(?:vive|nacido|nacida|vivo)\sen"
    r"|\b(?:abito|abita|vive|nato|nata)\sa|\b(?:moro|mora|nasceu)\sem|\bwoont\sin|\bmieszka\sw|\bbor\si)\s$",
    re.IGNORECASE,
)
_COMPASS = vocabulary("compass")

_PEOPLES = vocabulary("peoples")
_FAITHS = vocabulary("faiths")
_PARTIES = vocabulary("parties")
_ELSEWHERE = vocabulary("groups-elsewhere")
_GROUPS = _PEOPLES | _FAITHS | _PARTIES | _ELSEWHERE
#: Words of the parties and faiths that mean much else in small letters, or name a person.
_ONLY_CAPITAL = vocabulary("groups-with-capital")


class Places:
    """Finds places, of the kind `pii.location`, and what people belong to, of the kind `pii.group`."""

    name = "places"

    def find(self, text: str) -> list[Finding]:
        """The places and groups in order of their start; none overlaps another."""
        return self.among(text, split(text, load()))

    def among(self, text: str, words: Sequence[Word]) -> list[Finding]:
        """The places and groups as `find` gives them, for a text that was split already."""
        cased = any(word.capital for word in words)
        return [
            Finding(kind, words[first].start, words[last - 1].end, self.name, score)
            for kind, first, last, score in _found(text, words, load(), cased)
        ]


def _found(
    text: str, words: Sequence[Word], gazetteer: Gazetteer, cased: bool
) -> Iterator[tuple[str, int, int, float]]:
    at = 0
    while at < len(words):
        if count := _known_place(text, words, at, gazetteer, cased):
            yield LOCATION, at, at + count, _place_score(words, at, count, cased)
            at += count
        elif _is_group(words[at], cased):
            yield GROUP, at, at + 1, 0.7 if words[at].capital else 0.5
            at += 1
        elif count := _announced_place(text, words, at):
            yield LOCATION, at, at + count, 0.5
            at += count
        else:
            at += 1


def _known_place(text: str, words: Sequence[Word], at: int, gazetteer: Gazetteer, cased: bool) -> int:
    """The number of words of the longest known place that begins here."""
    if (cased and not words[at].capital) or words[at].acronym:
        return 0
    most, longest = 1, min(gazetteer.longest.get(fold(words[at].said), 1), len(words) - at)
    while most < longest and words[at + most].gap in (" ", "-"):
        most += 1
    for count in range(most, 0, -1):
        said = text[words[at].start : words[at + count - 1].end]
        traits = gazetteer.of(said) if count > 1 else words[at].traits
        if traits & Trait.PLACE and (not cased or words[at + count - 1].capital):
            return count
    return 0


def _place_score(words: Sequence[Word], at: int, count: int, cased: bool) -> float:
    """How sure a known place is meant: less where the word is also a name or an everyday word."""
    before = words[at - 1].key if at and words[at].gap == " " else ""
    traits = words[at].traits if count == 1 else 0
    score = 0.7 if cased else 0.55
    if traits & (Trait.GIVEN | Trait.SURNAME):
        score = 0.4
    if traits & Trait.WORD:
        score -= 0.4
    if before in _WHERE:
        score += 0.25 if before in _WHERE_STRONG else 0.15
    elif before in _COMPASS:
        score += 0.2
    return min(score, 0.9)


def _announced_place(text: str, words: Sequence[Word], at: int) -> int:
    """The number of words of a place that nobody knows, where the words before it say that it is one."""
    word = words[at]
    if not word.capital or word.acronym or word.traits == Trait.WORD:
        return 0
    if not _ORIGIN.search(text[max(0, word.start - 40) : word.start]):
        return 0
    count = 1
    while (
        at + count < len(words)
        and count < 4
        and words[at + count].gap in (" ", "-")
        and (
            words[at + count].capital
            or (words[at + count].key in {"de", "la", "del", "of", "el", "do", "da"})
        )
    ):
        count += 1
    while not words[at + count - 1].capital:
        count -= 1
    return count


def _is_group(word: Word, cased: bool) -> bool:
    key = word.key
    if key not in _GROUPS and not (key.endswith("s") and key[:-1] in _GROUPS):
        return False
    return word.capital or (not cased and key.rstrip("s") not in _ONLY_CAPITAL)
