"""Counters: what is drawn and spent of each budget, made durable before it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.sqlite import insert

from isthmus.store import schema
from isthmus.store.schema import counters as table

KEPT_WINDOWS = 100
"""So many windows of an account are kept."""


class Name(msgspec.Struct, frozen=True):
    """Which counter: of a budget, one subject of it, and the window that starts at `start_us`."""

    budget: str
    subject: str
    start_us: int
    end_us: int


class Count(msgspec.Struct, frozen=True):
    """How far an account is drawn, and what of that was spent when it was last told."""

    drawn: int
    spent: int


class Counters(Protocol):
    """The counters that exist. Every method blocks: call it off the event loop. Raises IsthmusError where
    nothing can be kept: then nothing may be spent."""

    def drawn(self, names: Sequence[Name]) -> list[int]:
        """How far each account is drawn; 0 for one that is not there."""

    def draw(self, counts: Mapping[Name, Count]) -> None:
        """Makes it durable how far accounts are drawn. All of them, or none."""

    def list(self, at_us: int) -> list[tuple[Name, Count]]:
        """Every counter whose window holds that time."""


class SqliteCounters:
    """The counters in the ledger's file."""

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self._database = schema.Database(path)

    def drawn(self, names: Sequence[Name]) -> list[int]:
        """See `Counters.drawn`."""
        keys = tuple_(table.c.budget, table.c.subject, table.c.start_us)
        wanted = [(name.budget, name.subject, name.start_us) for name in names]
        with self._database.reading() as connection:
            rows = connection.execute(select(table).where(keys.in_(wanted))).all()
        found = {(row.budget, row.subject, row.start_us): int(row.drawn) for row in rows}
        return [found.get(key, 0) for key in wanted]

    def draw(self, counts: Mapping[Name, Count]) -> None:
        """See `Counters.draw`."""
        values = [msgspec.structs.asdict(name) | msgspec.structs.asdict(it) for name, it in counts.items()]
        statement = insert(table)
        told = {word: statement.excluded[word] for word in ("drawn", "spent")}
        with self._database.writing() as connection:
            connection.execute(statement.on_conflict_do_update(set_=told), values)
            for name in counts:
                oldest = name.start_us - KEPT_WINDOWS * (name.end_us - name.start_us)
                mine = (table.c.budget == name.budget) & (table.c.subject == name.subject)
                connection.execute(delete(table).where(mine & (table.c.start_us < oldest)))

    def list(self, at_us: int) -> list[tuple[Name, Count]]:
        """See `Counters.list`."""
        query = select(table).where(table.c.start_us <= at_us, table.c.end_us > at_us)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.budget, table.c.subject)).all()
        return [
            (Name(row.budget, row.subject, row.start_us, row.end_us), Count(row.drawn, row.spent))
            for row in rows
        ]
