"""What every model would have scored, by the scores of those that a draw asked."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.statistics import intervals
from isthmus.statistics.doubly_robust import Completion, Table, misfits

WEIGHTS = np.array([0.3, 0.7])


def _population(many: int, seed: int) -> Table:
    """Scores of two models, of which the second is better on half of the requests and worse on a few."""
    rng = np.random.default_rng(seed)
    return (rng.random((many, 2)) < np.where(np.arange(many)[:, None] % 2, (0.3, 0.9), (0.9, 0.8))).astype(
        float
    )


def _dealt(scores: Table, rng: np.random.Generator) -> tuple[Table, Table]:
    """The scores of whom a draw asked, and the odds of that."""
    asked = (rng.random(len(scores)) < WEIGHTS[1]).astype(int)
    known = np.arange(2) == asked[:, None]
    return np.where(known, scores, np.nan), np.where(known, WEIGHTS, 0)


def test_what_is_known_for_certain_stays_as_it_is() -> None:
    scores = np.array([[0.7, 0.7], [0.1, 0.3], [1, 0]])
    completion = Completion.of(scores, np.ones_like(scores))
    assert np.array_equal(completion.complete(scores, np.ones_like(scores)), scores)
    assert (completion.bounds, completion.reach) == ((0, 1), 1)
    assert not misfits(scores, np.ones_like(scores)).any()


def test_the_mean_of_any_choice_is_right_whatever_the_means_that_fill() -> None:
    scores, rng = _population(400, 1), np.random.default_rng(2)
    choice = np.where(np.arange(400) % 2, 1, 0)
    truth = scores[np.arange(400), choice].mean()
    for means in (np.array([0.5, 0.5]), np.array([0.0, 1.0])):
        found = []
        for _ in range(400):
            completion = Completion(means, WEIGHTS)
            found.append(completion.complete(*_dealt(scores, rng))[np.arange(400), choice].mean())
        assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / 20)


def test_numbers_lie_within_the_bounds_and_differences_within_the_reach() -> None:
    rng = np.random.default_rng(3)
    known, odds = _dealt(_population(500, 3), rng)
    completion = Completion.of(known, odds)
    found = completion.complete(known, odds)
    least, most = completion.bounds
    assert least <= found.min() <= found.max() <= most
    assert np.abs(found[:, 1] - found[:, 0]).max() <= completion.reach + 1e-12
    assert most > 1.5
    assert least < -0.5


def test_a_promise_by_completed_scores_is_broken_as_seldom_as_it_says() -> None:
    """The choice loses exactly what is claimed to be the least, on the mean of the population."""
    scores, rng = _population(4_000, 4), np.random.default_rng(5)
    choice = np.where(np.arange(4_000) % 5, 1, 0)
    loss = (scores[:, 1] - scores[np.arange(4_000), choice]).mean()
    refused = 0
    for _ in range(200):
        some = rng.integers(0, 4_000, 200)
        known, odds = _dealt(scores[some], rng)
        completion = Completion.of(known[:100], odds[:100])._replace(odds=WEIGHTS)
        found = completion.complete(known[100:], odds[100:])
        losses = found[:, 1] - found[np.arange(100), choice[some[100:]]]
        reach = completion.reach
        refused += intervals.mean_at_least(losses, loss, least=-reach, most=reach) <= 0.1
    assert refused / 200 <= 0.13


def test_scores_that_come_by_who_answered_do_not_fit_the_odds() -> None:
    rng = np.random.default_rng(6)
    known, odds = _dealt(_population(600, 6), rng)
    assert not misfits(known, odds).any()
    kept = np.isfinite(known[:, 0]) | (np.arange(600) % 4 == 0)
    assert misfits(known[kept], odds[kept]).all()
    # A model that two arms ask is asked twice as often as one arm's odds say.
    assert misfits(known, np.where(odds == 0.7, 0.35, odds))[1]
