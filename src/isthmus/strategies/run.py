"""The one interpreter: it performs what a plan asks for, and nothing reaches a model but through it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, AttemptStarted, Delta, Event, Finished
from isthmus.strategies.plan.node import Attempt, Node, Result, Wait


class Performer(Protocol):
    """Who really calls models, on behalf of one request."""

    def attempt(self, model: str, number: int) -> AsyncGenerator[Delta | AttemptEnded, None]:
        """Call the model once: deltas as they come, then exactly one AttemptEnded. Raises only
        CancelledError.
        """
        ...


async def run(
    plan: Node,
    performer: Performer,
    permits: Callable[[str], bool],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncGenerator[Event, None]:
    """The events of a plan, in order, ended by exactly one Finished.

    Whoever stops listening earlier closes it.
    `permits` is asked before every attempt of every strategy, whatever led to it; a model that it refuses is
    not called.
    """
    steps = plan.steps()
    reply: Result | None = None
    number = 0
    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            break
        match effect:
            case Attempt(model=model) if not permits(model):
                reply = Result(model, _not_permitted(model))
            case Attempt(model=model):
                number += 1
                yield AttemptStarted(model, number)
                async with aclosing(performer.attempt(model, number)) as events:
                    async for event in events:
                        yield event
                        if type(event) is AttemptEnded:
                            reply = Result(model, event.error, event.record.committed)
            case Wait(seconds=seconds):
                await sleep(seconds)
                reply = None
    yield Finished(result.model, result.error)


def _not_permitted(model: str) -> IsthmusError:
    return IsthmusError(
        Fault.NOT_PERMITTED,
        f"The model {model!r} is outside what this request may reach.",
        code="model_not_permitted",
        hint="See `isthmus explain` for the rule.",
    )
