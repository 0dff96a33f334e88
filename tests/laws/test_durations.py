"""Quantiles of durations: exact where none was cut off, and else within what those leave open."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from isthmus.statistics.durations import Durations

seconds = st.integers(0, 40).map(lambda tenths: tenths / 10)
percents = st.integers(50, 99)
observed = st.lists(st.tuples(seconds, st.booleans()), min_size=1, max_size=80)


def filled(window: list[tuple[float, bool]], most: int = 256) -> Durations:
    durations = Durations(most)
    for took, cut_off in window:
        durations.add(took, cut_off=cut_off)
    return durations


def exact(times: list[float], percent: int) -> float:
    """The least of the times within which that share of them lies."""
    return sorted(times)[math.ceil(Fraction(percent, 100) * len(times)) - 1]


@given(st.lists(seconds, min_size=1, max_size=120), st.integers(1, 40), percents)
def test_without_cuts_it_is_the_exact_quantile_of_the_window(
    times: list[float], most: int, percent: int
) -> None:
    durations = filled([(it, False) for it in times], most)
    assert durations.quantile(percent / 100) == exact(times[-most:], percent)
    assert durations.ended == len(times)


@given(observed, st.integers(1, 40), percents)
def test_with_cuts_it_lies_within_what_they_leave_open(
    window: list[tuple[float, bool]], most: int, percent: int
) -> None:
    kept = window[-most:]
    least = exact([took for took, _ in kept], percent)
    longest = max(took for took, _ in kept)
    most_of_all = min(longest, exact([math.inf if cut else took for took, cut in kept], percent))
    found = filled(window, most).quantile(percent / 100)
    assert found is not None
    assert least <= found <= most_of_all


@given(observed, percents)
def test_what_was_cut_off_counts_like_those_that_lasted_longer(
    window: list[tuple[float, bool]], percent: int
) -> None:
    """Efron's way to the same estimate, in fractions: who is cut off leaves his part to those after him."""
    ordered = sorted(window)
    parts = [Fraction(1, len(ordered))] * len(ordered)
    below, expected = Fraction(0), ordered[-1][0]
    for at, (took, cut_off) in enumerate(ordered):
        after = len(ordered) - at - 1
        if cut_off:
            parts[at + 1 :] = [it + parts[at] / after for it in parts[at + 1 :]]
        elif (below := below + parts[at]) >= Fraction(percent, 100):
            expected = took
            break
    assert filled(window).quantile(percent / 100) == expected


def test_of_nothing_there_is_no_quantile() -> None:
    assert Durations().quantile(0.95) is None


# Hedging: the quantile decides what is cut off, and what is cut off decides the quantile.


def hedged(
    draw: Callable[[], float],
    requests: int,
    beside: Callable[[], float],
    *,
    counts_losers: bool = True,
    percent: int = 95,
) -> tuple[float, float]:
    """The share of the last half of the requests that were asked twice, and the quantile at the end."""
    durations = filled([(draw(), False) for _ in range(256)])
    asked_twice = 0
    for number in range(requests):
        after = durations.quantile(percent / 100)
        assert after is not None
        first = draw()
        if first <= after:
            durations.add(first)
            continue
        asked_twice += number >= requests // 2
        lost_at = after + beside()
        if first <= lost_at:
            durations.add(first)
        elif counts_losers:
            durations.add(lost_at, cut_off=True)
    quantile = durations.quantile(percent / 100)
    assert quantile is not None
    return asked_twice / (requests - requests // 2), quantile


def test_hedges_after_a_quantile_are_as_rare_as_it_says() -> None:
    for percent in (50, 80, 95, 99):
        latency = partial(random.Random(percent).lognormvariate, 0, 0.5)
        share, _ = hedged(latency, 8_000, latency, percent=percent)
        assert abs(share - (1 - percent / 100)) < 0.015


def test_hedging_does_not_breed_more_hedging() -> None:
    def race(*, counts_losers: bool) -> tuple[float, float]:
        draws = random.Random(5)
        return hedged(lambda: draws.lognormvariate(0, 0.5), 8_000, lambda: 0.01, counts_losers=counts_losers)

    true = math.exp(0.5 * 1.645)
    share, quantile = race(counts_losers=True)
    assert share < 0.07
    assert 0.8 * true < quantile < 1.25 * true
    runaway, shrunk = race(counts_losers=False)
    assert runaway > 0.3, "without its losers the quantile goes down, and down again"
    assert shrunk < 0.5 * true


def test_a_model_that_has_become_slow_is_found_to_be_so() -> None:
    draws, beginning = random.Random(7), [True] * 256

    def draw() -> float:
        if beginning:
            beginning.pop()
            return draws.uniform(0.08, 0.12)
        return draws.uniform(0.9, 1.1)

    share, quantile = hedged(draw, 4000, lambda: 0.05)
    assert share < 0.1
    assert 0.9 < quantile < 1.1


def test_a_model_beside_itself_is_not_taken_for_quicker_than_it_is() -> None:
    def race(*, as_cut_off: bool) -> float:
        latency = partial(random.Random(11).lognormvariate, 0, 0.5)
        durations, found = filled([(latency(), False) for _ in range(256)]), []
        for _ in range(4_000):
            after = durations.quantile(0.5)
            assert after is not None
            found.append(after)
            first, second = latency(), latency()
            if first <= after:
                durations.add(first)
            elif first <= after + second:
                durations.add(first)
                durations.add(first - after, cut_off=as_cut_off)
            else:
                durations.add(second)
                durations.add(after + second, cut_off=as_cut_off)
        return sum(found) / len(found)

    # The median of these is 1.
    assert 0.93 < race(as_cut_off=True) < 1.07
    assert race(as_cut_off=False) < 0.85
