"""Which model is asked, for many requests at once: the rule of `strategies.plan.Choose`, by arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Places = NDArray[np.intp]


def picks(
    qualities: NDArray[np.float64],
    supported: NDArray[np.bool_],
    costs: ArrayLike,
    *,
    quality_at_least: float | None = None,
    cost_at_most: float | None = None,
) -> _Places:
    """For each row the model that is asked: the cheapest above a floor of quality, or the best under a price.

    Of a request that is like nothing that was learned from, it is the one that is best on the whole.
    """
    if cost_at_most is not None:
        return best_within(qualities, costs, cost_at_most)
    best = qualities.argmax(1)
    if quality_at_least is None:
        return np.asarray(best)
    return np.asarray(np.where(supported, cheapest_above(qualities, costs, quality_at_least), best))


def cheapest_above(qualities: NDArray[np.float64], costs: ArrayLike, floor: float) -> _Places:
    """For each row the cheapest model of at least that quality; the best one where none has it."""
    prices = np.where(qualities >= floor, np.asarray(costs, float), np.inf)
    return np.asarray(np.where(np.isinf(prices.min(1)), qualities.argmax(1), prices.argmin(1)))


def best_within(qualities: NDArray[np.float64], costs: ArrayLike, price: float) -> _Places:
    """For each row the best model of at most that cost; the cheapest one where all cost more."""
    prices = np.asarray(costs, float)
    affordable = prices <= price
    if not affordable.any():
        return np.full(len(qualities), int(prices.argmin()))
    return np.asarray(np.where(affordable, qualities, -np.inf).argmax(1))
