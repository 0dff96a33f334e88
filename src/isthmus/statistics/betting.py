"""One bet that may be settled after every value, without arrays: the test of one claim by a running process.

It is the one-sided case of `isthmus.statistics.sequential`, which has the sources.
"""

from __future__ import annotations

import math

_BOLDNESS = 0.5


class Bet:
    """A bet against the claim that values in [0, 1] have a mean of at most `claim`, in (0, 1).

    Where the claim is true, the stake ever grows to 1 / alpha in a share alpha of all cases at most, whenever
    one looks (Ville's inequality).
    """

    __slots__ = ("_claim", "_highest", "_squares", "_stake", "_sum", "n")

    def __init__(self, claim: float) -> None:
        if not 0 < claim < 1:
            raise ValueError(f"a claim is in (0, 1), not {claim}")
        self._claim = claim
        self.n = 0
        self._stake = 0.0
        self._highest = 0.0
        self._sum = 0.5
        self._squares = 0.25

    def observe(self, value: float) -> None:
        """Settles the bet on the next value."""
        if not 0 <= value <= 1:
            raise ValueError(f"a value is in [0, 1], not {value}")
        seen = self.n + 1
        away = self._sum / seen - self._claim
        share = min(max(0.0, away / (self._squares / seen + away * away)), _BOLDNESS / self._claim)
        self._stake += math.log1p(share * (value - self._claim))
        self._highest = max(self._highest, self._stake)
        self.n += 1
        self._sum += value
        self._squares += (value - self._sum / (self.n + 1)) ** 2

    @property
    def p(self) -> float:
        """The p-value of the claim; valid whenever it is looked at."""
        return math.exp(-self._highest)
