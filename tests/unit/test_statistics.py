"""Statistics against published numbers, and against truths that are known because they were made."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isthmus.statistics import dirichlet, intervals, paired, power
from isthmus.statistics.agreement import kappa


def test_a_share_has_the_interval_of_the_tables() -> None:
    it = intervals.proportion(5, 10)
    assert (round(it.low, 4), round(it.high, 4)) == (0.1871, 0.8129)
    assert intervals.proportion(0, 10).high == pytest.approx(0.3085, abs=1e-4)
    assert intervals.proportion(0, 0) == intervals.Interval(0.0, 1.0)


def test_a_one_sided_bound_is_the_rule_of_three() -> None:
    assert intervals.upper_bound(0, 300) == pytest.approx(3 / 300, rel=0.01)
    assert intervals.lower_bound(300, 300) == pytest.approx(1 - 3 / 300, rel=0.01)


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10)])
def test_what_is_no_share_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        intervals.proportion(successes, n)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([], 0.0, 1.0), ([0.5], 0.0125, 0.9875), ([0.9] * 20, 0.9 * 0.8316, 0.9 + 0.1 * 0.1684)],
)
def test_few_or_equal_scores_leave_room_for_what_was_not_seen(
    values: list[float], low: float, high: float
) -> None:
    it = intervals.mean(values)
    assert (it.low, it.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_of_many_scores_the_interval_is_the_normal_one() -> None:
    scores = np.random.default_rng(1).beta(2, 5, 2000)
    half = 1.96 * scores.std() / math.sqrt(2000)
    it = intervals.mean(scores)
    assert it.low == pytest.approx(scores.mean() - half, abs=5e-4)
    assert it.high == pytest.approx(scores.mean() + half, abs=5e-4)


@pytest.mark.parametrize("wrong", [[1.2], [-0.1], [math.nan], [[0.5]]])
def test_scores_that_are_none_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"outside|finite"):
        intervals.mean(wrong)


def test_the_chance_is_that_of_drawn_weights() -> None:
    points = np.array([0.0, 0.1, 0.1, 0.7, 0.9, 1.0])
    weights = np.random.default_rng(2).dirichlet(np.ones(6), 200_000)
    assert dirichlet.chance_below(points, 0.4) == pytest.approx((weights @ points <= 0.4).mean(), abs=4e-3)


def test_a_median_has_the_ranks_of_the_tables() -> None:
    assert intervals.quantile(range(1, 101), 0.5) == intervals.Interval(40.0, 61.0)


def test_too_few_values_bound_a_high_quantile_on_one_side() -> None:
    assert intervals.quantile(range(20), 0.95).high == math.inf
    assert intervals.quantile([], 0.5) == intervals.Interval(-math.inf, math.inf)


def test_a_ratio_of_even_costs_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = [intervals.ratio(rng.gamma(2, 0.5, 50), np.ones(50), rng).holds(1.0) for _ in range(200)]
    assert 0.90 <= np.mean(held) <= 0.99


def test_a_ratio_of_nothing_is_anything() -> None:
    rng = np.random.default_rng(3)
    assert intervals.ratio([2.0], [1.0], rng).high == math.inf
    assert intervals.ratio([2.0, 3.0], [0.0, 0.0], rng).high == math.inf
    with pytest.raises(ValueError, match="below zero"):
        intervals.ratio([1.0, -1.0], [1.0, 1.0], rng)


def test_mcnemar_is_the_fall_of_a_coin() -> None:
    assert paired.mcnemar(10, 1) == pytest.approx(2 * 12 / 2**11)
    assert paired.mcnemar(0, 0) == 1.0


def test_a_difference_says_by_how_much_and_how_surely() -> None:
    ours, theirs = [1.0] * 10 + [0.0] * 90, [0.0] * 100
    it = paired.difference(ours, theirs, binary=True)
    assert it.mean == pytest.approx(0.1)
    assert it.p == pytest.approx(2 / 2**10)
    assert it.interval.low > 0
    assert it == paired.difference(ours, theirs, binary=True)


def test_scores_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired.difference([1.0], [])
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        paired.difference([0.5], [1.0], binary=True)


def test_holm_is_the_step_down_of_his_paper() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([]) == []


def test_a_group_counts_once() -> None:
    assert paired.of_groups([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(("discordance", "difference"), [(0.3, 0.1), (0.2, 0.1), (0.5, 0.2)])
def test_so_many_samples_tell_two_models_apart(discordance: float, difference: float) -> None:
    rng = np.random.default_rng(4)
    n = power.samples_needed(difference, power.variance_of_pairs(discordance, difference))
    assert n is not None
    better = (discordance + difference) / 2
    draws = rng.multinomial(n, [better, discordance - better, 1 - discordance], 400)
    told = np.mean([paired.mcnemar(ours, theirs) <= 0.05 for ours, theirs, _ in draws.tolist()])
    assert 0.76 <= told <= 0.95


def test_no_number_of_samples_tells_equal_models_apart() -> None:
    assert power.samples_needed(0.0, 0.2) is None


def test_many_comparisons_need_more_samples() -> None:
    one, six = (power.samples_needed(0.1, 0.2, comparisons=count) for count in (1, 6))
    assert one is not None
    assert six is not None
    assert six > one


def test_kappa_is_that_of_the_textbook() -> None:
    ours = ["yes"] * 25 + ["no"] * 25
    theirs = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    it = kappa(ours, theirs, np.random.default_rng(5))
    assert it.kappa == pytest.approx(0.4)
    assert it.same == pytest.approx(0.7)
    assert it.interval.low < 0.4 < it.interval.high


def test_one_step_off_is_better_than_two() -> None:
    rng = np.random.default_rng(6)
    truth = [1, 2, 3] * 20
    near, far = [2, 2, 3] * 20, [3, 2, 3] * 20
    close, distant = (kappa(truth, marks, rng, weights="quadratic").kappa for marks in (near, far))
    assert close is not None
    assert distant is not None
    assert close > distant


def test_judges_who_agree_on_few_marks_may_still_differ() -> None:
    it = kappa([0, 1] * 10, [0, 1] * 10, np.random.default_rng(7))
    assert it.kappa == 1.0
    assert it.interval.low < 0.9


def test_a_mark_that_never_changes_shows_no_agreement() -> None:
    assert kappa([1, 1, 1], [1, 1, 1], np.random.default_rng(8)).kappa is None
    assert kappa([], [], np.random.default_rng(8)).n == 0
