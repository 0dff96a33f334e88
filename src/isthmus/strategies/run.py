"""The one interpreter: it performs what a plan asks for, and nothing reaches a model but through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import (
    AttemptEnded,
    AttemptStarted,
    Delivered,
    Delta,
    Event,
    Finished,
    Judged,
    Revised,
)
from isthmus.core.pieces import Piece
from isthmus.core.state import State
from isthmus.strategies.plan.node import (
    Assess,
    Attempt,
    Begin,
    CutOff,
    Deliver,
    Draft,
    Early,
    Effect,
    Kept,
    Load,
    Next,
    Node,
    Opening,
    Race,
    Reply,
    Result,
    Say,
    Verdict,
    Wait,
)

Listener: TypeAlias = Callable[[Event], Awaitable[None] | None]
"""Is told of an event; where that takes time, it returns what to wait for."""

Permit: TypeAlias = Callable[[Attempt | Draft], bool | Awaitable[bool]]
"""Whether a model may be called so; where that takes time to find out, it returns what to wait for."""


Asking = TypeVar("Asking", Attempt, Draft)


class Answering(Protocol):
    """One model that has been asked. It is asked for events until it has ended, and closed in any case."""

    @property
    def number(self) -> int:
        """Which of the run's attempts it is, from 1 on."""
        ...

    async def next(self) -> Delta | AttemptEnded:
        """The next part of the answer as soon as it is there, then exactly one AttemptEnded. Raises only
        CancelledError."""
        ...

    def cut_off(self) -> AttemptEnded | None:
        """Ends an answer of which the client has seen nothing, and is to see nothing; None where it had
        ended."""
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

    def begun(self, number: int, by: Early, pieces: Sequence[Piece]) -> Opening:
        """What the beginning of an attempt's answer decides about it."""
        ...

    def deliver(self, kept: Kept) -> Delta:
        """A kept answer, as the client is to have it."""
        ...

    def show(self, number: int, pieces: Sequence[Piece]) -> Delta:
        """What a draft has just said, as the client may see it before it is judged: all but its end."""
        ...

    def release(self, number: int, pieces: Sequence[Piece]) -> Delta:
        """What a draft has said so far, as the client is to have it: from now on it is the client's."""
        ...

    def load(self, model: str) -> int:
        """How many attempts at this model are under way, whoever asked for them."""
        ...


def run(
    plan: Node,
    performer: Performer,
    permits: Permit,
    sleep: Callable[[float], Awaitable[None]],
    listen: Listener,
) -> Coroutine[Any, Any, None]:
    """Tells `listen` the events of a plan, ended by exactly one Finished.

    What `listen` raises ends the run, and whatever models are being asked then.
    `permits` is asked before every attempt of every strategy, whatever led to it; a model that it refuses is
    not called.
    """
    return _Run(performer, permits, sleep, listen).all_of(plan)


