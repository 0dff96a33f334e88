"""Which samples ask nearly the same, found exactly.

A text is the set of its neighbouring words: pairs, with its begin and its end as words of their own. Two
texts are near-duplicates where the Jaccard index of their sets is at least `ALIKE`, or where one that is not
too short stands in the other with a share of at least `CONTAINED`. Pairs that nearly all samples share are
those of a template, and are not compared.

No pair is missed: sets that overlap so much must share one of their rarest elements, whatever "rare" is taken
to mean, if one more of them is looked at than may be missing on the other side (prefix filtering: Chaudhuri,
Ganti, Kaushik, "A Primitive Operator for Similarity Joins in Data Cleaning", ICDE 2006; Bayardo, Ma, Srikant,
"Scaling Up All Pairs Similarity Search", WWW 2007; that fewer are kept than looked for: Xiao, Wang, Lin, Yu,
"Efficient Similarity Joins for Near Duplicate Detection", WWW 2008). 100,000 texts of 60 words take half a
minute of one core.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

import msgspec

from isthmus.core.evaluation import Sample

ALIKE = 0.6
"""From this Jaccard index on, two texts are nearly the same: at most one word in seven is another one."""

CONTAINED = 0.9
"""A text of which so much stands in another is nearly the same, too."""

_ALIKE_IN_LARGER = 2 * ALIKE / (1 + ALIKE)
"""So much of a set is in any that is no smaller and alike."""

LEAST_CONTAINED = 10
"""A text of fewer pairs of words is contained in others by chance."""

TEMPLATE_SHARE = 0.9
"""Pairs of words in so many of the samples belong to a template."""

LEAST_FOR_TEMPLATE = 50
"""In fewer samples than these, a template cannot be told from near-duplicates."""

Pairs: TypeAlias = "array[int]"
Tell: TypeAlias = Callable[[int], None]


def _nobody(steps: int) -> None:
    """Nobody wants to know."""


_BEGIN, _END = 0, 1
# Scripts without spaces are compared letter by letter, and signs count where they are no punctuation: 2 + 2
# is not 2 * 2.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+"
    r"|[^\w\s.,;:!?'\"()\[\]{}\u00a1\u00ab\u00b7\u00bb\u00bf\u2010-\u2027\u3000-\u303f-]"
)


def groups_of(samples: Sequence[Sample], tell: Tell = _nobody) -> list[int]:
    """For each sample the place of the first one of its group: near-duplicates, and theirs, are one group.

    `tell` is called with 1 for each of `2 * len(samples)` steps, or fewer.
    """
    return grouped([text_of(sample) for sample in samples], tell)


def grouped(texts: Sequence[str], tell: Tell = _nobody) -> list[int]:
    """The groups of texts: see `groups_of`."""
    sets = pairs_of(texts, tell)
    groups = _Groups(len(sets))
    first: dict[bytes, int] = {}
    for place, pairs in enumerate(sets):
        groups.join(first.setdefault(pairs.tobytes(), place), place)
    _join(sets, list(first.values()), groups, tell)
    return [groups.of(place) for place in range(len(sets))]


def near(one: Collection[int], other: Collection[int]) -> bool:
    """True where two sets of pairs are those of near-duplicates."""
    return _is_near(len(one), len(other), len(set(one).intersection(other)))


def _is_near(one: int, other: int, shared: int) -> bool:
    smaller = min(one, other)
    alike = shared >= ALIKE * (one + other - shared)
    return alike or (smaller >= LEAST_CONTAINED and shared >= CONTAINED * smaller)


def text_of(sample: Sample) -> str:
    """What is compared of a sample: all turns without the system's, which is the same for many."""
    turns = sample.request["messages"]
    said = [turn for turn in turns if turn.get("role") not in ("system", "developer")]
    return "\n".join(_content(turn.get("content")) for turn in said or turns)


def _content(content: Any) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            return "\n".join(map(_content, content))
        case {"text": str(text)}:
            return text
    # Pictures and files: their letters and digits, as they stand.
    return msgspec.json.encode(content).decode()


def pairs_of(texts: Iterable[str], tell: Tell = _nobody) -> list[Pairs]:
    """The pairs of neighbouring words of each text, each once, in order; without those of a template."""
    words: dict[str, int] = {}
    sets = []
    for text in texts:
        sets.append(array("Q", sorted(set(_pairs(text, words)))))
        tell(1)
    return _without_template(sets)


def _pairs(text: str, words: dict[str, int]) -> Iterator[int]:
    before = _BEGIN
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        number = words.setdefault(word, len(words) + 2)
        yield before << 32 | number
        before = number
    yield before << 32 | _END


