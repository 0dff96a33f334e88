"""How far off-policy estimates are from the truth, on logs of a world that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.evals.worlds import Rng
from isthmus.statistics import off_policy
from isthmus.statistics.off_policy import Estimate, Logged

WORTH = np.array([[0.9, 0.6, 0.3], [0.2, 0.5, 0.8]])
"""How often each of three models succeeds, on requests of two kinds."""


class Case(NamedTuple):
    """Two policies: what each does on requests of either kind, one row a kind."""

    name: str
    logged: list[list[float]]
    wanted: list[list[float]]
    guess: float


CASES = (
    Case("a split, another split", [[0.6, 0.2, 0.2]] * 2, [[0.1, 0.1, 0.8]] * 2, 0.1),
    Case("a split, the best model for each kind", [[0.5, 0.25, 0.25]] * 2, [[1, 0, 0], [0, 0, 1]], 0.1),
    Case("5% explored, the explored model", [[0.95, 0.05, 0.0]] * 2, [[0.0, 1.0, 0.0]] * 2, -0.2),
    Case("by kind, wrong guesses", [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], [[0.2, 0.6, 0.2]] * 2, 0.4),
)


class Found(NamedTuple):
    """The mean error of an estimate over many logs, and how often its interval held the truth.

    `error` and `coverage_error` are Monte Carlo's.
    """

    case: str
    method: str
    bias: float
    error: float
    coverage: float
    coverage_error: float


def run(place: int, n: int, logs: int, seed: int) -> list[Found]:
    """Every estimate of the case in that place, on that many logs of n requests each."""
    case = CASES[place]
    rng = np.random.default_rng(seed)
    truth = float((np.array(case.wanted) * WORTH).sum(1).mean())
    methods: dict[str, Callable[[Logged], Estimate]] = {
        "ips": off_policy.ips,
        "snips": lambda log: off_policy.snips(log, rng),
        "doubly robust": off_policy.doubly_robust,
    }
    found: dict[str, list[Estimate]] = {name: [] for name in methods}
    for _ in range(logs):
        log = _log(case, rng, n)
        for name, method in methods.items():
            found[name].append(method(log))
    return [_judged(case, name, estimates, truth) for name, estimates in found.items()]


def _log(case: Case, rng: Rng, n: int) -> Logged:
    kinds = rng.integers(0, 2, n)
    taken, wanted = np.array(case.logged)[kinds], np.array(case.wanted)[kinds]
    actions = (rng.random(n)[:, None] > taken.cumsum(1)).sum(1)
    rows = np.arange(n)
    guessed: Any = np.clip(WORTH + case.guess, 0, 1)
    return Logged(
        rewards=(rng.random(n) < WORTH[kinds, actions]).astype(float),
        propensities=taken[rows, actions],
        wanted=wanted[rows, actions],
        expected=guessed[kinds, actions],
        promised=(wanted * guessed[kinds]).sum(1),
    )


def _judged(case: Case, method: str, estimates: list[Estimate], truth: float) -> Found:
    values = np.array([it.value for it in estimates], dtype=float)
    held = np.mean([it.interval.holds(truth) for it in estimates])
    logs = len(estimates)
    return Found(
        case.name,
        method,
        float(values.mean() - truth),
        float(values.std(ddof=1) / logs**0.5),
        float(held),
        (0.95 * 0.05 / logs) ** 0.5,
    )
