"""`call`: one model, with retries while nothing has reached the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

from isthmus.core.errors import IsthmusError
from isthmus.strategies.plan.node import Attempt, Choice, Circumstances, Node, Steps, Wait, attempted

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


class CallModel(Node, frozen=True, kw_only=True, tag_field="strategy", tag="call"):
    """Ask `model`; where it fails in a way that may pass, ask again up to `retries` times.

    The pause doubles from 0.25 s, or is what the provider asked for in Retry-After; a provider that asks for
    more than `patience` seconds is not waited for.
    """

    keyword: ClassVar[str] = "call"
    shorthand: ClassVar[str] = "model"

    model: str
    retries: Annotated[int, Meta(ge=0, le=10)] = 2
    patience: Annotated[float, Meta(ge=0)] = 8.0

    def models(self) -> tuple[str, ...]:
        return (self.model,)

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(self, model=name(self.model))

    def prune(self, allowed: Callable[[str], bool]) -> Self | None:
        return self if allowed(self.model) else None

    def words(self) -> str:
        return self.model

    @property
    def certain(self) -> bool:
        return True

    def choose(self, circumstances: Circumstances) -> Choice:
        return Choice(self)

    def steps(self) -> Steps:
        for retry in range(self.retries + 1):
            result = yield from attempted(Attempt(self.model))
            if result.final or retry == self.retries:
                return result
            pause = self._pause_before_retry(result.error, retry)
            if pause is None:
                return result
            yield Wait(pause)
        raise AssertionError("the last retry returns")

    def _pause_before_retry(self, error: IsthmusError | None, retry: int) -> float | None:
        """Seconds to wait before asking again, or None where that would not help."""
        if error is None or not error.fault.retryable:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.patience else None
        return float(min(FIRST_PAUSE_S * 2**retry, LONGEST_PAUSE_S, self.patience))
