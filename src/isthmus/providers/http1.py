"""Our own HTTP/1.1 client: one origin, a pool of keep-alive connections, as little work per request as Python
allows.

Three parts. `_Connection` is the asyncio protocol: it feeds what the socket brings to the parser (httptools)
and hands on what one read held. `_Exchange` is one request with its answer, and it is the `Stream` that a
caller holds. `Http1Transport` is the pool. What keeps it lean: one write per request, one future per wait, no
call of ours per chunk of a body, and no timer per request: every connection carries one deadline, and one
alarm per pool rings at the earliest.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools
from aiohappyeyeballs import start_connection

from isthmus.providers.transport import (
    DEFAULT_MAX_BODY_BYTES,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    IdleTimeoutError,
    MalformedResponseError,
    Origin,
    Outgoing,
    PoolExhaustedError,
    Reply,
    ResponseTooLargeError,
    Stream,
    TlsError,
    TotalTimeoutError,
    TransportError,
    first_header,
    trust,
)

_MAX_HEAD_BYTES = 64 * 1024
# A stream whose reader is this far behind makes the upstream wait.
_MAX_UNREAD_BYTES = 256 * 1024
# Below this, copying head and body into one buffer is cheaper than handing two to the socket.
_JOIN_BELOW_BYTES = 64 * 1024
# RFC 8305, section 5, recommends 250 ms before the next address is tried beside the first.
_NEXT_ADDRESS_AFTER_S = 0.25
# The alarm rings no more often than this, so that many short deadlines cannot make it a busy loop.
_ALARM_GRAIN_S = 0.01
_NEVER = float("inf")
# What dialling says where it is this machine that has run out: of files, of buffers, of local ports.
_OUT_OF_SOCKETS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL})


class Http1Transport:
    """A `Transport` over plain or TLS sockets to one origin.

    At most `max_connections` are open; at most `max_waiting` requests queue for one, first come first served.
    A connection idle for `keep_alive_s` is closed. `send` refuses bodies over `max_body_bytes`. It belongs to
    the event loop on which it is first used. Raises TlsError where the origin's `ca_file` cannot be used.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        max_connections: int = 1024,
        max_waiting: int = 1024,
        keep_alive_s: float = 30.0,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        self.origin = origin
        self.max_body_bytes = max_body_bytes
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._keep_alive_s = keep_alive_s
        self._tls = trust(origin)
        self._after_target = (
            f" HTTP/1.1\r\nhost: {origin.authority}\r\naccept-encoding: identity\r\n".encode()
        )
        self._connections: set[_Connection] = set()
        # A dict is a stack from whose middle a connection can leave at once.
        self._idle: dict[_Connection, None] = {}
        self._queue: deque[asyncio.Future[_Connection]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self.alarm_at = _NEVER
        self._retired = False
        self._closed = False

    async def send(self, outgoing: Outgoing) -> Reply:
        """The whole answer; see `Transport.send`."""
        exchange = await self._begun(outgoing, whole=True)
        return exchange.reply()

    async def stream(self, outgoing: Outgoing) -> _Exchange:
        """The answer as soon as its head is there; see `Transport.stream`."""
        exchange = await self._begun(outgoing, whole=False)
        if exchange.failure is not None and not exchange.status:
            raise exchange.failure
        return exchange

    def retire(self) -> None:
        """Keep nothing alive from now on; see `Transport.retire`."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.close()

    async def aclose(self) -> None:
        """Close everything now; see `Transport.aclose`."""
        self._closed = True
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(self._closed_error())
        self._queue.clear()
        opened = [connection for connection in self._connections if connection.open]
        for connection in opened:
            connection.fail(connection.lost("lost its connection because this transport was closed"))
        await asyncio.gather(*(connection.gone for connection in opened))
        if self._alarm is not None:
            self._alarm.cancel()

    async def _begun(self, outgoing: Outgoing, *, whole: bool) -> _Exchange:
        """The exchange with its head there, or at its end where the answer is wanted whole.

        Repeated once, at once, on another connection where a reused one ended before a byte of the answer
        came. RFC 9112, section 9.3.1, leaves that to the client where the method is idempotent, or where it
        is known that the request can be made again. Go repeats the former alone, browsers every method; so do
        we: a server that closes an idle connection never reads what is just then on its way, most servers
        do close them, and to generate an answer again changes nothing upstream but, at the rarest, the bill.
        """
        exchange = _Exchange(self, asyncio.get_running_loop(), outgoing, whole)
        request = self._render(outgoing)
        connection = self._idle.popitem()[0] if self._idle else await self._connection(exchange, outgoing)
        connection.begin(exchange, request)
        while not exchange.has_begun():
            await exchange.change()
        if exchange.failure is not None and exchange.unread and not self._closed:
            self._make_room()
            connection = await self._connection(exchange, outgoing)
            exchange.failure = None
            connection.begin(exchange, request)
            while not exchange.has_begun():
                await exchange.change()
        return exchange

    def _render(self, outgoing: Outgoing) -> tuple[bytes, ...]:
        method, body = outgoing.method, outgoing.body
        length = b"content-length: %d\r\n\r\n" % len(body) if body or method == b"POST" else b"\r\n"
        head = b"%b %b%b%b%b" % (method, outgoing.target, self._after_target, outgoing.headers, length)
        return (head + body,) if len(body) < _JOIN_BELOW_BYTES else (head, body)

    # -- the pool: a member of `_connections` is a slot taken, whether it is new, busy, idle or on its way out

    async def _connection(self, exchange: _Exchange, outgoing: Outgoing) -> _Connection:
        """A connection that is open and nobody else's, once its turn has come."""
        loop, timeouts = exchange.loop, exchange.outgoing.timeouts
        deadline = loop.time() + min(timeouts.connect_s, timeouts.total_s)
        while True:
            if self._closed:
                raise self._closed_error()
            if len(self._connections) < self._max_connections:
                connection = self._new_connection(loop)
            else:
                connection = await self._turn(loop, deadline, outgoing.queued)
            if connection.new:
                await self._open(connection, deadline)
            # A connection can end between its being handed over and its taker's waking up.
            if connection.open:
                return connection

    def _make_room(self) -> None:
        """Give an idle connection up where no other can be opened: it may be as dead as the one just lost."""
        if self._idle and len(self._connections) >= self._max_connections:
            connection = next(iter(self._idle))
            connection.fail(connection.lost("was given up for a new one"))

    def _new_connection(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        connection = _Connection(self, loop)
        self._connections.add(connection)
        return connection

    async def _turn(
        self, loop: asyncio.AbstractEventLoop, deadline: float, queued: Callable[[float], None]
    ) -> _Connection:
        if len(self._queue) >= self._max_waiting:
            raise PoolExhaustedError(
                self.origin,
                f"has {self._max_connections} busy connections and {self._max_waiting} requests in line",
            )
        turn: asyncio.Future[_Connection] = loop.create_future()
        self._queue.append(turn)
        began = loop.time()
        try:
            async with asyncio.timeout_at(deadline):
                return await turn
        except BaseException as fault:
            if turn in self._queue:
                self._queue.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                self._decline(turn.result())
            if isinstance(fault, TimeoutError):
                raise PoolExhaustedError(
                    self.origin, f"freed none of its {self._max_connections} connections within connect_s"
                ) from None
            raise
        finally:
            queued(loop.time() - began)

    def _decline(self, connection: _Connection) -> None:
        if connection.new:
            self.forget(connection)
        elif connection.open:
            self.release(connection)

    async def _open(self, connection: _Connection, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._dial(connection)
        except OSError as fault:
            self.forget(connection)
            raise self._dial_error(fault) from fault
        except BaseException:
            self.forget(connection)
            raise
        if self._closed:
            connection.close()
            raise self._closed_error()
        if not connection.open:
            raise connection.lost("hung up before the request was written; check the scheme and port")

    async def _dial(self, connection: _Connection) -> None:
        loop, origin = connection.loop, self.origin
        addresses = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = None if self._tls is None else origin.host
        try:
            await loop.create_connection(lambda: connection, sock=sock, ssl=self._tls, server_hostname=name)
        except ConnectionError as fault:
            if self._tls is None:
                raise
            # TCP stood, so it was the handshake that the other side broke off.
            raise ssl.SSLError("the handshake was broken off") from fault

    def _dial_error(self, fault: OSError) -> TransportError:
        if isinstance(fault, TimeoutError):
            return ConnectTimeoutError(self.origin, "accepted no connection within connect_s")
        if isinstance(fault, ssl.SSLError):
            why = getattr(fault, "verify_message", "") or getattr(fault, "reason", "") or fault.args[-1]
            return TlsError(self.origin, f"did not agree on TLS ({why})")
        shortage = _shortage(fault)
        if shortage is not None:
            # No fault of the upstream's.
            return PoolExhaustedError(
                self.origin, f"was not called: this machine has no socket left ({shortage})"
            )
        return ConnectError(self.origin, f"cannot be connected to ({fault.strerror or fault})")

    def _closed_error(self) -> ConnectError:
        return ConnectError(self.origin, "is no longer served by this transport, which is closed")

    def release(self, connection: _Connection) -> None:
        """An answer was read to its end: the next in the queue has the connection, or else it rests."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if self._retired:
            connection.close()
        else:
            self._idle[connection] = None
            connection.wait_until(connection.loop.time() + self._keep_alive_s)

    def unlist(self, connection: _Connection) -> None:
        """No request begins on this connection any more."""
        self._idle.pop(connection, None)

    def forget(self, connection: _Connection) -> None:
        """The connection is gone; its slot goes to the next in the queue."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(self._new_connection(connection.loop))
                return

    # -- deadlines

    def ring_at(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all deadlines at this time of the loop's clock, or earlier."""
        if self._alarm is not None:
            self._alarm.cancel()
        self.alarm_at = deadline
        self._alarm = loop.call_at(deadline, self._on_alarm, loop)

    def _on_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._alarm = None
        self.alarm_at = _NEVER
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.expire(now)
        nearest = min((connection.deadline for connection in self._connections), default=_NEVER)
        if nearest < _NEVER:
            self.ring_at(max(nearest, now + _ALARM_GRAIN_S), loop)


class _Exchange(Stream):
    """One request and its answer: what has come and was not taken yet, and how it ended. A `Stream` to its
    caller."""

    __slots__ = (
        "_unread",
        "_waiter",
        "complete",
        "connection",
        "failure",
        "flowing",
        "headers",
        "loop",
        "origin",
        "outgoing",
        "pool",
        "received",
        "status",
        "total_at",
        "unread_bytes",
        "whole",
    )

    def __init__(
        self, pool: Http1Transport, loop: asyncio.AbstractEventLoop, outgoing: Outgoing, whole: bool
    ) -> None:
        self.pool = pool
        self.origin = pool.origin
        self.loop = loop
        self.outgoing = outgoing
        self.total_at = loop.time() + outgoing.timeouts.total_s
        self.whole = whole
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.received = 0
        # Wanted whole, an answer has no first-byte phase: once it begins, silence counts.
        self.flowing = whole
        self.complete = False
        self.failure: TransportError | None = None
        self.connection: _Connection | None = None
        self.unread_bytes = 0
        self._unread: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    # -- the caller's side

    async def next_chunk(self) -> bytes:
        """What has come since the last call; see `Stream.next_chunk`."""
        while not self._unread:
            if self.complete:
                return b""
            if self.failure is not None:
                raise self.failure
            await self.change()
        return self._take()

    def close(self) -> None:
        """End it now; see `Stream.close`."""
        if self.connection is not None:
            self.connection.fail(self.connection.lost("was cut off by its reader"))

    def reply(self) -> Reply:
        """The answer, once it is complete. Raises what kept it from being so."""
        if self.failure is not None:
            raise self.failure
        return Reply(self.status, self.headers, self._take())

    @property
    def unread(self) -> bool:
        """True where a connection that had served others ended before a byte of this answer came: the
        upstream most likely closed it for being idle, and never read the request."""
        failure = self.failure
        return isinstance(failure, ConnectionLostError) and failure.reused and failure.received == 0

    def has_begun(self) -> bool:
        """True once the head is there, or the end where the answer is wanted whole."""
        return self.failure is not None or self.complete or (self.status > 0 and not self.whole)

    async def change(self) -> None:
        """Waits for more, or the end: for the end only where the answer is wanted whole."""
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        unread = self._unread
        taken = unread[0] if len(unread) == 1 else b"".join(unread)
        unread.clear()
        self.unread_bytes = 0
        if self.connection is not None:
            self.connection.read_on()
        return taken

    # -- the connection's side

    def deliver(self, part: bytes) -> None:
        """More of the body has come."""
        self._unread.append(part)
        self.unread_bytes += len(part)
        self.flowing = True

    def end(self, failure: TransportError | None) -> None:
        """Nothing more will come."""
        self.connection = None
        self.complete = failure is None
        self.failure = failure
        self.wake()

    def wake(self) -> None:
        """Let the waiting caller look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """One socket. It serves one exchange at a time; between two it is idle, and any byte that comes then ends
    it."""

    __slots__ = (
        "_complete",
        "_exchange",
        "_head",
        "_interim",
        "_parser",
        "_parts",
        "_paused",
        "_pool",
        "_reusable",
        "_transport",
        "deadline",
        "gone",
        "loop",
        "new",
        "on_body",
        "on_header",
        "open",
        "reused",
    )

    def __init__(self, pool: Http1Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.new = True
        self.open = False
        self.reused = False
        self.deadline = _NEVER
        self.gone: asyncio.Future[None] = loop.create_future()
        self._pool = pool
        self._transport: asyncio.Transport
        self._exchange: _Exchange | None = None
        self._parts: list[bytes] = []
        # The parser calls these once per chunk of a chunked body, and once per header: methods of C, not of
        # ours. The first header of a name counts.
        self.on_body: Final = self._parts.append
        self._head: dict[bytes, bytes] = {}
        self.on_header: Final = self._head.setdefault
        self._parser = httptools.HttpResponseParser(self)
        self._interim = False
        self._complete = False
        self._reusable = False
        self._paused = False

    # -- the pool's side

    def begin(self, exchange: _Exchange, request: tuple[bytes, ...]) -> None:
        """Write the request and listen for its answer."""
        self._exchange = exchange
        self._complete = False
        exchange.connection = self
        if len(request) == 1:
            self._transport.write(request[0])
        else:
            self._transport.writelines(request)
        if exchange.whole:
            self.wait_until(exchange.total_at)
        else:
            self._allow(exchange, exchange.outgoing.timeouts.first_byte_s)

    def wait_until(self, deadline: float) -> None:
        """Expire at this time of the loop's clock, unless told otherwise before."""
        self.deadline = deadline
        if deadline < self._pool.alarm_at:
            self._pool.ring_at(deadline, self.loop)

    def expire(self, now: float) -> None:
        """The deadline has passed: an idle connection is closed, a busy one fails its exchange."""
        exchange, origin = self._exchange, self._pool.origin
        if exchange is None:
            self.close()
        elif now >= exchange.total_at:
            self.fail(TotalTimeoutError(origin, exchange.outgoing.timeouts.total_s))
        elif exchange.flowing:
            self.fail(IdleTimeoutError(origin, exchange.outgoing.timeouts.idle_s))
        else:
            self.fail(FirstByteTimeoutError(origin, exchange.outgoing.timeouts.first_byte_s))

    def close(self) -> None:
        """End in good order: nothing is in flight."""
        self._leave()
        self._transport.close()

    def fail(self, failure: TransportError) -> None:
        """End at once, and with it the exchange."""
        exchange, self._exchange = self._exchange, None
        self._leave()
        self._transport.abort()
        if exchange is not None:
            exchange.end(failure)

    def lost(self, what: str) -> ConnectionLostError:
        """The error that says so of the current exchange."""
        received = 0 if self._exchange is None else self._exchange.received
        return ConnectionLostError(self._pool.origin, what, reused=self.reused, received=received)

    def read_on(self) -> None:
        """The reader has caught up."""
        if self._paused and self._exchange is not None and self.open:
            self._paused = False
            self._transport.resume_reading()
            self._allow(self._exchange, self._exchange.outgoing.timeouts.idle_s)

    def _allow(self, exchange: _Exchange, silence_s: float) -> None:
        self.wait_until(min(self.loop.time() + silence_s, exchange.total_at))

    def _leave(self) -> None:
        self.open = False
        self.deadline = _NEVER
        self._pool.unlist(self)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket stands, TLS included."""
        self._transport = cast(asyncio.Transport, transport)
        self.new = False
        self.open = True

    def eof_received(self) -> None:
        """asyncio: the upstream will send no more; the socket closes itself after this."""
        self._pool.unlist(self)
        if self._exchange is None:
            self.open = False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        exchange = self._exchange
        if exchange is not None:
            whole = exc is None and exchange.status and not _is_framed(exchange.headers)
            exchange.end(None if whole else self.lost("closed the connection before the end of its answer"))
            self._exchange = None
        self._leave()
        self._pool.forget(self)
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """asyncio: what one read of the socket held."""
        exchange = self._exchange
        if exchange is None:
            # Nobody asked: the next request would take this for its answer.
            self.fail(self.lost("spoke out of turn"))
            return
        exchange.received += len(data)
        malformed, parts = self._parse(exchange, data), self._parts
        if exchange.status:
            # The head is known, and trailers are dropped.
            self._head.clear()
        if parts:
            exchange.deliver(parts[0] if len(parts) == 1 else b"".join(parts))
            parts.clear()
        if exchange.whole and exchange.unread_bytes > self._pool.max_body_bytes:
            self.fail(ResponseTooLargeError(self._pool.origin, self._pool.max_body_bytes))
        elif self._complete:
            self._finish(exchange)
        elif malformed is not None:
            self.fail(malformed)
        else:
            self._carry_on(exchange)

    def _parse(self, exchange: _Exchange, data: bytes) -> MalformedResponseError | None:
        try:
            if exchange.status or exchange.received <= _MAX_HEAD_BYTES:
                self._parser.feed_data(data)
            else:
                self._parse_long(exchange, data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # An answer that is complete stands, whatever came after it; its connection does not.
            self._reusable = False
            return MalformedResponseError(
                self._pool.origin, "sent what is not an answer in HTTP/1.1, or too long a head"
            )
        return None

    def _parse_long(self, exchange: _Exchange, data: bytes) -> None:
        room = _MAX_HEAD_BYTES - (exchange.received - len(data))
        self._parser.feed_data(data[:room])
        if not exchange.status:
            raise httptools.HttpParserError("the head is too long")
        self._parser.feed_data(data[room:])

    def _carry_on(self, exchange: _Exchange) -> None:
        if exchange.whole:
            self._allow(exchange, exchange.outgoing.timeouts.idle_s)
            return
        if exchange.unread_bytes > _MAX_UNREAD_BYTES:
            self._paused = True
            self._transport.pause_reading()
            self.wait_until(exchange.total_at)
        elif exchange.flowing:
            self._allow(exchange, exchange.outgoing.timeouts.idle_s)
        exchange.wake()

    def _finish(self, exchange: _Exchange) -> None:
        self._exchange = None
        self.deadline = _NEVER
        self.reused = True
        exchange.end(None)
        if self._reusable:
            self._pool.release(self)
        else:
            self.close()

    # -- the parser's side (on_body and on_header are methods of a list and a dict)

    def on_message_begin(self) -> None:
        """httptools: another answer begins; none was asked for where one is complete."""
        if self._complete:
            raise _ParsingEndedError

    def on_headers_complete(self) -> None:
        """httptools: a head is complete, and with it the answer to HEAD. Interim answers (1xx) are passed
        over."""
        exchange = self._exchange
        status = self._parser.get_status_code()
        if exchange is None:
            raise _ParsingEndedError
        if status < 200:
            self._head.clear()
            self._interim = True
            return
        exchange.headers = [(name.lower(), value) for name, value in self._head.items()]
        exchange.status = status
        if exchange.outgoing.method == b"HEAD":
            self._complete = True
            raise _ParsingEndedError

    def on_message_complete(self) -> None:
        """httptools: an answer is complete, by its length, its last chunk or its status."""
        if self._interim:
            self._interim = False
            return
        self._complete = True
        self._reusable = self._parser.should_keep_alive()


class _ParsingEndedError(Exception):
    """Tells the parser to stop: nothing that follows belongs to the answer."""


def _shortage(fault: OSError) -> str | None:
    """What this machine has run out of, where that is why nobody could be called.

    A resolver that finds no file to ask the name's server with says that the name is not known: whether that
    is so, opening a socket tells.
    """
    if isinstance(fault, socket.gaierror):
        try:
            socket.socket().close()
        except OSError as refused:
            fault = refused
        else:
            return None
    return (fault.strerror or str(fault)) if fault.errno in _OUT_OF_SOCKETS else None


def _is_framed(headers: list[tuple[bytes, bytes]]) -> bool:
    """True where the head says how the body ends; otherwise it ends with the connection (RFC 9112, 6.3)."""
    coding = first_header(headers, "transfer-encoding")
    if coding is not None:
        return coding.lower().endswith("chunked")
    return first_header(headers, "content-length") is not None
