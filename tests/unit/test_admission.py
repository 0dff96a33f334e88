"""The bounded number of places, and the bounded line before them."""

from __future__ import annotations

import asyncio

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.gateway.admission import Admission

LONG_S = 30.0


async def _settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _full(line: int = 2, patience: float = LONG_S) -> Admission:
    admission = Admission(1, line, patience)
    admission.enter()
    return admission


def test_places_are_free_up_to_the_limit() -> None:
    admission = Admission(2, 0, LONG_S)
    for _ in range(2):
        assert admission.free
        admission.enter()
    assert not admission.free
    admission.leave()
    assert admission.free


async def test_who_came_first_is_served_first() -> None:
    admission = await _full()
    order: list[str] = []

    async def visit(name: str) -> None:
        await admission.wait()
        order.append(name)
        admission.leave()

    visits = [asyncio.create_task(visit(name)) for name in ("first", "second")]
    await _settle()
    assert not admission.free, "nobody overtakes the line"
    admission.leave()
    await asyncio.gather(*visits)
    assert order == ["first", "second"]
    assert (admission.inside, admission.free) == (0, True)


async def test_a_full_line_sends_away_at_once_and_says_when_to_come_back() -> None:
    admission = await _full(line=0)
    with pytest.raises(IsthmusError) as refused:
        await admission.wait()
    assert refused.value.code == "gateway_overloaded"
    assert refused.value.status == 503
    assert refused.value.retry_after_s
    assert admission.inside == 1


async def test_patience_ends() -> None:
    admission = await _full(patience=0.001)
    with pytest.raises(IsthmusError, match=r"0\.001 s") as refused:
        await admission.wait()
    assert refused.value.code == "gateway_overloaded"
    assert admission.inside == 1


async def test_who_gave_up_leaves_room_in_the_line() -> None:
    admission = await _full(line=1, patience=0.001)
    for _ in range(3):
        with pytest.raises(IsthmusError, match="no free place"):
            await admission.wait()


async def test_who_leaves_the_line_takes_no_place() -> None:
    admission = await _full(line=1)
    gone = asyncio.create_task(admission.wait())
    await _settle()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    waiting = asyncio.create_task(admission.wait())
    await _settle()
    admission.leave()
    await waiting
    assert admission.inside == 1


async def test_a_place_given_in_the_moment_of_leaving_is_given_on() -> None:
    admission = await _full()
    first, second = asyncio.create_task(admission.wait()), asyncio.create_task(admission.wait())
    await _settle()
    admission.leave()
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert admission.inside == 1
    admission.leave()
    assert admission.free


async def test_new_bounds_let_the_line_move() -> None:
    admission = await _full()
    waiting = asyncio.create_task(admission.wait())
    await _settle()
    admission.resize(2, 0, LONG_S)
    await waiting
    assert admission.inside == 2
    admission.resize(1, 0, LONG_S)
    assert not admission.free, "who is inside stays inside"
    admission.leave()
    assert not admission.free
    admission.leave()
    assert admission.free
