"""Laws 1 and 10 where they are kept: whatever a plan asks for, and whatever comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, AttemptStarted, Delivered, Delta, Event, Finished, Revised
from isthmus.core.pieces import Piece, TextDelta, text_of
from isthmus.core.record import AttemptRecord
from isthmus.strategies.plan import CallModel, Fallback, Node
from isthmus.strategies.plan.node import (
    Assess,
    Attempt,
    Circumstances,
    Draft,
    Early,
    Kept,
    Opening,
    Verdict,
)
from isthmus.strategies.run import run
from tests.laws.plans import NAMES, foresights, plans
from tests.laws.plans import faults as fault_classes

# An outcome: how many deltas an attempt yields, and the fault that ends it, if one does.
outcomes = st.tuples(
    st.integers(0, 3), st.one_of(st.none(), fault_classes), st.one_of(st.none(), st.floats(0, 20))
)
openings: st.SearchStrategy[Opening] = st.sampled_from(["short", "open", "hopeless", "sure"])
settled = st.tuples(plans, st.just(()) | foresights).map(
    lambda both: (
        both[0].choose(Circumstances(draw=0.5, key="k", user="u", revises=True, foreseen=both[1])).node
    )
)


class Script:
    """A performer that plays what Hypothesis draws, and remembers what was asked of it."""

    def __init__(
        self,
        draw: Callable[[], tuple[int, Fault | None, float | None]],
        accepts: Callable[[], bool] = lambda: True,
        opens: Callable[[], Opening] = lambda: "open",
    ) -> None:
        self._draw = draw
        self._accepts = accepts
        self._opens = opens
        self.made: list[Scripted] = []
        self.performed: list[str] = []
        self.closed: list[str] = []
        self.said = 0
        self.shown = 0
        self.slept: list[float] = []

    def attempt(self, effect: Attempt | Draft, number: int) -> Scripted:
        assert self.said == 0, "an attempt after something was said to the client"
        self.performed.append(effect.model)
        assert number == len(self.performed)
        deltas, fault, retry_after = self._draw()
        error = None if fault is None else IsthmusError(fault, "failed", retry_after_s=retry_after)
        self.made.append(Scripted(self, effect, number, deltas, error))
        return self.made[-1]

    def assess(self, effect: Assess) -> Verdict:
        return Verdict(self._accepts(), 0.5, "so it is")

    def begun(self, number: int, by: Early, pieces: Sequence[Piece]) -> Opening:
        opening = self._opens()
        return "open" if opening == "sure" and by.surely is None else opening

    def show(self, number: int, pieces: Sequence[Piece]) -> Delta:
        assert self.said == 0, "a draft was shown after something was said for good"
        self.shown += 1
        return Delta(pieces=tuple(pieces))

    def release(self, number: int, pieces: Sequence[Piece]) -> Delta:
        assert self.said == 0, "a draft became the client's after something was said"
        self.said += 1
        self.made[number - 1].released = True
        return Delta(pieces=tuple(pieces))

    def deliver(self, kept: Kept) -> Delta:
        self.said += 1
        return Delta(pieces=(TextDelta(text=f"{kept.number} "),))

    def load(self, model: str) -> int:
        return len(self.performed) - len(self.closed)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Scripted:
    """One attempt that a script plays."""

    def __init__(
        self, script: Script, effect: Attempt | Draft, number: int, deltas: int, error: IsthmusError | None
    ) -> None:
        self._script = script
        self._effect = effect
        self._left = deltas
        self._deltas = deltas
        self._error = error
        self.number = number
        self.open = True
        self.released = False
        self._closed = False

    async def next(self) -> Delta | AttemptEnded:
        assert self.open
        await asyncio.sleep(0)
        if self._left:
            self._left -= 1
            if isinstance(self._effect, Draft) and not self.released:
                return Delta(pieces=(TextDelta(text=f"{self.number} "),))
            self._script.said += 1
            return Delta(data=b"%d " % self.number)
        return self._end(self._error)

    def cut_off(self) -> AttemptEnded | None:
        return self._end(IsthmusError(Fault.CANCELLED, "cut off")) if self.open else None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._script.closed.append(self._effect.model)

    def _end(self, error: IsthmusError | None) -> AttemptEnded:
        self.open = False
        record = AttemptRecord(
            number=self.number,
            model=self._effect.model,
            provider="p",
            model_id="m",
            outcome="error" if error else "ok",
            started_ms=0.0,
            committed=self.released or (self._deltas > self._left and isinstance(self._effect, Attempt)),
        )
        return AttemptEnded(record, error)


def _events(plan: Node, script: Script, permits: Callable[[str], bool]) -> list[Event]:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    asyncio.run(run(plan, script, lambda effect: permits(effect.model), script.sleep, listen))
    assert sorted(script.closed) == sorted(script.performed)
    return heard


@given(settled, st.sets(st.sampled_from(NAMES)), st.data())
def test_the_interpreter_keeps_the_laws(plan: Node, allowed: set[str], data: st.DataObject) -> None:
    script = Script(
        lambda: data.draw(outcomes), lambda: data.draw(st.booleans()), lambda: data.draw(openings)
    )
    events = _events(plan, script, allowed.__contains__)

    finished = [event for event in events if isinstance(event, Finished)]
    assert finished == events[-1:], "exactly one Finished, and it is the last"
    assert set(script.performed) <= allowed, "a model that is not permitted is never performed"

    started = [event.number for event in events if isinstance(event, AttemptStarted)]
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    assert sorted(started) == sorted(event.record.number for event in ended)
    said = [event for event in events if isinstance(event, Delta)]
    assert len(said) == script.said + script.shown
    delivered = [event.number for event in events if isinstance(event, Delivered)]
    committed = [event.record.number for event in ended if event.record.committed]
    assert len({*delivered, *committed}) <= 1, "the client gets one model's answer"
    if delivered:
        assert finished[0] == Finished(script.performed[delivered[0] - 1], None)
    elif finished[0].error is None:
        assert [event for event in ended if event.error is None]
    stands = _standing(events)
    if delivered or committed:
        assert stands == {*delivered, *committed}, "of what was shown, only the answer still stands"


def _standing(events: list[Event]) -> set[int]:
    """The attempts of which something stands before the client in the end; never more than one."""
    stands: set[int] = set()
    for event in events:
        if isinstance(event, Revised):
            assert stands, "nothing is taken back that was not shown"
            stands = set()
        elif isinstance(event, Delta):
            stands |= set(map(int, (event.data.decode() or text_of(event.pieces)).split()))
            assert len(stands) == 1, "what stands is taken back before another answer begins"
    return stands


@given(settled, st.data())
def test_deltas_come_between_the_start_and_the_end_of_their_attempt_or_are_delivered(
    plan: Node, data: st.DataObject
) -> None:
    running: set[int] = set()
    delivered = False
    script = Script(lambda: data.draw(outcomes), opens=lambda: data.draw(openings))
    for event in _events(plan, script, lambda _: True):
        match event:
            case AttemptStarted(_, number):
                assert not delivered
                running.add(number)
            case AttemptEnded(record):
                running.remove(record.number)
            case Delivered():
                delivered = True
            case Delta():
                assert running or delivered
            case Finished():
                assert not running


@given(settled, st.integers(0, 12), st.data())
def test_whatever_is_under_way_is_told_and_let_go_when_nobody_waits_any_more(
    plan: Node, steps: int, data: st.DataObject
) -> None:
    script = Script(lambda: data.draw(outcomes), opens=lambda: data.draw(openings))
    heard: list[Event] = []

    async def leave() -> None:
        running = asyncio.create_task(run(plan, script, lambda _: True, script.sleep, heard.append))
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(leave())
    assert sorted(script.closed) == sorted(script.performed)
    told = [event.record.number for event in heard if isinstance(event, AttemptEnded)]
    # What was passed on or raced when all ended is told by who performs it.
    untold = [it.number for it in script.made if it.open]
    assert sorted(told + untold) == list(range(1, len(script.made) + 1))
    assert len(untold) <= 2


@given(settled)
def test_where_nothing_is_permitted_nothing_is_called_and_the_reason_is_told(plan: Node) -> None:
    script = Script(lambda: (1, None, None))
    (finished,) = _events(plan, script, lambda _: False)
    assert script.performed == []
    assert isinstance(finished, Finished)
    assert finished.error is not None
    assert (finished.error.fault, finished.error.code) == (Fault.NOT_PERMITTED, "model_not_permitted")


def test_waits_are_performed_between_the_attempts() -> None:
    plan = Fallback(plans=(CallModel(model="a", retries=1), CallModel(model="b", retries=0)))
    answers = iter([(0, Fault.RATE_LIMITED, 3.0), (0, Fault.UPSTREAM_ERROR, None), (1, None, None)])
    script = Script(lambda: next(answers))
    events = _events(plan, script, lambda _: True)
    assert script.performed == ["a", "a", "b"]
    assert script.slept == [3.0]
    assert events[-1] == Finished("b", None)


def test_an_attempt_is_closed_when_nobody_listens_any_more() -> None:
    class DeafError(Exception):
        pass

    async def listen(event: Event) -> None:
        if isinstance(event, Delta):
            raise DeafError

    script = Script(lambda: (2, None, None))
    with pytest.raises(DeafError):
        asyncio.run(run(CallModel(model="a"), script, lambda _: True, script.sleep, listen))
    assert (script.closed, script.said) == (["a"], 1)
