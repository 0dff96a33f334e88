"""What every ledger promises, in memory or in SQLite, batched or strict."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import pytest_asyncio

from isthmus.core.decision import Decision, Refused
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import BOTTOM, Label
from isthmus.core.record import NO_GROUNDS, AttemptRecord, Features, Grounds, Intent, Outcome, Record, Timings
from isthmus.core.usage import Charge, Usage
from isthmus.store import schema
from isthmus.store.hours import SqliteHours
from isthmus.store.keys import SqliteKeys
from isthmus.store.ledger import Ledger, Mode, SqliteLedger
from isthmus.store.ledger_file import LedgerFile
from isthmus.store.memory import MemoryLedger
from isthmus.store.records import Records, SqliteRecords, Where, parse_cursor

START_US = 1_760_000_000_000_000
DAY_US = 86_400_000_000
FIRST_VERSION = Path(__file__).parents[1] / "golden" / "ledger" / "version-1.sql"
"""A ledger as the first version wrote it: two records, an intent, and a key that was rotated once."""

DECISION = Decision(
    route="support",
    operation="chat",
    allowed=("small", "big"),
    refused=(Refused("far", "zone", "The zone us is not allowed."),),
    plan={"fallback": ["small", "big"]},
    reasons=("The route asks for fallback.",),
    propensity=1.0,
    config_hash="c0ffee",
)


GROUNDS = Grounds(
    asked="gpt-4o",
    floor=Label("confidential", zones=frozenset({"eu"})),
    said=("internal",),
    blind=True,
    unlooked=("pii.name",),
)


def make_record(
    number: int,
    *,
    at_us: int | None = None,
    outcome: Outcome = "ok",
    route: str = "support",
    model: str = "small",
    message: str | None = None,
    bodies: tuple[bytes | None, bytes | None] = (None, None),
) -> Record:
    usage = Usage(
        input=100,
        output=20,
        cache_read=7,
        reasoning=3,
        estimated=number % 2 == 0,
        beyond=() if number % 2 else ("tier.flex", "tool.web_search"),
    )
    charge = Charge(nanousd=1234 + number, basis="config", snapshot="config/1", estimated=number % 2 == 0)
    lost = AttemptRecord(
        number=1,
        model="big",
        provider="far",
        model_id="big-1",
        outcome="error",
        started_ms=0.5,
        total_ms=3.25,
        fault="overloaded",
        code="overloaded",
        upstream_status=503,
        dropped=("seed", "logit_bias"),
    )
    # Newer than the first version, which wrote records 1 and 2.
    judged = (
        {"purpose": "draft", "confidence": 0.25, "verdict": "accepted", "weights": "ab" * 32}
        if number > 2
        else {}
    )
    won = AttemptRecord(
        **judged,
        number=2,
        model=model,
        provider="near",
        model_id="small-1",
        outcome="ok",
        started_ms=4.0,
        queue_ms=0.125,
        first_token_ms=11.0,
        total_ms=25.5,
        finish="stop",
        usage=usage,
        charge=charge,
        committed=True,
        passthrough=True,
    )
    return Record(
        id=f"req_{number:032x}",
        at_us=START_US + number * 1000 if at_us is None else at_us,
        dialect="openai-chat",
        operation="chat",
        route=route,
        stream=True,
        status=200,
        outcome=outcome,
        key_id="key_1",
        team="blue",
        user="ann",
        model=model,
        message=message,
        decision=DECISION,
        findings={"pii.email": 2, "pii.name": 1} if number % 2 else {},
        features=Features(size=700, turns=3, max_output=50, tools=True, form="schema", temperature=0.5),
        grounds=GROUNDS if number % 2 else NO_GROUNDS,
        attempts=(lost, won),
        usage=usage,
        charge=charge,
        timings=Timings(queue_ms=0.0, overhead_ms=0.5, first_token_ms=15.0, total_ms=30.0),
        config_hash="c0ffee",
        request_body=bodies[0],
        response_body=bodies[1],
    )


def make_bare_record(number: int) -> Record:
    return msgspec.structs.replace(
        make_record(number),
        decision=None,
        findings=None,
        features=None,
        grounds=None,
        team=None,
        attempts=(),
        usage=None,
        charge=None,
        key_id=None,
        user=None,
        model=None,
    )


def make_intent(record: Record) -> Intent:
    return Intent(
        id=record.id,
        at_us=record.at_us,
        dialect=record.dialect,
        operation=record.operation,
        route=record.route,
        stream=record.stream,
        key_id=record.key_id,
        config_hash=record.config_hash,
    )


class Store(Protocol):
    ledger: Ledger
    records: Records


class _Store(msgspec.Struct):
    ledger: Ledger
    records: Records


@pytest_asyncio.fixture(params=["memory", "batched", "strict"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryLedger()
        yield _Store(memory, memory)
        return
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, request.param)
    yield _Store(ledger, SqliteRecords(path))
    await ledger.close()


async def test_a_record_comes_back_as_it_went(store: Store) -> None:
    record = make_record(1, bodies=(b"question" * 1000, b""))
    bare = make_bare_record(2)
    store.ledger.append(record)
    store.ledger.append(bare)
    await store.ledger.flush()
    assert store.records.find(record.id) == record
    assert store.records.find(bare.id) == bare


async def test_an_unknown_charge_is_not_zero(store: Store) -> None:
    charge = Charge(nanousd=None, basis="unknown", snapshot="")
    store.ledger.append(msgspec.structs.replace(make_record(1), charge=charge))
    store.ledger.append(
        msgspec.structs.replace(make_record(2), charge=msgspec.structs.replace(charge, nanousd=0))
    )
    await store.ledger.flush()
    assert [record.charge and record.charge.nanousd for record in store.records.scan()] == [None, 0]


async def test_what_is_committed_is_there_at_once(store: Store) -> None:
    record = make_record(1)
    await store.ledger.begin(make_intent(record))
    await store.ledger.commit(record)
    await store.ledger.flush()
    assert list(store.records.scan()) == [record]


async def test_a_record_is_written_once_and_never_changed(store: Store) -> None:
    first = make_record(1)
    store.ledger.append(first)
    store.ledger.append(msgspec.structs.replace(first, route="other"))
    await store.ledger.flush()
    assert [record.route for record in store.records.scan()] == ["support"]


async def test_many_writers_lose_nothing(store: Store) -> None:
    records = [make_record(number) for number in range(300)]

    async def serve(record: Record) -> None:
        await store.ledger.begin(make_intent(record))
        await store.ledger.commit(record)

    await asyncio.gather(*map(serve, records))
    await store.ledger.flush()
    assert list(store.records.scan()) == records
    health = store.ledger.health()
    assert (health.state, health.queued, health.lost, health.committed) == ("ok", 0, 0, 300)


async def test_pages_go_from_new_to_old_and_miss_nothing(store: Store) -> None:
    # All at one time: then the id alone decides.
    for number in range(7):
        store.ledger.append(make_record(number, at_us=START_US + number // 3))
    await store.ledger.flush()
    seen: list[str] = []
    cursor = None
    while True:
        page = store.records.page(limit=3, after=cursor)
        seen += [record.id for record in page.records]
        if page.next is None:
            break
        cursor = parse_cursor(str(page.next))
    assert seen == [make_record(number).id for number in reversed(range(7))]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where(), [1, 2, 3, 4]),
        (Where(since_us=START_US + 2000, until_us=START_US + 4000), [2, 3]),
        (Where(route="review"), [2]),
        (Where(model="big"), [3]),
        (Where(key_id="key_1"), [1, 2, 3, 4]),
        (Where(key_id="key_2"), []),
        (Where(outcome="error"), [4]),
        (Where(outcome="ok", route="support"), [1, 3]),
    ],
)
async def test_filters(store: Store, where: Where, expected: list[int]) -> None:
    store.ledger.append(make_record(1))
    store.ledger.append(make_record(2, route="review"))
    store.ledger.append(make_record(3, model="big"))
    store.ledger.append(make_record(4, outcome="error"))
    await store.ledger.flush()
    assert [int(record.id[4:], 16) for record in store.records.scan(where)] == expected
    assert [int(record.id[4:], 16) for record in store.records.page(where).records] == expected[::-1]


async def test_lists_leave_bodies_out(store: Store) -> None:
    store.ledger.append(make_record(1, bodies=(b"question", b"answer")))
    await store.ledger.flush()
    assert store.records.page().records[0].request_body is None
    assert next(store.records.scan()).response_body is None
    assert next(store.records.scan(bodies=True)).response_body == b"answer"


async def test_a_record_is_found_by_a_unique_beginning(store: Store) -> None:
    for number in (0x10, 0x11, 0x20):
        store.ledger.append(make_record(number))
    await store.ledger.flush()
    prefix = "req_" + "0" * 30
    assert store.records.find(prefix + "2").id == prefix + "20"
    assert store.records.find(prefix + "10").id == prefix + "10"
    with pytest.raises(IsthmusError) as ambiguous:
        store.records.find(prefix + "1")
    assert ambiguous.value.code == "ambiguous_record"
    assert prefix + "11" in ambiguous.value.message
    with pytest.raises(IsthmusError) as unknown:
        store.records.find("req_f")
    assert unknown.value.code == "unknown_record"


async def test_old_records_are_deleted(store: Store) -> None:
    for number in range(1200):
        store.ledger.append(make_record(number, at_us=START_US + number % 2 * 3 * DAY_US))
    await store.ledger.flush()
    assert await store.ledger.delete_before(START_US + DAY_US) == 600
    left = list(store.records.scan())
    assert len(left) == 600
    assert all(record.at_us == START_US + 3 * DAY_US and record.decision == DECISION for record in left)


async def test_records_that_come_after_the_end_are_lost_and_counted(store: Store) -> None:
    store.ledger.append(make_record(1))
    await store.ledger.close()
    store.ledger.append(make_record(2))
    assert [record.id for record in store.records.scan()] == [make_record(1).id]
    assert store.ledger.health().lost == 1


def test_a_bad_cursor_is_refused() -> None:
    for text in ("", "12", "x.req_1", "12.", "-1.req_1", "².req_1"):
        with pytest.raises(IsthmusError) as refused:
            parse_cursor(text)
        assert refused.value.code == "bad_cursor"


# From here on: what only a file can do.


async def test_closing_drains(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db")
    for number in range(50):
        ledger.append(make_record(number))
    await ledger.close()
    assert len(list(SqliteRecords(tmp_path / "ledger.db").scan())) == 50


async def test_what_was_spent_is_known_for_longer_than_the_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    for number in range(600):
        ledger.append(make_record(number, at_us=START_US + number % 2 * DAY_US))
    await ledger.flush()
    sums = SqliteHours(path)
    before = sums.hours(), sums.by_key()
    assert sum(it.requests for it in before[0]) == 600
    assert await ledger.roll_up_before(START_US + 2 * DAY_US) == 600
    assert _count(path, "hours") == 2
    assert (sums.hours(), sums.by_key()) == before
    assert await ledger.delete_before(START_US + DAY_US) == 300
    assert (sums.hours(), sums.by_key()) == before
    await ledger.close()


async def test_records_are_rolled_up_before_they_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    for number in range(100):
        ledger.append(make_record(number))
    await ledger.flush()
    assert await ledger.delete_before(START_US + DAY_US) == 100
    # It was asked when its gateway was slow: its time is rolled up, and deleted.
    ledger.append(make_record(100, at_us=START_US))
    await ledger.close()
    assert sum(it.requests for it in SqliteHours(path).hours()) == 101


async def test_a_decision_is_stored_once_a_day(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    for number in range(10):
        ledger.append(make_record(number, at_us=START_US + number % 2 * DAY_US))
    await ledger.flush()
    assert _count(path, "decisions") == 2
    await ledger.delete_before(START_US + DAY_US)
    assert (_count(path, "decisions"), _count(path, "attempts"), _count(path, "records")) == (1, 10, 5)
    await ledger.close()


async def test_a_strict_ledger_turns_leftover_intents_into_interrupted_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, "strict")
    await ledger.begin(make_intent(make_record(1)))
    await ledger.begin(make_intent(make_record(2)))
    await ledger.commit(make_record(2))
    await ledger.close()
    ledger = SqliteLedger(path)
    records = {record.id: record for record in SqliteRecords(path).scan()}
    await ledger.close()
    lost = records[make_record(1).id]
    assert (lost.outcome, lost.code, lost.status, lost.at_us) == (
        "interrupted",
        "interrupted",
        0,
        make_record(1).at_us,
    )
    assert lost.charge is not None
    assert lost.charge.nanousd is None
    assert records[make_record(2).id] == make_record(2)
    assert _count(path, "intents") == 0


async def test_a_second_gateway_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    first = SqliteLedger(path)
    with pytest.raises(IsthmusError) as refused:
        SqliteLedger(path)
    assert refused.value.code == "ledger_in_use"
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with pytest.raises(IsthmusError) as refused:
        SqliteLedger(link)
    assert refused.value.code == "ledger_in_use"
    await first.close()
    await SqliteLedger(path).close()


async def test_a_record_that_sqlite_refuses_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    ledger.append(make_record(1))
    ledger.append(make_record(2, message="a lone surrogate: \ud800"))
    ledger.append(msgspec.structs.replace(make_record(3), status=1 << 70))
    ledger.append(make_record(4))
    with caplog.at_level(logging.ERROR, "isthmus.ledger"):
        await ledger.flush()
    assert [int(record.id[4:], 16) for record in SqliteRecords(path).scan()] == [1, 4]
    health = ledger.health()
    assert (health.state, health.lost, health.committed, health.queued) == ("ok", 2, 2, 0)
    assert make_record(2).id in caplog.text
    await ledger.close()


async def test_who_waits_for_a_record_that_sqlite_refuses_is_told(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db", "strict")
    bad = make_record(2, message="a lone surrogate: \ud800")
    outcomes = await asyncio.gather(
        ledger.commit(make_record(1)),
        ledger.commit(bad),
        ledger.begin(msgspec.structs.replace(make_intent(bad), key_id="\ud800")),
        ledger.begin(make_intent(make_record(3))),
        return_exceptions=True,
    )
    assert [isinstance(outcome, IsthmusError) for outcome in outcomes] == [False, True, True, False]
    await ledger.commit(make_record(3))
    await ledger.close()
    assert (ledger.health().committed, ledger.health().lost) == (2, 1)


async def test_bodies_that_would_fill_the_memory_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, max_queued_body_bytes=1000)
    for number in range(3):
        ledger.append(make_record(number, bodies=(b"x" * 400, b"y" * 50)))
    await ledger.flush()
    kept = [record.request_body is not None for record in SqliteRecords(path).scan(bodies=True)]
    assert kept == [True, True, False]
    assert ledger.health().bodies_lost == 1
    ledger.append(make_record(9, bodies=(b"x" * 400, None)))
    await ledger.flush()
    assert SqliteRecords(path).find(make_record(9).id).request_body == b"x" * 400
    await ledger.close()


async def test_beyond_the_bound_new_records_are_lost_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, max_queued=5)
    with Locked(path):
        for number in range(8):
            ledger.append(make_record(number))
        assert ledger.health().lost == 3
    await until_written(ledger)
    assert [int(record.id[4:], 16) for record in SqliteRecords(path).scan()] == [0, 1, 2, 3, 4]
    await ledger.close()


@pytest.mark.parametrize("mode", ["batched", "strict"])
async def test_a_locked_database_is_an_alarm_and_recovers(
    tmp_path: Path, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, mode, patience_s=0.2)
    caplog.set_level(logging.WARNING, "isthmus.ledger")
    with Locked(path):
        ledger.append(make_record(1))
        with pytest.raises(IsthmusError) as refused:
            await ledger.flush()
        assert (refused.value.code, refused.value.status) == ("ledger_unavailable", 503)
        await until(lambda: ledger.health().state == "failing")
        health = ledger.health()
        assert (health.queued, health.lost) == (1, 0)
        assert "locked" in (health.reason or "")
        assert health.since_us is not None
        if mode == "strict":
            with pytest.raises(IsthmusError):
                await ledger.begin(make_intent(make_record(2)))
            with pytest.raises(IsthmusError):
                await ledger.commit(make_record(3))
        else:
            await ledger.begin(make_intent(make_record(2)))
            await ledger.commit(make_record(3))
    await until_written(ledger)
    assert ledger.health().state == "ok"
    await ledger.close()
    assert [int(record.id[4:], 16) for record in SqliteRecords(path).scan()] == [1, 3]
    # The refused request of the strict ledger must not come back as an interrupted one.
    assert _count(path, "intents") == 0
    assert [entry.levelname for entry in caplog.records] == ["ERROR", "WARNING"]


async def test_an_ill_disk_recovers_by_itself_although_nobody_asks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, "strict", patience_s=0.1)
    with Locked(path):
        with pytest.raises(IsthmusError):
            await ledger.begin(make_intent(make_record(1)))
        await until(lambda: ledger.health().state == "failing")
    await until(lambda: ledger.health().state == "ok")
    await ledger.close()


async def test_a_deleted_directory_is_noticed_and_the_records_go_to_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "data" / "ledger.db"
    ledger = SqliteLedger(path, patience_s=1.0)
    ledger.append(make_record(1))
    await ledger.flush()
    path.parent.rename(tmp_path / "gone")
    ledger.append(make_record(2))
    with pytest.raises(IsthmusError):
        await ledger.flush()
    assert ledger.health().state == "failing"
    path.parent.mkdir()
    await until_written(ledger)
    assert [int(record.id[4:], 16) for record in SqliteRecords(path).scan()] == [2]
    with pytest.raises(IsthmusError):
        SqliteLedger(path)
    await ledger.close()


async def test_a_ledger_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(IsthmusError) as refused:
        SqliteLedger(tmp_path / "file" / "ledger.db")
    assert (refused.value.code, refused.value.fault) == ("ledger_unavailable", Fault.UNAVAILABLE)
    (tmp_path / "noise.db").write_bytes(b"this is no database, but it is long enough to be read as one" * 20)
    with pytest.raises(IsthmusError) as refused:
        SqliteLedger(tmp_path / "noise.db")
    assert refused.value.code == "ledger_unavailable"


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    ledger = SqliteLedger(path)
    ledger.append(make_record(1))
    await ledger.flush()
    assert {file.stat().st_mode & 0o077 for file in (path.parent, *path.parent.iterdir())} == {0}
    await ledger.close()


def test_reading_where_nothing_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(IsthmusError) as refused:
        SqliteRecords(tmp_path / "ledger.db").page()
    assert refused.value.code == "ledger_missing"
    assert not list(tmp_path.iterdir())


def test_a_newer_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    connection = schema.connect(path)
    connection.execute("INSERT INTO schema_version VALUES (?, 0)", (schema.VERSION + 1,))
    connection.close()
    for use in (lambda: SqliteLedger(path), lambda: SqliteRecords(path).page()):
        with pytest.raises(IsthmusError) as refused:
            use()
        assert refused.value.code == "ledger_newer"
        assert f"version {schema.VERSION + 1}" in refused.value.message


def test_a_migration_is_done_once_and_wholly_or_not_at_all(tmp_path: Path) -> None:
    connection = schema.connect(tmp_path / "ledger.db")
    version = schema.VERSION + 1
    broken = {version: ("ALTER TABLE records ADD COLUMN mood TEXT", "ALTER TABLE nothing ADD COLUMN x TEXT")}
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, version, broken)
    assert "mood" not in _columns(connection)
    schema.migrate(connection, version, {version: broken[version][:1]})
    schema.migrate(connection, version, {version: broken[version][:1]})
    assert "mood" in _columns(connection)
    assert connection.execute("SELECT version FROM schema_version").fetchall() == [
        (schema.VERSION,),
        (version,),
    ]
    connection.close()


async def test_a_ledger_of_the_first_version_becomes_one_of_today(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    connection = sqlite3.connect(old)
    connection.executescript(FIRST_VERSION.read_text(encoding="utf-8"))
    connection.close()
    with pytest.raises(IsthmusError) as refused:
        SqliteRecords(old).page()
    assert refused.value.code == "ledger_older"

    ledger = SqliteLedger(old)
    ledger.append(make_record(8, bodies=(b"question", b"answer")))
    await ledger.close()
    kept, bare, interrupted, fresh = SqliteRecords(old).scan(bodies=True)
    first = make_record(1, bodies=(b"question", b"answer"))
    unknown = {"findings": None, "features": None, "grounds": None, "team": None}
    assert kept == msgspec.structs.replace(first, **unknown)
    assert bare == make_bare_record(2)
    assert interrupted.outcome == "interrupted"
    assert fresh == make_record(8, bodies=(b"question", b"answer"))

    assert sum(it.requests for it in SqliteHours(old).hours()) == 4

    keys = SqliteKeys(old)
    assert [(key.name, key.routes, key.floor) for key in keys.list()] == [
        ("team-a", ("support",), BOTTOM)
    ] * 2
    confidential = keys.create("team-b", (), START_US, floor=Label("confidential")).key
    assert confidential in keys.list()

    schema.connect(new).close()
    assert _shape(old) == _shape(new)


def _shape(path: Path) -> set[tuple[str, ...]]:
    """The tables' columns, the indexes and the triggers, whatever the columns' order."""
    connection = sqlite3.connect(path)
    try:
        return {
            (table, *map(str, column[1:]))
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for column in connection.execute(f"PRAGMA table_info({table})")
        } | {
            tuple(map(str, index))
            for index in connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type IN ('index', 'trigger')"
            )
        }
    finally:
        connection.close()


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(records)")}


def _count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        connection.close()


class Locked:
    """Another process's long write, as the ledger sees it."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


async def until_written(ledger: Ledger) -> None:
    await until(lambda: ledger.health().state == "ok" and not ledger.health().queued)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        # What happens in a thread sets no event of ours.
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_an_old_sqlite_takes_many_records_at_once(tmp_path: Path) -> None:
    """Before 3.32 SQLite takes 999 values in a statement; a batch must not depend on more."""
    file = LedgerFile(tmp_path / "ledger.db", "NORMAL", wait_s=1.0)
    file.write([])
    assert file._connection is not None
    file._connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    some = [make_bare_record(number) for number in range(200)]
    file.write(some)
    count = file._connection.execute("SELECT count(*) FROM records").fetchone()
    file.close()
    assert count == (200,)


async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends the gateway would wait for a chore that goes on."""
    ledger = SqliteLedger(tmp_path / "ledger.db")
    asked: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(ledger._inbox, "put_urgently", asked.append)
        rolling = asyncio.create_task(ledger.roll_up_before(0))
        await asyncio.sleep(0)
        asked[0].answer.set_result(0)
        rolling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rolling
    await ledger.close()
