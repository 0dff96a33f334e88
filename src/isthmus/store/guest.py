"""Records of requests that another process than the gateway has made, in the gateway's own ledger."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from isthmus.core.errors import IsthmusError
from isthmus.core.record import Intent, Record
from isthmus.store.ledger import Health
from isthmus.store.ledger_file import LedgerFile
from isthmus.store.schema import unavailable

log = logging.getLogger("isthmus.ledger")

WAIT_S = 30.0
"""So long a guest waits for the gateway's own writing: nobody waits for its answers as they do there."""


class GuestLedger:
    """A ledger that adds to the file of a gateway, whether that runs or not; each record is committed by
    itself.

    It knows no intents: at its next start, the gateway would take them for requests of its own that died.
    `listen` is told of every record, before it is written. Raises IsthmusError where the file cannot be
    opened: `ledger_newer`, `ledger_unavailable`.
    """

    def __init__(self, path: Path, listen: Callable[[Record], None] = lambda _: None) -> None:
        self._file = LedgerFile(path, "NORMAL", WAIT_S, guest=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="isthmus-ledger")
        self._listen = listen
        self._queued = self._lost = self._committed = 0
        self._trouble: str | None = None

    def append(self, record: Record) -> None:
        """See `Ledger.append`."""
        self._listen(record)
        self._put(record)

    async def begin(self, intent: Intent) -> None:
        """See `Ledger.begin`; nothing is kept of what has not ended."""

    async def commit(self, record: Record) -> None:
        """Returns when the record is committed; raises IsthmusError (`ledger_unavailable`)."""
        self._listen(record)
        await asyncio.wrap_future(self._put(record))

    async def flush(self) -> None:
        """See `Ledger.flush`: what was taken before has been tried by then."""
        await asyncio.wrap_future(self._thread.submit(lambda: None))

    async def delete_before(self, at_us: int) -> int:
        """Nothing: what is old is the gateway's to delete."""
        return 0

    def health(self) -> Health:
        """See `Ledger.health`."""
        return Health(
            state="ok" if self._trouble is None else "failing",
            queued=self._queued,
            lost=self._lost,
            bodies_lost=0,
            committed=self._committed,
            lag_ms=0.0,
            reason=self._trouble,
        )

    async def close(self) -> None:
        """See `Ledger.close`."""
        await self.flush()
        self._thread.shutdown()
        self._file.close()

    def _put(self, record: Record) -> Future[None]:
        self._queued += 1
        return self._thread.submit(self._write, record)

    def _write(self, record: Record) -> None:
        try:
            self._file.write([record])
            self._committed += 1
            self._trouble = None
        except (sqlite3.Error, OSError, IsthmusError) as error:
            self._lost += 1
            self._trouble = str(error)
            log.error("record %s could not be kept: %s", record.id, error)
            raise unavailable(str(error)) from error
        finally:
            self._queued -= 1
