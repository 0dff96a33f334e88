"""A TCP server on loopback that does what its script says, byte for byte: HTTP well or badly spoken."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import NamedTuple, Self


class Request(NamedTuple):
    """What a client sent: the request line, its headers with lower-case names, and the body."""

    line: str
    headers: dict[str, str]
    body: bytes


class Conversation:
    """One accepted connection, seen from the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.requests: list[Request] = []
        self.closed_by_client = asyncio.Event()

    async def request(self) -> Request:
        """The next request, whole. Raises IncompleteReadError where the client closes instead."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Request(line, headers, body))
        return self.requests[-1]

    async def write(self, data: bytes) -> None:
        """Send, and wait where the client does not keep up."""
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, pieces: list[bytes]) -> None:
        """Send each piece in a turn of the loop of its own, so that the client reads it alone."""
        for piece in pieces:
            await self.write(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def end_of_client(self) -> None:
        """Wait until the client has closed its side, in whatever way."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.closed_by_client.set()

    def hang_up(self) -> None:
        """Say that no more will come, and still listen."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Break the connection off (TCP RST)."""
        self._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Conversation], Awaitable[None]]


class Peer:
    """Plays one script on every connection; closes the connection where the script ends.

    `url` says where it listens. What a script asserts comes out where the `async with` block ends.
    """

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._script = script
        self._tls = tls
        self._host = host
        self._server: asyncio.Server
        self._plays: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []
        self.conversations: list[Conversation] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._play, self._host, 0, ssl=self._tls)
        scheme = "http" if self._tls is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"{scheme}://{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for play in self._plays:
            play.cancel()
        await asyncio.gather(*self._plays, return_exceptions=True)
        if self._faults:
            raise self._faults[0]

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        play = asyncio.current_task()
        assert play is not None
        self._plays.add(play)
        conversation = Conversation(reader, writer)
        self.conversations.append(conversation)
        try:
            await self._script(conversation)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test has ended
        except BaseException as fault:
            self._faults.append(fault)
        finally:
            writer.close()
            self._plays.discard(play)
