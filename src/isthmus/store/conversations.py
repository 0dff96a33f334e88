"""What is known of conversations that go on: how each is labelled, and who answered it last.

They are kept by digests, which are keyed by a secret that lies beside the ledger and not in it: whoever has
the ledger alone cannot ask it whether somebody said something. See `docs/design/0025`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from isthmus.core.decision import Decision, Previous
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Label
from isthmus.store import schema
from isthmus.store.schema import conversations as table

SECRET_BYTES = 32

_AT_ONCE = 500
_to_json = msgspec.json.Encoder(order="deterministic").encode


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a conversation: its label, with pseudonyms where it has any, and who answered last.

    `perimeter` is the hash of the rules that said so, empty where several did.
    """

    label: Label
    hidden: Label | None = None
    previous: Previous | None = None
    perimeter: str = ""

    @classmethod
    def of(cls, decision: Decision, answered_by: str | None = None) -> Standing:
        """How it stands when this was decided, or has been answered."""
        previous = Previous(model=answered_by, arms=decision.arms) if answered_by else decision.previous
        return cls(decision.label, decision.hidden_label, previous, decision.perimeter)

    def then(self, later: Standing) -> Standing:
        """How it stands after both: labels only rise, and the last answer counts."""
        return Standing(
            self.label.join(later.label),
            None
            if self.hidden is None and later.hidden is None
            else (self.hidden or self.label).join(later.hidden or later.label),
            later.previous or self.previous,
            self.perimeter if self.perimeter == later.perimeter else "",
        )


class Standings(Protocol):
    """What is known of conversations. Every method blocks: call it off the event loop.

    Raises IsthmusError (`ledger_unavailable`) where the file cannot be used."""

    def find(self, digests: Collection[bytes], since_us: int) -> dict[bytes, Standing]:
        """What is known by these digests, and was kept at that time or later."""

    def keep(self, standings: Mapping[bytes, Standing], at_us: int) -> None:
        """Adds to what is known by each digest: see `Standing.then`. All of them, or none."""

    def forget(self, before_us: int, most: int) -> int:
        """Forgets what was last kept before that time, and of more than `most` those that rested longest;
        returns how many."""


class SqliteStandings:
    """Conversations in the ledger's file, which is made if it is not there.

    One thread at a time may `find`.
    """

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self._path = path
        self._database = schema.Database(path)
        self._reader: _Reader | None = None

    def find(self, digests: Collection[bytes], since_us: int) -> dict[bytes, Standing]:
        """See `Standings.find`. Requests wait for it, so that its connection stays open."""
        try:
            # A file that was replaced is another one.
            if self._reader is None or self._reader.identity != _identity(self._path):
                self._close_reader()
                self._reader = _Reader(schema.connect_reader(self._path), _identity(self._path))
            places = ", ".join("?" * len(digests))
            query = f"SELECT digest, body FROM {table.name} WHERE digest IN ({places}) AND at_us >= ?"
            return _standings(self._reader.connection.execute(query, (*digests, since_us)).fetchall())
        except (sqlite3.Error, OSError, IsthmusError) as error:
            self._close_reader()
            if isinstance(error, IsthmusError):
                raise
            raise schema.unavailable(str(error)) from error

    def keep(self, standings: Mapping[bytes, Standing], at_us: int) -> None:
        """See `Standings.keep`."""
        statement = insert(table)
        new = {word: statement.excluded[word] for word in ("at_us", "body")}
        digests = list(standings)
        with self._database.writing() as connection:
            for begin in range(0, len(digests), _AT_ONCE):
                some = digests[begin : begin + _AT_ONCE]
                query = select(table.c.digest, table.c.body).where(table.c.digest.in_(some))
                known = _standings(connection.execute(query))
                joined = {it: known[it].then(standings[it]) if it in known else standings[it] for it in some}
                values = [
                    {"digest": it, "at_us": at_us, "body": _to_json(standing)}
                    for it, standing in joined.items()
                ]
                connection.execute(statement.on_conflict_do_update(set_=new), values)

    def forget(self, before_us: int, most: int) -> int:
        """See `Standings.forget`."""
        kept = select(table.c.digest).order_by(table.c.at_us.desc(), table.c.digest).limit(-1).offset(most)
        with self._database.writing() as connection:
            old = connection.execute(delete(table).where(table.c.at_us < before_us)).rowcount
            return old + connection.execute(delete(table).where(table.c.digest.in_(kept))).rowcount

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.connection.close()


class _Reader(NamedTuple):
    connection: sqlite3.Connection
    identity: tuple[int, int]


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _standings(rows: Iterable[Any]) -> dict[bytes, Standing]:
    try:
        return {digest: msgspec.json.decode(body, type=Standing) for digest, body in rows}
    except msgspec.DecodeError:
        raise schema.unavailable("what it knows of a conversation is not what was written") from None


def secret_beside(ledger: Path) -> bytes:
    """The secret by which this ledger's conversations are known; made where there is none.

    Raises IsthmusError (`ledger_unavailable`, `bad_secret`).
    """
    path = ledger.with_name(ledger.name + ".secret")
    try:
        with suppress(FileNotFoundError):
            return _checked(path, path.read_bytes())
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
        return _checked(path, path.read_bytes())
    except OSError as error:
        raise schema.unavailable(f"{path}: {error.strerror or 'unknown error'}") from error


def _make(path: Path) -> None:
    """Make the secret, whole or not at all; whoever was faster has made it for all."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _checked(path: Path, content: bytes) -> bytes:
    if len(content) == SECRET_BYTES:
        return content
    raise IsthmusError(
        Fault.INTERNAL,
        f"{path} does not hold the {SECRET_BYTES} bytes that were written there.",
        code="bad_secret",
        hint="Bring it back from a backup; without it, conversations that go on are taken for new ones. "
        "To accept that, remove it.",
    )
