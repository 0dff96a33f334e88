"""What an experiment is said to have shown, by made up trials."""

from __future__ import annotations

import random

from isthmus.evals.experiments import Trial, so_far


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
