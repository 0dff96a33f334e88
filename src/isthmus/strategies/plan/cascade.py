"""`cascade`: from small to strong, as far as it must go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

from isthmus.core.amendment import Amendment, turn
from isthmus.core.answers import in_words
from isthmus.core.decision import Previous
from isthmus.core.pieces import text_of
from isthmus.strategies.plan.call import CallModel
from isthmus.strategies.plan.node import (
    Acceptance,
    Assess,
    Begin,
    Calibrated,
    Choice,
    Circumstances,
    CutOff,
    Deliver,
    Doing,
    Draft,
    Kept,
    Next,
    Node,
    Result,
    Steps,
    Verdict,
    assessed,
    attempted,
    begun,
    changed,
    kept,
    once_each,
    shown,
)

WITH_ATTEMPT = (
    "The answer above is a draft by another assistant, and may be wrong. Answer the request before it "
    "yourself: keep what is right, and mend what is not. Do not speak of the draft."
)

SELF_CHECK = (
    "Is the answer above right and complete? Say only the word Yes or No, about the whole of the answer."
)


LONGEST_CHECK = 16
"""Tokens: a word, and what a model puts around it."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a cascade.

    `plan` is whom it asks, and `accept` when the answer will do; the last step's is always taken. `context`
    `with_attempt` shows this step the answer that did not do; a model that may not see it is asked without.
    For `agreement`, the models `among` are asked at the same time, and the step's own model `samples` more
    times.
    """

    plan: Node
    accept: Acceptance = Acceptance()
    context: Literal["fresh", "with_attempt"] = "fresh"
    among: Annotated[tuple[str, ...], Meta(max_length=4)] = ()
    samples: Annotated[int, Meta(ge=0, le=8)] = 0

    def models(self) -> tuple[str, ...]:
        """Every model that this step may call."""
        return once_each([*self.plan.models(), *self.among])

    def renamed(self, name: Callable[[str], str]) -> Self:
        """This step with every model in it called by another name."""
        return msgspec.structs.replace(self, plan=self.plan.renamed(name), among=tuple(map(name, self.among)))

    def words(self) -> str:
        """What this step does, and when its answer will do."""
        beside = f" beside {', '.join(self.among)}" if self.among else ""
        again = f", {self.samples} more times" if self.samples else ""
        return f"{self.plan.words()}{beside}{again} if {self.accept.words()}"


class Cascade(Node, frozen=True, kw_only=True, tag_field="strategy", tag="cascade"):
    """Ask the first of `steps`; where its answer will not do, the next, and so on.

    An answer that may yet be rejected is kept from the client until it is judged, so a `stream` begins then;
    it is `buffered`. An `optimistic` one begins at once, and is taken back where the answer is rejected, for
    clients that say they heed that; for all others it is buffered.
    `unsure` says what becomes of the last rejected answer where no later step can answer: `fail` tells the
    caller of the failure, `deliver` gives the answer all the same. What cannot be judged, such as an
    embedding, is asked of the last step alone, whose answer is always taken. `on_stale` says what a cascade
    does whose calibration is of another state of things, and promises nothing any more: `strong` asks the
    last step alone, `warn` goes on, and says so. Where the route keeps conversations with their models, one
    that `escalated` `stays` with the step that has answered it, or `returns` to the first step each time.
    """

    keyword: ClassVar[str] = "cascade"
    shorthand: ClassVar[str] = "steps"

    # A node's steps are what it does; these are its parts.
    stages: Annotated[tuple[Step, ...], Meta(min_length=1)] = msgspec.field(name="steps")
    unsure: Literal["fail", "deliver"] = "fail"
    on_stale: Literal["strong", "warn"] = "strong"
    escalated: Literal["stays", "returns"] = "stays"
    stream: Literal["buffered", "optimistic"] = "buffered"

    @property
    def calibration(self) -> Calibrated | None:
        """That of the first step, which alone may have one."""
        return self.stages[0].accept.calibration

    @property
    def stale(self) -> tuple[str, ...]:
        """Why the calibration of the first step holds no longer; nothing while it does, or without one."""
        return self.calibration.stale if self.calibration is not None else ()

    def calibrated(self, calibration: Calibrated) -> Self:
        """The cascade that goes by this calibration."""
        first, *others = self.stages
        accept = msgspec.structs.replace(first.accept, calibration=calibration)
        return msgspec.structs.replace(self, stages=(msgspec.structs.replace(first, accept=accept), *others))

    def doubting(self, why: tuple[str, ...]) -> Self:
        """The cascade whose calibration holds no longer, for these reasons as well; as it is without one."""
        was = self.calibration
        if was is None:
            return self
        return self.calibrated(msgspec.structs.replace(was, stale=(*was.stale, *why)))

    def models(self) -> tuple[str, ...]:
        return once_each([model for stage in self.stages for model in stage.models()])

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(self, stages=tuple(stage.renamed(name) for stage in self.stages))

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(
            msgspec.structs.replace(stage, plan=plan, among=tuple(filter(allowed, stage.among)))
            for stage in self.stages
            if (plan := stage.plan.prune(allowed)) is not None
        )
        if not left:
            return None
        return left[0].plan if len(left) == 1 else msgspec.structs.replace(self, stages=left)

    def plain(self) -> Node:
        return self.stages[-1].plan.plain()

    def staying(self, previous: Previous) -> Node | None:
        for at, stage in enumerate(self.stages):
            plan = stage.plan.staying(previous)
            if plan is None:
                continue
            if at and self.escalated == "returns":
                return self
            left = (msgspec.structs.replace(stage, plan=plan), *self.stages[at + 1 :])
            return plan if len(left) == 1 else msgspec.structs.replace(self, stages=left)
        return None

    def words(self) -> str:
        *before, last = self.stages
        steps = [stage.words() for stage in before]
        told = ", streamed before it is judged" if self.stream == "optimistic" else ""
        return "; else ".join([*steps, last.plan.words()]) + told

    def choose(self, circumstances: Circumstances) -> Choice:
        if not self.stale:
            return self._chosen(circumstances)
        said = f"the calibration is stale, as {', and '.join(self.stale)}"
        if self.on_stale == "warn":
            choice, said = self._chosen(circumstances), f"{said}; the route goes on with it"
        else:
            choice = self.stages[-1].plan.choose(circumstances)
        return Choice(choice.node, choice.propensity, (said, *choice.reasons))

    def _chosen(self, circumstances: Circumstances) -> Choice:
        choices = [stage.plan.choose(circumstances) for stage in self.stages]
        stream = self.stream if circumstances.revises else "buffered"
        propensity = 1.0
        for choice in choices:
            propensity *= choice.propensity
        stages = tuple(
            msgspec.structs.replace(stage, plan=choice.node)
            for stage, choice in zip(self.stages, choices, strict=True)
        )
        reasons = tuple(reason for choice in choices for reason in choice.reasons)
        arms = tuple(arm for choice in choices for arm in choice.arms)
        return Choice(msgspec.structs.replace(self, stages=stages, stream=stream), propensity, reasons, arms)

    def steps(self) -> Steps:
        rejected: Kept | None = None
        for stage in self.stages[:-1]:
            result, beside = yield from _drafted(stage, rejected, seen=self.stream == "optimistic")
            if result.kept is not None and not result.kept.whole:
                # A beginning shows nobody anything, and is no answer.
                continue
            if result.kept is not None:
                verdict = yield from _judged(stage, result.kept, beside)
                if verdict.accepted:
                    return (yield from attempted(Deliver(result.kept)))
                rejected = result.kept
            elif not result.hands_over:
                return result
        result = yield from _shown(self.stages[-1], rejected)
        if result.hands_over and rejected is not None and self.unsure == "deliver":
            return (yield from attempted(Deliver(rejected)))
        return result


def _shown(stage: Step, rejected: Kept | None) -> Steps:
    """The stage's plan, which is shown the rejected answer where it wants to be."""
    steps = stage.plan.steps()
    said = text_of(rejected.pieces) if rejected is not None else ""
    if stage.context == "fresh" or not said:
        return steps
    turns = (turn("assistant", said), turn("user", WITH_ATTEMPT))
    return changed(steps, Amendment(turns=turns, optional=True))


