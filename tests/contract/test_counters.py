"""What every store of counters promises."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.store.counters import KEPT_WINDOWS, Count, Counters, Name, SqliteCounters
from isthmus.store.memory import MemoryCounters

HOUR_US = 3_600_000_000


@pytest.fixture(params=["memory", "sqlite"])
def counters(request: pytest.FixtureRequest, tmp_path: Path) -> Counters:
    return MemoryCounters() if request.param == "memory" else SqliteCounters(tmp_path / "new" / "ledger.db")


def name(budget: str = "usd per hour", subject: str = "", hour: int = 500_000) -> Name:
    return Name(budget, subject, hour * HOUR_US, (hour + 1) * HOUR_US)


def test_what_is_drawn_is_found_again(counters: Counters) -> None:
    counters.draw({name(): Count(70, 20), name(subject="a"): Count(5, 5)})
    wanted = [name(subject="a"), name(), name(subject="b"), name(hour=500_001), name("tokens per hour")]
    assert counters.drawn(wanted) == [5, 70, 0, 0, 0]
    assert counters.drawn([]) == []


def test_the_last_word_counts_also_where_it_is_less(counters: Counters) -> None:
    counters.draw({name(): Count(70, 20)})
    counters.draw({name(): Count(20, 20)})
    assert counters.drawn([name()]) == [20]


def test_the_accounts_of_a_moment_are_listed_in_order(counters: Counters) -> None:
    counters.draw({name(subject="b"): Count(2, 1), name(subject="a"): Count(1, 1), name(hour=1): Count(9, 9)})
    now_us = 500_000 * HOUR_US + 7
    assert counters.list(now_us) == [(name(subject="a"), Count(1, 1)), (name(subject="b"), Count(2, 1))]
    assert counters.list(now_us + HOUR_US) == []


def test_windows_long_past_are_dropped(counters: Counters) -> None:
    old, kept, other = name(hour=1), name(hour=2), name(subject="a", hour=1)
    counters.draw({old: Count(1, 1), kept: Count(1, 1), other: Count(1, 1)})
    counters.draw({name(hour=2 + KEPT_WINDOWS): Count(1, 1)})
    assert counters.drawn([old, kept, other]) == [0, 1, 1]


def test_large_amounts_are_exact(counters: Counters) -> None:
    counters.draw({name(): Count(2**62, 2**62 - 1)})
    assert counters.list(500_000 * HOUR_US) == [(name(), Count(2**62, 2**62 - 1))]


def test_two_processes_share_one_file_and_a_broken_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one, other = SqliteCounters(path), SqliteCounters(path)
    one.draw({name(): Count(3, 1)})
    assert other.drawn([name()]) == [3]
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE counters")
    with pytest.raises(IsthmusError) as failed:
        one.draw({name(): Count(4, 1)})
    assert failed.value.code == "ledger_unavailable"
