"""What is recorded of past requests, read for one pass over very many of them.

A million records are read in seconds: as plain rows, in the order of time, without the objects that single
records are made of. What many share (decisions, configs) is read once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Select, and_, exists, func, or_, select, tuple_

from isthmus.core.label import Label
from isthmus.store import rows, schema
from isthmus.store.records import EVERYTHING, Cursor, Where, of_callers
from isthmus.store.schema import attempts, bodies, decisions, records

AT_ONCE = 10_000
_DECISIONS_AT_ONCE = 500
_BODIES_AT_ONCE = 500


class Tried(NamedTuple):
    """One attempt at a request; `fault` is None where it did not fail."""

    model: str
    fault: str | None


class Again(NamedTuple):
    """What is seen in a request that is looked at again: as in `core.record.Grounds`; `hidden` is its label
    with pseudonyms."""

    kinds: frozenset[str]
    blind: bool
    unlooked: tuple[str, ...]
    hidden: Label | None


class Past(NamedTuple):
    """A request as it was recorded; the fields are those of `isthmus.store.schema.records`.

    `findings` and `grounds` are JSON. `tried` are its attempts in order, where there was more than one or one
    that failed; else it is empty, and `model` is who answered at once, or None where nobody was asked.
    `again` is what is seen by other rules, where somebody has looked.
    """

    at_us: int
    id: str
    route: str
    operation: str
    key_id: str | None
    user: str | None
    model: str | None
    code: str | None
    decision: bytes | None
    findings: str | None
    grounds: str | None
    config_hash: str
    input: int | None
    output: int | None
    cache_read: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    reasoning: int | None
    input_audio: int | None
    output_audio: int | None
    usage_estimated: int | None
    usage_beyond: str | None
    nanousd: int | None
    basis: str | None
    total_ms: float
    tried: tuple[Tried, ...] = ()
    again: Again | None = None


_COLUMNS = (
    records.c.at_us,
    records.c.id,
    records.c.route,
    records.c.operation,
    records.c.key_id,
    records.c.user,
    records.c.model,
    records.c.code,
    records.c.decision,
    records.c.findings,
    records.c.grounds,
    records.c.config_hash,
    records.c.input_tokens,
    records.c.output_tokens,
    records.c.cache_read_tokens,
    records.c.cache_write_5m_tokens,
    records.c.cache_write_1h_tokens,
    records.c.reasoning_tokens,
    records.c.input_audio_tokens,
    records.c.output_audio_tokens,
    records.c.usage_estimated,
    records.c.usage_beyond,
    records.c.charge_nanousd,
    records.c.charge_basis,
    records.c.total_ms,
)


class History(Protocol):
    """What was recorded, for one pass over all of it."""

    def count(self, where: Where = EVERYTHING) -> int:
        """How many requests are meant."""
        ...

    def requests(self, where: Where = EVERYTHING) -> Iterator[list[Past]]:
        """All requests that are meant, oldest first, some at a time; new ones may be missed meanwhile."""
        ...

    def decisions(self, where: Where = EVERYTHING) -> dict[bytes, bytes]:
        """The JSON of each decision of those requests, by its hash."""
        ...

    def decision(self, digest: bytes, at_us: int) -> bytes | None:
        """The JSON of the decision of this hash that a record of that time refers to, None without one."""
        ...

    def bodies(self, some: Sequence[Past]) -> dict[str, bytes]:
        """The bodies of those of these requests whose texts were kept, by their ids."""
        ...


class SqliteHistory:
    """The past of a ledger's file, read without disturbing who writes it.

    Raises IsthmusError when used: see `isthmus.store.schema.Database.reading`.
    """

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def count(self, where: Where = EVERYTHING) -> int:
        """See `History.count`."""
        with self._database.reading() as connection:
            return connection.scalar(select(func.count()).select_from(records).where(*of_callers(where))) or 0

    def requests(self, where: Where = EVERYTHING) -> Iterator[list[Past]]:
        """See `History.requests`."""
        after: Cursor | None = None
        while True:
            # A transaction for each part: one long one would keep the write-ahead log from being emptied.
            found = self._part(where, after)
            if found:
                yield found
            if len(found) < AT_ONCE:
                return
            after = Cursor(found[-1].at_us, found[-1].id)

    def decisions(self, where: Where = EVERYTHING) -> dict[bytes, bytes]:
        """See `History.decisions`."""
        meant = (
            select(records.c.decision).where(*of_callers(where), records.c.decision.is_not(None)).distinct()
        )
        with self._database.reading() as connection:
            hashes = list(connection.scalars(meant))
            found: dict[bytes, bytes] = {}
            for start in range(0, len(hashes), _DECISIONS_AT_ONCE):
                some = hashes[start : start + _DECISIONS_AT_ONCE]
                query = select(decisions.c.hash, func.min(decisions.c.body)).group_by(decisions.c.hash)
                found |= {
                    row[0]: row[1] for row in connection.execute(query.where(decisions.c.hash.in_(some)))
                }
        return found

    def decision(self, digest: bytes, at_us: int) -> bytes | None:
        """See `History.decision`."""
        same = and_(decisions.c.day == at_us // rows.DAY_US, decisions.c.hash == digest)
        with self._database.reading() as connection:
            return connection.scalar(select(decisions.c.body).where(same))

    def bodies(self, some: Sequence[Past]) -> dict[str, bytes]:
        """See `History.bodies`."""
        found: dict[str, bytes] = {}
        with self._database.reading() as connection:
            for start in range(0, len(some), _BODIES_AT_ONCE):
                ids = [past.id for past in some[start : start + _BODIES_AT_ONCE]]
                query = select(bodies.c.record_id, bodies.c.request).where(bodies.c.record_id.in_(ids))
                for identity, body in connection.execute(query.where(bodies.c.request.is_not(None))).all():
                    found[identity] = zlib.decompress(body)
        return found

    def _part(self, where: Where, after: Cursor | None) -> list[Past]:
        place = tuple_(records.c.at_us, records.c.id)
        meant = of_callers(where, after=after)
        query = select(*_COLUMNS).where(*meant).order_by(records.c.at_us, records.c.id).limit(AT_ONCE)
        with self._database.reading() as connection:
            found = [Past._make((*row, (), None)) for row in connection.execute(query).all()]
            if not found:
                return found
            first, last = found[0], found[-1]
            span = and_(place >= (first.at_us, first.id), place <= (last.at_us, last.id), *meant)
            tried: dict[str, list[Tried]] = {}
            for attempt in connection.execute(_troubled(select(records.c.id).where(span))):
                tried.setdefault(attempt.record_id, []).append(Tried(attempt.model, attempt.fault))
        if not tried:
            return found
        return [past._replace(tried=tuple(tried[past.id])) if past.id in tried else past for past in found]


def _troubled(identities: Select[Any]) -> Select[Any]:
    """Every attempt at those of these requests that did not get their answer at once."""
    second = attempts.alias()
    one_of_many = exists().where(second.c.record_id == attempts.c.record_id, second.c.number == 2)
    return (
        select(attempts.c.record_id, attempts.c.model, attempts.c.fault)
        .where(attempts.c.record_id.in_(identities))
        .where(or_(attempts.c.outcome != "ok", attempts.c.number > 1, one_of_many))
        .order_by(attempts.c.record_id, attempts.c.number)
    )