def _without_template(sets: list[Pairs]) -> list[Pairs]:
    if len(sets) < LEAST_FOR_TEMPLATE:
        return sets
    most = len(sets) * TEMPLATE_SHARE
    # What nearly all have, nearly all of the first few have, too: only that is counted.
    sure = Counter(pair for pairs in sets[: len(sets) // 5 + 1] for pair in pairs)
    likely = {pair for pair, count in sure.items() if count >= (len(sets) // 5 + 1) / 2}
    counts = Counter(pair for pairs in sets for pair in likely.intersection(pairs))
    template = {pair for pair, count in counts.items() if count >= most}
    if not template:
        return sets
    rest = (array("Q", (pair for pair in pairs if pair not in template)) for pairs in sets)
    # A sample that is nothing but the template is compared as a whole.
    return [less or pairs for less, pairs in zip(rest, sets, strict=True)]


def _join(sets: Sequence[Pairs], places: Iterable[int], groups: _Groups, tell: Tell) -> None:
    """Joins the groups of all near-duplicates at these places, where no two sets are the same."""
    by_size = sorted(places, key=lambda place: len(sets[place]))
    rarity = _Rarity(sets[place] for place in by_size)
    # By their rarest pairs: the sets that are seen already, which are no larger than the one in hand.
    alike, contained = _Postings(groups), _Postings(groups)
    for place in by_size:
        pairs = rarity.rarest_first(sets[place])
        size, whole, looked_at = len(pairs), set(pairs), set[int]()
        seen = chain(alike.of(pairs[: _enough(size, ALIKE)]), contained.of(pairs))
        for members in seen:
            if groups.of(members[0]) == groups.of(place):
                continue
            for candidate in members:
                if candidate in looked_at:
                    continue
                looked_at.add(candidate)
                other = sets[candidate]
                if _is_near(size, len(other), len(whole.intersection(other))):
                    # The rest of its group is joined with it.
                    groups.join(candidate, place)
                    break
        alike.add(rarity.shared(pairs[: _enough(size, _ALIKE_IN_LARGER)]), place)
        if size >= LEAST_CONTAINED:
            contained.add(rarity.shared(pairs[: _enough(size, CONTAINED)]), place)
        tell(1)


class _Postings:
    """Which places have a pair, by the groups that they are in now."""

    def __init__(self, groups: _Groups) -> None:
        self._groups = groups
        self._members: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)

    def add(self, pairs: Iterable[int], place: int) -> None:
        """Put the place under each of the pairs."""
        group = self._groups.of(place)
        for pair in pairs:
            self._members[pair].setdefault(group, []).append(place)

    def of(self, pairs: Iterable[int]) -> Iterator[list[int]]:
        """The places under any of the pairs: for each pair, those of each group."""
        for pair in pairs:
            by_group = self._members.get(pair)
            if by_group is None:
                continue
            for group in [group for group in by_group if self._groups.of(group) != group]:
                moved = by_group.pop(group)
                stayed = by_group.setdefault(self._groups.of(group), moved)
                if stayed is not moved:
                    stayed += moved
            yield from list(by_group.values())


def _enough(size: int, share: float) -> int:
    """So many of a set's elements cannot all be missing in one that holds that share of it."""
    return size - math.ceil(share * size - 1e-9) + 1


class _Rarity:
    """Roughly in how many sets each pair is; never in more than is counted here."""

    def __init__(self, sets: Iterable[Pairs]) -> None:
        known = list(sets)
        total = sum(map(len, known))
        self._shift = 64 - min(24, max(10, (2 * total).bit_length()))
        self._counts = array("L", bytes(array("L").itemsize << (64 - self._shift)))
        for pairs in known:
            for pair in pairs:
                self._counts[self._bucket(pair)] += 1

    def rarest_first(self, pairs: Pairs) -> list[int]:
        """The pairs in the one order that all sets have in common."""
        return sorted(pairs, key=self._count)

    def shared(self, pairs: Iterable[int]) -> Iterator[int]:
        """Those that another set may have, too."""
        return (pair for pair in pairs if self._count(pair) > 1)

    def _count(self, pair: int) -> int:
        return self._counts[self._bucket(pair)]

    def _bucket(self, pair: int) -> int:
        # Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
        return (pair * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> self._shift


class _Groups:
    """Disjoint sets of places; the first place of each stands for it."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def of(self, place: int) -> int:
        """The first place of the group."""
        parents = self._parents
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        first, second = sorted((self.of(one), self.of(other)))
        self._parents[second] = first
