"""The last attempts at some models, as they are recorded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select

from isthmus.core.record import AttemptRecord
from isthmus.store import rows, schema
from isthmus.store.schema import attempts, records

AMONG = 10_000
"""So many of the last requests are looked at: no index leads to the attempts at one model."""


class Recent(NamedTuple):
    """An attempt, and what kind of request it was for."""

    operation: str
    stream: bool
    attempt: AttemptRecord


def recent_attempts(ledger: Path, models: Collection[str]) -> list[Recent]:
    """The attempts at these models among the last requests of clients, in the order of time. Blocks.

    Raises IsthmusError: see `isthmus.store.schema.Database.reading`.
    """
    last = (
        select(records.c.id, records.c.at_us, records.c.operation, records.c.stream, records.c.mirrors)
        .order_by(records.c.at_us.desc(), records.c.id.desc())
        .limit(AMONG)
        .subquery()
    )
    meant = (
        select(last.c.operation, last.c.stream, attempts)
        .join(attempts, attempts.c.record_id == last.c.id)
        .where(last.c.mirrors.is_(None), attempts.c.model.in_(models))
        .order_by(last.c.at_us, last.c.id, attempts.c.number)
    )
    with schema.Database(ledger).reading() as connection:
        found = connection.execute(meant).mappings().all()
    return [Recent(row["operation"], row["stream"], rows.attempt_of(row)) for row in found]
