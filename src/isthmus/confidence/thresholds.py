"""Thresholds with a promise: what an accepted answer may cost in errors, held with a stated confidence.

Learn then Test (A. Angelopoulos, S. Bates, E. Candès, M. Jordan, L. Lei, arXiv:2110.01052): each threshold,
from the strictest to the loosest, is a hypothesis that its risk is above what may be; it is tested on
labelled answers, and the first that cannot be refused ends the sequence. So the chance that the threshold
that is found breaks its promise is at most delta, for answers like those that were labelled, whatever the
confidences are worth. `docs/design/0022` says what is promised, and of what.
"""

from __future__ import annotations

from math import ceil, e, log, log1p
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Risk: TypeAlias = Literal["added", "accepted"]

FEWEST = 100
"""With fewer labels nothing is promised, whatever the bound says."""

LEVELS = 50
"""So many thresholds are tested at most."""

MARGIN = 0.25
"""So much of a standard error a matching threshold stays on the safe side."""

_ROOM = 2
_Floats = NDArray[np.float64]


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold, and what is promised of it.

    An answer of a confidence of at least `threshold` is accepted; None accepts nothing. Where `kept` is True,
    the chance is at most `delta` that the risk of that is above `max_risk`: for `added`, the mean over all
    requests of what the stronger model would have scored more where its answer was not asked for; for
    `accepted`, the mean loss of the accepted answers. Otherwise `why` says why nothing is promised.
    `observed` is the risk among the labels, `coverage` the share of them that is accepted. `needed` is the
    number of labels (of accepted ones, for `accepted`) with which a threshold without any error would pass.
    """

    risk: Risk
    max_risk: float
    delta: float
    threshold: float | None
    kept: bool
    why: str
    labels: int
    needed: int
    coverage: float
    observed: float | None


def losses_of(risk: Risk, weak: ArrayLike, strong: ArrayLike | None = None) -> _Floats:
    """What accepting each answer of the weaker model loses: of what is possible, or of what the stronger
    model scores. A harm is not made good by a gain elsewhere: it never is below zero."""
    scores = np.asarray(weak, float)
    if risk == "accepted":
        return np.asarray(1 - scores)
    if strong is None:
        raise ValueError("the risk that is added is measured by the stronger model's scores")
    return np.asarray(np.maximum(np.asarray(strong, float) - scores, 0.0))


def labels_needed(max_risk: float, delta: float) -> int:
    """So many labels without a single error are needed to promise anything: (1 - max_risk)^n ≤ delta."""
    return ceil(log(delta) / log1p(-max_risk))


def promise(
    confidences: ArrayLike,
    losses: ArrayLike,
    *,
    max_risk: float,
    delta: float = 0.1,
    risk: Risk = "added",
    grid: ArrayLike | None = None,
) -> Promise:
    """The loosest threshold that passes on these labelled answers, by losses from 0 to 1 (`losses_of`).

    `grid` has the thresholds to be tested. Without it they are quantiles of the confidences, which no label
    has a part in. Confidences that were fitted to these very labels must not be used: fit to others.
    """
    sure, lost = _checked(confidences, losses)
    if not (0 < max_risk < 1 and 0 < delta < 1):
        raise ValueError("max_risk and delta are between 0 and 1")
    needed = labels_needed(max_risk, delta)
    found: float | None = None
    why = ""
    if len(sure) < max(FEWEST, needed):
        why = f"{len(sure)} labels are too few: {max(FEWEST, needed)} are the least"
    else:
        found = _last_that_passes(sure, lost, _sequence(sure, risk, needed, grid), risk, max_risk, delta)
        if found is None:
            why = f"no threshold can be shown to keep the risk at {max_risk:g}"
    taken = sure >= (np.inf if found is None else found)
    return Promise(
        risk=risk,
        max_risk=max_risk,
        delta=delta,
        threshold=found,
        kept=found is not None,
        why=why,
        labels=len(sure),
        needed=needed,
        coverage=float(taken.mean()) if len(sure) else 0.0,
        observed=risk_of(taken, lost, risk),
    )


def unproven_threshold(
    confidences: ArrayLike, losses: ArrayLike, *, max_risk: float, risk: Risk = "added"
) -> float | None:
    """The loosest threshold whose observed risk is in bounds: what nobody should use, to compare with.

    Where the bound binds, it is broken about every second time.
    """
    sure, lost = _checked(confidences, losses)
    order = np.argsort(-sure, kind="stable")
    sums = np.cumsum(lost[order])
    counts = np.arange(1, len(sure) + 1) if risk == "accepted" else np.full(len(sure), max(len(sure), 1))
    last = np.append(sure[order][1:] < sure[order][:-1], True)[: len(sure)]
    passes = np.flatnonzero((sums <= max_risk * counts) & last)
    return float(sure[order][passes[-1]]) if len(passes) else None


def matching_threshold(confidences: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> float | None:
    """The loosest threshold at which the cascade scores what the stronger model scores alone, by these
    labels; None where accepting anything loses.

    No promise: a threshold that is read off labels looks better on them than it is, so that what it loses is
    to be below nought by `MARGIN` of its standard error.
    """
    sure = np.asarray(confidences, float)
    order = np.argsort(-sure, kind="stable")
    lost = (np.asarray(strong, float) - np.asarray(weak, float))[order]
    most = np.cumsum(lost) + MARGIN * np.sqrt(np.cumsum(lost**2))
    last = np.append(sure[order][1:] < sure[order][:-1], True)[: len(sure)]
    passes = np.flatnonzero((most <= 0) & last)
    return float(sure[order][passes[-1]]) if len(passes) else None


def risk_of(taken: NDArray[np.bool_], losses: ArrayLike, risk: Risk) -> float | None:
    """The risk of accepting these answers; None where it is of accepted ones, and there are none."""
    lost = np.asarray(losses, float)
    if risk == "added":
        return float(np.where(taken, lost, 0.0).mean()) if len(lost) else None
    return float(lost[taken].mean()) if taken.any() else None


def p_values(totals: ArrayLike, many: ArrayLike, bound: float, *, binary: bool) -> _Floats:
    """The chance that `many` losses from 0 to 1 sum up to so little if their mean were above the bound.

    Exact for losses of 0 and 1, by the binomial distribution (C. J. Clopper, E. S. Pearson, Biometrika 26
    (1934) 404). For others by the bounds of Hoeffding and Bentkus, the smaller of the two (S. Bates et al.,
    "Distribution-free, Risk-controlling Prediction Sets", J. ACM 68 (2021), theorem 3).
    """
    from scipy.special import bdtr, rel_entr

    sums, sizes = np.asarray(totals, float), np.asarray(many, float)
    if binary:
        return np.asarray(bdtr(np.floor(sums + 0.5), sizes.astype(int), bound))
    mean = np.minimum(sums / np.maximum(sizes, 1), bound)
    divergence = rel_entr(mean, bound) + rel_entr(1 - mean, 1 - bound)
    bentkus = e * bdtr(np.minimum(np.ceil(sums - 1e-9), sizes), sizes.astype(int), bound)
    return np.asarray(np.minimum(np.minimum(np.exp(-sizes * divergence), bentkus), 1.0))


def contradicted(losses: ArrayLike, max_risk: float, alarm: float = 0.01) -> bool:
    """True where labels of what came later speak against a promise: losses as large have a chance of less
    than `alarm` if their mean were at most `max_risk`.

    Errors that grow at the same confidence are seen by nothing else. `losses` are of accepted answers, or of
    all, as the promise is.
    """
    gained = 1 - np.asarray(losses, float)
    binary = bool(((gained == 0) | (gained == 1)).all())
    return (
        bool(len(gained)) and float(p_values(gained.sum(), len(gained), 1 - max_risk, binary=binary)) < alarm
    )


def _last_that_passes(
    sure: _Floats, lost: _Floats, sequence: list[float], risk: Risk, max_risk: float, delta: float
) -> float | None:
    """The last threshold of the sequence before the first that cannot be refused; None where that is the
    first."""
    if not sequence:
        return None
    order = np.argsort(-sure, kind="stable")
    sums = np.concatenate(([0.0], np.cumsum(lost[order])))
    taken = np.searchsorted(-sure[order], -np.array(sequence), side="right")
    many = taken if risk == "accepted" else np.full(len(taken), len(sure))
    binary = bool(((lost == 0) | (lost == 1)).all())
    fails = np.flatnonzero(p_values(sums[taken], many, max_risk, binary=binary) > delta)
    passed = int(fails[0]) if len(fails) else len(sequence)
    return sequence[passed - 1] if passed else None


def _sequence(sure: _Floats, risk: Risk, needed: int, grid: ArrayLike | None) -> list[float]:
    """The thresholds in the order in which they are tested: the strictest first.

    Of accepted answers, the first has to accept enough that one error among them may be forgiven.
    """
    if grid is None:
        levels = np.quantile(sure, np.linspace(1, 0, LEVELS + 1), method="higher")
    else:
        levels = np.asarray(grid, float)
    ordered = sorted(set(map(float, levels)), reverse=True)
    if risk == "added":
        return ordered
    start = min(_ROOM * needed, len(sure))
    return [threshold for threshold in ordered if np.count_nonzero(sure >= threshold) >= start]


def _checked(confidences: ArrayLike, losses: ArrayLike) -> tuple[_Floats, _Floats]:
    sure, lost = np.asarray(confidences, float), np.asarray(losses, float)
    if sure.shape != lost.shape or sure.ndim != 1:
        raise ValueError("there is one loss for each confidence")
    if not (np.isfinite(sure).all() and ((lost >= 0) & (lost <= 1)).all()):
        raise ValueError("confidences are finite, and losses from 0 to 1")
    return sure, lost
