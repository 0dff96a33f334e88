"""Thresholds with a promise, by example; the laws are in tests/laws/test_promises.py."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.confidence.thresholds import (
    FEWEST,
    contradicted,
    labels_needed,
    losses_of,
    matching_threshold,
    p_values,
    promise,
    risk_of,
    unproven_threshold,
)


def test_labels_needed_are_those_without_an_error() -> None:
    assert labels_needed(0.05, 0.1) == 45
    assert 0.95**45 <= 0.1 < 0.95**44
    assert p_values(0, 45, 0.05, binary=True) <= 0.1 < p_values(0, 44, 0.05, binary=True)


def test_p_values_are_the_binomial_tail_and_for_graded_losses_never_smaller() -> None:
    # P(Bin(20, 0.1) <= 1) = 0.9^20 + 20 * 0.1 * 0.9^19
    exact = 0.9**20 + 20 * 0.1 * 0.9**19
    assert p_values(1, 20, 0.1, binary=True) == pytest.approx(exact)
    assert 1 >= p_values(1, 20, 0.1, binary=False) >= exact
    assert p_values(20, 20, 0.1, binary=False) == 1


def test_risks_are_of_what_is_added_or_of_what_is_accepted() -> None:
    weak, strong = [1.0, 0.0, 0.5, 1.0], [1.0, 1.0, 1.0, 0.0]
    assert losses_of("accepted", weak).tolist() == [0, 1, 0.5, 0]
    assert losses_of("added", weak, strong).tolist() == [0, 1, 0.5, 0]
    assert losses_of("added", [0.0], [0.0]).tolist() == [0]
    with pytest.raises(ValueError, match="stronger"):
        losses_of("added", weak)
    taken = np.array([True, True, False, False])
    assert risk_of(taken, [0, 1, 1, 1], "added") == 0.25
    assert risk_of(taken, [0, 1, 1, 1], "accepted") == 0.5
    assert risk_of(~taken & taken, [0, 1, 1, 1], "accepted") is None


@pytest.mark.parametrize("risk", ["added", "accepted"])
def test_a_confidence_that_tells_all_accepts_what_is_right(risk: str) -> None:
    sure = np.linspace(0, 1, 400)
    found = promise(sure, (sure < 0.5).astype(float), max_risk=0.05, risk=risk)  # type: ignore[arg-type]
    assert found.kept
    assert found.threshold is not None
    assert 0.4 < found.threshold <= 0.52
    assert found.coverage == pytest.approx((sure >= found.threshold).mean())
    assert found.observed is not None
    assert found.observed <= 0.05


def test_a_confidence_that_tells_nothing_accepts_nothing() -> None:
    rng = np.random.default_rng(0)
    found = promise(rng.random(400), rng.random(400) < 0.3, max_risk=0.05, risk="accepted")
    assert not found.kept
    assert found.threshold is None
    assert found.coverage == 0
    assert "no threshold can be shown" in found.why


def test_too_few_labels_promise_nothing_and_say_how_many_would() -> None:
    found = promise(np.linspace(0, 1, FEWEST - 1), np.zeros(FEWEST - 1), max_risk=0.05)
    assert not found.kept
    assert f"{FEWEST} are the least" in found.why
    found = promise(np.linspace(0, 1, 200), np.zeros(200), max_risk=0.005)
    assert not found.kept
    assert "460 are the least" in found.why
    assert found.needed == 460
    assert not promise([], [], max_risk=0.05).kept


def test_equal_confidences_are_accepted_together_or_not_at_all() -> None:
    sure = np.repeat([0.9, 0.1], 100)
    found = promise(sure, np.repeat([0.0, 1.0], 100), max_risk=0.1, risk="accepted")
    assert found.threshold == 0.9
    assert found.coverage == 0.5


def test_graded_losses_are_promised_of_as_well() -> None:
    rng = np.random.default_rng(1)
    found = promise(rng.random(500), rng.uniform(0, 0.04, 500), max_risk=0.1, risk="added")
    assert found.kept
    assert found.coverage == 1


def test_thresholds_may_be_given() -> None:
    sure = np.linspace(0, 1, 400)
    found = promise(sure, np.zeros(400), max_risk=0.05, grid=[0.7, 0.2])
    assert found.threshold == 0.2


@pytest.mark.parametrize(
    ("sure", "losses", "bound"),
    [([0.1], [2.0], 0.1), ([float("nan")], [0.0], 0.1), ([0.1, 0.2], [0.0], 0.1), ([0.1], [0.0], 1.0)],
)
def test_what_is_no_confidence_or_loss_is_refused(
    sure: list[float], losses: list[float], bound: float
) -> None:
    with pytest.raises(ValueError, match=r"loss|confidence|max_risk"):
        promise(sure, losses, max_risk=bound)


def test_a_threshold_without_a_test_takes_what_it_sees() -> None:
    assert unproven_threshold([0.9, 0.8, 0.7, 0.1], [0, 0, 1, 1], max_risk=0.4, risk="accepted") == 0.7
    assert unproven_threshold([0.9], [1.0], max_risk=0.4, risk="accepted") is None


def test_a_matching_threshold_gives_away_where_the_strong_model_is_better_alone() -> None:
    sure = np.linspace(1, 0, 100)
    weak = np.where(sure > 0.4, 1.0, 0.0)
    strong = np.where((sure > 0.7) & (sure < 0.8), 0.0, 1.0)
    threshold = matching_threshold(sure, weak, strong)
    # The weak model wins ten queries in the middle, and may lose as many at the end.
    assert threshold is not None
    taken = sure >= threshold
    assert np.where(taken, weak, strong).mean() >= strong.mean()
    assert 0.28 < threshold < 0.42
    assert matching_threshold(sure, np.zeros(100), np.ones(100)) is None


def test_labels_of_what_came_later_may_speak_against_a_promise() -> None:
    # P(Bin(100, 0.05) >= 12) = 0.0043, and of 11 or more 0.0115
    assert contradicted([1.0] * 12 + [0.0] * 88, 0.05)
    assert not contradicted([1.0] * 11 + [0.0] * 89, 0.05)
    assert contradicted(np.full(200, 0.5), 0.05)
    assert not contradicted([], 0.05)
