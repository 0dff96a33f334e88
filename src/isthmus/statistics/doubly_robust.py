"""What every model would have scored, where only the answers of those that a draw asked were scored.

A score that came to be known by chance stands for all those like it that did not: it is weighed by one over
its odds. What is left is filled with the model's mean, so that the weighing is of the difference only. The
mean over requests is right whatever these means are, where the odds are true: M. Dudík, J. Langford, L. Li,
"Doubly Robust Policy Evaluation and Learning", ICML 2011, arXiv:1103.4601, with a constant for the guess.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

UNLIKELY = 4.0
"""So many standard errors are too many between how often scores came and how often they should have."""


class Completion(NamedTuple):
    """Fills what is not known: `means` of each model, and the least of the `odds` by which one of its scores
    came to be known."""

    means: Table
    odds: Table

    @classmethod
    def of(cls, scores: Table, odds: Table) -> Self:
        """By a row for each request, a column for each model: scores from 0 to 1, not a number where none is
        known, and the odds by which each came to be known, 0 there. Every model has a score."""
        known = np.isfinite(scores)
        weights = np.where(known, 1 / np.where(known, odds, 1), 0)
        means = (weights * np.where(known, scores, 0)).sum(0) / weights.sum(0)
        return cls(means, np.where(known, odds, 1).min(0))

    def complete(self, scores: Table, odds: Table) -> Table:
        """A number for each request and model whose mean over requests is the model's. It may lie beyond the
        scores, and where all are known for certain, it is they."""
        known = np.isfinite(scores)
        apart = np.where(known, scores, self.means) - self.means
        # What is certain is told as it is: rounding would make unequal what is equal.
        return np.where(known & (odds == 1), scores, self.means + apart / np.where(known, odds, 1))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that a number of `complete` may be, for scores of these odds."""
        low, high = self.means - self.means / self.odds, self.means + (1 - self.means) / self.odds
        return float(low.min()), float(high.max())

    @property
    def reach(self) -> float:
        """How far two models' numbers of a request may be apart: of those that a draw asked, one is known."""
        low, high = self.means - self.means / self.odds, self.means + (1 - self.means) / self.odds
        apart = [
            max(high[one] - self.means[other], self.means[one] - low[other])
            for one, other in permutations(range(len(self.means)), 2)
        ]
        return max(1.0, *map(float, apart)) if apart else 1.0


def misfits(scores: Table, odds: Table) -> NDArray[np.bool_]:
    """For each model, whether its scores came too often or too seldom for their odds.

    Weighed by one over them, they add up to the number of requests. Where they do not, somebody chose whom to
    score by who answered, or a model was asked in other ways, too: the odds tell nothing then.
    """
    known = np.isfinite(scores)
    weights = np.where(known, 1 / np.where(known, odds, 1), 0)
    errors = np.sqrt(np.maximum((weights * (weights - 1)).sum(0), 0)) / len(scores)
    return np.asarray(np.abs(weights.mean(0) - 1) > UNLIKELY * errors + 1e-9)
