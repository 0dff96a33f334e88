"""Tests and intervals that may be looked at after every value, and be stopped when they say enough.

All are bets: a stake that grows against a claim is evidence against it, and where the claim is true it grows
to 1 / alpha in a share alpha of all cases at most, however long the game (Ville's inequality).
I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, J. R. Statist. Soc. B
86 (2024) 1. `isthmus.statistics.change` has the test of one stream against a baseline.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus.statistics.intervals import CONFIDENCE, Interval

Points: TypeAlias = NDArray[np.float64]
Arm: TypeAlias = Literal["a", "b"]

_BOLDNESS = 0.5
_GRID = 2001


class Bets:
    """Bets against claims of what the mean of values in [0, 1] is, one stake for each claim.

    The values may depend on those before, if only the mean of each is the claimed one. A bet is a share of
    the stake that would have made most of it grow so far, `_BOLDNESS` of what could lose all at most
    (Waudby-Smith and Ramdas, section B.3: aGRAPA).
    """

    def __init__(self, claims: ArrayLike) -> None:
        self.claims: Points = np.atleast_1d(np.asarray(claims, dtype=np.float64))
        self.n = 0
        self.stakes: Points = np.zeros(self.claims.shape)
        """The logarithm of what each stake of 1 has become."""
        self.highest: Points = np.zeros(self.claims.shape)
        self._sum = 0.5
        self._squares = 0.25

    def observe(self, value: float) -> None:
        """Settles the bets on the next value."""
        if not 0 <= value <= 1:
            raise ValueError(f"a value is in [0, 1], not {value}")
        seen = self.n + 1
        mean = self._sum / seen
        variance = self._squares / seen
        away = mean - self.claims
        with np.errstate(divide="ignore"):
            shares = np.clip(
                away / (variance + away**2), -_BOLDNESS / (1 - self.claims), _BOLDNESS / self.claims
            )
        self.stakes += np.log1p(shares * (value - self.claims))
        self.highest = np.maximum(self.highest, self.stakes)
        self.n += 1
        self._sum += value
        self._squares += (value - self._sum / (self.n + 1)) ** 2

    def held(self, confidence: float = CONFIDENCE) -> Interval:
        """The claims that no stake has ever grown enough against, from the least to the greatest.

        All of [0, 1] where each was refused: the values have no common mean then.
        """
        kept = self.claims[self.highest < -math.log(1 - confidence)]
        return Interval(float(kept.min()), float(kept.max()), confidence) if len(kept) else _ANYWHERE

    @property
    def p(self) -> Points:
        """The p-value of each claim; valid whenever it is looked at."""
        ps: Points = np.exp(-self.highest)
        return ps


_ANYWHERE = Interval(0.0, 1.0)


def mean_so_far(values: Iterable[float], confidence: float = CONFIDENCE) -> Interval:
    """The interval of the mean of values in [0, 1] whose number was decided by looking at them.

    It is wider than `intervals.mean`, which holds for a number that was fixed before.
    """
    bets = Bets(np.linspace(0.0, 1.0, _GRID))
    for value in values:
        bets.observe(value)
    return bets.held(confidence)


class Duel:
    """Two streams of scores in [0, 1]: is one of them better? The test of an experiment that may be stopped
    at any time.

    The first score of one is held against the first of the other, and so on; those that wait for a
    counterpart do not count yet. S. Shekhar and A. Ramdas, Nonparametric two-sample testing by betting, IEEE
    Trans. Inf. Theory 70 (2024) 1178.
    """

    def __init__(self) -> None:
        self._bets = Bets(np.linspace(0.0, 1.0, _GRID))
        self._waiting: dict[Arm, deque[float]] = {"a": deque(), "b": deque()}

    def observe(self, arm: Arm, score: float) -> None:
        """Takes a score of one arm."""
        if not 0 <= score <= 1:
            raise ValueError(f"a score is in [0, 1], not {score}")
        self._waiting[arm].append(score)
        if all(self._waiting.values()):
            ours, theirs = (queue.popleft() for queue in self._waiting.values())
            self._bets.observe((1 + ours - theirs) / 2)

    @property
    def n(self) -> int:
        """How many pairs have been compared."""
        return self._bets.n

    @property
    def p(self) -> float:
        """The p-value of the claim that both arms are equally good; valid whenever it is looked at."""
        return float(self._bets.p[_GRID // 2])

    def difference(self, confidence: float = CONFIDENCE) -> Interval:
        """How much better `a` is than `b`: an interval that holds at all times together."""
        it = self._bets.held(confidence)
        return Interval(2 * it.low - 1, 2 * it.high - 1, confidence)
