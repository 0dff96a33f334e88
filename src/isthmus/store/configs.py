"""Configs: each that was ever in force, by the hash that stands on its records.

A record names the config that it was decided by. Kept beside the records, that config can be asked a year
later what a model's zone was, or for which kinds of findings anybody looked. There are few, and they are
kept for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from isthmus.store import schema
from isthmus.store.schema import configs as table


class Configs(Protocol):
    """The configs that were in force. Every method blocks: call it off the event loop."""

    def keep(self, hash: str, at_us: int, body: bytes) -> None:
        """Keeps a config, in force since `at_us`; one that is there already is left as it is."""

    def all(self) -> Mapping[str, bytes]:
        """Each config that is kept, by its hash, the oldest first."""


class SqliteConfigs:
    """The configs in the ledger's file. Raises IsthmusError: see `isthmus.store.schema.Database`."""

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def keep(self, hash: str, at_us: int, body: bytes) -> None:
        """See `Configs.keep`."""
        kept = insert(table).on_conflict_do_nothing()
        with self._database.writing() as connection:
            connection.execute(kept, {"hash": hash, "since_us": at_us, "body": body})

    def all(self) -> Mapping[str, bytes]:
        """See `Configs.all`."""
        query = select(table.c.hash, table.c.body).order_by(table.c.since_us, table.c.hash)
        with self._database.reading() as connection:
            return {row.hash: row.body for row in connection.execute(query)}
