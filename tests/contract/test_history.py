"""The past of a ledger, read for one pass."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.store import history
from isthmus.store.history import SqliteHistory, Tried
from isthmus.store.ledger_file import LedgerFile
from isthmus.store.records import Where

from .test_ledger import DAY_US, DECISION, START_US, make_bare_record, make_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger = LedgerFile(tmp_path / "ledger.db", "NORMAL", 5.0)
    once = msgspec.structs.replace(make_record(3), attempts=make_record(3).attempts[1:])
    alone = msgspec.structs.replace(once.attempts[0], number=1)
    ledger.write(
        [
            make_record(1, bodies=(b"question", None)),
            make_bare_record(2),
            msgspec.structs.replace(once, attempts=(alone,)),
            make_record(4, at_us=START_US + DAY_US, route="review"),
        ]
    )
    ledger.close()
    return tmp_path / "ledger.db"


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
def test_every_request_comes_once_in_the_order_of_time(
    path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AT_ONCE", at_once)
    found = [past for some in SqliteHistory(path).requests() for past in some]
    assert [past.id for past in found] == [make_record(number).id for number in (1, 2, 3, 4)]
    assert [past.tried for past in found] == [
        (Tried("big", "overloaded"), Tried("small", None)),
        (),
        (),
        (Tried("big", "overloaded"), Tried("small", None)),
    ]
    first, bare = found[0], found[1]
    assert (first.model, first.input, first.output, first.nanousd, first.basis) == (
        "small",
        100,
        20,
        1235,
        "config",
    )
    assert (first.total_ms, first.config_hash, first.user) == (30.0, "c0ffee", "ann")
    assert msgspec.json.decode(first.findings or "") == {"pii.email": 2, "pii.name": 1}
    assert (bare.decision, bare.findings, bare.grounds, bare.input, bare.basis) == (None,) * 5


def test_conditions_hold(path: Path) -> None:
    reader = SqliteHistory(path)
    where = Where(since_us=START_US + DAY_US)
    assert [past.route for some in reader.requests(where) for past in some] == ["review"]
    assert (reader.count(where), reader.count()) == (1, 4)


def test_shared_decisions_are_read_once(path: Path) -> None:
    reader = SqliteHistory(path)
    [(digest, body)] = reader.decisions().items()
    assert msgspec.json.decode(body, type=type(DECISION)) == DECISION
    assert {past.decision for some in reader.requests() for past in some} == {digest, None}
    assert reader.decisions(Where(route="nothing")) == {}


def test_a_decision_is_found_by_the_record_that_refers_to_it(path: Path) -> None:
    reader = SqliteHistory(path)
    found = next(past for some in reader.requests() for past in some if past.decision is not None)
    assert found.decision is not None
    body = reader.decision(found.decision, found.at_us)
    assert body is not None
    assert msgspec.json.decode(body, type=type(DECISION)) == DECISION
    assert reader.decision(found.decision, found.at_us + 9 * DAY_US) is None
    assert reader.decision(b"nothing", found.at_us) is None


def test_bodies_are_read_where_they_were_kept(path: Path) -> None:
    reader = SqliteHistory(path)
    some = [past for part in reader.requests() for past in part]
    assert reader.bodies(some) == {make_record(1).id: b"question"}


def test_a_missing_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(IsthmusError) as refused:
        list(SqliteHistory(tmp_path / "none.db").requests())
    assert refused.value.code == "ledger_missing"
