"""Quality by feedback, off policy."""

from __future__ import annotations

import random

import pytest

from isthmus.core.label import Label
from isthmus.evals.replay.changes import Overlap
from isthmus.evals.replay.judged import Judged
from isthmus.evals.replay.latency import Spread
from isthmus.evals.replay.replayed import Judgement


def judgement(overlap: Overlap | None, unknown: str | None = None) -> Judgement:
    return Judgement(
        route="r",
        model="m",
        label=Label(),
        label_then=Label(),
        outcomes=(),
        unknown=unknown,
        overlap=overlap,
        spread=Spread(),
    )


def test_the_estimate_finds_what_another_policy_earns() -> None:
    dice, judged = random.Random(3), Judged()
    worth = {"good": 0.9, "bad": 0.3}
    for _ in range(4000):
        # Then one of four went to the good one; now three of four would.
        plan = "good" if dice.random() < 0.25 else "bad"
        overlap = Overlap(0.25, 0.75, 0) if plan == "good" else Overlap(0.75, 0.25, 0)
        judged.add(judgement(overlap), float(dice.random() < worth[plan]))
    [found] = judged.estimates()
    assert found.then == pytest.approx(0.45, abs=0.03)
    assert found.now == pytest.approx(0.75, abs=0.05)
    assert found.low < 0.75 < found.high
    assert found.unseen == 0


def test_what_cannot_be_decided_again_does_not_count() -> None:
    judged = Judged()
    judged.add(judgement(None), 1.0)
    judged.add(judgement(Overlap(1, 1, 0), unknown="nobody looked for anything"), 1.0)
    assert judged.estimates() == ()
