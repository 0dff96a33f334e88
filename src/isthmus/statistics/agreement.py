"""How well two judges agree, beyond what chance would bring about."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.statistics.intervals import CONFIDENCE, Interval

Weights: TypeAlias = Literal["linear", "quadratic"]

_DRAWS = 4999


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Cohen's kappa over `n` marks, and the share of marks that are the same.

    `kappa` is 1 where all are, 0 where no more are than chance would bring about. It is None where both have
    given one and the same mark throughout: chance would bring that about, too.
    """

    kappa: float | None
    interval: Interval
    same: float
    n: int


def kappa(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    rng: np.random.Generator,
    *,
    weights: Weights | None = None,
    confidence: float = CONFIDENCE,
) -> Agreement:
    """How well two rows of marks on the same things agree.

    With `weights` the marks are numbers or words in a sorted order, and to be one step off counts less than
    to be two off; without, every difference counts alike. The ends of the interval are quantiles of kappa
    when the things are weighed anew at random (D. B. Rubin, The Bayesian bootstrap, Ann. Statist. 9 (1981)
    130), with one more thing on which the two disagree for the lower end, agree for the upper one: unlike the
    usual formula it is not of no width where all marks agree. J. Cohen, Educ. Psychol. Meas. 20 (1960) 37 and
    Psychol. Bull. 70 (1968) 213.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} marks cannot be compared with {len(b)}")
    marks = sorted({*a, *b})  # type: ignore[type-var]
    if not marks:
        return Agreement(kappa=None, interval=Interval(-1.0, 1.0, confidence), same=0.0, n=0)
    places = {mark: place for place, mark in enumerate(marks)}
    kinds = max(2, len(marks))
    counts = np.zeros((kinds, kinds))
    np.add.at(counts, ([places[mark] for mark in a], [places[mark] for mark in b]), 1.0)
    apart = _apart(kinds, weights)
    one = np.eye(kinds)
    tail = round((1 - confidence) / 2 * (_DRAWS + 1))
    lowest = np.sort(_drawn(counts + (1 - one) / (1 - one).sum(), apart, rng))[tail - 1]
    highest = np.sort(_drawn(counts + one / kinds, apart, rng))[-tail]
    return Agreement(
        kappa=float(_kappa(counts, apart)) if len(marks) > 1 else None,
        interval=Interval(float(lowest), float(highest), confidence),
        same=float(np.trace(counts) / len(a)),
        n=len(a),
    )


def _apart(kinds: int, weights: Weights | None) -> NDArray[np.float64]:
    """How much each pair of marks is apart."""
    steps = np.abs(np.subtract.outer(np.arange(kinds), np.arange(kinds))).astype(np.float64)
    match weights:
        case "linear":
            return steps
        case "quadratic":
            return steps**2
        case None:
            return (steps > 0).astype(np.float64)


def _drawn(counts: NDArray[np.float64], apart: NDArray[np.float64], rng: np.random.Generator) -> Any:
    return _kappa(rng.gamma(counts, size=(_DRAWS, *counts.shape)), apart)


def _kappa(counts: NDArray[np.float64], apart: NDArray[np.float64]) -> Any:
    """One less the disagreement that is seen over the one that chance would bring about."""
    total = counts.sum((-1, -2))
    rows, columns = counts.sum(-1), counts.sum(-2)
    seen = (counts * apart).sum((-1, -2)) * total
    by_chance = np.einsum("...i,ij,...j->...", rows, apart, columns)
    return 1 - seen / np.maximum(by_chance, np.finfo(np.float64).tiny)
