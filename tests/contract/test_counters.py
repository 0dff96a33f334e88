"""What every store of counters promises."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from isthmus.accounting.budgets import Draw
from isthmus.core.errors import IsthmusError
from isthmus.store.counters import KEPT_WINDOWS, Count, Counters, Drawn, Name, Settlement, SqliteCounters
from isthmus.store.memory import MemoryCounters

HOUR_US = 3_600_000_000


@pytest.fixture(params=["memory", "sqlite"])
def counters(request: pytest.FixtureRequest, tmp_path: Path) -> Counters:
    return MemoryCounters() if request.param == "memory" else SqliteCounters(tmp_path / "new" / "ledger.db")


def name(budget: str = "usd per hour", subject: str = "", hour: int = 500_000) -> Name:
    return Name(budget, subject, hour * HOUR_US, (hour + 1) * HOUR_US)


def draw(needed: int, wished: int | None = None, amount: int = 100, mine: int = 0) -> Draw:
    return Draw(mine=mine, needed=needed, wished=wished or needed, amount=amount)


def test_what_is_drawn_is_found_again(counters: Counters) -> None:
    assert counters.draw({name(): draw(70), name(subject="a"): draw(5)}) == {
        name(): Drawn(70, 70),
        name(subject="a"): Drawn(5, 5),
    }
    wanted = [name(subject="a"), name(), name(subject="b"), name(hour=500_001), name("tokens per hour")]
    assert counters.drawn(wanted) == [5, 70, 0, 0, 0]
    assert counters.drawn([]) == []


def test_draws_of_all_processes_add_up_to_no_more_than_the_budget(counters: Counters) -> None:
    assert counters.draw({name(): draw(40, 45)}) == {name(): Drawn(45, 45)}
    assert counters.draw({name(): draw(40, 60)}) == {name(): Drawn(55, 100)}
    assert counters.draw({name(): draw(1)}) == {name(): Drawn(0, 100)}
    assert counters.drawn([name()]) == [100]


def test_nothing_is_drawn_of_any_account_where_one_has_too_little_left(counters: Counters) -> None:
    counters.draw({name(subject="a"): draw(99)})
    told = counters.draw({name(): draw(10), name(subject="a"): draw(2)})
    assert told == {name(): Drawn(0, 0), name(subject="a"): Drawn(0, 99)}
    assert counters.drawn([name(), name(subject="a")]) == [0, 99]


def test_what_a_file_put_back_from_a_copy_does_not_know_is_not_drawn_twice(counters: Counters) -> None:
    counters.draw({name(): draw(10)})
    assert counters.draw({name(): draw(10, mine=80)}) == {name(): Drawn(10, 90)}
    assert counters.draw({name(): draw(20, mine=90)}) == {name(): Drawn(0, 90)}


def test_what_is_spent_adds_up_and_what_is_returned_may_be_drawn_again(counters: Counters) -> None:
    counters.draw({name(): draw(70)})
    counters.settle({name(): Settlement(20)})
    counters.settle({name(): Settlement(10, 30), name(subject="nobody drew"): Settlement(1, 1)})
    assert counters.list(500_000 * HOUR_US) == [(name(), Count(40, 30))]
    counters.settle({name(): Settlement(0, -5)})
    assert counters.drawn([name()]) == [45]
    assert counters.draw({name(): draw(55)}) == {name(): Drawn(55, 100)}


def test_the_accounts_of_a_moment_are_listed_in_order(counters: Counters) -> None:
    counters.draw({name(subject="b"): draw(2), name(subject="a"): draw(1), name(hour=1): draw(9)})
    now_us = 500_000 * HOUR_US + 7
    assert counters.list(now_us) == [(name(subject="a"), Count(1, 0)), (name(subject="b"), Count(2, 0))]
    assert counters.list(now_us + HOUR_US) == []


def test_windows_long_past_are_dropped(counters: Counters) -> None:
    old, kept, other = name(hour=1), name(hour=2), name(subject="a", hour=1)
    counters.draw({old: draw(1), kept: draw(1), other: draw(1)})
    counters.draw({name(hour=2 + KEPT_WINDOWS): draw(1)})
    assert counters.drawn([old, kept, other]) == [0, 1, 1]


def test_large_amounts_are_exact(counters: Counters) -> None:
    counters.draw({name(): draw(2**62, amount=2**62)})
    counters.settle({name(): Settlement(2**62 - 1)})
    assert counters.list(500_000 * HOUR_US) == [(name(), Count(2**62, 2**62 - 1))]


def test_two_processes_share_one_file_and_a_broken_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one, other = SqliteCounters(path), SqliteCounters(path)
    one.draw({name(): draw(3)})
    assert other.draw({name(): draw(4)}) == {name(): Drawn(4, 7)}
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE counters")
    with pytest.raises(IsthmusError) as failed:
        one.draw({name(): draw(4)})
    assert failed.value.code == "ledger_unavailable"
