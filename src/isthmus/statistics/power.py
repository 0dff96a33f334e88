"""How many samples it takes to tell two models apart."""

from __future__ import annotations

import math

from scipy import stats

ALPHA = 0.05
POWER = 0.8


def samples_needed(
    difference: float,
    variance: float,
    *,
    power: float = POWER,
    alpha: float = ALPHA,
    comparisons: int = 1,
) -> int | None:
    """How many paired samples show a difference of that size with a chance of `power`; None where it is 0.

    `variance` is that of the differences between the two scores of a sample: the one seen in a pilot, or
    `variance_of_pairs`. With several `comparisons` alpha is shared among them, as cautiously as Holm's first
    step is. The normal approximation, and what Gaffke's bound asks more: that no unseen share of samples
    undoes the difference (the term with the logarithm). The tests measure that it is enough.
    """
    size = abs(difference)
    if size == 0:
        return None
    tail = alpha / comparisons / 2
    sure = float(stats.norm.isf(tail) + stats.norm.isf(1 - power))
    return math.ceil(variance * (sure / size) ** 2 - math.log(tail) * (1 + size) / size)


def variance_of_pairs(discordance: float, difference: float = 0.0) -> float:
    """The variance of the differences where scores are 0 or 1, and a share `discordance` of pairs differ."""
    return discordance - difference**2
