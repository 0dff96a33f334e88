"""What every store of feedback promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.feedback import Feedback
from isthmus.core.ids import feedback_id
from isthmus.core.record import Record, Timings
from isthmus.store.feedback import MOST_PER_RECORD, Feedbacks, SqliteFeedback, everybody
from isthmus.store.ledger import Ledger, SqliteLedger
from isthmus.store.memory import MemoryFeedback, MemoryLedger

START_US = 1_700_000_000_000_000


class Stores(msgspec.Struct):
    ledger: Ledger
    feedback: Feedbacks


def record(number: int, key_id: str | None = "key_1") -> Record:
    return Record(
        id=f"req_{number}",
        at_us=START_US + number,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="ok",
        key_id=key_id,
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=1.0),
        config_hash="c",
    )


def said(number: int, at: int, **what: object) -> Feedback:
    at_us = START_US + at
    return Feedback(id=feedback_id(at_us, at), record_id=f"req_{number}", at_us=at_us, **what)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "sqlite"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param == "memory":
        memory = MemoryLedger()
        made = Stores(memory, MemoryFeedback(memory))
    else:
        ledger = SqliteLedger(tmp_path / "ledger.db")
        made = Stores(ledger, SqliteFeedback(tmp_path / "ledger.db"))
    for number in (1, 2, 3):
        made.ledger.append(record(number, None if number == 3 else "key_1"))
    await made.ledger.flush()
    yield made
    await made.ledger.close()


async def test_what_is_given_is_found_with_its_record(stores: Stores) -> None:
    full = said(
        1, 20, key_id="key_2", score=0.25, correction="so\n", comment="é\x00", metadata={"b": "1", "a": "2"}
    )
    earlier, other = said(1, 10, score=1.0), said(2, 15, comment="c")
    for one in (full, earlier, other):
        stores.feedback.add(one)
    assert stores.feedback.of(["req_2", "req_1", "req_9"]) == {"req_1": [earlier, full], "req_2": [other]}
    assert stores.feedback.of([]) == {}
    assert stores.feedback.list() == [full, other, earlier]
    assert stores.feedback.list(limit=1) == [full]
    assert stores.feedback.list(since_us=START_US + 15) == [full, other]


async def test_only_what_is_recorded_and_only_by_whom_it_is_can_be_judged(stores: Stores) -> None:
    for one, allowed in (
        (said(9, 1, score=1.0), everybody),
        (said(1, 1, score=1.0), {"key_2"}.__contains__),
        (said(3, 1, score=1.0), {"key_1"}.__contains__),
    ):
        with pytest.raises(IsthmusError) as refused:
            stores.feedback.add(one, allowed)
        assert refused.value.code == "unknown_request"
    stores.feedback.add(said(1, 1, score=1.0), lambda key_id: key_id == "key_1")
    stores.feedback.add(said(3, 2, score=1.0), lambda key_id: key_id is None)
    assert len(stores.feedback.list()) == 2


async def test_nobody_can_fill_the_disk_with_opinions(stores: Stores) -> None:
    for at in range(MOST_PER_RECORD):
        stores.feedback.add(said(1, at, comment="more"))
    with pytest.raises(IsthmusError) as refused:
        stores.feedback.add(said(1, 99, comment="more"))
    assert refused.value.code == "too_much_feedback"
    stores.feedback.add(said(2, 100, comment="another"))
    assert len(stores.feedback.of(["req_1"])["req_1"]) == MOST_PER_RECORD


async def test_feedback_goes_with_its_record(stores: Stores) -> None:
    gone, kept = said(1, 50, comment="x"), said(2, 50, comment="y")
    for one in (gone, msgspec.structs.replace(kept, id="fb_2")):
        stores.feedback.add(one)
    assert await stores.ledger.delete_before(START_US + 2) == 1
    assert [it.record_id for it in stores.feedback.list()] == ["req_2"]
    with pytest.raises(IsthmusError):
        stores.feedback.add(gone)
