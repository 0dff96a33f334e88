"""A panel for a route's vote, learned by a run: who votes with what weight, and is that better than the best
member alone?

One half of the samples that every member answered teaches the panel, by `confidence.voting`; the other half
judges its vote beside each member alone. What is judged is what serves. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from isthmus.confidence import thresholds
from isthmus.confidence.artefact import LearnedPanel
from isthmus.confidence.voting import ALONE, Panel, admitted, alone, panel_of, vote
from isthmus.core.tie import Evidence, Tie
from isthmus.evals.calibration import halves, usd_of
from isthmus.evals.choosing import Policy
from isthmus.evals.outcome import ScoredByAll
from isthmus.statistics import intervals

Verdict: TypeAlias = Literal["vote", "the best alone", "no guarantee"]


class Voted(NamedTuple):
    """One sample that all members answered: what each said, how good that was, what it cost in USD."""

    sample: str
    answers: dict[str, str]
    scores: dict[str, float]
    usd: dict[str, float | None]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of learning.

    `best` is the member that is best by the half that taught. `samples` had a score of every member, of them
    `learned` taught and `tested` judged; at least `needed` are needed. `left_out` counts the others, by the
    reason. `policies` are the vote of those that stand near the best, and each member alone, on the half that
    judged. `unanimous` is the share of those samples of which all members say the same, and
    `unanimous_quality` the mean score of that, None where they never do. `panel` is what serves, None where
    nothing could be judged.
    """

    members: tuple[str, ...]
    verdict: Verdict
    why: str
    samples: int
    needed: int
    learned: int
    tested: int
    left_out: dict[str, int]
    delta: float
    best: str | None = None
    policies: tuple[Policy, ...] = ()
    unanimous: float = 0.0
    unanimous_quality: float | None = None
    panel: Panel | None = None


def voted_of(models: Sequence[str], told: Iterable[ScoredByAll]) -> list[Voted]:
    """What a panel learns of samples that all of these models answered."""
    return [
        Voted(
            sample=it.sample.id,
            answers={name: said.text for name, said in zip(models, it.answers, strict=True)},
            scores=dict(zip(models, it.scores, strict=True)),
            usd={name: usd_of(said) for name, said in zip(models, it.answers, strict=True)},
        )
        for it in told
    ]


def empanel(
    voted: Iterable[Voted],
    members: tuple[str, ...],
    tie: Tie,
    *,
    delta: float,
    made_at_us: int,
    asked_at_us: int,
    evidence: Evidence | None = None,
    left_out: Mapping[str, int] | None = None,
) -> tuple[Trial, LearnedPanel | None]:
    """What the vote of a panel is worth that these samples teach, and the panel; None where they are too few.

    A vote serves only where both halves show a gain over the best member: the one that teaches, as a
    simulation demands it, and the other with a chance of at least 1 - `delta`. Else the best serves alone.
    """
    fits, tests = halves(voted)
    trial = Trial(
        members=members,
        verdict="no guarantee",
        why=f"at least {thresholds.FEWEST} samples are needed to learn from, and as many to judge by",
        samples=len(fits) + len(tests),
        needed=2 * thresholds.FEWEST,
        learned=len(fits),
        tested=len(tests),
        left_out=dict(left_out or {}),
        delta=delta,
    )
    if min(len(fits), len(tests)) < thresholds.FEWEST:
        return trial, None
    scores = [it.scores for it in fits]
    near = admitted(scores)
    trial = _judged(trial, near, tests)
    panel, why = _decided(panel_of([it.answers for it in fits], scores), near, tests, delta)
    learned = LearnedPanel(
        tie=tie,
        made_at_us=made_at_us,
        asked_at_us=asked_at_us,
        evidence=evidence,
        panel=panel,
        overall={name: fmean(it[name] for it in scores) for name in members},
        learned=len(fits),
        tested=len(tests),
    )
    verdict: Verdict = "vote" if len(panel.weights) > 1 else "the best alone"
    return msgspec.structs.replace(trial, verdict=verdict, why=why, panel=panel), learned


def _decided(panel: Panel, near: Panel, tests: Sequence[Voted], delta: float) -> tuple[Panel, str]:
    """The panel that serves, and why it is that one."""
    better = f"than {near.best} alone"
    if len(near.weights) == 1:
        return panel, f"{ALONE} by the half that taught"
    if len(panel.weights) == 1:
        return panel, f"the half that taught does not show that a vote is better {better}"
    gains = [it.scores[_given(panel, it)] - it.scores[panel.best] for it in tests]
    if intervals.mean_at_most(gains, 0.0, least=-1.0, most=1.0) > delta:
        why = f"the half that judged does not show that a vote is better {better}"
        return alone(panel.best, why), why
    return panel, f"with a chance of at least {1 - delta:g}, it is better {better}"


def _judged(trial: Trial, near: Panel, tests: Sequence[Voted]) -> Trial:
    def policy(name: str, given: Sequence[str], asked: Iterable[str]) -> Policy:
        quality = np.array([it.scores[model] for it, model in zip(tests, given, strict=True)])
        gain = quality - np.array([it.scores[near.best] for it in tests])
        usd = _usd_per_thousand(tests, asked)
        return Policy(
            name=name,
            quality=float(quality.mean()),
            interval=intervals.mean(quality),
            usd_per_thousand=usd,
            gain=float(gain.mean()),
            gain_interval=intervals.mean(gain, least=-1.0, most=1.0),
        )

    policies = [policy(f"{it} alone", [it] * len(tests), [it]) for it in trial.members]
    if len(near.weights) > 1:
        voters = [it for it in trial.members if it in near.weights]
        given = [_given(near, it) for it in tests]
        policies.insert(0, policy(f"vote of {', '.join(voters)}", given, voters))
    together = Panel(weights=dict.fromkeys(trial.members, 1.0), best=near.best, gain=0.0, why="")
    agreed = [it for it in tests if (ballot := vote(together, it.answers)) and ballot.unanimous]
    return msgspec.structs.replace(
        trial,
        best=near.best,
        policies=tuple(policies),
        unanimous=len(agreed) / len(tests),
        unanimous_quality=fmean(it.scores[near.best] for it in agreed) if agreed else None,
    )


def _given(panel: Panel, voted: Voted) -> str:
    """Whose answer the panel gives."""
    ballot = vote(panel, voted.answers)
    return ballot.model if ballot is not None else panel.best


def _usd_per_thousand(tests: Sequence[Voted], asked: Iterable[str]) -> float | None:
    paid = [it.usd[name] for name in asked for it in tests]
    known = [it for it in paid if it is not None]
    return 1000 * sum(known) / len(tests) if len(known) == len(paid) else None
