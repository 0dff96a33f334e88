"""The gateway on a socket, by uvicorn."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

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


def _config(gateway: Gateway) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        http="httptools",
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
