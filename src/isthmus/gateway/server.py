"""The gateway on a socket: it listens, looks after its connections, and drains."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from isthmus.gateway.app import Gateway
from isthmus.gateway.http1 import Bounds, Connection

BACKLOG = 2048
LAST_WORDS_S = 1.0
"""How long requests that were cut off at the drain's end have to say so to their clients, seconds."""
LOOK_S = 5.0
"""How often connections are looked at, seconds: the bounds on time are kept to within as much."""
LEAST_CONNECTIONS = 4096
CONNECTIONS_PER_PLACE = 4
BOUNDS = Bounds()


@asynccontextmanager
async def listening(gateway: Gateway, host: str, port: int, bounds: Bounds = BOUNDS) -> AsyncIterator[str]:
    """The gateway, served, and its URL; port 0 takes a free one.

    Leaving the context drains: readiness goes, no new request is taken, and open ones have `gateway.drain`
    seconds to end; the socket listens meanwhile, so that whoever asks for the readiness is told. Raises
    OSError where the address cannot be bound.
    """
    with _bound(host, port) as listener:
        server = _Server(gateway, bounds)
        await server.start(listener)
        shown = f"[{host}]" if ":" in host else host
        try:
            yield f"http://{shown}:{listener.getsockname()[1]}"
        finally:
            gateway.draining = True
            await server.stop(gateway.snapshot.config.gateway.drain)


class _Server:
    """All connections of one listening socket.

    Beyond `LEAST_CONNECTIONS`, or `CONNECTIONS_PER_PLACE` for each of `gateway.max_in_flight` where that is
    more, a new connection is closed at once: requests that are merely too many get an answer from admission
    long before.
    """

    def __init__(self, gateway: Gateway, bounds: Bounds) -> None:
        self._gateway = gateway
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._one_less = asyncio.Event()

    async def start(self, listener: socket.socket) -> None:
        """Listens; raises OSError where that fails."""
        self._listening = await self._loop.create_server(self._connection, sock=listener, backlog=BACKLOG)
        self._next_look = self._loop.call_later(LOOK_S, self._look)

    async def stop(self, grace_s: float) -> None:
        """Lets open requests end for at most `grace_s` seconds, then cuts them off, and closes."""
        for connection in tuple(self._connections):
            connection.drain()
        await self._until(lambda: all(connection.idle for connection in self._connections), grace_s)
        self._listening.close()
        for connection in tuple(self._connections):
            connection.end()
        await self._until(lambda: not self._connections, LAST_WORDS_S)
        self._next_look.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    def _connection(self) -> Connection:
        return Connection(self._loop, self._bounds, self._gateway.serve, self._made, self._lost)

    def _made(self, connection: Connection) -> None:
        self._connections.add(connection)
        connection.draining = self._gateway.draining
        places = self._gateway.snapshot.config.gateway.max_in_flight
        if len(self._connections) > max(LEAST_CONNECTIONS, CONNECTIONS_PER_PLACE * places):
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._one_less.set()

    async def _until(self, quiet: Callable[[], bool], at_most_s: float) -> None:
        """Returns when it is quiet, or time is up. A connection that drains ends with its last request."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                while not quiet():
                    self._one_less.clear()
                    await self._one_less.wait()

    def _look(self) -> None:
        self._next_look = self._loop.call_later(LOOK_S, self._look)
        now = self._loop.time()
        for connection in tuple(self._connections):
            connection.look(now)


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
