"""Promises hold for any labels: what is accepted was tested, and chance breaks them as seldom as they say."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from isthmus.confidence.thresholds import (
    FEWEST,
    Risk,
    p_values,
    promise,
    risk_of,
    unproven_threshold,
)
from isthmus.confidence.voting import Panel, vote

Labelled: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]

shares = st.floats(0.01, 0.5)
risks: st.SearchStrategy[Risk] = st.sampled_from(("added", "accepted"))


def _labelled(many: int, seed: int, levels: int, informed: float, *, graded: bool) -> Labelled:
    """Confidences, of few levels or many, and losses that they tell more or less about."""
    rng = np.random.default_rng(seed)
    sure = np.round(rng.random(many) * levels) / levels
    chance = informed * (1 - sure) + (1 - informed) * rng.random(many) * 0.3
    return sure, chance if graded else (rng.random(many) < chance).astype(float)


answers: st.SearchStrategy[Labelled] = st.builds(
    _labelled,
    many=st.integers(FEWEST, 400),
    seed=st.integers(0, 2**32),
    levels=st.sampled_from((1, 2, 7, 100, 10**6)),
    informed=st.floats(0, 1),
    graded=st.booleans(),
)


@given(answers, risks, shares, shares)
def test_a_kept_promise_is_within_its_risk_among_the_labels(
    rows: Labelled, risk: Risk, max_risk: float, delta: float
) -> None:
    sure, losses = rows
    found = promise(sure, losses, max_risk=max_risk, delta=delta, risk=risk)
    assert found.kept == (found.threshold is not None) == (not found.why)
    if found.threshold is None:
        assert found.coverage == 0
        return
    taken = sure >= found.threshold
    assert found.observed == risk_of(taken, losses, risk)
    assert found.observed is not None
    assert found.observed <= max_risk + 1e-9
    many = taken.sum() if risk == "accepted" else len(sure)
    binary = bool(((losses == 0) | (losses == 1)).all())
    assert p_values(losses[taken].sum(), many, max_risk, binary=binary) <= delta + 1e-9


@given(answers, risks, shares)
def test_a_tested_threshold_never_accepts_more_than_an_untested_one(
    rows: Labelled, risk: Risk, max_risk: float
) -> None:
    sure, losses = rows
    tested = promise(sure, losses, max_risk=max_risk, delta=0.1, risk=risk).threshold
    untested = unproven_threshold(sure, losses, max_risk=max_risk, risk=risk)
    if tested is not None:
        assert untested is not None
        assert (sure >= tested).sum() <= (sure >= untested).sum()


@given(answers, shares)
def test_a_stricter_promise_never_accepts_more(rows: Labelled, max_risk: float) -> None:
    sure, losses = rows
    loose = promise(sure, losses, max_risk=max_risk, delta=0.2)
    assert promise(sure, losses, max_risk=max_risk / 2, delta=0.2).coverage <= loose.coverage
    assert promise(sure, losses, max_risk=max_risk, delta=0.02).coverage <= loose.coverage


@given(st.integers(1, 300), st.data(), shares)
def test_graded_bounds_are_no_bolder_than_the_exact_one(many: int, data: st.DataObject, bound: float) -> None:
    errors = data.draw(st.integers(0, many))
    exact, graded = (float(p_values(errors, many, bound, binary=it)) for it in (True, False))
    assert 0 <= exact <= 1
    assert exact <= graded * (1 + 1e-9)


def test_promises_are_broken_as_seldom_as_they_say() -> None:
    """The risk at each threshold is known here: the chance of an error is (1 - confidence) / 2."""
    rng = np.random.default_rng(0)
    broken = {"tested": 0, "untested": 0}
    for _ in range(400):
        sure = rng.random(300)
        losses = (rng.random(300) < (1 - sure) / 2).astype(float)
        for name, threshold in (
            ("tested", promise(sure, losses, max_risk=0.1, delta=0.1, risk="accepted").threshold),
            ("untested", unproven_threshold(sure, losses, max_risk=0.1, risk="accepted")),
        ):
            # Accepting above t has the mean risk (1 - t) / 4.
            broken[name] += threshold is not None and (1 - threshold) / 4 > 0.1
    # 40 of 400 are what delta allows; 58 is its upper 0.1 % quantile.
    assert broken["tested"] <= 58
    assert broken["untested"] > 120


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0, 10), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.sampled_from(("X", "x.", "Y", "")), min_size=1),
)
def test_a_vote_gives_a_members_answer(weights: dict[str, float], said: dict[str, str]) -> None:
    ballot = vote(Panel(weights=weights, best=min(weights), gain=0, why=""), said)
    speakers = {name for name in weights if said.get(name)}
    assert (ballot is None) == (not speakers)
    if ballot is not None:
        assert ballot.model in speakers
        assert 0 <= ballot.share <= 1
        texts = {said[name].strip(".").lower() for name in speakers}
        everybody = len(texts) == 1 and speakers == set(weights)
        assert ballot.unanimous == (everybody and len(weights) > 1)
