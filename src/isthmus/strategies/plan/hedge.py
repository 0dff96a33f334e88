"""`hedge`: a second model beside the first, where that one is slow to speak."""

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
    Node,
    Race,
    Steps,
    attempted,
    once_each,
)


class Hedge(Node, frozen=True, kw_only=True, tag_field="strategy", tag="hedge"):
    """Ask `model`; where it has said nothing `after` so many seconds, ask the model `beside` it as well.

    Whichever speaks first answers, and the other is cut off; what it had used by then is counted. The same
    model may stand beside itself. See Dean and Barroso, The Tail at Scale (2013): set `after` to the 95th
    percentile of the time to the first token, and no more than one request in twenty is asked twice.
    """

    keyword: ClassVar[str] = "hedge"
    shorthand: ClassVar[str] = "model"

    model: str
    beside: str
    after: Annotated[float, Meta(gt=0)]

    def models(self) -> tuple[str, ...]:
        return once_each([self.model, self.beside])

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(self, model=name(self.model), beside=name(self.beside))

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = [name for name in (self.model, self.beside) if allowed(name)]
        if len(left) == 2:
            return self
        return CallModel(model=left[0]) if left else None

    def words(self) -> str:
        return f"{self.model}, and {self.beside} beside it after {self.after:g} s of silence"

    def choose(self, circumstances: Circumstances) -> Choice:
        return Choice(self)

    def steps(self) -> Steps:
        return (yield from attempted(Race(Attempt(self.model), Attempt(self.beside), self.after)))
