"""What an experiment on live traffic has shown so far, arm by arm.

All tests and intervals hold whenever they are looked at, so that an experiment may be watched, and be stopped
when it has said enough; see `isthmus.statistics.sequential`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from isthmus.core.money import NANO_PER_USD
from isthmus.core.record import Record, answered
from isthmus.evals.trials.subjects import Subjects
from isthmus.statistics.intervals import CONFIDENCE, Interval
from isthmus.statistics.sequential import Duel, mean_so_far

Measure: TypeAlias = Literal["answered", "feedback"]
Subject: TypeAlias = Callable[[str | None, str | None], str | None]
"""Who was dealt to an arm, of a request's key and user."""


class Trial(NamedTuple):
    """One request of an experiment: who was asked, and what came of it. `score` is its feedback's.

    `answered` and `score` are None where they say nothing of the arm, or not as a draw of its own.
    """

    arm: str
    answered: bool | None
    nanousd: int | None
    total_ms: float
    score: float | None


class ArmSoFar(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: how many requests it had, what share of those that are `counted` was answered, and what all
    cost and took.

    `usd` is the mean of a request, None where a price is not known; `feedback` the mean score of the `scored`
    answers on which there is any.
    """

    arm: str
    requests: int
    counted: int
    answered: Interval
    usd: float | None
    median_ms: float
    p95_ms: float
    scored: int
    feedback: Interval | None


class Worse(msgspec.Struct, frozen=True, kw_only=True):
    """An arm that may be stopped: it is worse than another by a measure, beyond what chance explains.

    `p` is for this comparison alone, and `by` says by how much it is worse, in shares or points of score.
    """

    arm: str
    than: str
    measure: Measure
    p: float
    by: Interval


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """All arms in the order of their names, and which of them may be stopped."""

    arms: tuple[ArmSoFar, ...]
    worse: tuple[Worse, ...]


def drawn_afresh(key: str | None, user: str | None) -> None:
    """Nobody: each request is drawn for itself. See `Split.subject`."""


def trials_of(
    records: Iterable[Record], scores: Mapping[str, float], subject: Subject = drawn_afresh
) -> list[Trial]:
    """The requests that came to an arm and ended, in the order of time; copies are nobody's.

    `scores` are those of the feedback, by the request's id. Counted is what tells of the arm (see
    `core.record.answered`) and was drawn: later turns of a conversation that stays were not, and each
    `subject` of a sticky split was drawn once.
    """
    asking, judging = Subjects(), Subjects()
    found = []
    for record in records:
        decision = record.decision
        if decision is None or not decision.arms or record.outcome not in ("ok", "error") or record.mirrors:
            continue
        whose = subject(record.key_id, record.user)
        told, score = answered(record.outcome, record.fault), scores.get(record.id)
        drawn = decision.previous is None
        found.append(
            Trial(
                decision.arms[0],
                told if told is not None and drawn and asking.first(whose) else None,
                record.charge.nanousd if record.charge is not None else 0,
                record.timings.total_ms,
                score if score is not None and drawn and judging.first(whose) else None,
            )
        )
    return found


def so_far(trials: Sequence[Trial], confidence: float = CONFIDENCE) -> Experiment:
    """What the trials show, which are in the order of time."""
    by_arm: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_arm[trial.arm].append(trial)
    pairs = list(combinations(sorted(by_arm), 2))
    # Each pair is compared by both measures: the promise is for all of these together.
    bound = (1 - confidence) / max(1, 2 * len(pairs))
    compared = [
        (one, other, measure, _duel(by_arm[one], by_arm[other], measure))
        for one, other in pairs
        for measure in ("answered", "feedback")
    ]
    return Experiment(
        arms=tuple(_arm(name, by_arm[name], confidence) for name in sorted(by_arm)),
        worse=tuple(
            _worse(one, other, measure, duel, 1 - bound)  # type: ignore[arg-type]
            for one, other, measure, duel in compared
            if duel.p <= bound
        ),
    )


def _arm(name: str, trials: Sequence[Trial], confidence: float) -> ArmSoFar:
    paid = [trial.nanousd for trial in trials]
    known = [amount for amount in paid if amount is not None]
    took = [trial.total_ms for trial in trials]
    scores = [trial.score for trial in trials if trial.score is not None]
    return ArmSoFar(
        arm=name,
        requests=len(trials),
        counted=len(_values(trials, "answered")),
        answered=mean_so_far(_values(trials, "answered"), confidence),
        usd=sum(known) / NANO_PER_USD / len(paid) if len(known) == len(paid) else None,
        median_ms=float(np.median(took)),
        p95_ms=float(np.quantile(took, 0.95)),
        scored=len(scores),
        feedback=mean_so_far(scores, confidence) if scores else None,
    )


def _duel(one: Sequence[Trial], other: Sequence[Trial], measure: str) -> Duel:
    duel = Duel()
    for a, b in zip(_values(one, measure), _values(other, measure), strict=False):
        duel.observe("a", a)
        duel.observe("b", b)
    return duel


def _values(trials: Sequence[Trial], measure: str) -> list[float]:
    if measure == "answered":
        return [float(trial.answered) for trial in trials if trial.answered is not None]
    return [trial.score for trial in trials if trial.score is not None]


def _worse(one: str, other: str, measure: Measure, duel: Duel, confidence: float) -> Worse:
    better = duel.difference(confidence)
    if better.low + better.high > 0:
        return Worse(arm=other, than=one, measure=measure, p=duel.p, by=better)
    by = Interval(-better.high, -better.low, confidence)
    return Worse(arm=one, than=other, measure=measure, p=duel.p, by=by)
