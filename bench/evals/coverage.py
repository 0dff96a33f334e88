"""How often intervals hold the truth, in worlds where it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from bench.evals.worlds import COSTS, JUDGES, P95, PAIRS, SCORES, TIMES, Rng, World
from isthmus.statistics import intervals
from isthmus.statistics.agreement import kappa

CONFIDENCE = 0.95
SHARES = [round(0.02 * step, 2) for step in range(1, 50)]

Holds = Callable[[World, Rng, int], bool]


class Cell(NamedTuple):
    """How often one kind of interval held the truth of one world, of samples of one size.

    `error` is the Monte Carlo standard error at the confidence that was asked for, 0 where the coverage is
    exact.
    """

    kind: str
    world: str
    n: int
    coverage: float
    error: float


def exact_shares(n: int) -> list[Cell]:
    """The coverage of shares: exact, by the binomial distribution, for every share from 0.02 to 0.98."""
    counts = np.arange(n + 1)
    ranges = [intervals.proportion(int(count), n) for count in counts]
    cells = []
    for share in SHARES:
        held = np.array([it.holds(share) for it in ranges])
        covered = float(stats.binom.pmf(counts, n, share)[held].sum())
        cells.append(Cell("share", f"p = {share:g}", n, covered, 0.0))
    return cells


def simulated(kind: str, name: str, n: int, draws: int, seed: int) -> Cell:
    """The coverage of another kind in the world of that name, by that many samples of one size."""
    world = next(world for world in WORLDS[kind] if world.name == name)
    rng = np.random.default_rng([seed, n])
    held = sum(_HOLDS[kind](world, rng, n) for _ in range(draws))
    error = (CONFIDENCE * (1 - CONFIDENCE) / draws) ** 0.5
    return Cell(kind, world.name, n, held / draws, error)


WORLDS: dict[str, tuple[World, ...]] = {
    "mean": SCORES,
    "difference": PAIRS,
    "quantile": (*TIMES, P95),
    "ratio": COSTS,
    "kappa": JUDGES,
}
DRAWS: dict[str, dict[int, int]] = {
    "mean": {20: 1000, 100: 1000, 500: 600, 2000: 300},
    "difference": {20: 1000, 100: 1000, 500: 1000, 2000: 1000},
    "quantile": {20: 2000, 200: 2000, 2000: 2000},
    "ratio": {50: 1000, 200: 1000},
    "kappa": {20: 800, 100: 800},
}
"""How many samples are drawn of each size, for each kind."""


def plan(scale: float = 1.0) -> list[tuple[str, str, int, int]]:
    """What is simulated: kind, the world's name, the size of the samples, and how many of them."""
    return [
        (kind, world.name, n, max(20, round(draws * scale)))
        for kind, worlds in WORLDS.items()
        for world in worlds
        for n, draws in DRAWS[kind].items()
    ]


def _mean(world: World, rng: Rng, n: int) -> bool:
    return _bounded(world.draw(rng, n), world.truth, 0.0)


def _difference(world: World, rng: Rng, n: int) -> bool:
    return _bounded(world.draw(rng, n), world.truth, -1.0)


def _bounded(values: np.ndarray, truth: float, least: float) -> bool:
    """Whether `intervals.mean` holds the truth: it does where neither of the claims that bound it is refused.

    A law of the tests says that these are the same; one of the two is ten times faster.
    """
    tail = (1 - CONFIDENCE) / 2
    return (
        intervals.mean_at_most(values, truth, least=least) > tail
        and intervals.mean_at_least(values, truth, least=least) > tail
    )


def _quantile(world: World, rng: Rng, n: int) -> bool:
    return intervals.quantile(world.draw(rng, n), 0.95 if world is P95 else 0.5).holds(world.truth)


def _ratio(world: World, rng: Rng, n: int) -> bool:
    return intervals.ratio(world.draw(rng, n), np.ones(n), rng).holds(world.truth)


def _kappa(world: World, rng: Rng, n: int) -> bool:
    marks = world.draw(rng, n).tolist()
    return kappa([a for a, _ in marks], [b for _, b in marks], rng).interval.holds(world.truth)


_HOLDS: dict[str, Holds] = {
    "mean": _mean,
    "difference": _difference,
    "quantile": _quantile,
    "ratio": _ratio,
    "kappa": _kappa,
}
