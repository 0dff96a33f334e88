"""The ledger's file: one process's exclusive pen on a SQLite database."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.record import Intent, Record
from isthmus.store import rows, schema
from isthmus.store.schema import identity

_STATEMENT_ROWS = (64, 8, 1)
_DELETE_INTENT = f"DELETE FROM {schema.intents.name} WHERE id = ?"
# What is not added up yet must not go.
_OLD_RECORDS = f"""
    SELECT id FROM {schema.records.name}
    WHERE at_us < min(?, coalesce((SELECT until_us FROM {schema.hours_until.name}), 0))
    ORDER BY at_us LIMIT ?"""
_DELETIONS = (
    f"DELETE FROM {schema.attempts.name} WHERE record_id = ?",
    f"DELETE FROM {schema.bodies.name} WHERE record_id = ?",
    f"DELETE FROM {schema.feedback.name} WHERE record_id = ?",
    f"DELETE FROM {schema.records.name} WHERE id = ?",
)
_ROLLED_UP_UNTIL = f"SELECT coalesce(max(until_us), 0) FROM {schema.hours_until.name}"
_BETWEEN = "at_us >= ? AND at_us < ?"
_LAST_OF_SOME = (
    f"SELECT at_us FROM {schema.records.name} WHERE {_BETWEEN} ORDER BY at_us LIMIT 1 OFFSET ? - 1"
)
_HOW_MANY = f"SELECT count(*) FROM {schema.records.name} WHERE {_BETWEEN}"
_ROLL_UP = f"""
    INSERT INTO {schema.hours.name} {schema.SUMS_OF_RECORDS} WHERE {_BETWEEN}
    {schema.GROUP_BY_HOUR} {schema.ADD_TO_HOURS}"""
_DELETE_DECISIONS = f"DELETE FROM {schema.decisions.name} WHERE day < ?"


class LedgerFile:
    """Writes transactions to the ledger at `path`, which no other process may write records to meanwhile.

    The right to write is a lock (flock) on a file beside the database; the kernel gives it back when the
    process dies, however it dies, so that a lock is never left behind. Keys may still be changed by other
    processes. Not thread-safe.

    A `guest` takes no such lock. It may add records beside the gateway, whose own they are not, and touches
    nothing else.

    Raises IsthmusError: `ledger_in_use` where another gateway writes to this ledger, `ledger_newer`,
    `ledger_unavailable`.
    """

    def __init__(
        self, path: Path, durability: schema.Durability, wait_s: float, *, guest: bool = False
    ) -> None:
        self._guest = guest
        self._path = path
        self._durability: schema.Durability = durability
        self._wait_s = wait_s
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._begun: set[str] = set()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise schema.unavailable(str(error)) from error
        except BaseException:
            self.close()
            raise

    def write(
        self, records: Sequence[Record], intents: Sequence[Intent] = (), forgotten: Sequence[str] = ()
    ) -> None:
        """Commits all of it, or nothing.

        Records replace their intents; `forgotten` are ids of intents to be dropped.
        A record or an intent whose id is there already is left as it is. Raises sqlite3.Error or OSError; the
        file is opened anew by the next call then.
        """
        decisions: dict[tuple[int, int], rows.Row] = {}
        record_rows = []
        for record in records:
            digest = None
            if record.decision is not None:
                # Requests that were decided alike share one object: it is encoded once.
                key = (id(record.decision), record.at_us // rows.DAY_US)
                if key not in decisions:
                    decisions[key] = rows.decision_row(record.at_us, record.decision)
                digest = decisions[key][1]
            record_rows.append(rows.record_row(record, digest))
        attempt_rows = [
            rows.attempt_row(record.id, attempt) for record in records for attempt in record.attempts
        ]
        body_rows = [
            rows.body_row(record)
            for record in records
            if record.request_body is not None or record.response_body is not None
        ]
        ended = [(record.id,) for record in records if record.id in self._begun]
        ended += [(intent_id,) for intent_id in forgotten]
        with self._transaction() as connection:
            _insert(connection, schema.intents, [rows.intent_row(intent) for intent in intents])
            _insert(connection, schema.records, record_rows)
            _insert(connection, schema.attempts, attempt_rows)
            _insert(connection, schema.decisions, list(decisions.values()))
            _insert(connection, schema.bodies, body_rows)
            connection.executemany(_DELETE_INTENT, ended)
        self._begun.update(intent.id for intent in intents)
        self._begun.difference_update(intent_id for (intent_id,) in ended)

    def probe(self) -> None:
        """Writes something and takes it back, in one transaction; raises as `write` does."""
        with self._transaction() as connection:
            connection.execute(schema.insertion(schema.intents), ("probe", 0, "", "", "", False, None, ""))
            connection.execute(_DELETE_INTENT, ("probe",))

    def close_intents(self) -> int:
        """Turns the intents that are left into records with outcome `interrupted`; returns how many.

        They are of dead processes: who holds the lock is alone.
        """
        with self._transaction() as connection:
            left = [rows.intent_of(row) for row in connection.execute(f"SELECT * FROM {schema.intents.name}")]
            records = [rows.record_row(rows.interrupted(intent), None) for intent in left]
            _insert(connection, schema.records, records)
            connection.executemany(_DELETE_INTENT, [(intent.id,) for intent in left])
        return len(left)

    def roll_up_before(self, at_us: int, limit: int) -> int:
        """Adds `limit` records from before that time to `hours`, the oldest first, or all that are left;
        returns how many. Those of one microsecond go together, so that it may be more."""
        with self._transaction() as connection:
            (since_us,) = connection.execute(_ROLLED_UP_UNTIL).fetchone()
            last = connection.execute(_LAST_OF_SOME, (since_us, at_us, limit)).fetchone()
            until_us = at_us if last is None else last[0] + 1
            (count,) = connection.execute(_HOW_MANY, (since_us, until_us)).fetchone()
            if count:
                connection.execute(_ROLL_UP, (since_us, until_us))
                connection.execute(f"DELETE FROM {schema.hours_until.name}")
                connection.execute(f"INSERT INTO {schema.hours_until.name} VALUES (?)", (until_us,))
        return int(count)

    def delete_before(self, at_us: int, limit: int) -> int:
        """Deletes at most `limit` records from before that time, the oldest first; returns how many.

        Those that are not in `hours` yet stay: see `roll_up_before`."""
        with self._transaction() as connection:
            old = connection.execute(_OLD_RECORDS, (at_us, limit)).fetchall()
            for statement in _DELETIONS:
                connection.executemany(statement, old)
            if len(old) < limit:
                connection.execute(_DELETE_DECISIONS, (at_us // rows.DAY_US,))
        return len(old)

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> sqlite3.Connection:
        if not self._guest:
            self._hold_lock()
        self._connection = schema.connect(self._path, durability=self._durability, wait_s=self._wait_s)
        self._identity = identity(self._path)
        return self._connection

    def _hold_lock(self) -> None:
        # By whatever link a gateway knows the file, its lock is the one beside the file itself.
        real = self._path.resolve()
        beside = real.with_name(real.name + ".lock")
        if self._lock is not None and beside.exists() and identity(beside) == identity(self._lock):
            return
        lock = os.open(beside, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"Another gateway writes to the ledger at {self._path}.",
                code="ledger_in_use",
                hint="Stop it, or give this gateway a ledger of its own (ledger: {path: ...}).",
            ) from error
        if self._lock is not None:
            os.close(self._lock)
        self._lock = lock

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection or self._open()
        try:
            # SQLite writes on, happily, into a file that has been deleted.
            if identity(self._path) != self._identity:
                raise FileNotFoundError(f"{self._path} was replaced by another file")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        # An open transaction is rolled back by closing.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _insert(connection: sqlite3.Connection, table: Table, some: Collection[rows.Row]) -> None:
    """Inserts the rows, many by each statement, without the columns that are NULL in all of these.

    Each step of a statement gives the interpreter's lock away and asks for it again. A step for each row made
    the event loop and the writer change places hundreds of times in a batch: more work than the writing. And
    for each NULL that is bound, Python looks for something that adapts it.
    """
    if not some:
        return
    columns = list(zip(*some, strict=True))
    # What may not be NULL is said, and refused, even where it has a default.
    given = tuple(
        value[0] is not None or not column.nullable or value.count(None) < len(some)
        for column, value in zip(table.columns, columns, strict=True)
    )
    waiting = list(zip(*compress(columns, given), strict=True))
    # SQLite before 3.32 takes no more than 999 values in a statement.
    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(waiting[0])
    for size in (size for size in _STATEMENT_ROWS if size <= most):
        while len(waiting) >= size:
            values: list[Any] = []
            for row in waiting[:size]:
                values += row
            connection.execute(schema.insertion(table, size, given), values)
            del waiting[:size]
