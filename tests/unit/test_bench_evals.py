"""The bench of statistics, small: worlds have the truth that they say, the headline is the worst of all."""

from __future__ import annotations

import numpy as np
import pytest
from bench.evals import alarms, bandits, coverage
from bench.evals.coverage import Cell
from bench.evals.run import Results, headline, table
from bench.evals.worlds import COSTS, JUDGES, P95, PAIRS, SCORES, TIMES, World

from isthmus.statistics.agreement import kappa

SEED = 5
MEANS = [*SCORES, *PAIRS, *COSTS]


@pytest.mark.parametrize("world", MEANS, ids=[world.name for world in MEANS])
def test_a_world_has_the_mean_that_it_says(world: World) -> None:
    drawn = world.draw(np.random.default_rng(SEED), 200_000)
    assert drawn.mean() == pytest.approx(world.truth, abs=5 * drawn.std() / 200_000**0.5 + 2e-4)


def test_worlds_of_times_and_judges_have_the_truth_that_they_say() -> None:
    rng = np.random.default_rng(SEED)
    for world, share in ((TIMES[0], 0.5), (TIMES[1], 0.5), (P95, 0.95)):
        assert np.quantile(world.draw(rng, 200_000), share) == pytest.approx(world.truth, rel=0.03)
    for world in JUDGES:
        marks = world.draw(rng, 50_000).tolist()
        found = kappa([a for a, _ in marks], [b for _, b in marks], rng).kappa
        assert found == pytest.approx(world.truth, abs=0.03)


def test_shares_are_held_for_every_share() -> None:
    assert min(cell.coverage for cell in coverage.exact_shares(50)) >= 0.95


@pytest.mark.parametrize("kind", ["mean", "difference", "quantile", "ratio", "kappa"])
def test_an_interval_holds_the_truth_as_often_as_it_says(kind: str) -> None:
    n = 50 if kind == "ratio" else 20
    cells = [coverage.simulated(kind, world.name, n, 60, SEED) for world in coverage.WORLDS[kind][:2]]
    assert all(cell.coverage >= 0.95 - 4 * cell.error for cell in cells)


def test_a_false_alarm_is_rare_and_a_true_one_comes() -> None:
    false = [
        alarms.false_change("labels", 30, 100, 30, SEED),
        alarms.false_mean(0.9, 100, 30, SEED),
        alarms.false_duel(0.5, 50, 20, SEED),
    ]
    assert all(it.share <= alarms.ALPHA + 4 * it.error for it in false)
    assert alarms.delay("success 0.9 to 0.6", "success 0.9", "success 0.6", 3, SEED).seen == 1.0


def test_estimates_of_policies_are_near_the_truth() -> None:
    found = bandits.run(0, 400, 15, SEED)
    assert [it.method for it in found] == ["ips", "snips", "doubly robust"]
    assert all(abs(it.bias) <= 4 * it.error for it in found)


def test_the_headline_is_the_worst_of_all() -> None:
    results = Results(
        [Cell("share", "p = 0.5", 20, 0.96, 0.0), Cell("mean", "made up", 20, 0.93, 0.01)],
        [alarms.Alarms("change", "one", 0.02, 0.01), alarms.Alarms("change", "other", 0.04, 0.01)],
        [alarms.Delay("a change", 1.0, 50.0), alarms.Delay("another", 0.2, None)],
        [bandits.Found("a case", "ips", -0.02, 0.01, 0.97, 0.01)],
    )
    assert headline(results) == {
        "interval_coverage_min": 0.93,
        "interval_coverage_min_error": 0.01,
        "interval_shortfall_max_errors": 2.0,
        "false_alarm": 0.04,
        "off_policy_bias": 0.02,
    }
    assert "made up" in table(results)
