"""Reading what was recorded, while the gateway writes or after it has died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from sqlalchemy import ColumnElement, Select, and_, literal, or_, select, tuple_
from sqlalchemy.engine import Connection, RowMapping

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.record import Outcome, Record
from isthmus.store import rows, schema
from isthmus.store.schema import attempts, bodies, decisions, records

_AT_ONCE = 500
_SHOWN_CANDIDATES = 5


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are meant; None leaves that condition out.

    `since_us` is inclusive and `until_us` exclusive: wall-clock microseconds since the epoch.
    """

    since_us: int | None = None
    until_us: int | None = None
    route: str | None = None
    model: str | None = None
    key_id: str | None = None
    outcome: Outcome | None = None

    def holds(self, record: Record) -> bool:
        """True where the record is meant."""
        return (
            (self.since_us is None or record.at_us >= self.since_us)
            and (self.until_us is None or record.at_us < self.until_us)
            and (self.route is None or record.route == self.route)
            and (self.model is None or record.model == self.model)
            and (self.key_id is None or record.key_id == self.key_id)
            and (self.outcome is None or record.outcome == self.outcome)
        )


EVERYTHING = Where()
"""No condition."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in the listing: the record before it. Records are ordered by their time, then by their id."""

    at_us: int
    id: str

    def __str__(self) -> str:
        return f"{self.at_us}.{self.id}"


class Page(msgspec.Struct, frozen=True):
    """A part of the listing; `next` is where the rest begins, None at the end."""

    records: tuple[Record, ...]
    next: Cursor | None


class Records(Protocol):
    """The records that are there. Every method blocks: call it off the event loop."""

    def page(self, where: Where = EVERYTHING, limit: int = 50, after: Cursor | None = None) -> Page:
        """The newest records that are meant, without bodies; `after` the end of an earlier page."""

    def find(self, prefix: str) -> Record:
        """The record whose id begins with `prefix`, with its bodies.

        Raises IsthmusError: `unknown_record` for none, `ambiguous_record` for several.
        """

    def scan(self, where: Where = EVERYTHING, *, bodies: bool = False) -> Iterator[Record]:
        """All records that are meant, oldest first, in flat memory; new ones may be missed meanwhile."""


class SqliteRecords:
    """The records of a ledger's file, read without disturbing who writes it.

    Raises IsthmusError when used: see `isthmus.store.schema.Database.reading`.
    """

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def page(self, where: Where = EVERYTHING, limit: int = 50, after: Cursor | None = None) -> Page:
        """See `Records.page`."""
        query = _meant(where, before=after).order_by(records.c.at_us.desc(), records.c.id.desc())
        with self._database.reading() as connection:
            found = _read(connection, query.limit(limit + 1), with_bodies=False)
        return page_of(found, limit)

    def find(self, prefix: str) -> Record:
        """See `Records.find`."""
        # A range, not LIKE: it can use the index. Ids are ASCII, so that "~" is above whatever may follow.
        alike = and_(records.c.id >= prefix, records.c.id < prefix + "~")
        with self._database.reading() as connection:
            candidates = connection.scalars(
                select(records.c.id).where(alike).order_by(records.c.id).limit(_SHOWN_CANDIDATES)
            ).all()
            identity = the_one(prefix, candidates)
            return _read(connection, select(records).where(records.c.id == identity), with_bodies=True)[0]

    def scan(self, where: Where = EVERYTHING, *, bodies: bool = False) -> Iterator[Record]:
        """See `Records.scan`."""
        after: Cursor | None = None
        while True:
            # A transaction for each part: one long one would keep the write-ahead log from being emptied.
            part = _meant(where, after=after).order_by(records.c.at_us, records.c.id)
            with self._database.reading() as connection:
                found = _read(connection, part.limit(_AT_ONCE), with_bodies=bodies)
            yield from found
            if len(found) < _AT_ONCE:
                return
            after = cursor_of(found[-1])


def parse_cursor(text: str) -> Cursor:
    """The cursor of its text. Raises IsthmusError (`bad_cursor`)."""
    at_us, dot, identity = text.partition(".")
    if not (dot and identity and at_us.isascii() and at_us.isdigit()):
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "This is no place in the listing of records.",
            code="bad_cursor",
            hint="Give the cursor that came with the page before.",
        )
    return Cursor(int(at_us), identity)


