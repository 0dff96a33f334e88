"""What an experiment is said to have shown, by made up trials."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from isthmus.core.decision import Decision, Previous
from isthmus.core.record import AttemptRecord, Record, Timings
from isthmus.evals.experiments import Trial, so_far, trials_of
from isthmus.strategies.plan import Split


def _trials(rng: random.Random, many: int, **arms: tuple[float, float | None]) -> list[Trial]:
    """Requests of these arms in turn, each answered with a probability, and scored with another."""
    trials = []
    for _ in range(many):
        for arm, (answers, liked) in arms.items():
            answered = rng.random() < answers
            score = float(rng.random() < liked) if liked is not None and answered else None
            trials.append(Trial(arm, answered, 1_000_000, rng.uniform(100, 300), score))
    return trials


def test_an_arm_that_fails_more_often_may_be_stopped() -> None:
    found = so_far(_trials(random.Random(1), 400, usual=(0.99, None), candidate=(0.85, None)))
    assert [arm.arm for arm in found.arms] == ["candidate", "usual"]
    (worse,) = found.worse
    assert (worse.arm, worse.than, worse.measure) == ("candidate", "usual", "answered")
    assert worse.p < 0.025
    assert worse.by.low > 0
    assert worse.by.holds(0.14)
    candidate, usual = found.arms
    assert (candidate.requests, candidate.usd, candidate.feedback) == (400, 0.001, None)
    assert usual.answered.holds(0.99)
    assert 100 < candidate.median_ms < candidate.p95_ms < 300


def test_an_arm_that_people_like_less_may_be_stopped() -> None:
    found = so_far(_trials(random.Random(2), 400, a=(1.0, 0.5), b=(1.0, 0.8)))
    (worse,) = found.worse
    assert (worse.arm, worse.than, worse.measure) == ("a", "b", "feedback")
    assert found.arms[0].scored == 400


def test_equal_arms_are_seldom_told_apart() -> None:
    """One time in twenty at most, however many arms and measures there are."""
    arms = {"a": (0.9, 0.6), "b": (0.9, 0.6), "c": (0.9, None)}
    alarms = [bool(so_far(_trials(random.Random(seed), 100, **arms)).worse) for seed in range(10)]
    assert sum(alarms) <= 1


def test_what_is_not_known_is_not_said() -> None:
    assert so_far([]).arms == ()
    (arm,) = so_far([Trial("a", True, None, 5.0, None), Trial("a", True, 5, 5.0, None)]).arms
    assert (arm.usd, arm.scored) == (None, 0)


def _record(number: int, user: str | None, *, fails: str | None = None, stays: bool = False) -> Record:
    failed = AttemptRecord(
        number=1,
        model="a",
        provider="p",
        model_id="a",
        outcome="error",
        started_ms=0,
        fault=fails,
        code=fails,
    )
    decision = Decision(
        route="r",
        operation="chat",
        allowed=("a",),
        refused=(),
        plan=None,
        reasons=(),
        propensity=1.0,
        config_hash="c",
        arms=("a",),
        previous=Previous(model="a") if stays else None,
    )
    return Record(
        id=str(number),
        at_us=number,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="error" if fails else "ok",
        code=fails,
        user=user,
        key_id="key_1",
        attempts=(failed,) if fails else (),
        decision=decision,
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=5.0),
        config_hash="c",
    )


@pytest.mark.parametrize(
    ("sticky", "answered", "scores"),
    [
        (None, [False, None, True, None, True, True], [None, 0.5, None, None, 0.25, None]),
        ("user", [False, None, None, None, True, True], [None, 0.5, None, None, 0.25, None]),
        ("key", [False, None, None, None, None, None], [None, 0.5, None, None, None, None]),
    ],
)
def test_whoever_was_drawn_is_counted_once(
    sticky: Literal["key", "user"] | None, answered: list[bool | None], scores: list[float | None]
) -> None:
    """A person on a sticky split, the caller's own faults, and turns that stay where the first was drawn."""
    records = [
        _record(1, "alice", fails="timeout"),
        _record(2, "bob", fails="budget_spent"),
        _record(3, "alice"),
        _record(4, "carol", stays=True),
        _record(5, "bob" if sticky is None else None),
        _record(6, None),
    ]
    trials = trials_of(records, {"2": 0.5, "4": 1.0, "5": 0.25}, Split(arms=(), sticky=sticky).subject)
    assert [trial.answered for trial in trials] == answered
    assert [trial.score for trial in trials] == scores
    (arm,) = so_far(trials).arms
    assert (arm.requests, arm.counted) == (6, sum(it is not None for it in answered))