def _drafted(stage: Step, rejected: Kept | None, *, seen: bool) -> Doing[tuple[Result, tuple[Kept, ...]]]:
    """What comes of a stage whose answer is kept, and the answers that others gave beside it. Where it is
    `seen`, the client may follow it."""
    own = stage.plan.models()[0]
    others = (*map(Draft, stage.among), *[Draft(own, Amendment(varied=True))] * stage.samples)
    steps = _shown(stage, rejected)
    if stage.accept.reads_logprobs:
        steps = changed(steps, Amendment(logprobs=True))
    steps = kept(steps)
    if stage.accept.early is not None and isinstance(stage.plan, CallModel):
        steps = begun(steps, stage.accept.early)
    if seen:
        steps = shown(steps)
    if not others:
        return (yield from steps), ()
    yield Begin(others)
    result = yield from steps
    beside: list[Kept] = []
    # Without an answer there is nothing that they could agree with.
    while result.kept is not None and (other := (yield Next())) is not None:
        assert isinstance(other, Result)
        beside += [other.kept] if other.kept is not None else []
    yield CutOff()
    return result, tuple(beside)


def _judged(stage: Step, answer: Kept, beside: tuple[Kept, ...]) -> Doing[Verdict]:
    check: Kept | None = None
    if stage.accept.self_check is not None:
        turns = (turn("assistant", in_words(answer.pieces) or "(nothing)"), turn("user", SELF_CHECK))
        asked = Amendment(turns=turns, plain=True, logprobs=True, max_tokens=LONGEST_CHECK)
        check = (yield from attempted(Draft(answer.model, asked, "judge"))).kept
    return (yield from assessed(Assess(answer, stage.accept, beside, check)))
