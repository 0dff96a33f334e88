"""`burst`: one's own model first, and the next where it is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

from isthmus.strategies.plan.call import CallModel
from isthmus.strategies.plan.node import (
    Attempt,
    Choice,
    Circumstances,
    Load,
    Node,
    Result,
    Steps,
    attempted,
    once_each,
)


class Burst(Node, frozen=True, kw_only=True, tag_field="strategy", tag="burst"):
    """Ask the first of `models` that has fewer than `at` calls under way in this gateway, whoever made them.

    One that is full, or fails, is not waited for where there is another. The last is asked in any case, with
    the retries of a call.
    """

    keyword: ClassVar[str] = "burst"
    shorthand: ClassVar[str] = "models"

    queue: Annotated[tuple[str, ...], Meta(min_length=1)] = msgspec.field(name="models")
    at: Annotated[int, Meta(ge=1)]

    def models(self) -> tuple[str, ...]:
        return once_each(list(self.queue))

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(self, queue=tuple(map(name, self.queue)))

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(filter(allowed, self.queue))
        if not left:
            return None
        return CallModel(model=left[0]) if len(left) == 1 else msgspec.structs.replace(self, queue=left)

    def words(self) -> str:
        *before, last = self.queue
        return "; else ".join([*(f"{name} below {self.at} calls at once" for name in before), last])

    def choose(self, circumstances: Circumstances) -> Choice:
        return Choice(self)

    def steps(self) -> Steps:
        for name in self.queue[:-1]:
            load = yield Load(name)
            assert isinstance(load, int), "a load is a number"
            if load < self.at:
                result: Result = yield from attempted(Attempt(name))
                if not result.hands_over:
                    return result
        return (yield from CallModel(model=self.queue[-1]).steps())
