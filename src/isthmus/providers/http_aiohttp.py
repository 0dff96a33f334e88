"""The same seam on aiohttp's client: for proxies, and for upstreams that our own client cannot talk to.

It costs several times the processor time of `http1`, and three promises are weaker, because aiohttp keeps
them so: a failure may overtake bytes that had come and were not read yet; bytes that an upstream sends on an
idle connection are not noticed; and a body whose end is the connection's end counts as whole even where the
connection was reset.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from isthmus.providers.transport import (
    DEFAULT_MAX_BODY_BYTES,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    Headers,
    IdleTimeoutError,
    MalformedResponseError,
    Origin,
    Outgoing,
    PoolExhaustedError,
    Proxy,
    ProxyError,
    Reply,
    Stream,
    TlsError,
    TotalTimeoutError,
    TransportError,
    trust,
)

_MAX_HEADER_BYTES = 64 * 1024
# aiohttp pauses the socket at twice this.
_READ_BUFFER_BYTES = 128 * 1024
# aiohttp warns of bodies over 1 MiB that are handed over as plain bytes.
_PLAIN_BODY_BYTES = 1024 * 1024
_AIOHTTP_ADDS = ("user-agent", "accept", "accept-encoding", "content-type")


class AiohttpTransport:
    """A `Transport` on aiohttp, through `proxy` where one is given.

    The limits are those of `Http1Transport`. After `retire`, idle connections are closed once nothing is in
    flight. Raises TlsError where the origin's `ca_file` cannot be used.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        max_connections: int = 1024,
        max_waiting: int = 1024,
        keep_alive_s: float = 30.0,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        proxy: Proxy | None = None,
    ) -> None:
        self.origin = origin
        self.max_body_bytes = max_body_bytes
        self.proxy = proxy
        self.login = {} if proxy is None or proxy.login is None else _login(proxy.login)
        self.slots = asyncio.Semaphore(max_connections)
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._waiting = 0
        self._keep_alive_s = keep_alive_s
        self._tls = trust(origin)
        self._base = f"{origin.scheme}://{origin.authority}"
        self._session: aiohttp.ClientSession | None = None
        self._in_flight: set[_Exchange] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._retired = False
        self._closed = False

    async def send(self, outgoing: Outgoing) -> Reply:
        """The whole answer; see `Transport.send`."""
        exchange = _Exchange(self, outgoing, whole=True)
        await exchange.open(outgoing)
        body = await exchange.read(self.max_body_bytes)
        return Reply(exchange.status, exchange.headers, body)

    async def stream(self, outgoing: Outgoing) -> _Exchange:
        """The answer as soon as its head is there; see `Transport.stream`."""
        exchange = _Exchange(self, outgoing, whole=False)
        await exchange.open(outgoing)
        return exchange

    def retire(self) -> None:
        """Keep nothing alive from now on; see `Transport.retire`."""
        self._retired = True
        self._close_session_if_done()

    async def aclose(self) -> None:
        """Close everything now; see `Transport.aclose`."""
        self._closed = True
        for exchange in tuple(self._in_flight):
            exchange.close()
        self._close_session()
        await asyncio.gather(*self._closing)

    # -- for its exchanges

    async def enter(self, exchange: _Exchange, queued: Callable[[float], None]) -> aiohttp.ClientSession:
        """Wait for a free connection's worth of room."""
        if self.slots.locked():
            await self._wait_in_line(queued)
        else:
            await self.slots.acquire()
        self._in_flight.add(exchange)
        if self._closed:
            raise ConnectError(self.origin, "is no longer served by this transport, which is closed")
        if self._session is None:
            self._session = self._new_session()
        return self._session

    async def _wait_in_line(self, queued: Callable[[float], None]) -> None:
        if self._waiting >= self._max_waiting:
            raise PoolExhaustedError(
                self.origin,
                f"has {self._max_connections} busy connections and {self._max_waiting} requests in line",
            )
        clock = asyncio.get_running_loop().time
        began = clock()
        self._waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self._waiting -= 1
            queued(clock() - began)

    def leave(self, exchange: _Exchange) -> None:
        """The room is free again."""
        if exchange in self._in_flight:
            self._in_flight.remove(exchange)
            self.slots.release()
            self._close_session_if_done()

    def url(self, target: bytes) -> URL:
        """The target at this origin, its percent-encoding untouched."""
        return URL(self._base + target.decode("ascii"), encoded=True)

    # -- sessions

    def _new_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_on_created)
        trace.on_connection_reuseconn.append(_on_reused)
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=self._tls if self._tls is not None else True,
            **({"force_close": True} if self._retired else {"keepalive_timeout": self._keep_alive_s}),
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AIOHTTP_ADDS,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            trace_configs=[trace],
        )

    def _close_session_if_done(self) -> None:
        if self._retired and not self._in_flight:
            self._close_session()

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            closing = asyncio.get_running_loop().create_task(session.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class _Phase(Enum):
    """What an exchange waits for: it decides what running out of time means."""

    QUEUE = "queue"
    CONNECT = "connect"
    FIRST_BYTE = "first_byte"
    IDLE = "idle"


class _Exchange(Stream):
    """One request and its answer; a `Stream` to its caller."""

    def __init__(self, transport: AiohttpTransport, outgoing: Outgoing, *, whole: bool) -> None:
        self.status = 0
        self.headers: Headers = ()
        self._transport = transport
        self.origin = transport.origin
        self._timeouts = outgoing.timeouts
        self._whole = whole
        self._loop = asyncio.get_running_loop()
        self._total_at = self._loop.time() + outgoing.timeouts.total_s
        self._phase = _Phase.QUEUE
        self._deadline = self._total_at
        self._clock: asyncio.Timeout | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._reused = False
        self._received = 0
        self.complete = False
        self._failure: TransportError | None = None

    # -- the caller's side

    async def next_chunk(self) -> bytes:
        """What has come since the last call; see `Stream.next_chunk`."""
        if self.complete:
            return b""
        response = self._response
        if response is None:
            raise self._failure or self._lost("was cut off by its reader")
        if self._phase is _Phase.IDLE:
            self._wait_for(_Phase.IDLE, self._timeouts.idle_s)
        async with self._guarded():
            chunk = await response.content.readany()
        if chunk:
            self._received += len(chunk)
            self._phase = _Phase.IDLE
        else:
            self.complete = True
            self.close()
        return chunk

    def close(self) -> None:
        """End it now; see `Stream.close`."""
        response, self._response = self._response, None
        if response is not None:
            # A body read to its end has given its connection back already: then this closes nothing.
            response.close()
        self._transport.leave(self)

    # -- the transport's side

    async def open(self, outgoing: Outgoing) -> None:
        """Send the request and wait for the head of its answer."""
        transport = self._transport
        self._wait_for(_Phase.QUEUE, self._timeouts.connect_s)
        async with self._guarded():
            session = await transport.enter(self, outgoing.queued)
            self._phase = _Phase.CONNECT
            # Within TLS the proxy reads what opens the tunnel alone; otherwise it reads each request.
            tunnelled = self.origin.scheme == "https"
            self._response = response = await session.request(
                outgoing.method.decode("ascii"),
                transport.url(outgoing.target),
                data=_payload(outgoing),
                headers=_headers(outgoing) + ([] if tunnelled else [*transport.login.items()]),
                allow_redirects=False,
                proxy=None if transport.proxy is None else transport.proxy.url,
                proxy_headers=transport.login if tunnelled else None,
                trace_request_ctx=self,
            )
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.raw_headers]
        self._received = sum(len(name) + len(value) for name, value in self.headers)
        if response.status == 407 and transport.proxy is not None:
            self.close()
            raise self._refused_by_proxy(407)
        if response.status == 101:
            self.close()
            raise MalformedResponseError(self.origin, "switched protocols, which nobody asked for")
        if self._whole:
            self._phase = _Phase.IDLE

    def connected(self, *, reused: bool) -> None:
        """The request is about to be written."""
        self._reused = reused
        self._wait_for(
            _Phase.FIRST_BYTE, self._timeouts.total_s if self._whole else self._timeouts.first_byte_s
        )

    def _wait_for(self, phase: _Phase, seconds: float) -> None:
        self._phase = phase
        self._deadline = min(self._loop.time() + seconds, self._total_at)
        if self._clock is not None:
            self._clock.reschedule(self._deadline)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Time runs out at the deadline in here, and what fails ends the exchange with an error of our
        tree."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._clock:
                yield
        except (aiohttp.ClientError, HttpProcessingError, OSError) as fault:
            self._failure = self._late() if self._is_late(fault) else self._translate(fault)
            self.close()
            raise self._failure from fault
        except BaseException:
            self.close()
            raise
        finally:
            self._clock = None

    def _is_late(self, fault: BaseException) -> bool:
        return isinstance(fault, TimeoutError) and self._clock is not None and self._clock.expired()

    def _late(self) -> TransportError:
        origin, timeouts = self.origin, self._timeouts
        if self._phase is _Phase.QUEUE:
            return PoolExhaustedError(origin, "freed none of its connections within connect_s")
        if self._phase is _Phase.CONNECT:
            return ConnectTimeoutError(origin, "accepted no connection within connect_s")
        # The deadline says it, not the clock: uvloop's timers may ring a fraction of a millisecond early.
        if self._deadline >= self._total_at:
            return TotalTimeoutError(origin, timeouts.total_s)
        if self._phase is _Phase.FIRST_BYTE:
            return FirstByteTimeoutError(origin, timeouts.first_byte_s)
        return IdleTimeoutError(origin, timeouts.idle_s)

    def _translate(self, fault: Exception) -> TransportError:
        match fault:
            case aiohttp.ClientConnectorCertificateError():
                return TlsError(self.origin, "did not agree on TLS (its certificate is not trusted)")
            case aiohttp.ClientSSLError():
                return TlsError(
                    self.origin, f"did not agree on TLS ({fault.strerror or 'the handshake failed'})"
                )
            case aiohttp.ClientProxyConnectionError():
                return ProxyError(
                    self.origin, f"was not called: its proxy cannot be reached ({fault.strerror})"
                )
            case aiohttp.ClientConnectorError():
                return ConnectError(
                    self.origin, f"cannot be connected to ({fault.strerror or fault.os_error})"
                )
            case aiohttp.ClientHttpProxyError():
                return self._refused_by_proxy(fault.status)
            case aiohttp.ClientResponseError() | HttpProcessingError():
                return MalformedResponseError(
                    self.origin, "sent what is not an answer in HTTP/1.1, or too long a head"
                )
            case aiohttp.ServerDisconnectedError() if not isinstance(fault.message, str):
                # aiohttp hands over the head as far as it came.
                self._received = max(self._received, 1)
        if self._phase in (_Phase.QUEUE, _Phase.CONNECT):
            return ConnectError(self.origin, "hung up before the request was written")
        return self._lost("closed the connection before the end of its answer")

    def _refused_by_proxy(self, status: int) -> ProxyError:
        return ProxyError(self.origin, f"was not called: its proxy refuses (status {status})")

    def _lost(self, what: str) -> ConnectionLostError:
        return ConnectionLostError(self.origin, what, reused=self._reused, received=self._received)


def _payload(outgoing: Outgoing) -> bytes | io.BytesIO | None:
    if len(outgoing.body) > _PLAIN_BODY_BYTES:
        return io.BytesIO(outgoing.body)
    return outgoing.body or None


def _headers(outgoing: Outgoing) -> list[tuple[str, str]]:
    headers = [("accept-encoding", "identity")]
    for line in outgoing.headers.decode("latin-1").splitlines():
        name, _, value = line.partition(": ")
        headers.append((name, value))
    return headers


def _login(login: str) -> dict[str, str]:
    return {"proxy-authorization": f"Basic {base64.b64encode(login.encode()).decode('ascii')}"}


async def _on_created(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.connected(reused=False)


async def _on_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.connected(reused=True)
