"""Whether what comes now is still what came before: a test that may be looked at after every value.

Each new value is ranked among all before it, those of the baseline included. As long as nothing has changed,
any order of them is as likely as any other, so that the ranks are even and independent of each other:
exactly so, however short the baseline and whatever the values look like. Bets are made on the ranks, by
nothing but the ranks before. Whoever bets at fair odds multiplies the stake by 1 / alpha in a share alpha of
all cases at most, however long the game (Ville's inequality).

V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World, 2nd edition (2022), chapter 8;
V. Vovk et al., Retrain or not retrain: conformal test martingales for change-point detection, COPA (2021).

Nothing here is heavy: the gateway imports it. Chance is a draw from [0, 1), handed in.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TypeAlias

import msgspec

Value: TypeAlias = float | str

_DIGITS = 2
_SLOPES = (-1.8, -0.9, -0.3, 0.3, 0.9, 1.8)
_TAILS = (0.003, 0.01, 0.03, 0.1, 0.3)
_TIMES = 3.0
_CELLS = 10
_SPAN = 200.0
_EVEN = _SPAN / 2 / _CELLS
_BETS = 1 + len(_SLOPES) + 2 * len(_TAILS) + 1


class Change(msgspec.Struct, kw_only=True):
    """The evidence that values have changed since a baseline: a state that can be written and read again.

    The values are numbers, of which two digits count, or words. `learn` takes one of the baseline, `observe`
    one that came later, in the order in which they come. `log` is the logarithm of what a stake of 1 has
    become, `most` the highest that it has been.
    """

    values: list[Value] = []
    counts: list[int] = []
    total: int = 0
    seen: int = 0
    log: float = 0.0
    most: float = 0.0
    stakes: list[float] = msgspec.field(default_factory=lambda: [1 / _BETS] * _BETS)
    recent: list[float] = msgspec.field(default_factory=lambda: [_EVEN] * _CELLS)

    @property
    def p(self) -> float:
        """The p-value of the claim that nothing has changed; valid whenever it is looked at.

        Where every value was the same nothing has: only the draws could say otherwise.
        """
        return math.exp(-self.most) if len(self.values) > 1 else 1.0

    def learn(self, value: Value) -> None:
        """Takes a value of the baseline."""
        self._count(_rounded(value))

    def observe(self, value: Value, draw: float) -> None:
        """Takes a value that came later, with a draw from [0, 1) that breaks its ties."""
        place = self._count(_rounded(value))
        rank = (sum(self.counts[:place]) + draw * self.counts[place]) / self.total
        self._bet(rank)
        self.seen += 1

    def _count(self, value: Value) -> int:
        """Counts a value; its place among those that are known."""
        place = bisect_left(self.values, value)
        if place == len(self.values) or self.values[place] != value:
            self.values.insert(place, value)
            self.counts.insert(place, 0)
        self.counts[place] += 1
        self.total += 1
        return place

    def _bet(self, rank: float) -> None:
        """Settles all bets on this rank: none; that values rise or fall; that rare ones get thrice as common,
        the high or the low ones; that ranks go on to be spread as they were lately."""
        cell = min(int(rank * _CELLS), _CELLS - 1)
        payoffs = [
            1.0,
            *(1 + slope * (rank - 0.5) for slope in _SLOPES),
            *(_on_tail(tail, rank) for tail in _TAILS),
            *(_on_tail(tail, 1 - rank) for tail in _TAILS),
            self.recent[cell] / sum(self.recent) * _CELLS,
        ]
        self.recent = [_EVEN + (weight - _EVEN) * (1 - 1 / _SPAN) for weight in self.recent]
        self.recent[cell] += 1
        # Some of the stakes is shared anew, ever less of it: a bet that has lost all may win one day.
        moved = 1 / (self.seen + _BETS)
        stakes = [
            ((1 - moved) * stake + moved / _BETS) * payoff
            for stake, payoff in zip(self.stakes, payoffs, strict=True)
        ]
        total = sum(stakes)
        self.stakes = [stake / total for stake in stakes]
        self.log += math.log(total)
        self.most = max(self.most, self.log)


def _on_tail(tail: float, rank: float) -> float:
    """What a bet pays that the lowest ranks are `_TIMES` as common as they were."""
    return _TIMES if rank < tail else (1 - _TIMES * tail) / (1 - tail)


def _rounded(value: Value) -> Value:
    if isinstance(value, str) or value == 0:
        return value
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))
