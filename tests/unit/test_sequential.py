"""Tests that are looked at after every value: they rarely raise a false alarm, and they see a change."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from isthmus.statistics.change import Change, Value
from isthmus.statistics.sequential import Bets, Duel, mean_so_far

Stream = Callable[[int], list[Value]]


def _binary(rng: np.random.Generator, share: float) -> Stream:
    return lambda n: (rng.random(n) < share).astype(float).tolist()


def _times(rng: np.random.Generator, median: float) -> Stream:
    return lambda n: (median * rng.lognormal(0, 0.8, n)).tolist()


def _words(rng: np.random.Generator, shares: list[float]) -> Stream:
    return lambda n: rng.choice(["confidential", "internal", "public"], n, p=shares).tolist()


def _watched(rng: np.random.Generator, before: Stream, after: Stream, baseline: int, later: int) -> Change:
    change = Change()
    for value in before(baseline):
        change.learn(value)
    for value in after(later):
        change.observe(value, rng.random())
    return change


@pytest.mark.parametrize("stream", ["binary", "times", "words"])
def test_a_change_that_is_none_is_rarely_alarming(stream: str) -> None:
    rng = np.random.default_rng(1)
    streams = {
        "binary": _binary(rng, 0.9),
        "times": _times(rng, 800),
        "words": _words(rng, [0.1, 0.6, 0.3]),
    }
    same = streams[stream]
    alarms = [_watched(rng, same, same, 20, 150).p <= 0.2 for _ in range(100)]
    # Four standard errors: with so short a baseline, too, one in five at the most.
    assert np.mean(alarms) <= 0.2 + 4 * (0.2 * 0.8 / 100) ** 0.5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_binary(np.random.default_rng(2), 0.9), _binary(np.random.default_rng(3), 0.6)),
        (_binary(np.random.default_rng(2), 0.01), _binary(np.random.default_rng(3), 0.1)),
        (_times(np.random.default_rng(2), 800), _times(np.random.default_rng(3), 1600)),
        (
            _words(np.random.default_rng(2), [0.1, 0.6, 0.3]),
            _words(np.random.default_rng(3), [0.4, 0.3, 0.3]),
        ),
    ],
)
def test_a_change_is_seen(before: Stream, after: Stream) -> None:
    assert _watched(np.random.default_rng(4), before, after, 1000, 500).p < 0.001


def test_a_change_is_seen_after_a_long_quiet_time() -> None:
    rng = np.random.default_rng(5)
    change = _watched(rng, _binary(rng, 0.9), _binary(rng, 0.9), 500, 3000)
    assert change.p > 0.01
    for value in _binary(rng, 0.5)(500):
        change.observe(value, rng.random())
    assert change.p < 0.001


def test_what_is_always_the_same_has_not_changed() -> None:
    rng = np.random.default_rng(10)
    assert _watched(rng, _binary(rng, 0.0), _binary(rng, 0.0), 50, 500).p == 1.0


def test_a_change_goes_on_where_it_was_written_down() -> None:
    rng = np.random.default_rng(6)
    change = _watched(rng, _times(rng, 800), _times(rng, 900), 50, 50)
    again = msgspec.json.decode(msgspec.json.encode(change), type=Change)
    assert again == change
    for it in (change, again):
        it.observe(700.0, 0.5)
    assert again == change


def test_a_mean_may_be_looked_at_all_the_time() -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(60):
        bets = Bets([0.9])
        for value in _binary(rng, 0.9)(300):
            bets.observe(float(value))
        wrong += bool(bets.p[0] <= 0.2)
    assert wrong / 60 <= 0.2 + 4 * (0.2 * 0.8 / 60) ** 0.5


def test_an_interval_that_may_be_stopped_narrows_around_the_mean() -> None:
    it = mean_so_far(np.random.default_rng(8).beta(8, 2, 400).tolist())
    assert it.holds(0.8)
    assert it.width < 0.08
    assert mean_so_far([]).width == 1.0


def test_values_beyond_the_bounds_are_no_bets() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Bets([0.5]).observe(1.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Duel().observe("a", float("nan"))


def test_a_duel_says_who_is_better_and_counts_pairs() -> None:
    rng, duel = np.random.default_rng(9), Duel()
    for _ in range(400):
        duel.observe("a", float(rng.random() < 0.8))
        duel.observe("b", float(rng.random() < 0.5))
    duel.observe("a", 1.0)
    assert duel.n == 400
    assert duel.p < 0.01
    assert duel.difference().holds(0.3)
    assert duel.difference().low > 0
