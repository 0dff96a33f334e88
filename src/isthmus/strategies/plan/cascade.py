"""`cascade`: from small to strong, as far as it must go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from isthmus.core.amendment import Amendment, turn
from isthmus.core.pieces import text_of
from isthmus.strategies.plan.node import (
    Acceptance,
    Assess,
    Choice,
    Circumstances,
    Deliver,
    Kept,
    Node,
    Result,
    Steps,
    assessed,
    attempted,
    changed,
    kept,
    once_each,
)

WITH_ATTEMPT = (
    "The answer above is a draft by another assistant, and may be wrong. Answer the request before it "
    "yourself: keep what is right, and mend what is not. Do not speak of the draft."
)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: its `plan`, and when its answer will do.

    The last step's answer is always taken. `context: with_attempt` shows this step the answer that did not
    do.
    """

    plan: Node
    accept: Acceptance = Acceptance()
    context: Literal["fresh", "with_attempt"] = "fresh"


class Cascade(Node, frozen=True, kw_only=True, tag_field="strategy", tag="cascade"):
    """Ask the first of `steps`; where its answer will not do, the next, and so on.

    An answer that may yet be rejected is kept from the client until it is judged, so a stream begins then.
    `unsure` says what becomes of the last rejected answer where no later step can answer: `fail` tells the
    caller of the failure, `deliver` gives the answer all the same.
    """

    keyword: ClassVar[str] = "cascade"
    shorthand: ClassVar[str] = "steps"

    # A node's steps are what it does; these are its parts.
    stages: Annotated[tuple[Step, ...], Meta(min_length=1)] = msgspec.field(name="steps")
    unsure: Literal["fail", "deliver"] = "fail"

    def models(self) -> tuple[str, ...]:
        return once_each([model for stage in self.stages for model in stage.plan.models()])

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(
            msgspec.structs.replace(stage, plan=plan)
            for stage in self.stages
            if (plan := stage.plan.prune(allowed)) is not None
        )
        if not left:
            return None
        return left[0].plan if len(left) == 1 else msgspec.structs.replace(self, stages=left)

    def choose(self, circumstances: Circumstances) -> Choice:
        choices = [stage.plan.choose(circumstances) for stage in self.stages]
        propensity = 1.0
        for choice in choices:
            propensity *= choice.propensity
        stages = tuple(
            msgspec.structs.replace(stage, plan=choice.node)
            for stage, choice in zip(self.stages, choices, strict=True)
        )
        reasons = tuple(reason for choice in choices for reason in choice.reasons)
        return Choice(msgspec.structs.replace(self, stages=stages), propensity, reasons)

    def steps(self) -> Steps:
        rejected: Kept | None = None
        result: Result | None = None
        for stage in self.stages[:-1]:
            steps = self._shown(stage, rejected)
            if stage.accept.logprob is not None:
                steps = changed(steps, Amendment(logprobs=True))
            result = yield from kept(steps)
            if result.kept is None:
                if result.error is not None and not result.error.fault.falls_back:
                    return result
                continue
            verdict = yield from assessed(Assess(result.kept, stage.accept))
            if verdict.accepted:
                return (yield from attempted(Deliver(result.kept)))
            rejected = result.kept
        result = yield from self._shown(self.stages[-1], rejected)
        if not result.final and rejected is not None and self.unsure == "deliver":
            return (yield from attempted(Deliver(rejected)))
        return result

    def _shown(self, stage: Step, rejected: Kept | None) -> Steps:
        steps = stage.plan.steps()
        said = text_of(rejected.pieces) if rejected is not None else ""
        if stage.context == "fresh" or not said:
            return steps
        turns = (turn("assistant", said), turn("user", WITH_ATTEMPT))
        return changed(steps, Amendment(turns=turns))
