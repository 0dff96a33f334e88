"""A listing of the ledger in parts: the last part costs what the first one does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from isthmus.store import history, schema
from isthmus.store import records as listing
from isthmus.store.history import SqliteHistory
from isthmus.store.records import SqliteRecords, Where

RECORDS, AT_ONCE = 1_500, 50
LAST = RECORDS - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    schema.prepare(path)
    common = {
        "dialect": "openai",
        "operation": "chat",
        "route": "support",
        "stream": False,
        "status": 200,
        "outcome": "ok",
        "queue_ms": 0.0,
        "overhead_ms": 0.0,
        "total_ms": 1.0,
        "config_hash": "c0ffee",
    }
    columns = [column.name for column in schema.records.columns]
    rows = [{**common, "id": f"req_{at:032x}", "at_us": at // 3} for at in range(RECORDS)]
    with sqlite3.connect(path) as connection:
        connection.executemany(
            schema.insertion(schema.records), [tuple(map(row.get, columns)) for row in rows]
        )
    return path


@pytest.fixture
def steps() -> Iterator[Callable[[], int]]:
    """Tells how many hundreds of steps SQLite's machine has made."""
    made = 0

    def count() -> int:
        nonlocal made
        made += 1
        return 0

    def watch(connection: sqlite3.Connection, _: object) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(Engine, "connect", watch)
    yield lambda: made
    event.remove(Engine, "connect", watch)


def test_every_part_of_a_history_costs_the_same(
    path: Path, steps: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AT_ONCE", AT_ONCE)
    marks = [steps()]
    for _ in SqliteHistory(path).requests(Where(since_us=0)):
        marks.append(steps())
    costs = [after - before for before, after in pairwise(marks)]
    assert len(costs) == RECORDS // AT_ONCE
    assert 0 < max(costs[2:]) < 2 * costs[1]


def test_every_part_of_a_scan_costs_the_same(
    path: Path, steps: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_AT_ONCE", AT_ONCE)
    marks = [steps()]
    for number, _ in enumerate(SqliteRecords(path).scan(Where(since_us=0))):
        if number % AT_ONCE == AT_ONCE - 1:
            marks.append(steps())
    costs = [after - before for before, after in pairwise(marks)]
    assert 0 < max(costs[2:]) < 2 * costs[1]


def test_every_page_costs_the_same(path: Path, steps: Callable[[], int]) -> None:
    records = SqliteRecords(path)
    marks, cursor = [steps()], None
    while (page := records.page(Where(until_us=RECORDS), limit=AT_ONCE, after=cursor)).next is not None:
        marks.append(steps())
        cursor = page.next
    costs = [after - before for before, after in pairwise(marks)]
    assert 0 < max(costs[2:]) < 2 * costs[1]


def test_a_place_outside_of_what_is_meant_widens_nothing(path: Path) -> None:
    records = SqliteRecords(path)
    where = Where(since_us=100, until_us=110)
    beyond = listing.Cursor(10_000, "req_")
    assert [it.at_us for it in records.page(where, limit=100, after=beyond).records] == [
        at for at in range(109, 99, -1) for _ in range(3)
    ]
