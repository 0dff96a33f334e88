"""Which model is asked, by what its answer will be worth and what it costs."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus.routing.learned.stack import Estimate

_Places = NDArray[np.intp]


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The model to be asked, and why, in words."""

    model: str
    why: str


def choose(
    estimate: Estimate,
    costs: ArrayLike,
    *,
    quality_at_least: float | None = None,
    cost_at_most: float | None = None,
    allowed: frozenset[str] | None = None,
) -> Chosen:
    """The cheapest model above a floor of quality, or the best under a price; `costs` are of the estimate's
    models, in their order.

    Of a request that is like nothing that was learned from, the model that is best on the whole is asked, or
    the best of those under the price. Only `allowed` models count. Raises ValueError where none is.
    """
    places = [at for at, model in enumerate(estimate.models) if allowed is None or model in allowed]
    if not places:
        raise ValueError("no model is allowed")
    qualities = np.array(estimate.qualities)[places][None, :]
    at = int(
        picks(
            qualities,
            np.array([estimate.supported]),
            np.asarray(costs, float)[places],
            quality_at_least=quality_at_least,
            cost_at_most=cost_at_most,
        )[0]
    )
    if cost_at_most is not None:
        reason = f"the best for at most {cost_at_most:g}"
    elif not estimate.supported or quality_at_least is None:
        reason = "the best"
    elif qualities[0, at] >= quality_at_least:
        reason = f"the cheapest above {quality_at_least:g}"
    else:
        reason = f"none is above {quality_at_least:g}"
    known = "" if estimate.supported else f", on the whole: {estimate.why}"
    model = estimate.models[places[at]]
    return Chosen(model=model, why=f"{model} will score {qualities[0, at]:.2f}, {reason}{known}")


def picks(
    qualities: NDArray[np.float64],
    supported: NDArray[np.bool_],
    costs: ArrayLike,
    *,
    quality_at_least: float | None = None,
    cost_at_most: float | None = None,
) -> _Places:
    """For each row the model that is asked; see `choose`."""
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
