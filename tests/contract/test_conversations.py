"""What every store of conversations promises."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from isthmus.core.decision import Previous
from isthmus.core.errors import IsthmusError
from isthmus.core.label import Label
from isthmus.core.promises import Promises
from isthmus.store.conversations import SqliteStandings, Standing, Standings
from isthmus.store.memory import MemoryStandings

LOW = Standing(Label("internal"), perimeter="rules")
HIGH = Standing(
    Label("confidential", frozenset({"pii.email"}), frozenset({"eu"}), Promises()),
    hidden=Label("internal", zones=frozenset()),
    previous=Previous(model="m", arms=("left", "right")),
    perimeter="rules",
)


@pytest.fixture(params=["memory", "sqlite"])
def standings(request: pytest.FixtureRequest, tmp_path: Path) -> Standings:
    return MemoryStandings() if request.param == "memory" else SqliteStandings(tmp_path / "new" / "ledger.db")


def test_what_is_kept_is_found_again_as_it_was(standings: Standings) -> None:
    standings.keep({b"a": HIGH, b"b": LOW}, 5)
    assert standings.find([b"a", b"b", b"c"], 5) == {b"a": HIGH, b"b": LOW}
    assert standings.find([b"a"], 6) == {}
    assert standings.find([], 0) == {}
    standings.keep({}, 5)


def test_a_label_only_rises_and_the_last_answer_counts(standings: Standings) -> None:
    standings.keep({b"a": HIGH}, 5)
    standings.keep({b"a": Standing(Label("public"), previous=Previous(model="n"), perimeter="others")}, 6)
    after = Standing(HIGH.label, Label("internal", zones=frozenset()), Previous(model="n"))
    assert standings.find([b"a"], 6) == {b"a": after}
    standings.keep({b"a": LOW}, 7)
    assert standings.find([b"a"], 7)[b"a"].previous == Previous(model="n")


def test_without_pseudonyms_the_label_itself_counts_for_them(standings: Standings) -> None:
    standings.keep({b"a": HIGH}, 5)
    standings.keep({b"a": Standing(Label("restricted"))}, 6)
    hidden = standings.find([b"a"], 0)[b"a"].hidden
    assert hidden is not None
    assert hidden.level == "restricted"


def test_what_is_old_and_what_is_too_many_is_forgotten_the_longest_at_rest_first(
    standings: Standings,
) -> None:
    for at_us, digest in enumerate((b"a", b"b", b"c", b"d", b"a")):
        standings.keep({digest: LOW}, at_us)
    assert standings.forget(2, 2) == 2
    assert set(standings.find([b"a", b"b", b"c", b"d"], 0)) == {b"a", b"d"}
    assert standings.forget(0, 2) == 0


def test_very_many_are_kept_at_once(standings: Standings) -> None:
    many = {at.to_bytes(16): LOW for at in range(1_201)}
    standings.keep(many, 1)
    standings.keep(many, 2)
    assert standings.forget(0, 1_000) == 201


def test_processes_share_one_file_and_a_broken_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one, other = SqliteStandings(path), SqliteStandings(path)
    one.keep({b"a": HIGH}, 1)
    other.keep({b"a": LOW}, 1)
    assert one.find([b"a"], 0)[b"a"] == HIGH
    aside = path.rename(tmp_path / "aside.db")
    with pytest.raises(IsthmusError) as gone:
        one.find([b"a"], 0)
    assert gone.value.code == "ledger_unavailable"
    SqliteStandings(path).keep({b"b": LOW}, 1)
    assert one.find([b"a", b"b"], 0) == {b"b": LOW}, "the file that is there counts"
    aside.rename(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE conversations SET body = 'x'")
    for use in (lambda: one.find([b"a"], 0), lambda: one.keep({b"a": LOW}, 2)):
        with pytest.raises(IsthmusError) as failed:
            use()
        assert failed.value.code == "ledger_unavailable"
