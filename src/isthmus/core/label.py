"""What is known of a text's sensitivity: findings in it, and the label that they add up to.

Labels form a lattice: a level, the categories that were found, the zones where it may be processed, and the
promises that it needs of whoever receives it. They are joined upward only, so that no step of a request's way
can make it less sensitive than it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Literal, TypeAlias

import msgspec

from isthmus.core.promises import NO_PROMISES, Promises

Level: TypeAlias = Literal["public", "internal", "confidential", "restricted"]

LEVELS: tuple[Level, ...] = ("public", "internal", "confidential", "restricted")
"""The levels in rising order."""

_RANK = {level: rank for rank, level in enumerate(LEVELS)}


def covers(clearance: Level, level: Level) -> bool:
    """True where who is cleared for `clearance` may see what is of that `level`."""
    return _RANK[level] <= _RANK[clearance]


def higher(one: Level, other: Level) -> Level:
    """The higher of two levels."""
    return one if _RANK[one] >= _RANK[other] else other


class Finding(msgspec.Struct, frozen=True):
    """Something sensitive stands at `start:end` of a text, in code points; what it says is never kept.

    `kind` is dotted, the general first: `pii.email`, `pii.name`, `secret.aws-access-token`, `term.projects`.
    `detector` names who found it, and `score` in [0, 1] says how sure it is.
    """

    kind: str
    start: int
    end: int
    detector: str
    score: float = 1.0


class Label(msgspec.Struct, frozen=True):
    """How sensitive something is. `zones` None means anywhere; an empty set means nowhere at all. `needs` is
    what those must promise who receive it."""

    level: Level = "public"
    categories: frozenset[str] = frozenset()
    zones: frozenset[str] | None = None
    needs: Promises = NO_PROMISES

    def join(self, other: Label) -> Label:
        """The least label that is at least as strict as both: associative, commutative, idempotent."""
        if other is BOTTOM or self == other:
            return self
        return Label(
            higher(self.level, other.level),
            self.categories | other.categories,
            _both(self.zones, other.zones),
            self.needs.join(other.needs),
        )

    def in_words(self) -> str:
        """The label without its categories, as people say it."""
        where = "" if self.zones is None else f", only in {', '.join(sorted(self.zones)) or 'no zone at all'}"
        needs = "" if self.needs == NO_PROMISES else f", with the promise of {self.needs.in_words()}"
        return f"{self.level}{where}{needs}"


BOTTOM = Label()
"""The label of what nobody knows anything about and nobody asked to protect."""

TOP = Label("restricted")
"""The label of what could not be looked into: the highest level."""


def join(labels: Iterable[Label]) -> Label:
    """The least label that is at least as strict as each of them."""
    return reduce(Label.join, labels, BOTTOM)


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other
