"""The one interpreter: it performs what a plan asks for, and nothing reaches a model but through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, AttemptStarted, Delivered, Delta, Event, Finished, Judged
from isthmus.core.pieces import Piece
from isthmus.strategies.plan.node import (
    Assess,
    Attempt,
    Begin,
    Deliver,
    Draft,
    Kept,
    Next,
    Node,
    Race,
    Result,
    Say,
    Verdict,
    Wait,
)

Listener: TypeAlias = Callable[[Event], Awaitable[None] | None]
"""Is told of an event; where that takes time, it returns what to wait for."""

Permit: TypeAlias = Callable[[Attempt | Draft], bool | Awaitable[bool]]
"""Whether a model may be called so; where that takes time to find out, it returns what to wait for."""


class Answering(Protocol):
    """One model that has been asked. It is asked for events until it has ended, and closed in any case."""

    async def next(self) -> Delta | AttemptEnded:
        """The next part of the answer as soon as it is there, then exactly one AttemptEnded. Raises only
        CancelledError."""
        ...

    def cut_off(self) -> AttemptEnded | None:
        """Ends an answer that nobody wants any more; None where it had ended."""
        ...

    def close(self) -> None:
        """Lets go of the model; where its answer has not ended, that is cut off."""
        ...


class Performer(Protocol):
    """Who really calls models, on behalf of one request."""

    def attempt(self, effect: Attempt | Draft, number: int) -> Answering:
        """The model, about to be called once; the call itself begins with the first `next`. A draft's answer
        comes as pieces."""
        ...

    def assess(self, effect: Assess) -> Verdict:
        """Whether a kept answer is good enough."""
        ...

    def deliver(self, kept: Kept) -> Delta:
        """A kept answer, as the client is to have it."""
        ...


async def run(
    plan: Node,
    performer: Performer,
    permits: Permit,
    sleep: Callable[[float], Awaitable[None]],
    listen: Listener,
) -> None:
    """Tells `listen` the events of a plan, ended by exactly one Finished.

    What `listen` raises ends the run, and whatever models are being asked then.
    `permits` is asked before every attempt of every strategy, whatever led to it; a model that it refuses is
    not called.
    """
    result = await _Run(performer, permits, sleep, listen).through(plan)
    if (pending := listen(Finished(result.model, result.error))) is not None:
        await pending


class _Run:
    """One run of a plan: the attempts so far, and the drafts that are under way."""

    __slots__ = ("_drafts", "_listen", "_number", "_performer", "_permits", "_sleep")

    def __init__(
        self,
        performer: Performer,
        permits: Permit,
        sleep: Callable[[float], Awaitable[None]],
        listen: Listener,
    ) -> None:
        self._performer = performer
        self._permits = permits
        self._sleep = sleep
        self._listen = listen
        self._number = 0
        self._drafts: dict[asyncio.Task[Result], int] = {}

    async def through(self, plan: Node) -> Result:
        steps = plan.steps()
        reply: Result | Verdict | None = None
        try:
            while True:
                try:
                    effect = steps.send(reply)
                except StopIteration as stop:
                    result: Result = stop.value
                    return result
                reply = None
                match effect:
                    case Attempt():
                        reply = await self._attempt(effect)
                    case Wait(seconds):
                        await self._sleep(seconds)
                    case Draft():
                        reply = await self._draft(effect)
                    case Begin(draft):
                        self._drafts[asyncio.create_task(self._draft(draft))] = len(self._drafts)
                    case Next(seconds):
                        reply = await self._next(seconds)
                    case Race():
                        reply = await self._race(effect)
                    case Assess():
                        reply = self._performer.assess(effect)
                        await self._tell(Judged(effect.kept.number, reply.confidence, reply.why))
                    case Say(kept, verdict, confidence):
                        await self._tell(Judged(kept.number, confidence, verdict))
                    case Deliver(kept):
                        await self._tell(Delivered(kept.number))
                        await self._tell(self._performer.deliver(kept))
                        reply = Result(kept.model, committed=True)
        finally:
            if self._drafts:
                await self._cut_off_drafts()

    async def _tell(self, event: Event) -> None:
        if (pending := self._listen(event)) is not None:
            await pending

    async def _permitted(self, effect: Attempt | Draft) -> bool:
        permitted = self._permits(effect)
        return permitted if isinstance(permitted, bool) else await permitted

    async def _start(self, effect: Attempt | Draft) -> Answering:
        self._number += 1
        number = self._number
        await self._tell(AttemptStarted(effect.model, number))
        return self._performer.attempt(effect, number)

    async def _attempt(self, effect: Attempt) -> Result:
        if not await self._permitted(effect):
            return _refused(effect.model)
        answering = await self._start(effect)
        try:
            return await self._pass_on(effect.model, answering, await answering.next())
        finally:
            answering.close()

    async def _pass_on(self, model: str, answering: Answering, event: Delta | AttemptEnded) -> Result:
        """Pass an answer on from this event to its end."""
        while True:
            if (pending := self._listen(event)) is not None:
                await pending
            if type(event) is AttemptEnded:
                return Result(model, event.error, event.record.committed)
            event = await answering.next()

    async def _draft(self, effect: Draft) -> Result:
        if not await self._permitted(effect):
            return _refused(effect.model)
        answering = await self._start(effect)
        pieces: list[Piece] = []
        ended = None
        try:
            while type(event := await answering.next()) is not AttemptEnded:
                pieces.extend(event.pieces)  # type: ignore[union-attr]
            ended = event
        except asyncio.CancelledError:
            ended = answering.cut_off()
            raise
        finally:
            answering.close()
            if ended is not None:
                await self._tell(ended)
        if ended.error is not None:
            return Result(effect.model, ended.error)
        return Result(effect.model, kept=Kept(effect.model, ended.record.number, tuple(pieces)))

    async def _next(self, seconds: float | None) -> Result | None:
        if not self._drafts:
            return None
        done, _ = await asyncio.wait(self._drafts, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        # Of several that have ended by now, the one that was begun first.
        first = min(done, key=self._drafts.__getitem__)
        del self._drafts[first]
        return first.result()

    async def _cut_off_drafts(self) -> None:
        for task in self._drafts:
            task.cancel()
        await asyncio.gather(*self._drafts, return_exceptions=True)
        self._drafts.clear()

    async def _race(self, effect: Race) -> Result:
        if not await self._permitted(effect.first):
            return await self._attempt(effect.second)
        answering = await self._start(effect.first)
        racing = {asyncio.ensure_future(answering.next()): (effect.first.model, answering)}
        try:
            done, _ = await asyncio.wait(racing, timeout=effect.seconds)
            if not done and await self._permitted(effect.second):
                answering = await self._start(effect.second)
                racing[asyncio.ensure_future(answering.next())] = (effect.second.model, answering)
            result = await self._won(racing)
            alone = len(racing) == 0 and done
            return await self._attempt(effect.second) if alone and _hands_over(result) else result
        finally:
            for task, (_, answering) in racing.items():
                task.cancel()
                answering.close()

    async def _won(self, racing: dict[asyncio.Task[Delta | AttemptEnded], tuple[str, Answering]]) -> Result:
        """Pass on the answer of whichever speaks first; one that fails before has lost to any other."""
        failed: Result | None = None
        while racing:
            done, _ = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in racing if task in done]:
                event, (model, answering) = task.result(), racing[task]
                if type(event) is AttemptEnded and (event.error is not None):
                    await self._tell(event)
                    failed = Result(model, event.error, event.record.committed)
                    answering.close()
                    del racing[task]
                    continue
                for other, (_, loser) in racing.items():
                    if other is not task:
                        await self._lose(other, loser)
                return await self._pass_on(model, answering, event)
        assert failed is not None, "a race has at least one runner"
        return failed

    async def _lose(self, task: asyncio.Task[Delta | AttemptEnded], loser: Answering) -> None:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and type(event := task.result()) is AttemptEnded:
            await self._tell(event)
        elif (ended := loser.cut_off()) is not None:
            await self._tell(ended)
        loser.close()


def _hands_over(result: Result) -> bool:
    return not result.final and result.error is not None and result.error.fault.falls_back


def _refused(model: str) -> Result:
    return Result(
        model,
        IsthmusError(
            Fault.NOT_PERMITTED,
            f"The model {model!r} is outside what this request may reach.",
            code="model_not_permitted",
            hint="See `isthmus explain` for the rule.",
        ),
    )
