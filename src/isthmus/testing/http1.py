"""An HTTP/1.1 server that can do on purpose what servers must not: stop, cut, reset, dribble."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from isthmus.testing.wire import Received

_PHRASES = {status.value: status.phrase for status in HTTPStatus}

Handler = Callable[[Received, "Connection"], Coroutine[Any, Any, None]]


class BadRequestError(Exception):
    """The bytes are no HTTP request."""


class Connection(asyncio.Protocol):
    """One connection: requests are read one after another, and answered by the handler in their order."""

    def __init__(
        self, handler: Handler, opened: Callable[[Connection], None], closed: Callable[[Connection], None]
    ):
        self._handler = handler
        self._opened = opened
        self._closed = closed
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._chunked = False
        self._keep = True
        self._encouraged = False

    @property
    def answering(self) -> bool:
        """Whether an answer is under way."""
        return self._task is not None

    # The five methods that asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection; asyncio has already set TCP_NODELAY on it."""
        self._transport = cast(asyncio.Transport, transport)
        self._writable.set()
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request."""
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        """Makes writers wait, for the client does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Lets writers go on."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends an answer that nobody waits for any more."""
        self._closed(self)
        if self._task is not None:
            self._task.cancel()

    # What a handler calls.

    async def begin(self, status: int, headers: list[tuple[str, str]], length: int | None) -> None:
        """Sends the head; a length of None announces chunks."""
        self._chunked = length is None
        framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Overloaded')}"]
        lines += [f"{name}: {value}" for name, value in [*headers, framing]]
        if not self._keep:
            lines.append("connection: close")
        await self.write("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Sends a part of the body, as a chunk where chunks were announced."""
        await self.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def send_torn(self, data: bytes) -> None:
        """Sends the first half of a part, with its whole length promised."""
        half = data[: len(data) // 2]
        await self.write(b"%x\r\n%b" % (len(data), half) if self._chunked else half)

    async def end(self) -> None:
        """Ends the body."""
        if self._chunked:
            await self.write(b"0\r\n\r\n")

    async def write(self, data: bytes) -> None:
        """Writes bytes at once, and waits while the client is too slow."""
        self._transport.write(data)
        # Other connections have their turn, and a client that left is noticed.
        await asyncio.sleep(0)
        await self._writable.wait()

    def close(self) -> None:
        """Closes in order, after all that was written."""
        self._keep = False
        self._transport.close()

    def reset(self) -> None:
        """Closes with a TCP reset: the client sees ECONNRESET."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._keep = False
        self._transport.abort()

    # Reading.

    def _next(self) -> None:
        """Starts the answer to the next whole request, unless an answer is under way."""
        if self._task is not None or self._transport.is_closing():
            return
        try:
            request = self._take()
        except (BadRequestError, ValueError):
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.close()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Received) -> None:
        try:
            await self._handler(request, self)
        except Exception:
            # A fault of a script's author: the client must not wait, and asyncio reports the rest.
            self.reset()
            raise
        finally:
            self._task = None
        if not self._keep:
            self._transport.close()
        self._next()

    def _take(self) -> Received | None:
        """The next request, off the buffer; None while it is not whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, target, version = _request_line(first)
        headers = dict(_header(line) for line in lines)
        taken = self._body(end + 4, headers)
        if taken is None:
            if headers.get("expect") == "100-continue" and not self._encouraged:
                self._encouraged = True
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        raw, stop = taken
        del self._buffer[:stop]
        self._encouraged = False
        persistent = version == "HTTP/1.1" or headers.get("connection", "").lower() == "keep-alive"
        self._keep = persistent and headers.get("connection", "").lower() != "close"
        split = urlsplit(target)
        return Received(
            method=method,
            path=unquote(split.path),
            query=dict(parse_qsl(split.query, keep_blank_values=True)),
            headers=headers,
            raw=raw,
            body=_json_object(raw),
        )

    def _body(self, start: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
        """The body and where it ends in the buffer; None while it is not whole."""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return _dechunked(self._buffer, start)
        stop = start + int(headers.get("content-length", "0"))
        return (bytes(self._buffer[start:stop]), stop) if len(self._buffer) >= stop else None


def _request_line(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequestError
    return parts[0], parts[1], parts[2]


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or name != name.strip():
        raise BadRequestError
    return name.lower(), value.strip()


def _dechunked(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """A chunked body (RFC 9112, section 7.1) without trailers' meaning, and where it ends."""
    body = bytearray()
    while (line_end := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:line_end]).partition(b";")[0], 16)
        if size == 0:
            close = buffer.find(b"\r\n\r\n", line_end)
            return (bytes(body), close + 4) if close >= 0 else None
        start = line_end + 2
        if len(buffer) < start + size + 2:
            return None
        body += buffer[start : start + size]
        start += size + 2
    return None


def _json_object(raw: bytes) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None
