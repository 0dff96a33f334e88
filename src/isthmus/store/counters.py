"""Counters: what is drawn and spent of each budget, made durable before it counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert

from isthmus.accounting.budgets import Draw
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
    """How far all processes have drawn an account, and what of that was spent when it was last told."""

    drawn: int
    spent: int


class Drawn(NamedTuple):
    """What was granted to who drew, and how far all have drawn the account since."""

    granted: int
    drawn: int


class Settlement(NamedTuple):
    """What a process has spent since it last told, and what it gives back of what it has drawn."""

    spent: int
    returned: int = 0


class Counters(Protocol):
    """The counters that exist, which any number of processes share. Every method blocks: call it off the
    event loop. Raises IsthmusError where nothing can be kept: then nothing may be spent."""

    def drawn(self, names: Sequence[Name]) -> list[int]:
        """How far each account is drawn; 0 for one that is not there."""

    def draw(self, draws: Mapping[Name, Draw]) -> dict[Name, Drawn]:
        """Draws all of it and makes that durable, in one step that no other process can come between; grants
        nothing of any account where one of them has not what is needed."""

    def settle(self, settlements: Mapping[Name, Settlement]) -> None:
        """Adds what was spent, and takes back what is returned. All of it, or nothing."""

    def list(self, at_us: int) -> list[tuple[Name, Count]]:
        """Every counter whose window holds that time."""


def granted(draws: Mapping[Name, Draw], drawn: Mapping[Name, int]) -> dict[Name, Drawn]:
    """What these draws get where accounts are drawn so far: all of them something, or none. Pure."""
    # A file that was put back from a copy may not know what who asks has drawn since.
    before = {name: max(drawn.get(name, 0), draw.mine) for name, draw in draws.items()}
    grants = {name: draw.granted(before[name]) for name, draw in draws.items()}
    if not all(grants.values()):
        grants = dict.fromkeys(draws, 0)
    return {name: Drawn(grants[name], before[name] + grants[name]) for name in draws}


_INSERT = insert(table)
_DRAW = _INSERT.on_conflict_do_update(set_={"drawn": _INSERT.excluded.drawn})
_SETTLE = (
    update(table)
    .where(
        table.c.budget == bindparam("of_budget"),
        table.c.subject == bindparam("of_subject"),
        table.c.start_us == bindparam("from_us"),
    )
    .values(spent=table.c.spent + bindparam("more"), drawn=func.max(0, table.c.drawn - bindparam("less")))
)
_FORGET = delete(table).where(
    table.c.budget == bindparam("of_budget"),
    table.c.subject == bindparam("of_subject"),
    table.c.start_us < bindparam("before_us"),
)


def _long_past(name: Name) -> dict[str, str | int]:
    oldest = name.start_us - KEPT_WINDOWS * (name.end_us - name.start_us)
    return {"of_budget": name.budget, "of_subject": name.subject, "before_us": oldest}


def _which(name: Name) -> dict[str, str | int]:
    return {"of_budget": name.budget, "of_subject": name.subject, "from_us": name.start_us}


def _drawn(connection: Connection, names: Iterable[Name]) -> dict[Name, int]:
    """How far those accounts are drawn that are there."""
    keys = tuple_(table.c.budget, table.c.subject, table.c.start_us)
    wanted = {(name.budget, name.subject, name.start_us): name for name in names}
    rows = connection.execute(select(table).where(keys.in_(wanted))).all()
    return {wanted[row.budget, row.subject, row.start_us]: int(row.drawn) for row in rows}


class SqliteCounters:
    """The counters in the ledger's file."""

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self._database = schema.Database(path)

    def drawn(self, names: Sequence[Name]) -> list[int]:
        """See `Counters.drawn`."""
        with self._database.reading() as connection:
            found = _drawn(connection, names)
        return [found.get(name, 0) for name in names]

    def draw(self, draws: Mapping[Name, Draw]) -> dict[Name, Drawn]:
        """See `Counters.draw`."""
        with self._database.writing() as connection:
            told = granted(draws, _drawn(connection, draws))
            for name, it in told.items():
                if it.granted:
                    values = msgspec.structs.asdict(name) | {"drawn": it.drawn, "spent": 0}
                    connection.execute(_DRAW, values)
                    connection.execute(_FORGET, _long_past(name))
        return told

    def settle(self, settlements: Mapping[Name, Settlement]) -> None:
        """See `Counters.settle`."""
        values = [{**_which(name), "more": it.spent, "less": it.returned} for name, it in settlements.items()]
        with self._database.writing() as connection:
            connection.execute(_SETTLE, values)

    def list(self, at_us: int) -> list[tuple[Name, Count]]:
        """See `Counters.list`."""
        query = select(table).where(table.c.start_us <= at_us, table.c.end_us > at_us)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.budget, table.c.subject)).all()
        return [
            (Name(row.budget, row.subject, row.start_us, row.end_us), Count(row.drawn, row.spent))
            for row in rows
        ]
