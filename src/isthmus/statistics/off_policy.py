"""What another policy would have earned, by what was logged under the one that was in force.

A policy chooses an action for each request; the log has the action taken, its reward in [0, 1], and the
probability with which it was taken. A request is weighed by how much more often the other policy would have
taken that action. Where the other would do what the one in force never does, nothing is known: that share is
told apart, and bounded by what rewards can be.

M. Dudík, J. Langford, L. Li, Doubly robust policy evaluation and learning, ICML (2011), arXiv:1103.4601;
A. Swaminathan and T. Joachims, The self-normalized estimator for counterfactual learning, NeurIPS (2015).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus.statistics import intervals
from isthmus.statistics.intervals import CONFIDENCE, Interval

Points: TypeAlias = NDArray[np.float64]

LEAST_EFFECTIVE = 10.0
"""A log that is worth fewer requests than this says nothing that is worth reading."""


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """What was logged, a number a request each, and what the other policy would have done.

    `rewards` are in [0, 1]. `propensities` are the probabilities with which the logged actions were taken,
    `wanted` those with which the other policy would have taken them. `unseen` is, for each request, how
    probable it is that the other policy takes an action whose probability was 0; all are 0 without it.
    `expected` is a model's guess of the logged action's reward, `promised` its guess of what the other
    policy earns on that request: by actions that may be seen, weighed by their probabilities. The doubly
    robust estimate needs both; the guesses must not have been learned from these rewards.
    """

    rewards: ArrayLike
    propensities: ArrayLike
    wanted: ArrayLike
    unseen: ArrayLike | None = None
    expected: ArrayLike | None = None
    promised: ArrayLike | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's mean reward, as far as the log tells.

    `value` and `interval` are about what could be seen: all but a share `unseen` of what the policy does.
    `possible` is the interval for all of it: what was never seen may earn nothing, or everything.
    `effective` is how many requests under the policy itself the log is worth (L. Kish, Survey Sampling
    (1965)); where that is below `LEAST_EFFECTIVE` the log does not tell: `value` is None.
    """

    value: float | None
    interval: Interval
    possible: Interval
    unseen: float
    effective: float


def ips(logged: Logged, confidence: float = CONFIDENCE) -> Estimate:
    """By inverse propensities: without bias, with an interval that is as cautious as `intervals.mean`.

    It is wide where weights are great: it reckons with one more request of the greatest weight in the log.
    """
    log = _Log(logged)
    return log.estimate(log.weights * log.rewards, 0.0, log.heaviest, confidence)


def snips(logged: Logged, rng: np.random.Generator, confidence: float = CONFIDENCE) -> Estimate:
    """By inverse propensities over the sum of all weights: a little biased for few requests, and steadier.

    The interval is that of `intervals.ratio`.
    """
    log = _Log(logged)
    ranged = intervals.ratio(log.weights * log.rewards, log.weights, rng, confidence)
    total = float(log.weights.sum())
    return log.told(
        float(log.weights @ log.rewards) / total if total else 0.0,
        ranged,
        Interval(ranged.low * (1 - log.unseen), ranged.high * (1 - log.unseen) + log.unseen, confidence),
    )


def doubly_robust(logged: Logged, confidence: float = CONFIDENCE) -> Estimate:
    """By a model's guesses, and by inverse propensities of what they miss.

    Without bias, whatever the guesses; the better they are, the narrower is the interval.
    """
    if logged.expected is None or logged.promised is None:
        raise ValueError("a doubly robust estimate needs what was expected and what is promised")
    log = _Log(logged)
    expected, promised = log.row(logged.expected), log.row(logged.promised)
    missed = log.weights * (log.rewards - expected)
    return log.estimate(promised + missed, -log.heaviest, 1 + log.heaviest, confidence)


class _Log:
    """A log that has been checked, as arrays."""

    def __init__(self, logged: Logged) -> None:
        self.rewards: Points = np.asarray(logged.rewards, dtype=np.float64)
        taken, wanted = self.row(logged.propensities), self.row(logged.wanted)
        unseen = np.zeros(len(taken)) if logged.unseen is None else self.row(logged.unseen)
        if not ((taken > 0) & (taken <= 1) & (wanted >= 0) & (wanted <= 1)).all():
            raise ValueError("a propensity is in (0, 1], and what is wanted in [0, 1]")
        if not ((self.rewards >= 0) & (self.rewards <= 1) & (unseen >= 0) & (unseen <= 1)).all():
            raise ValueError("a reward, and a share that was never seen, is in [0, 1]")
        self.weights: Points = wanted / taken
        self.heaviest = float(self.weights.max(initial=0.0))
        self._unseen = unseen
        self.unseen = float(unseen.mean()) if len(unseen) else 1.0
        squares = float(self.weights @ self.weights)
        self._effective = float(self.weights.sum()) ** 2 / squares if squares else 0.0

    def row(self, values: ArrayLike) -> Points:
        """The values as an array of one number for each reward."""
        row: Points = np.asarray(values, dtype=np.float64)
        if row.shape != self.rewards.shape or row.ndim != 1 or not np.isfinite(row).all():
            raise ValueError("a log has as many finite numbers of each kind as rewards")
        return row

    def estimate(self, earned: Points, least: float, most: float, confidence: float) -> Estimate:
        """The estimate of what was earned on average, each by an action that could be seen."""
        ranged = intervals.mean(earned, confidence, least=least, most=most)
        at_best = ranged
        if self._unseen.any():
            at_best = intervals.mean(earned + self._unseen, confidence, least=least, most=most + 1)
        seen = max(1 - self.unseen, np.finfo(np.float64).tiny)
        value = float(earned.mean()) / seen if len(earned) else 0.0
        spread = Interval(ranged.low / seen, ranged.high / seen, confidence)
        return self.told(value, spread, Interval(ranged.low, at_best.high, confidence))

    def told(self, value: float, interval: Interval, possible: Interval) -> Estimate:
        """The estimate, within what a mean reward can be; nothing of it where the log does not tell."""
        known = self._effective >= LEAST_EFFECTIVE
        return Estimate(
            value=min(1.0, max(0.0, value)) if known else None,
            interval=_possible(interval) if known else Interval(0.0, 1.0, interval.confidence),
            possible=_possible(possible) if known else Interval(0.0, 1.0, interval.confidence),
            unseen=self.unseen,
            effective=self._effective,
        )


def _possible(interval: Interval) -> Interval:
    return Interval(max(0.0, interval.low), min(1.0, interval.high), interval.confidence)
