"""The queue before one replica: arrivals, ends, and what the requests between them meet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice, pairwise
from statistics import fmean, pvariance

import pytest

from isthmus.economics.sizing.queueing import (
    Replica,
    Request,
    at_percentile,
    bursty,
    interpolated,
    lengths,
    poisson,
    serve,
)

EVEN = Replica(step_s=lambda running: 0.01, prefill_s=0.1, first_s=0.02, places=2)


def draws(seed: int = 1) -> Iterator[float]:
    return iter(random.Random(seed).random, None)


def test_a_request_that_is_alone_waits_for_its_prefill_and_then_for_each_token() -> None:
    served = serve([Request(at_s=5.0, output=100)], EVEN)
    assert served.ttft_s == [pytest.approx(0.12)]
    assert served.tpot_s == [pytest.approx(0.01)]


def test_who_finds_every_place_taken_waits_for_an_end() -> None:
    served = serve([Request(0.0, 100), Request(0.0, 100), Request(0.0, 100)], EVEN)
    assert served.ttft_s == [pytest.approx(0.12), pytest.approx(0.22), pytest.approx(0.2 + 1.0 + 0.12)]


def test_a_prefill_holds_up_those_who_run() -> None:
    alone = serve([Request(0.0, 100)], EVEN).tpot_s[0]
    disturbed = serve([Request(0.0, 100), Request(0.5, 100)], EVEN).tpot_s[-1]
    assert disturbed == pytest.approx(alone + 0.1 / 100)


def test_poisson_arrivals_come_at_the_rate_and_know_nothing_of_each_other() -> None:
    times = list(islice(poisson(4.0, draws()), 20_000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert pvariance(gaps) / fmean(gaps) ** 2 == pytest.approx(1.0, rel=0.1)


def test_bursty_arrivals_come_at_the_same_rate_with_four_times_the_variation() -> None:
    times = list(islice(bursty(4.0, draws()), 40_000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert pvariance(gaps) / fmean(gaps) ** 2 == pytest.approx(4.0, rel=0.15)


def test_lengths_are_around_the_mean() -> None:
    some = list(islice(lengths(200, draws()), 10_000))
    assert fmean(some) == pytest.approx(200, rel=0.02)
    assert min(some) >= 100
    assert max(some) <= 300


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    assert at_percentile([1, 2, 3, 4], 50) == 2
    assert at_percentile([1, 2, 3, 4], 75) == 3
    assert at_percentile([1, 2, 3, 4], 76) == 4


def test_a_curve_goes_through_its_points_and_is_straight_in_logarithms() -> None:
    curve = interpolated([1.0, 4.0], [10.0, 40.0])
    assert [curve(place) for place in (0.5, 1, 2, 4, 9)] == pytest.approx([10, 10, 20, 40, 40])
