"""The gateway on a socket, by uvicorn."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from isthmus.gateway.app import Gateway

BACKLOG = 2048
LAST_WORDS_S = 1.0


@asynccontextmanager
async def listening(gateway: Gateway, host: str, port: int) -> AsyncIterator[str]:
    """The gateway, served, and its URL; port 0 takes a free one.

    Leaving the context drains: no new connections, readiness goes, open requests have `gateway.drain` seconds
    to end. Raises OSError where the address cannot be bound.
    """
    with _bound(host, port) as listener:
        server = _Server(_config(gateway))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        shown = f"[{host}]" if ":" in host else host
        try:
            await server.is_up.wait()
            yield f"http://{shown}:{listener.getsockname()[1]}"
        finally:
            gateway.draining = True
            server.should_exit = True
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
    """Uvicorn's protocol, on a transport that gathers what is written."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))


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

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def _flush(self) -> None:
        parts = self._parts
        if parts:
            self._parts = []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


def _config(gateway: Gateway) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        http=_Protocol,
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
