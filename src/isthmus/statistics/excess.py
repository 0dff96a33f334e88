"""Whether a mean is above a bound: a test that may be looked at after every value, and of no weight.

One bet, that it is above. While it is not, the stake grows to 1 / alpha in a share alpha of all cases at
most, however long the game (Ville's inequality). I. Waudby-Smith and A. Ramdas, Estimating means of bounded
random variables by betting, J. R. Statist. Soc. B 86 (2024) 1, section 4. The intervals, and numpy with them,
are in `isthmus.statistics.sequential`; this is for the gateway, which imports nothing heavy.
"""

from __future__ import annotations

import math

import msgspec

_BOLDNESS = 0.5


class Excess(msgspec.Struct, kw_only=True):
    """The evidence that the mean of values in [0, 1] is above `bound`, itself within (0, 1).

    The values may depend on those before. `log` is the logarithm of what a stake of 1 has become, `most` the
    highest that it has been.
    """

    bound: float
    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    log: float = 0.0
    most: float = 0.0

    def observe(self, value: float) -> None:
        """Settles the bet on the next value, and places the one after it.

        The bet is the share of the stake that would have made most of it grow so far (section B.3: aGRAPA),
        never more than half of what could lose all.
        """
        if not 0 <= value <= 1:
            raise ValueError(f"a value is in [0, 1], not {value}")
        # As if one value of 1/2 had been seen before the first.
        seen = self.n + 1
        mean = (0.5 + self.total) / seen
        variance = (0.25 + self.squares) / seen
        away = mean - self.bound
        share = min(max(0.0, away / (variance + away**2)), _BOLDNESS / self.bound)
        self.log += math.log1p(share * (value - self.bound))
        self.most = max(self.most, self.log)
        self.n += 1
        self.total += value
        self.squares += (value - (0.5 + self.total) / (self.n + 1)) ** 2

    @property
    def p(self) -> float:
        """The p-value of the claim that the mean is not above the bound; valid whenever it is looked at."""
        return math.exp(-self.most)

    @property
    def looks_so(self) -> bool:
        """True where what was seen is above the bound by more than its standard error: it proves nothing."""
        mean = self.mean
        return mean is not None and mean - self.bound > math.sqrt(self.squares) / self.n

    @property
    def mean(self) -> float | None:
        """The mean of what was seen, None where nothing was."""
        return self.total / self.n if self.n else None
