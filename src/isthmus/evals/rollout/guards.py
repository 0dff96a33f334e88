"""Guards: whether new weights may go on, stay where they are, or have to go back. Pure.

Each guard pairs what the new version did with what the old one did at about the same time, and bets that the
new one is worse by more than the rule allows. The bets hold whenever they are looked at, all together and
over all stages: weights that keep to the rule are sent back with a chance of `alpha` at most.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from isthmus.config.config import RolloutRule
from isthmus.evals.rollout.trials import Side, Trial
from isthmus.statistics.excess import Excess

Quantity: TypeAlias = Literal["errors", "latency", "escalation", "judge", "feedback"]
Verdict: TypeAlias = Literal["go on", "stay", "roll back"]

UNNOTICED_MS = 50.0
"""An answer that comes so much later is not slower: at such times the machine's other work decides."""

QUANTITIES: tuple[Quantity, ...] = ("errors", "latency", "escalation", "judge", "feedback")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one guard has found: over `n` pairs, the new version does worse by `worse` on average.

    `worse` is in shares of the requests (errors, escalation), in points of score (judge, feedback), or how
    much more often than not it takes longer than the rule allows (latency); None where nothing was compared.
    `allowed` is what the rule allows of it. `p` is the p-value of the claim that no more than that is true,
    and `doubtful` says that it looks worse than that, proven or not.
    """

    quantity: Quantity
    n: int
    worse: float | None
    allowed: float
    p: float
    doubtful: bool


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from all findings, and why, in words."""

    verdict: Verdict
    why: str
    findings: tuple[Finding, ...]


class _Guard:
    """One quantity: values of the new version against those of the old one, each against the last before it
    that has no counterpart yet, or else the next to come.

    The order of arrival alone makes the pairs: what happens to both at once is held against neither. Of each
    side one value waits at most: where one version answers most of the requests, those would else wait longer
    and longer, and what happens now would be held against what happened long ago.
    """

    def __init__(self, quantity: Quantity, allowed: float, slower: float) -> None:
        self.quantity = quantity
        self._allowed = allowed
        self._slower = slower
        self._excess = Excess(bound=(1 + allowed) / 2)
        self._waiting: dict[Side, float] = {}

    def observe(self, side: Side, value: float) -> None:
        """Takes a value: the higher, the worse."""
        self._waiting[side] = value
        if len(self._waiting) == 2:
            self._compare(self._waiting["new"], self._waiting["old"])
            self._waiting.clear()

    def prefer(self, preference: float) -> None:
        """Takes what a judge made of two answers to one request, who needs no counterpart."""
        self._excess.observe(1 - preference)

    def finding(self) -> Finding:
        excess = self._excess
        return Finding(
            quantity=self.quantity,
            n=excess.n,
            worse=None if excess.mean is None else 2 * excess.mean - 1,
            allowed=self._allowed,
            p=excess.p,
            doubtful=excess.looks_so,
        )

    def _compare(self, new: float, old: float) -> None:
        if self.quantity == "latency":
            # Were the new one `slower` times as slow, it would win this as often as lose it, whatever the
            # latencies look like.
            limit = max(self._slower * old, old + UNNOTICED_MS)
            self._excess.observe(0.5 if new == limit else float(new > limit))
        else:
            self._excess.observe((1 + new - old) / 2)


class Guards:
    """All guards of one stage of a rollout, fed with trials in the order in which their requests ended."""

    def __init__(self, rule: RolloutRule) -> None:
        self._rule = rule
        allowed = {
            "errors": rule.errors,
            "escalation": rule.escalation,
            "judge": rule.quality,
            "feedback": rule.quality,
        }
        self._guards = {it: _Guard(it, allowed.get(it, 0.0), rule.slower) for it in QUANTITIES}

    def take(self, trial: Trial) -> None:
        """Takes a request into account."""
        if trial.failed is not None:
            self._guards["errors"].observe(trial.side, float(trial.failed))
        if trial.ms is not None:
            self._guards["latency"].observe(trial.side, trial.ms)
        if trial.escalated is not None:
            self._guards["escalation"].observe(trial.side, float(trial.escalated))
        if trial.preference is not None:
            self._guards["judge"].prefer(trial.preference)

    def hear(self, side: Side, score: float) -> None:
        """Takes the score that somebody gave to an answer."""
        self._guards["feedback"].observe(side, 1 - score)

    def judgement(self) -> Judgement:
        """What follows from what was seen so far."""
        findings = tuple(guard.finding() for guard in self._guards.values())
        bound = self._rule.alpha / (len(QUANTITIES) * max(1, self._rule.stages))
        proven = [it for it in findings if it.p <= bound]
        if proven:
            why = "; ".join(map(in_words, proven))
            return Judgement(verdict="roll back", why=why, findings=findings)
        seen = self._guards["errors"].finding().n
        if seen < self._rule.least:
            why = f"{seen} of {self._rule.least} requests have been compared"
            return Judgement(verdict="stay", why=why, findings=findings)
        doubtful = [it for it in findings if it.doubtful]
        if doubtful:
            why = "not proven, but not to be passed over: " + "; ".join(map(in_words, doubtful))
            return Judgement(verdict="stay", why=why, findings=findings)
        why = f"{seen} requests have been compared, and no guard objects"
        return Judgement(verdict="go on", why=why, findings=findings)


def in_words(finding: Finding) -> str:
    """A finding that speaks against the new version, as a clause."""
    assert finding.worse is not None
    by = f"{100 * finding.worse:.1f} points"
    what = {
        "errors": f"fails more often, by {by}",
        "latency": f"takes longer than it may, by {by} more often than not",
        "escalation": f"leaves more to other models, by {by}",
        "judge": f"is found worse by the judge, by {by}",
        "feedback": f"gets worse feedback, by {by}",
    }[finding.quantity]
    return f"it {what} of {finding.n} (p = {finding.p:.2g})"
