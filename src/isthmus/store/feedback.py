"""Feedback on what is recorded: it stands beside its record, and goes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection, RowMapping

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.feedback import Feedback
from isthmus.store import schema
from isthmus.store.schema import feedback as table
from isthmus.store.schema import records

MOST_PER_RECORD = 32
"""So often may one answer be judged: nobody can fill the disk with opinions on it."""

_IDS_AT_ONCE = 500
_to_json = msgspec.json.Encoder(order="deterministic").encode
_to_metadata = msgspec.json.Decoder(dict[str, str]).decode

Allowed: TypeAlias = Callable[[str | None], bool]
"""Whether somebody may judge the requests of a key, which is named by its id, or of no key."""


def everybody(_: str | None) -> bool:
    """Any request may be judged: by who operates the gateway."""
    return True


class Feedbacks(Protocol):
    """The feedback that was given. Every method blocks: call it off the event loop."""

    def add(self, feedback: Feedback, allowed: Allowed = everybody) -> None:
        """Keep feedback on a record that is there: committed, so that the process may die.

        Raises IsthmusError: `unknown_request` where no record has that id, or one of a key that is not
        `allowed`; `too_much_feedback` where there are `MOST_PER_RECORD` already; `ledger_unavailable`.
        """

    def of(self, record_ids: Sequence[str]) -> dict[str, list[Feedback]]:
        """The feedback on each of these records that has any, the oldest first."""

    def list(self, since_us: int | None = None, limit: int = 50) -> list[Feedback]:
        """The newest feedback, no older than that; the newest first."""


class SqliteFeedback:
    """The feedback in the ledger's file.

    It is written beside the gateway's own writing of records, in short transactions.
    """

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def add(self, feedback: Feedback, allowed: Allowed = everybody) -> None:
        """See `Feedbacks.add`."""
        # One transaction: a record that is being deleted takes its feedback along, or does not get any.
        with self._database.writing() as connection:
            _require_record(connection, feedback.record_id, allowed)
            mine = table.c.record_id == feedback.record_id
            require_room(connection.scalar(select(func.count()).where(mine)) or 0)
            connection.execute(insert(table).values(_values(feedback)))

    def of(self, record_ids: Sequence[str]) -> dict[str, list[Feedback]]:
        """See `Feedbacks.of`."""
        found: dict[str, list[Feedback]] = {}
        query = select(table).order_by(table.c.at_us, table.c.id)
        with self._database.reading() as connection:
            for start in range(0, len(record_ids), _IDS_AT_ONCE):
                some = query.where(table.c.record_id.in_(record_ids[start : start + _IDS_AT_ONCE]))
                for row in connection.execute(some).mappings():
                    found.setdefault(row["record_id"], []).append(_feedback_of(row))
        return found

    def list(self, since_us: int | None = None, limit: int = 50) -> list[Feedback]:
        """See `Feedbacks.list`."""
        query = select(table).order_by(table.c.at_us.desc(), table.c.id.desc()).limit(limit)
        if since_us is not None:
            query = query.where(table.c.at_us >= since_us)
        with self._database.reading() as connection:
            return [_feedback_of(row) for row in connection.execute(query).mappings()]


def require_room(there_are: int) -> None:
    """Raises IsthmusError (`too_much_feedback`) where a record has as much as it may have."""
    if there_are >= MOST_PER_RECORD:
        raise IsthmusError(
            Fault.RATE_LIMITED,
            f"There is feedback on this request {MOST_PER_RECORD} times already.",
            code="too_much_feedback",
            hint="Of each kind the last one counts.",
        )


def unknown_request(record_id: str) -> IsthmusError:
    """The error (`unknown_request`) for a record that is not there, or not for whoever asks."""
    return IsthmusError(
        Fault.NOT_FOUND,
        f"There is no request {record_id[:40]!r} that you could give feedback on.",
        code="unknown_request",
        hint="Send the x-request-id of a finished answer to the same key; it may also be too old to be kept.",
        param="request_id",
    )


def _require_record(connection: Connection, record_id: str, allowed: Allowed) -> None:
    row = connection.execute(select(records.c.key_id).where(records.c.id == record_id)).first()
    if row is None or not allowed(row.key_id):
        raise unknown_request(record_id)


def _values(feedback: Feedback) -> dict[str, object]:
    metadata = _to_json(feedback.metadata).decode() if feedback.metadata else None
    return {**msgspec.structs.asdict(feedback), "metadata": metadata}


def _feedback_of(row: RowMapping) -> Feedback:
    values = {name: row[name] for name in Feedback.__struct_fields__}
    metadata = {} if row["metadata"] is None else _to_metadata(row["metadata"])
    return Feedback(**{**values, "metadata": metadata})