def cursor_of(record: Record) -> Cursor:
    """The place right after the record."""
    return Cursor(record.at_us, record.id)


def page_of(found: Sequence[Record], limit: int) -> Page:
    """The page of what was found when one record more than `limit` was asked for."""
    shown = tuple(found[:limit])
    return Page(shown, cursor_of(shown[-1]) if shown and len(found) > limit else None)


def the_one(prefix: str, candidates: Sequence[str]) -> str:
    """The only candidate. Raises IsthmusError: `unknown_record` for none, `ambiguous_record` for several."""
    if prefix in candidates:
        return prefix
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"There is no record whose id begins with {prefix!r}.",
            code="unknown_record",
            hint="List the records to see their ids.",
        )
    shown = ", ".join(candidates[:_SHOWN_CANDIDATES])
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        f"Several records have an id that begins with {prefix!r}: {shown} and perhaps more.",
        code="ambiguous_record",
        hint="Give more digits of the id.",
    )


def conditions(where: Where) -> list[ColumnElement[bool]]:
    """What must hold of a row of `records` that is meant."""
    column = records.c
    wanted: list[ColumnElement[bool]] = []
    if where.since_us is not None:
        wanted.append(column.at_us >= where.since_us)
    if where.until_us is not None:
        wanted.append(column.at_us < where.until_us)
    for name in ("route", "model", "key_id", "outcome"):
        value = getattr(where, name)
        if value is not None:
            wanted.append(column[name] == value)
    if where.outcome not in (None, "ok"):
        # Implied, but said: it lets the planner use the index of failures.
        wanted.append(column.outcome != "ok")
    return wanted


def of_callers(where: Where, *, after: Cursor | None = None) -> list[ColumnElement[bool]]:
    """What must hold of a row of `records` that is meant and was somebody's request, and no copy of one."""
    return [*_beyond(where, after=after), records.c.mirrors.is_(None)]


def _meant(where: Where, *, after: Cursor | None = None, before: Cursor | None = None) -> Select[Any]:
    return select(records).where(*_beyond(where, after=after, before=before))


def _beyond(
    where: Where, *, after: Cursor | None = None, before: Cursor | None = None
) -> list[ColumnElement[bool]]:
    """The conditions, for the rest of a listing.

    The bounds of time are moved along: by those SQLite finds the first row in the index, and it would read
    all rows that were listed already to come to the place.
    """
    place = tuple_(records.c.at_us, records.c.id)
    if after is not None:
        since = after.at_us if where.since_us is None else max(where.since_us, after.at_us)
        rest = msgspec.structs.replace(where, since_us=since)
        return [*conditions(rest), place > tuple_(literal(after.at_us), literal(after.id))]
    if before is not None:
        until = before.at_us + 1 if where.until_us is None else min(where.until_us, before.at_us + 1)
        rest = msgspec.structs.replace(where, until_us=until)
        return [*conditions(rest), place < tuple_(literal(before.at_us), literal(before.id))]
    return conditions(where)


def _read(connection: Connection, query: Select[Any], *, with_bodies: bool) -> list[Record]:
    """The records of a query on `records`, with what belongs to them."""
    found = connection.execute(query).mappings().all()
    ids = [row["id"] for row in found]
    tried: dict[str, list[RowMapping]] = {}
    for row in connection.execute(
        select(attempts)
        .where(attempts.c.record_id.in_(ids))
        .order_by(attempts.c.record_id, attempts.c.number)
    ).mappings():
        tried.setdefault(row["record_id"], []).append(row)
    decided = _decisions(connection, {(row["at_us"] // rows.DAY_US, row["decision"]) for row in found})
    kept: dict[str, Any] = {}
    if with_bodies:
        kept = {
            row["record_id"]: row
            for row in connection.execute(select(bodies).where(bodies.c.record_id.in_(ids))).mappings()
        }
    return [
        rows.record_of(row, tried.get(row["id"], ()), decided.get(row["decision"]), kept.get(row["id"]))
        for row in found
    ]


def _decisions(connection: Connection, wanted: set[tuple[int, bytes | None]]) -> dict[bytes | None, bytes]:
    pairs = [
        and_(decisions.c.day == day, decisions.c.hash == digest)
        for day, digest in wanted
        if digest is not None
    ]
    if not pairs:
        return {}
    query = select(decisions.c.hash, decisions.c.body).where(or_(*pairs))
    return {row.hash: row.body for row in connection.execute(query)}
