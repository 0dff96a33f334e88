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

QUANTILE = r"p[5-9][0-9]"
"""How a quantile is written: `p50`, the median, to `p99`."""


class Hedge(Node, frozen=True, kw_only=True, tag_field="strategy", tag="hedge"):
    """Ask `model`; where it has said nothing `after` so many seconds, ask the model `beside` it as well.

    `after` is that time, or a quantile, `p50` to `p99`, of the model's own times to the first token, as this
    gateway has measured them lately; while it has measured fewer than 20, `beside` is asked only where
    `model` fails. Whichever speaks first answers, and the other is cut off; what it had used by then is
    counted. The same model may stand beside itself. See Dean and Barroso, The Tail at Scale (2013): with
    `p95`, about one request in twenty is asked twice.
    """

    keyword: ClassVar[str] = "hedge"
    shorthand: ClassVar[str] = "model"

    model: str
    beside: str
    after: Annotated[float, Meta(gt=0)] | Annotated[str, Meta(pattern=f"^{QUANTILE}$")]

    @property
    def quantile(self) -> str | None:
        """The quantile that it goes by, where it does, and it is not settled yet how long that is."""
        return self.after if isinstance(self.after, str) else None

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
        if isinstance(self.after, str):
            return f"{self.model}, and {self.beside} where it fails"
        return f"{self.model}, and {self.beside} beside it after {self.after:g} s of silence"

    def choose(self, circumstances: Circumstances) -> Choice:
        if self.quantile is None:
            return Choice(self)
        silences = ((it.model, it.quantile, it.seconds) for it in circumstances.silences)
        seconds = next((it for *of, it in silences if of == [self.model, self.quantile]), None)
        if seconds is None:
            said = f"too few first tokens of {self.model} were measured to know their {self.quantile}"
            return Choice(self, reasons=(said,))
        said = f"{self.quantile} of {self.model}'s times to the first token is {seconds:g} s now"
        return Choice(msgspec.structs.replace(self, after=seconds), reasons=(said,))

    def steps(self) -> Steps:
        seconds = None if isinstance(self.after, str) else self.after
        return (yield from attempted(Race(Attempt(self.model), Attempt(self.beside), seconds)))
