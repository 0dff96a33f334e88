"""What holds of intervals and tests, whatever the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.statistics import intervals, paired

scores = st.lists(st.floats(0, 1), min_size=0, max_size=40)
graded = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=40)
shares = st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@given(shares, confidences)
@settings(max_examples=25)
def test_of_zeros_and_ones_the_mean_has_the_interval_of_a_share(
    share: tuple[int, int], confidence: float
) -> None:
    successes, n = share
    as_scores = intervals.mean([1.0] * successes + [0.0] * (n - successes), confidence)
    exact = intervals.proportion(successes, n, confidence)
    assert as_scores.low == pytest.approx(exact.low, abs=1e-6)
    assert as_scores.high == pytest.approx(exact.high, abs=1e-6)


@given(scores, confidences)
@settings(max_examples=25)
def test_an_interval_holds_what_was_seen_and_has_a_width(values: list[float], confidence: float) -> None:
    it = intervals.mean(values, confidence)
    assert 0 <= it.low < it.high <= 1
    assert not values or it.low - 1e-9 <= float(np.mean(values)) <= it.high + 1e-9


@given(scores)
@settings(max_examples=25)
def test_failures_have_the_mirrored_interval(values: list[float]) -> None:
    it, other = intervals.mean(values), intervals.mean([1 - value for value in values])
    assert it.low == pytest.approx(1 - other.high, abs=1e-6)
    assert it.high == pytest.approx(1 - other.low, abs=1e-6)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 2), min_size=1, max_size=40))
@settings(max_examples=25)
def test_gaffkes_bound_is_mcnemars_test_where_scores_are_binary(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    assert paired.difference(ours, theirs).p == pytest.approx(
        paired.difference(ours, theirs, binary=True).p, abs=1e-6
    )


@given(graded, st.randoms(use_true_random=False), confidences)
@settings(max_examples=25)
def test_a_p_value_and_its_interval_never_contradict_each_other(
    ours: list[float], random: object, confidence: float
) -> None:
    theirs = [random.choice([0.0, 0.5, 1.0]) for _ in ours]  # type: ignore[attr-defined]
    it = paired.difference(ours, theirs, confidence=confidence)
    alpha = 1 - confidence
    if it.p < alpha - 1e-6:
        assert not it.interval.holds(0.0)
    if it.p > alpha + 1e-6:
        assert it.interval.holds(0.0)
    turned = paired.difference(theirs, ours, confidence=confidence)
    assert turned.mean == pytest.approx(-it.mean)
    assert turned.p == pytest.approx(it.p, abs=1e-6)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = paired.holm(p_values)
    assert all(p <= it <= 1 for p, it in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [it for _, it in ranked] == sorted(adjusted)
