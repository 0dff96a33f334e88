"""A forward proxy on loopback, such as companies have: it tunnels, forwards, and wants a login."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import NamedTuple, Self


class Asked(NamedTuple):
    """A request as it came to the proxy: its first line, and whether the login was in it."""

    line: str
    known: bool


class ForwardProxy:
    """An HTTP proxy whose every name leads to this machine; `login` is the `user:password` that it wants.

    `asked` is what it was asked for; `connections` counts who came.
    """

    def __init__(self, login: str | None = None) -> None:
        self._login = None if login is None else f"Basic {base64.b64encode(login.encode()).decode()}"
        self._server: asyncio.Server
        self._talks: set[asyncio.Task[None]] = set()
        self.asked: list[Asked] = []
        self.connections = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        self.connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._request(reader, writer):
                    pass
        finally:
            writer.close()
            self._talks.discard(talk)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; True where another can follow."""
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        known = self._login is None or headers.pop("proxy-authorization", None) == self._login
        self.asked.append(Asked(line, known))
        method, target, _ = line.split(" ")
        if not known:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return method != "CONNECT"
        if method == "CONNECT":
            upstream = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pour(reader, upstream[1]), _pour(upstream[0], writer))
            return False
        authority, _, path = target.removeprefix("http://").partition("/")
        upstream = await asyncio.open_connection("127.0.0.1", int(authority.rpartition(":")[2]))
        kept = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if name != "connection")
        upstream[1].write(f"{method} /{path} HTTP/1.1\r\n{kept}connection: close\r\n\r\n".encode() + body)
        head = await upstream[0].readuntil(b"\r\n\r\n")
        # What the upstream says of its own connection is not for ours.
        writer.write(
            b"".join(each for each in head.splitlines(True) if not each.lower().startswith(b"connection:"))
        )
        while piece := await upstream[0].read(65536):
            writer.write(piece)
        upstream[1].close()
        return True


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while piece := await source.read(65536):
        sink.write(piece)
    sink.close()