class _Drafts:
    """Drafts that were begun side by side at a time of the loop's clock, each with its place among them."""

    __slots__ = ("begun", "running")

    def __init__(self, drafts: Iterable[Coroutine[Any, Any, Result]]) -> None:
        self.begun = asyncio.get_running_loop().time()
        self.running = {asyncio.create_task(draft): place for place, draft in enumerate(drafts)}

    async def next(self, seconds: float | None) -> Result | None:
        """See `strategies.plan.node.Next`."""
        if not self.running:
            return None
        left = None
        if seconds is not None:
            left = max(0.0, self.begun + seconds - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait(self.running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        # Of several that have ended by now, the one that stands first.
        first = min(done, key=self.running.__getitem__)
        return msgspec.structs.replace(first.result(), place=self.running.pop(first))

    async def cut_off(self) -> None:
        """Ends those that are running still."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()


class _Run(State):
    """One run of a plan: the attempts so far, and the drafts that are under way, begun last at the end."""

    _performer: Performer
    _permits: Permit
    _sleep: Callable[[float], Awaitable[None]]
    _listen: Listener
    _number: int = 0
    _drafts: list[_Drafts] = msgspec.field(default_factory=list)
    _seen: int | None = None
    """The attempt whose draft the client has begun to see."""

    async def all_of(self, plan: Node) -> None:
        steps = plan.steps()
        reply: Reply = None
        try:
            while True:
                try:
                    effect = steps.send(reply)
                except StopIteration as stop:
                    result: Result = stop.value
                    break
                attempts = type(effect) is Attempt
                reply = await (self._attempt(effect) if attempts else self._perform(effect))  # type: ignore[arg-type]
        finally:
            while self._drafts:
                await self._drafts.pop().cut_off()
        await self._tell(Finished(result.model, result.error))

    async def _perform(self, effect: Effect) -> Reply:
        match effect:
            case Attempt():
                return await self._attempt(effect)
            case Wait(seconds):
                await self._sleep(seconds)
            case Draft():
                return await self._draft(effect)
            case Begin(drafts):
                self._drafts.append(_Drafts(map(self._draft, drafts)))
            case Next(seconds):
                return await self._drafts[-1].next(seconds)
            case CutOff():
                await self._drafts.pop().cut_off()
            case Race():
                return await self._race(effect)
            case Load(model):
                return self._performer.load(model)
            case Assess():
                verdict = self._performer.assess(effect)
                await self._tell(Judged(effect.kept.number, verdict.confidence, verdict.why))
                return verdict
            case Say(kept, verdict, confidence):
                await self._tell(Judged(kept.number, confidence, verdict))
            case Deliver(kept):
                await self._make_room(kept.number)
                await self._tell(Delivered(kept.number))
                await self._tell(self._performer.deliver(kept))
                return Result(kept.model, committed=True)
        return None

    async def _tell(self, event: Event) -> None:
        if (pending := self._listen(event)) is not None:
            await pending

    async def _permitted(self, effect: Asking) -> Asking | None:
        """The effect as far as it is permitted: without what may be left out, or None."""
        return await self._reduced(effect, self._permits(effect))

    async def _reduced(self, effect: Asking, permitted: bool | Awaitable[bool]) -> Asking | None:
        if permitted if isinstance(permitted, bool) else await permitted:
            return effect
        amendment = effect.amendment
        if amendment is None or not amendment.turns or not amendment.optional:
            return None
        return await self._permitted(msgspec.structs.replace(effect, amendment=amendment.without_turns()))

    async def _start(self, effect: Attempt | Draft) -> Answering:
        self._number += 1
        number = self._number
        if (pending := self._listen(AttemptStarted(effect.model, number))) is not None:
            await pending
        return self._performer.attempt(effect, number)

    async def _attempt(self, effect: Attempt) -> Result:
        verdict = self._permits(effect)
        # Nearly every attempt of every request is permitted at once.
        permitted = effect if verdict is True else await self._reduced(effect, verdict)
        if permitted is None:
            return _refused(effect.model)
        answering = await self._start(permitted)
        try:
            event = await answering.next()
            if self._seen is not None and type(event) is Delta:
                await self._make_room(answering.number)
            return await self._pass_on(effect.model, answering, event)
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
        permitted = await self._permitted(effect)
        if permitted is None:
            return _refused(effect.model)
        answering = await self._start(permitted)
        number, pieces, early = answering.number, list[Piece](), effect.early
        ended, released = None, False
        try:
            while type(event := await answering.next()) is not AttemptEnded:
                pieces.extend(event.pieces)  # type: ignore[union-attr]
                if effect.shown:
                    await self._show(number, event.pieces)  # type: ignore[union-attr]
                opening = "short" if early is None else self._performer.begun(number, early, pieces)
                if opening == "sure":
                    released = True
                    return await self._release(effect.model, number, answering, pieces)
                if opening == "hopeless":
                    ended = answering.cut_off()
                    return Result(effect.model, kept=Kept(effect.model, number, tuple(pieces), whole=False))
                if opening == "open":
                    early = None
            ended = event
        except asyncio.CancelledError:
            # What the client has begun to see is told of by who performs it, like an attempt.
            ended = None if released else answering.cut_off()
            raise
        finally:
            answering.close()
            if ended is not None:
                await self._tell(ended)
        if ended.error is not None:
            return Result(effect.model, ended.error)
        return Result(effect.model, kept=Kept(effect.model, ended.record.number, tuple(pieces)))

    async def _make_room(self, number: int) -> None:
        """Nothing of another attempt than this stands before the client from now on."""
        if self._seen not in (None, number):
            self._seen = None
            await self._tell(Revised())

    async def _show(self, number: int, pieces: Sequence[Piece]) -> None:
        delta = self._performer.show(number, pieces)
        if delta.pieces:
            await self._make_room(number)
            self._seen = number
            await self._tell(delta)

    async def _release(
        self, model: str, number: int, answering: Answering, pieces: Sequence[Piece]
    ) -> Result:
        """Pass a draft on that has begun: all that it has said, and then whatever comes."""
        await self._make_room(number)
        return await self._pass_on(model, answering, self._performer.release(number, pieces))

    async def _race(self, effect: Race) -> Result:
        first = await self._permitted(effect.first)
        if first is None:
            return await self._attempt(effect.second)
        racing = _Racing()
        try:
            racing.enter(first.model, await self._start(first))
            spoken = await racing.spoken(effect.seconds)
            if not spoken and (second := await self._permitted(effect.second)) is not None:
                racing.enter(second.model, await self._start(second))
            won = await self._won(racing)
        finally:
            for ended in await racing.close():
                await self._tell(ended)
        if isinstance(won, Result):
            # One that failed before the other was asked has not been raced at all.
            return await self._attempt(effect.second) if spoken and won.hands_over else won
        try:
            event = won.task.result()
            if self._seen is not None and type(event) is Delta:
                await self._make_room(won.answering.number)
            return await self._pass_on(won.model, won.answering, event)
        finally:
            won.answering.close()

    async def _won(self, racing: _Racing) -> _Runner | Result:
        """Whoever speaks first, and nobody else runs any more; or how the last one has failed.

        One that fails before it speaks has lost to any other.
        """
        failed: Result | None = None
        while runners := await racing.spoken():
            for runner in runners:
                event = runner.task.result()
                if type(event) is not AttemptEnded or event.error is None:
                    for ended in await racing.lose_to(runner):
                        await self._tell(ended)
                    racing.leave(runner)
                    return runner
                racing.leave(runner)
                runner.answering.close()
                await self._tell(event)
                failed = Result(runner.model, event.error)
        assert failed is not None, "a race has at least one runner"
        return failed


class _Runner(NamedTuple):
    """Who takes part in a race, and what says its first word."""

    model: str
    answering: Answering
    task: asyncio.Task[Delta | AttemptEnded]


class _Racing:
    """Those who race to speak first, in the order in which they began."""

    __slots__ = ("_runners",)

    def __init__(self) -> None:
        self._runners: list[_Runner] = []

    def enter(self, model: str, answering: Answering) -> None:
        """One more has begun."""
        self._runners.append(_Runner(model, answering, asyncio.ensure_future(answering.next())))

    def leave(self, runner: _Runner) -> None:
        """One less."""
        self._runners.remove(runner)

    async def spoken(self, seconds: float | None = None) -> list[_Runner]:
        """Those that have said something, or failed, as soon as there are any within that time."""
        if not self._runners:
            return []
        tasks = [it.task for it in self._runners]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return [it for it in self._runners if it.task in done]

    async def lose_to(self, winner: _Runner) -> list[AttemptEnded]:
        """All others leave, and this is what is to tell of them."""
        losers = [it for it in self._runners if it is not winner]
        await _stopped(losers)
        told = [_end_of(it) or it.answering.cut_off() for it in losers]
        for runner in losers:
            self.leave(runner)
            runner.answering.close()
        return [ended for ended in told if ended is not None]

    async def close(self) -> list[AttemptEnded]:
        """Let go of those that run still; those of them that have ended are to be told of."""
        try:
            # An answer is closed only when nobody is within it.
            await _stopped(self._runners)
            return [ended for it in self._runners if (ended := _end_of(it)) is not None]
        finally:
            for runner in self._runners:
                runner.answering.close()


def _end_of(runner: _Runner) -> AttemptEnded | None:
    """The end of an answer, where that is all that it has said."""
    said = None if runner.task.cancelled() else runner.task.result()
    return said if type(said) is AttemptEnded else None


async def _stopped(runners: Sequence[_Runner]) -> None:
    """Nobody waits for their first word any more."""
    running = [it.task for it in runners if not it.task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


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
