"""What is asked of a file again and again is asked of the file that stands there now."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.contract.test_rollouts import turn

from isthmus.core.errors import IsthmusError
from isthmus.store import schema
from isthmus.store.keys import KeyRing, SqliteKeys
from isthmus.store.rollouts import SqliteRollouts
from isthmus.store.schema import Database

KEYS = "SELECT count(*) FROM keys"


def refused_code(database: Database, query: str = KEYS) -> str:
    with pytest.raises(IsthmusError) as refused:
        database.mark(query)
    return refused.value.code or ""


def test_a_mark_follows_what_others_commit(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    keys, database = SqliteKeys(path), Database(path)
    before = database.mark(KEYS)
    assert database.mark(KEYS) == before
    keys.create("a", (), 1)
    after = database.mark(KEYS)
    assert (before.number, after.number) == (0, 1)
    assert before.file == after.file
    database.close()
    assert database.mark(KEYS) == after, "it opens again"


def test_a_mark_is_of_the_file_that_stands_there(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.db", tmp_path / "other.db"
    SqliteKeys(path).create("a", (), 1)
    for name in ("b", "c"):
        SqliteKeys(other).create(name, (), 1)
    database = Database(path)
    before = database.mark(KEYS)
    other.rename(path)
    after = database.mark(KEYS)
    assert (before.number, after.number) == (1, 2)
    assert before != after
    path.unlink()
    assert refused_code(database) == "ledger_missing"
    SqliteKeys(path)
    assert database.mark(KEYS).number == 0


def test_what_cannot_be_asked_is_told_and_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteKeys(path)
    database = Database(path)
    assert refused_code(database, "SELECT nothing") == "ledger_unavailable"
    assert database.mark(KEYS).number == 0
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO schema_version VALUES (?, 0)", (schema.VERSION + 1,))
    database.close()
    assert refused_code(database) == "ledger_newer"


def test_keys_of_another_file_are_other_keys_though_as_many_changes_were_made(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.db", tmp_path / "other.db"
    keys = SqliteKeys(path)
    old = keys.create("a", (), 1)
    new = SqliteKeys(other).create("a", (), 1)
    ring = KeyRing(keys)
    other.rename(path)
    assert ring.refresh()
    assert ring.verify(new.secret.encode(), 2).id == new.key.id
    with pytest.raises(IsthmusError):
        ring.verify(old.secret.encode(), 2)


def test_rollouts_are_read_again_after_the_file_was_missing(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.db", tmp_path / "other.db"
    for file, model in ((path, "a"), (other, "b")):
        schema.prepare(file)
        SqliteRollouts(file).append(turn(model), 0)
    rollouts = SqliteRollouts(path)
    assert [it.model for it in rollouts.current()] == ["a"]
    assert rollouts.current() is rollouts.current(), "it is known"
    content = other.read_bytes()
    path.unlink()
    with pytest.raises(IsthmusError):
        rollouts.current()
    path.write_bytes(content)
    assert [it.model for it in rollouts.current()] == ["b"]


def test_a_ring_holds_nothing_once_its_keys_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    keys = SqliteKeys(path)
    ring = KeyRing(keys)
    keys.create("a", (), 1)
    assert ring.refresh()
    assert not ring.refresh()
    assert (tmp_path / "ledger.db-wal").exists()
    keys.close()
    assert not (tmp_path / "ledger.db-wal").exists(), (
        "whoever is the last to leave puts everything in its place"
    )
