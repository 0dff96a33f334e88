"""The ledger: every request is appended once, by one thread, off the hot path.

What is promised:

- `batched` (the default) commits within 100 ms of `append`. If the process dies (kill -9), at most those last
  100 ms are lost; if the power fails, the commits since the last checkpoint may be lost too. One thing can
  stretch the 100 ms: a disk that takes long to sync at a checkpoint; `health` shows the lag.
- `strict` commits, synced to the disk, before `begin` and `commit` return. If the process dies or the power
  fails, nothing is lost: a request that was not finished becomes a record with the outcome `interrupted`, at
  the next start.

When the disk is full or ill, records wait, up to a bound; then new ones are lost, and counted. A strict
ledger's `begin` refuses within seconds meanwhile, so that no request is tried which could not be recorded.

Both modes keep trying, and `health` says so. When the bound is reached it is the newest records that are not
taken: what was accepted is never given up, and the loss is one gap in time that ends when the disk is well.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import msgspec

from isthmus.core.errors import IsthmusError
from isthmus.core.record import Intent, Record
from isthmus.store.ledger_file import LedgerFile
from isthmus.store.schema import unavailable

Mode: TypeAlias = Literal["batched", "strict"]

_log = logging.getLogger("isthmus.ledger")

_GATHER_S = 0.04
_RECORDS_AT_ONCE = 1000
_DELETED_AT_ONCE = 500
_ROLLED_UP_AT_ONCE = 5000
_SHORTEST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0

# What one record can be guilty of; every other error is the disk's.
_BAD_RECORD = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ArithmeticError,
    TypeError,
    ValueError,
)


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the ledger is: `failing` since `since_us` for `reason`, where its disk cannot be written.

    `queued` records wait to be committed; `lost` were not taken because too many waited, or could not be
    written at all; `bodies_lost` counts records that were kept without their bodies. `lag_ms` is how long the
    last batch's oldest record waited for its commit. All counts are since the start.
    """

    state: Literal["ok", "failing"]
    queued: int
    lost: int
    bodies_lost: int
    committed: int
    lag_ms: float
    reason: str | None = None
    since_us: int | None = None


class Ledger(Protocol):
    """Where requests are recorded. Every method is called from the event loop, and none of them blocks it."""

    def append(self, record: Record) -> None:
        """Takes the record, to be committed soon. Never waits, never raises; lost ones are counted."""

    async def begin(self, intent: Intent) -> None:
        """Strict: returns when the intent is committed. Batched: returns at once.

        A request whose intent is committed cannot be forgotten any more.
        Raises IsthmusError (`ledger_unavailable`) where it could not be committed in time; the request must
        not be tried then.
        """

    async def commit(self, record: Record) -> None:
        """Strict: returns when the record is committed. Batched: the same as `append`.

        Raises IsthmusError (`ledger_unavailable`) where it could not be committed in time; the record waits
        on like an appended one.
        """

    async def flush(self) -> None:
        """Returns when everything that was taken before is committed.

        Raises IsthmusError (`ledger_unavailable`).
        """

    async def delete_before(self, at_us: int) -> int:
        """Deletes the records of requests that came before that time, bit by bit; returns how many.


        Raises IsthmusError (`ledger_unavailable`).
        """

    def health(self) -> Health:
        """How the ledger is, now."""

    async def close(self) -> None:
        """Commits what waits, for a bounded time, and closes; records that come later are lost."""


