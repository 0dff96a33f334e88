"""Laws 1 and 10 where they are kept: whatever a plan asks for, and whatever comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, AttemptStarted, Delta, Event, Finished
from isthmus.core.record import AttemptRecord
from isthmus.strategies.plan import CallModel, Fallback, Node
from isthmus.strategies.plan.node import Circumstances
from isthmus.strategies.run import run
from tests.laws.plans import NAMES, plans
from tests.laws.plans import faults as fault_classes

# An outcome: how many deltas an attempt yields, and the fault that ends it, if one does.
outcomes = st.tuples(
    st.integers(0, 3), st.one_of(st.none(), fault_classes), st.one_of(st.none(), st.floats(0, 20))
)
settled = plans.map(lambda plan: plan.choose(Circumstances(draw=0.5, key="k", user="u")).node)


class Script:
    """A performer that plays what Hypothesis draws, and remembers what was asked of it."""

    def __init__(self, draw: Callable[[], tuple[int, Fault | None, float | None]]) -> None:
        self._draw = draw
        self.performed: list[str] = []
        self.closed: list[str] = []
        self.said = 0
        self.slept: list[float] = []

    def attempt(self, model: str, number: int) -> Scripted:
        assert self.said == 0, "an attempt after something was said to the client"
        assert self.closed == self.performed, "an attempt is closed before the next one begins"
        self.performed.append(model)
        assert number == len(self.performed)
        return Scripted(self, self._events(model, number))

    async def _events(self, model: str, number: int) -> AsyncGenerator[Delta | AttemptEnded, None]:
        deltas, fault, retry_after = self._draw()
        for _ in range(deltas):
            self.said += 1
            await asyncio.sleep(0)
            yield Delta(data=b"x")
        error = None if fault is None else IsthmusError(fault, "failed", retry_after_s=retry_after)
        record = AttemptRecord(
            number=number,
            model=model,
            provider="p",
            model_id="m",
            outcome="error" if error else "ok",
            started_ms=0.0,
            committed=deltas > 0,
        )
        yield AttemptEnded(record, error)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Scripted:
    """One attempt that a script plays."""

    def __init__(self, script: Script, events: AsyncGenerator[Delta | AttemptEnded, None]) -> None:
        self._script = script
        self._events = events

    async def next(self) -> Delta | AttemptEnded:
        return await anext(self._events)

    def close(self) -> None:
        self._script.closed.append(self._script.performed[-1])


def _events(plan: Node, script: Script, permits: Callable[[str], bool]) -> list[Event]:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    asyncio.run(run(plan, script, permits, script.sleep, listen))
    assert script.closed == script.performed
    return heard


@given(settled, st.sets(st.sampled_from(NAMES)), st.data())
def test_the_interpreter_keeps_the_laws(plan: Node, allowed: set[str], data: st.DataObject) -> None:
    script = Script(lambda: data.draw(outcomes))
    events = _events(plan, script, allowed.__contains__)

    finished = [event for event in events if isinstance(event, Finished)]
    assert finished == events[-1:], "exactly one Finished, and it is the last"
    assert set(script.performed) <= allowed, "a model that is not permitted is never performed"

    started = [event.model for event in events if isinstance(event, AttemptStarted)]
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    assert started == script.performed == [event.record.model for event in ended]
    assert all(not event.record.committed for event in ended[:-1]), "nothing is tried after the first content"
    assert sum(isinstance(event, Delta) for event in events) == script.said

    if ended and (ended[-1].error is None or ended[-1].record.committed):
        assert finished == [Finished(ended[-1].record.model, ended[-1].error)]
    else:
        assert finished[0].error is not None, "what nobody answered ends in an error"


@given(settled, st.data())
def test_deltas_come_between_the_start_and_the_end_of_their_attempt(plan: Node, data: st.DataObject) -> None:
    running = False
    for event in _events(plan, Script(lambda: data.draw(outcomes)), lambda _: True):
        match event:
            case AttemptStarted():
                assert not running
                running = True
            case AttemptEnded():
                assert running
                running = False
            case Delta():
                assert running
            case Finished():
                assert not running


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
