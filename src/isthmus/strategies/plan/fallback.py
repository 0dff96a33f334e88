"""`fallback`: the first plan that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

from isthmus.core.decision import Previous
from isthmus.strategies.plan.node import Choice, Circumstances, Node, Result, Steps, once_each


class Fallback(Node, frozen=True, kw_only=True, tag_field="strategy", tag="fallback"):
    """Try each of `plans` in turn, until one answers or something of an answer has reached the client.

    A failure that is the request's own (invalid, forbidden) is not tried elsewhere: it would fail there too.
    """

    keyword: ClassVar[str] = "fallback"
    shorthand: ClassVar[str] = "plans"

    plans: Annotated[tuple[Node, ...], Meta(min_length=1)]

    def models(self) -> tuple[str, ...]:
        return once_each([model for plan in self.plans for model in plan.models()])

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(self, plans=tuple(plan.renamed(name) for plan in self.plans))

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(pruned for plan in self.plans if (pruned := plan.prune(allowed)) is not None)
        if not left:
            return None
        return left[0] if len(left) == 1 else Fallback(plans=left)

    def plain(self) -> Node:
        return msgspec.structs.replace(self, plans=tuple(plan.plain() for plan in self.plans))

    def staying(self, previous: Previous) -> Node | None:
        for at, plan in enumerate(self.plans):
            if (first := plan.staying(previous)) is not None:
                return Fallback(plans=(first, *self.plans[:at], *self.plans[at + 1 :]))
        return None

    def words(self) -> str:
        return ", then ".join(plan.words() for plan in self.plans)

    @property
    def certain(self) -> bool:
        return all(plan.certain for plan in self.plans)

    def choose(self, circumstances: Circumstances) -> Choice:
        choices = [plan.choose(circumstances) for plan in self.plans]
        propensity = 1.0
        for choice in choices:
            propensity *= choice.propensity
        reasons = tuple(reason for choice in choices for reason in choice.reasons)
        arms = tuple(arm for choice in choices for arm in choice.arms)
        return Choice(Fallback(plans=tuple(choice.node for choice in choices)), propensity, reasons, arms)

    def steps(self) -> Steps:
        result: Result | None = None
        for plan in self.plans:
            result = yield from plan.steps()
            if result.final or (result.error is not None and not result.error.fault.falls_back):
                return result
        assert result is not None, "a fallback has at least one plan"
        return result