class SqliteLedger:
    """A ledger in one SQLite file; one gateway at a time may write to it, a second one is refused.

    At most `max_queued` records wait for the disk, with bodies of `max_queued_body_bytes` at most (beyond, a
    record is kept without its bodies). `begin`, `commit` and `flush` wait `patience_s` at most, `close`
    `drain_s`.

    Every one of the `listeners` is told of a record as it comes.

    Raises IsthmusError where the file cannot be opened: `ledger_in_use`, `ledger_newer`,
    `ledger_unavailable`.
    """

    def __init__(
        self,
        path: Path,
        mode: Mode = "batched",
        *,
        max_queued: int = 20_000,
        max_queued_body_bytes: int = 256 << 20,
        patience_s: float = 2.0,
        drain_s: float = 10.0,
        listeners: Sequence[Callable[[Record], None]] = (),
    ) -> None:
        self._strict = mode == "strict"
        self._listeners = listeners
        self._patience_s = patience_s
        self._drain_s = drain_s
        # A lock that another process holds on the database has to show before a waiting request gives up.
        self._file = LedgerFile(path, "FULL" if self._strict else "NORMAL", wait_s=patience_s / 2)
        try:
            interrupted = self._file.close_intents()
        except (sqlite3.Error, OSError) as error:
            self._file.close()
            raise unavailable(str(error)) from error
        if interrupted:
            _log.warning("%d requests were interrupted when the last gateway died", interrupted)
        self._inbox = _Inbox(max_queued, max_queued_body_bytes)
        self._writer = _Writer(self._file, self._inbox)
        self._thread = threading.Thread(target=self._writer.run, name="isthmus-ledger", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """See `Ledger.append`."""
        for listen in self._listeners:
            listen(record)
        self._inbox.put(record)

    async def begin(self, intent: Intent) -> None:
        """See `Ledger.begin`."""
        if not self._strict:
            return
        try:
            await self._ask(intent)
        except (IsthmusError, asyncio.CancelledError):
            # It may still reach the disk; a request that was refused or left must not come back as an
            # interrupted one.
            self._inbox.put_urgently(_Forget(intent.id))
            raise

    async def commit(self, record: Record) -> None:
        """See `Ledger.commit`."""
        for listen in self._listeners:
            listen(record)
        if self._strict:
            await self._ask(record)
        else:
            self._inbox.put(record)

    async def flush(self) -> None:
        """See `Ledger.flush`."""
        await self._ask(None)

    async def roll_up_before(self, at_us: int) -> int:
        """Adds records of requests that came before that time to the sums by hour, bit by bit; returns how
        many.

        How fast sums are read depends on it, never what they are: see `isthmus.store.traffic`. Raises
        IsthmusError (`ledger_unavailable`).
        """
        return await self._bit_by_bit(_RollUp(at_us), _ROLLED_UP_AT_ONCE)

    async def delete_before(self, at_us: int) -> int:
        """See `Ledger.delete_before`. Records are rolled up before they go: their sums stay."""
        await self.roll_up_before(at_us)
        return await self._bit_by_bit(_Deletion(at_us), _DELETED_AT_ONCE)

    def health(self) -> Health:
        """See `Ledger.health`."""
        return self._writer.health()

    async def close(self) -> None:
        """See `Ledger.close`."""
        self._inbox.close(time.monotonic() + self._drain_s)
        # A disk that hangs holds the thread beyond its deadline; it dies with the process then.
        await asyncio.to_thread(self._thread.join, self._drain_s + self._patience_s)

    async def _bit_by_bit(self, what: _RollUp | _Deletion, at_once: int) -> int:
        total = 0
        while True:
            done = await self._ask(what)
            total += done
            if done < at_once:
                return total

    async def _ask(self, what: Record | Intent | _RollUp | _Deletion | None) -> int:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        request = _Request(what, answer, loop)
        if not isinstance(what, Record):
            self._inbox.put_urgently(request)
        elif not self._inbox.put(what, request):
            raise unavailable("too many records wait for the disk")
        try:
            # In Python 3.11 `wait_for` loses a cancellation that comes together with the answer.
            async with asyncio.timeout(self._patience_s):
                return await answer
        except TimeoutError:
            raise unavailable(self.health().reason or "the disk does not answer") from None


class _RollUp(msgspec.Struct, frozen=True):
    at_us: int


class _Deletion(msgspec.Struct, frozen=True):
    at_us: int


class _Forget(msgspec.Struct, frozen=True):
    intent_id: str


class _Request(msgspec.Struct, eq=False):
    """What a coroutine waits for: a record's or intent's commit, work on old records, or (None) all before
    it."""

    what: Record | Intent | _RollUp | _Deletion | None
    answer: asyncio.Future[int]
    loop: asyncio.AbstractEventLoop
    result: int | IsthmusError = 0


_Item: TypeAlias = "Record | _Request | _Forget"


class _Inbox:
    """What goes from the event loop to the writer's thread.

    Every counter here is written by one of the two threads only, so none needs a lock.
    """

    def __init__(self, max_records: int, max_body_bytes: int) -> None:
        self._max_records = max_records
        self._max_body_bytes = max_body_bytes
        self._items: deque[_Item] = deque()
        self._filled = threading.Event()
        self._hurried = threading.Event()
        self._records_in = 0
        self._body_bytes_in = 0
        self.records_out = 0
        self.body_bytes_out = 0
        self.refused = 0
        self.stripped = 0
        self.filled_at = 0.0
        self.closing_at: float | None = None

    @property
    def waiting(self) -> int:
        """How many records were taken and are not committed."""
        return self._records_in - self.records_out

    def put(self, record: Record, request: _Request | None = None) -> bool:
        """Takes a record, urgently if there is a request for its commit; False where there is no room."""
        if self._records_in - self.records_out >= self._max_records or self.closing_at is not None:
            self.refused += 1
            return False
        if record.request_body is not None or record.response_body is not None:
            record = self._with_room_for_bodies(record)
        self._records_in += 1
        if request is None:
            self._items.append(record)
            self._fill()
        else:
            request.what = record
            self.put_urgently(request)
        return True

    def put_urgently(self, item: _Request | _Forget) -> None:
        """Takes something that is not to wait for company."""
        self._items.append(item)
        self._hurried.set()
        self._fill()

    def close(self, deadline: float) -> None:
        """Takes no more records; the writer tries until `deadline` (monotonic) to commit what waits."""
        self.closing_at = deadline
        self._hurried.set()
        self._fill()

    def wait(self, gather_s: float, at_most_s: float | None) -> None:
        """Returns `gather_s` after something came, at once for something urgent, or after `at_most_s`."""
        if self._filled.wait(at_most_s):
            self._hurried.wait(gather_s)
        # In this order: what comes in from here on sets them again, and at worst wakes the writer for
        # nothing.
        self._hurried.clear()
        self._filled.clear()

    def take(self) -> Iterator[_Item]:
        """Everything that is there."""
        while self._items:
            yield self._items.popleft()

    def _fill(self) -> None:
        if not self._filled.is_set():
            self.filled_at = time.monotonic()
            self._filled.set()

    def _with_room_for_bodies(self, record: Record) -> Record:
        size = _body_size(record)
        if self._body_bytes_in - self.body_bytes_out + size > self._max_body_bytes:
            self.stripped += 1
            return msgspec.structs.replace(record, request_body=None, response_body=None)
        self._body_bytes_in += size
        return record


class _Writer:
    """The thread that alone writes records to the file."""

    def __init__(self, file: LedgerFile, inbox: _Inbox) -> None:
        self._file = file
        self._inbox = inbox
        self._records: deque[Record] = deque()
        self._requests: list[_Request] = []
        self._forgotten: list[str] = []
        self._unwritable: set[str] = set()
        self._trouble: tuple[str, int] | None = None
        self._pause_s = _SHORTEST_PAUSE_S
        self._lost = 0
        self._committed = 0
        self._lag_s = 0.0

    def health(self) -> Health:
        """How the writing goes; may be called from any thread."""
        inbox = self._inbox
        reason, since_us = self._trouble or (None, None)
        return Health(
            state="ok" if reason is None else "failing",
            queued=inbox.waiting,
            lost=inbox.refused + self._lost,
            bodies_lost=inbox.stripped,
            committed=self._committed,
            lag_ms=self._lag_s * 1000,
            reason=reason,
            since_us=since_us,
        )

    def run(self) -> None:
        """Writes until the inbox is closed and everything is committed, or its deadline has passed."""
        while True:
            if self._trouble is None:
                self._inbox.wait(_GATHER_S, None)
            else:
                # Urgent matters cut the pause short, to try again; but no storm of them may keep an ill disk
                # busy.
                self._inbox.wait(self._pause_s, self._pause_s)
                time.sleep(_SHORTEST_PAUSE_S)
            self._take_a_turn()
            deadline = self._inbox.closing_at
            if deadline is not None and (not self._inbox.waiting or time.monotonic() >= deadline):
                break
        self._end()

    def _take_a_turn(self) -> None:
        oldest_at = self._inbox.filled_at
        self._receive()
        requests, self._requests = self._requests, []
        try:
            self._write(requests)
        except (sqlite3.Error, OSError, IsthmusError) as error:
            self._failed(str(error), requests)
        except Exception as error:
            _log.exception("the ledger's writer met an error that it does not know")
            self._failed(f"{type(error).__name__}: {error}", requests)
        else:
            self._lag_s = time.monotonic() - oldest_at
        # Last: who is answered may look at the health at once.
        _answer(requests)

    def _receive(self) -> None:
        for item in self._inbox.take():
            match item:
                case Record():
                    self._records.append(item)
                case _Request():
                    self._requests.append(item)
                    if isinstance(item.what, Record):
                        self._records.append(item.what)
                case _Forget():
                    self._forgotten.append(item.intent_id)

    def _write(self, requests: list[_Request]) -> None:
        self._unwritable.clear()
        self._write_records([request for request in requests if isinstance(request.what, Intent)])
        if self._trouble is not None:
            self._file.probe()
            self._recovered()
        for request in requests:
            if isinstance(request.what, Record) and request.what.id in self._unwritable:
                request.result = unavailable("it cannot be written")
            if isinstance(request.what, _RollUp):
                request.result = self._file.roll_up_before(request.what.at_us, _ROLLED_UP_AT_ONCE)
            if isinstance(request.what, _Deletion):
                request.result = self._file.delete_before(request.what.at_us, _DELETED_AT_ONCE)

    def _write_records(self, begun: list[_Request]) -> None:
        while self._records or begun or self._forgotten:
            some = [self._records.popleft() for _ in range(min(_RECORDS_AT_ONCE, len(self._records)))]
            try:
                self._write_group(some, begun)
            except BaseException:
                self._records.extendleft(reversed(some))
                raise
            self._inbox.body_bytes_out += sum(map(_body_size, some))
            self._inbox.records_out += len(some)
            self._forgotten, begun = [], []

    def _write_group(self, some: list[Record], begun: list[_Request]) -> None:
        try:
            self._file.write(
                some, [request.what for request in begun if isinstance(request.what, Intent)], self._forgotten
            )
            self._committed += len(some)
        except _BAD_RECORD:
            if len(some) + len(begun) > 1:
                self._write_singly(some, begun)
            else:
                self._refuse(some, begun)

    def _write_singly(self, some: list[Record], begun: list[_Request]) -> None:
        # One record that SQLite does not take must not cost the others. Those that are written stay written
        # if the disk fails on the way: to write a record twice changes nothing.
        for record in some:
            self._write_group([record], [])
        for request in begun:
            self._write_group([], [request])

    def _refuse(self, some: list[Record], begun: list[_Request]) -> None:
        self._lost += len(some)
        self._unwritable.update(record.id for record in some)
        for record in some:
            _log.exception("record %s cannot be written, and is lost", record.id)
        for request in begun:
            request.result = unavailable("its intent cannot be written")

    def _failed(self, reason: str, requests: list[_Request]) -> None:
        for request in requests:
            request.result = unavailable(reason)
        if self._trouble is None:
            self._trouble = (reason, time.time_ns() // 1000)
            _log.error("the ledger cannot be written: %s; %d records wait", reason, self._inbox.waiting)
        else:
            self._trouble = (reason, self._trouble[1])
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _recovered(self) -> None:
        self._trouble = None
        self._pause_s = _SHORTEST_PAUSE_S
        _log.warning("the ledger is written again; %d records were lost", self.health().lost)

    def _end(self) -> None:
        self._receive()
        for request in self._requests:
            request.result = unavailable("the gateway stops")
        _answer(self._requests)
        if self._records:
            _log.error("%d records could not be written before the end, and are lost", len(self._records))
            self._lost += len(self._records)
            self._inbox.records_out += len(self._records)
        self._file.close()


def _body_size(record: Record) -> int:
    """The bytes of the record's bodies."""
    return len(record.request_body or b"") + len(record.response_body or b"")


def _answer(requests: Sequence[_Request]) -> None:
    for loop in {request.loop for request in requests}:
        try:
            loop.call_soon_threadsafe(_settle, [request for request in requests if request.loop is loop])
        except RuntimeError:
            # The loop is closed: nobody waits there any more.
            continue


def _settle(requests: Sequence[_Request]) -> None:
    for request in requests:
        if request.answer.done():
            continue
        if isinstance(request.result, IsthmusError):
            request.answer.set_exception(request.result)
        else:
            request.answer.set_result(request.result)
