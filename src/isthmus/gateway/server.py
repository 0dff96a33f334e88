"""The gateway on a socket, by uvicorn."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from isthmus.gateway.app import Gateway

BACKLOG = 2048
LAST_WORDS_S = 1.0
LONGEST_HEAD = 64 * 1024
"""How long a request's head may be, bytes; its URL and every trailer count."""
HEAD_S = 30.0
"""How long a client may take to send a head, seconds: the first from its connecting, any other from the first
byte on."""
CLIENT_IDLE_S = 60.0
"""How long a client may read nothing of an answer that waits for it, seconds."""
LOOK_S = 5.0
"""How often a connection is looked at, seconds: the two above are kept to within as much."""
MOST_PIPELINED = 8
"""So many requests may be sent ahead of an answer; what more comes is not read before its turn."""
LEAST_CONNECTIONS = 4096
CONNECTIONS_PER_PLACE = 4

_HEAD_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


@asynccontextmanager
async def listening(gateway: Gateway, host: str, port: int) -> AsyncIterator[str]:
    """The gateway, served, and its URL; port 0 takes a free one.

    Leaving the context drains: no new connections, readiness goes, open requests have `gateway.drain` seconds
    to end. Raises OSError where the address cannot be bound. Should the server itself fail, the context's
    body is cancelled, and the failure raised.
    """
    owner = asyncio.current_task()
    assert owner is not None
    with _bound(host, port) as listener:
        server = _Server(_config(gateway))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        serving.add_done_callback(lambda _: None if server.should_exit else owner.cancel())
        shown = f"[{host}]" if ":" in host else host
        try:
            await server.is_up.wait()
            yield f"http://{shown}:{listener.getsockname()[1]}"
        finally:
            gateway.draining = True
            server.should_exit = True
            if serving.done():
                owner.uncancel()
            await serving
            if server.server_state.tasks:
                # Uvicorn has cancelled them without waiting: they have a last word to say, and to record.
                await asyncio.wait(server.server_state.tasks, timeout=LAST_WORDS_S)


class _Server(uvicorn.Server):
    """Uvicorn, whose end is decided by whoever runs it: it takes no signals, and it says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn would end the process right after draining, before the ledger is closed.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class _Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, on a transport that gathers what is written, with bounds on what a client may cost.

    Nobody has shown a key yet, so all bounds are the connection's: on the length and the time of a head, on
    the time an answer waits to be read, and on the number of connections. Beyond `LEAST_CONNECTIONS`, or
    `CONNECTIONS_PER_PLACE` for each of `gateway.max_in_flight` where that is more, a new connection is closed
    at once: requests that are merely too many get an answer from admission long before.
    """

    def __init__(self, gateway: Gateway, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._gateway = gateway
        # Bytes since the parser last came to a head's end or to a body's bytes.
        self._pending = 0
        # Since when a head is due; None while none is.
        self._due_since: float | None = None
        self._running: RequestResponseCycle | None = None
        self._unsent = 0
        self._unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))
        self._due_since = self.loop.time()
        self._next_look = self.loop.call_later(LOOK_S, self._look)
        places = self._gateway.snapshot.config.gateway.max_in_flight
        if len(self.connections) > max(LEAST_CONNECTIONS, CONNECTIONS_PER_PLACE * places):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)
        # Uvicorn tells the newest request only, which may still wait for its turn, and will not get it.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            room = LONGEST_HEAD - self._pending
            part, data = data[:room], data[room:]
            self._pending += len(part)
            super().data_received(part)
            if self._pending >= LONGEST_HEAD:
                self._refuse_head()
        if self._due_since is None and self.cycle.response_complete:
            self._due_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._pending = 0
        self._due_since = None
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MOST_PIPELINED:
            # Uvicorn stops reading here, and would not notice that the client leaves.
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse_head(self) -> None:
        if self._running is None or self._running.response_complete:
            self.transport.write(_HEAD_TOO_LONG)
        self.transport.close()

    def _look(self) -> None:
        """End the connection where its client has kept the gateway waiting for too long."""
        now = self.loop.time()
        self._next_look = self.loop.call_later(LOOK_S, self._look)
        closing = self.transport.is_closing()
        # In both states nothing is added to what is unsent: as long as it changes, the client reads.
        unsent = self.transport.get_write_buffer_size() if closing or self.flow.write_paused else 0
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since >= CLIENT_IDLE_S:
            self.transport.abort()
        if self._due_since is not None and now - self._due_since >= HEAD_S:
            self.transport.close()


class _Gathering(asyncio.Transport):
    """Makes one system call of all writes in one turn of the loop.

    Uvicorn writes a response's head and body apart, and a write to a socket costs a good part of a request.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        # Called often: no second look-up on the way.
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.abort = transport.abort  # type: ignore[method-assign]
        self.can_write_eof = transport.can_write_eof  # type: ignore[method-assign]
        self.get_write_buffer_limits = transport.get_write_buffer_limits  # type: ignore[method-assign]

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + sum(map(len, self._parts))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def _flush(self) -> None:
        parts = self._parts
        self._parts = []
        # The client may have left since.
        if parts and not self.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


def _config(gateway: Gateway) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        http=partial(_Protocol, gateway),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(gateway.snapshot.config.gateway.drain),
    )


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is said; without it, a body waits 40 ms for the receipt
    # of its head.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
        yield listener
