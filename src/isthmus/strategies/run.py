"""The one interpreter: it performs what a plan asks for, and nothing reaches a model but through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, AttemptStarted, Delta, Event, Finished
from isthmus.strategies.plan.node import Node, Result, Wait

Listener: TypeAlias = Callable[[Event], Awaitable[None] | None]
"""Is told of an event; where that takes time, it returns what to wait for."""


class Answering(Protocol):
    """One model that has been asked. It is asked for events until it has ended, and closed in any case."""

    async def next(self) -> Delta | AttemptEnded:
        """The next part of the answer as soon as it is there, then exactly one AttemptEnded. Raises only
        CancelledError."""
        ...

    def close(self) -> None:
        """Lets go of the model; where its answer has not ended, that is cut off."""
        ...


class Performer(Protocol):
    """Who really calls models, on behalf of one request."""

    def attempt(self, model: str, number: int) -> Answering:
        """The model, about to be called once; the call itself begins with the first `next`."""
        ...


async def run(
    plan: Node,
    performer: Performer,
    permits: Callable[[str], bool],
    sleep: Callable[[float], Awaitable[None]],
    listen: Listener,
) -> None:
    """Tells `listen` the events of a plan, in order, ended by exactly one Finished.

    What `listen` raises ends the run, and whatever model is being asked then.
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
        if isinstance(effect, Wait):
            await sleep(effect.seconds)
            reply = None
        elif permits(effect.model):
            number += 1
            reply = await _attempt(effect.model, number, performer, listen)
        else:
            reply = Result(effect.model, _not_permitted(effect.model))
    if (pending := listen(Finished(result.model, result.error))) is not None:
        await pending


async def _attempt(model: str, number: int, performer: Performer, listen: Listener) -> Result:
    if (pending := listen(AttemptStarted(model, number))) is not None:
        await pending
    answering = performer.attempt(model, number)
    try:
        while True:
            event = await answering.next()
            if (pending := listen(event)) is not None:
                await pending
            if type(event) is AttemptEnded:
                return Result(model, event.error, event.record.committed)
    finally:
        answering.close()


def _not_permitted(model: str) -> IsthmusError:
    return IsthmusError(
        Fault.NOT_PERMITTED,
        f"The model {model!r} is outside what this request may reach.",
        code="model_not_permitted",
        hint="See `isthmus explain` for the rule.",
    )
