"""Fits a calibrator: a logistic regression with a prior, so that a few hundred labels are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus.core.calibrator import _FAR, Calibrator, Escalation, Target, Weighing
from isthmus.core.errors import Fault, IsthmusError

FEWEST = 30
"""So many labels are the least that anything is fitted to."""

RIDGE = 1.0
"""The precision of the prior of each standardised signal's weight: it lies about between -2 and 2."""

_STEPS = 50
_Floats = NDArray[np.float64]


def fit(rows: Sequence[Mapping[str, float]], truths: ArrayLike, target: Target) -> Calibrator:
    """The calibrator of these answers: `truths` says of each, from 0 to 1, how far the target is true.

    Where every truth is alike, the probability is nearly that, whatever the signals. Raises IsthmusError
    (`too_few_labels`) for fewer than `FEWEST`, and ValueError for truths that are none.
    """
    found = np.asarray(truths, np.float64)
    if found.shape != (len(rows),) or not ((found >= 0) & (found <= 1)).all():
        raise ValueError("there is one truth, from 0 to 1, for each answer")
    if len(rows) < FEWEST:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{len(rows)} labelled answers are too few to calibrate by.",
            code="too_few_labels",
            hint=f"Label at least {FEWEST}; for a promise, more.",
        )
    names = sorted({name for row in rows for name in row})
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows]).reshape(len(rows), -1)
    values[~np.isfinite(values)] = np.nan
    seen = ~np.isnan(values)
    counts = np.maximum(seen.sum(0), 1)
    centre = np.where(seen, values, 0).sum(0) / counts
    spread = np.sqrt(np.where(seen, (values - centre) ** 2, 0).sum(0) / counts)
    spread = np.where(spread > 1e-9, spread, 1.0)
    scaled = np.where(seen, np.clip((values - centre) / spread, -_FAR, _FAR), 0)
    gaps = [at for at in range(len(names)) if not seen[:, at].all()]
    weights = _logistic_fit(np.hstack((scaled, (~seen[:, gaps]).astype(float))), found)
    missing = dict(zip(gaps, weights[1 + len(names) :], strict=True))
    return Calibrator(
        target=target,
        bias=float(weights[0]),
        signals={
            name: Weighing(
                centre=float(centre[at]),
                spread=float(spread[at]),
                weight=float(weights[1 + at]),
                missing=float(missing.get(at, 0.0)),
            )
            for at, name in enumerate(names)
        },
        labels=len(rows),
    )


def probabilities(calibrator: Calibrator, rows: Sequence[Mapping[str, float]]) -> _Floats:
    """The calibrator's probability for each answer."""
    return np.array([calibrator.probability(row) for row in rows])


def confidences(
    calibrator: Calibrator, rows: Sequence[Mapping[str, float]], tokens: Sequence[int]
) -> _Floats:
    """How sure the calibrator is of each answer that it is to be kept, by the tokens of its request."""
    return np.array([calibrator.confidence(row, many) for row, many in zip(rows, tokens, strict=True)])


def escalation_of(tokens: ArrayLike, costs: ArrayLike) -> Escalation | None:
    """What escalating costs by the tokens of a request, by the stronger model's costs of some; None where
    one is not known, or nothing is paid.

    Least squares, with neither a part that is below nothing: a price has none.
    """
    from scipy.optimize import nnls

    sizes, paid = np.asarray(tokens, np.float64), np.asarray(costs, np.float64)
    if not len(paid) or not np.isfinite(paid).all() or paid.sum() <= 0:
        return None
    mean, size = paid.mean(), max(float(sizes.mean()), 1.0)
    # Scaled, so that a size of thousands beside one of 1 loses no digits.
    base, slope = nnls(np.column_stack((np.ones(len(sizes)), sizes / size)), paid / mean)[0]
    return Escalation(base=float(base), per_token=float(slope) / size, longest=int(sizes.max()))


def _logistic_fit(rows: _Floats, truths: _Floats) -> _Floats:
    """Bias and weights by Newton's method; the bias has a faint prior, for truths that are all alike."""
    from scipy.special import expit

    design = np.hstack((np.ones((len(rows), 1)), rows))
    ridge = np.full(design.shape[1], RIDGE)
    ridge[0] = 0.01
    weights = np.zeros(design.shape[1])

    def loss(at: _Floats) -> float:
        score = design @ at
        return float(np.logaddexp(0, score).sum() - truths @ score + ridge @ at**2 / 2)

    now = loss(weights)
    for _ in range(_STEPS):
        chance = expit(design @ weights)
        gradient = design.T @ (chance - truths) + ridge * weights
        bend = design.T @ (design * np.maximum(chance * (1 - chance), 1e-9)[:, None]) + np.diag(ridge)
        step, length = np.linalg.solve(bend, gradient), 1.0
        while (then := loss(weights - length * step)) > now and length > 1e-6:
            length /= 2
        weights, before, now = weights - length * step, now, min(then, now)
        if before - now < 1e-9:
            break
    return weights
