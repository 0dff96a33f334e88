"""Worlds whose truth is known, because they are made: scores, pairs of models, times, costs, judges, logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Rng: TypeAlias = np.random.Generator
Array: TypeAlias = Any


class World(NamedTuple):
    """What is drawn, so many at a time, and the truth about it."""

    name: str
    draw: Callable[[Rng, int], Array]
    truth: float


GRADES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def _graded(shares: list[float]) -> World:
    return World(
        f"five grades, {shares[-1]:.0%} full marks",
        lambda rng, n: rng.choice(GRADES, n, p=shares),
        float(GRADES @ np.array(shares)),
    )


def _mostly_full(share: float) -> World:
    """Full marks, but for a share that may be anything."""
    return World(
        f"full marks, {share:.0%} anything",
        lambda rng, n: np.where(rng.random(n) < share, rng.random(n), 1.0),
        1 - share / 2,
    )


def _beta(a: float, b: float) -> World:
    return World(f"beta({a:g}, {b:g})", lambda rng, n: rng.beta(a, b, n), a / (a + b))


SCORES = (
    _beta(2, 5),
    _beta(8, 1),
    _beta(0.3, 0.3),
    _beta(50, 50),
    _graded([0.05, 0.1, 0.2, 0.3, 0.35]),
    _graded([0.01, 0.01, 0.02, 0.06, 0.9]),
    _mostly_full(0.05),
    World("0.9, but 2% nothing", lambda rng, n: np.where(rng.random(n) < 0.02, 0.0, 0.9), 0.882),
    World("0.1, but 2% full marks", lambda rng, n: np.where(rng.random(n) < 0.02, 1.0, 0.1), 0.118),
)
"""Scores of one model: skewed, graded, with ties, and with what is rare and decides."""


def _both(a: float, b: float, together: float) -> World:
    """Two models that succeed so often; `together` of the samples are easy or hard for both alike."""

    def draw(rng: Rng, n: int) -> Array:
        hardness = rng.random(n)
        alike = rng.random(n) < together
        first = np.where(alike, hardness, rng.random(n)) < a
        second = np.where(alike, hardness, rng.random(n)) < b
        return first.astype(float) - second.astype(float)

    return World(f"{a:g} and {b:g}, {together:.0%} alike", draw, a - b)


def _graded_pair(shift: float, noise: float) -> World:
    """Two models whose scores hang on the sample, with noise of their own, in steps of a tenth."""

    def draw(rng: Rng, n: int) -> Array:
        base = rng.beta(4, 2, n)
        ours = np.clip(base + shift + rng.normal(0, noise, n), 0, 1).round(1)
        theirs = np.clip(base + rng.normal(0, noise, n), 0, 1).round(1)
        return ours - theirs

    # The truth of a clipped and rounded world is taken from very many draws: its error is about 1e-4.
    truth = float(draw(np.random.default_rng(11), 2_000_000).mean())
    return World(f"graded, {shift:+g}", draw, truth)


PAIRS = (
    _both(0.9, 0.85, 0.8),
    _both(0.5, 0.5, 0.5),
    _both(0.98, 0.95, 0.9),
    _both(0.98, 0.98, 1.0),
    _both(0.3, 0.7, 0.0),
    _graded_pair(0.05, 0.1),
    _graded_pair(0.0, 0.02),
)
"""The differences of two models on the same samples."""

TIMES = (
    World("log-normal times, median", lambda rng, n: rng.lognormal(6, 1, n), float(np.exp(6))),
    World("whole seconds, median", lambda rng, n: np.ceil(rng.exponential(2, n)), 2.0),
)
"""Latencies and their medians; a median of whole seconds is tied."""

P95 = World("log-normal times, P95", lambda rng, n: rng.lognormal(6, 1, n), float(np.exp(6 + 1.6448536)))

COSTS = (
    World("even costs", lambda rng, n: rng.gamma(4, 0.25, n), 1.0),
    World("skewed costs", lambda rng, n: rng.gamma(0.5, 2, n), 1.0),
    World("log-normal costs", lambda rng, n: rng.lognormal(-0.5, 1, n), 1.0),
    World(
        "a tenth costs ten times as much",
        lambda rng, n: np.where(rng.random(n) < 0.1, 10, 1) * rng.gamma(4, 0.25, n) / 1.9,
        1.0,
    ),
)
"""What requests cost, one on average."""


def judges(kinds: int, shares: list[float], agreement: float) -> World:
    """Two judges who agree on that share of marks beyond chance; 1 in 1 where they are told apart by it."""
    marginal = np.array(shares) / sum(shares)
    table = (1 - agreement) * np.outer(marginal, marginal) + agreement * np.diag(marginal)
    cells = [(a, b) for a in range(kinds) for b in range(kinds)]

    def draw(rng: Rng, n: int) -> Array:
        return np.array(cells)[rng.choice(len(cells), n, p=table.ravel())]

    return World(f"{kinds} marks, most {max(marginal):.0%}, kappa {agreement:g}", draw, agreement)


JUDGES = (
    judges(2, [1, 1], 0.4),
    judges(2, [9, 1], 0.8),
    judges(2, [9, 1], 0.4),
    judges(3, [3, 2, 1], 0.6),
    judges(5, [1, 1, 1, 1, 1], 0.8),
)
"""Judges and their kappa."""
