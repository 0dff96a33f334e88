"""Counting votes: which answer has the most weight, and whether all that were asked say the same."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeAlias

Vote: TypeAlias = tuple[float, Hashable | None]
"""What a vote weighs, and what it says; None and an empty text say nothing."""


class Tally(NamedTuple):
    """What came of some votes: the place of the one whose answer is given, how many say the same as it, and
    their share of all the weight that was asked. `unanimous` says that there are several, and none says
    anything else, or nothing."""

    place: int
    agreeing: int
    share: float
    unanimous: bool


def tally(votes: Sequence[Vote]) -> Tally:
    """The count of these votes; ties go to the heavier one, and then to the first.

    Who says nothing has no part in what wins, but was asked: it is no agreement. So is one voice alone.
    """
    weights: dict[Hashable, float] = {}
    speakers: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(votes)), key=lambda at: -votes[at][0]):
        weight, said = votes[place]
        if said:
            weights[said] = weights.get(said, 0.0) + weight
            speakers.setdefault(said, []).append(place)
    if not weights:
        return Tally(place=0, agreeing=0, share=0.0, unanimous=False)
    most = max(weights, key=lambda said: weights[said])
    total = sum(weight for weight, _ in votes)
    agreeing = len(speakers[most])
    return Tally(
        place=speakers[most][0],
        agreeing=agreeing,
        share=min(weights[most] / total, 1.0) if total else 0.0,
        unanimous=agreeing == len(votes) > 1,
    )
