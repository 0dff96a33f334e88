"""The gateway's side of HTTP/1.1: one protocol a connection, one object a request, one write an answer.

Three parts. `Connection` is the asyncio protocol: it feeds what the socket brings to the parser (httptools)
and lets one request at a time be served. `Request` is what a handler gets: a head, a body that may still be
on its way, and the verbs to answer with. `Bounds` says what a client may cost: nobody has shown a key yet
when a connection is made, so all bounds are the connection's.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias, cast
from urllib.parse import unquote

import httptools
import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.state import State

Handler: TypeAlias = "Callable[[Request], Awaitable[None]]"

log = logging.getLogger("isthmus.gateway")

_NEVER = float("inf")
# A body that nobody has asked for yet makes its client wait beyond this.
_MOST_UNREAD = 64 * 1024
_MOST_HEADERS = 256
# A longer head is not remembered: every connection may have one.
_LONGEST_KNOWN_HEAD = 4096
# Of a length: the parser refuses one of 64 bits or more, which has 20 digits at least.
_MOST_DIGITS = 19
_LENGTH_LINE = re.compile(rb"\r\ncontent-length: ?(\d+)\r\n", re.IGNORECASE)
_STATUS_LINES = {it.value: b"HTTP/1.1 %d %b\r\n" % (it.value, it.phrase.encode()) for it in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REFUSED = b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_BAD_REQUEST = _REFUSED % (400, b"Bad Request")
_HEAD_TOO_LONG = _REFUSED % (431, b"Request Header Fields Too Large")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may cost before, between and while its requests are served. Times are seconds.

    `head_bytes` is how long a head may be; its URL and every trailer count. `head_s` is how long a client may
    take to send one: the first from its connecting, any other from the first byte on. `upload_idle_s` is how
    long it may pause in the middle of a body, `upload_s` how long a whole body may take. `unread_s` is how
    long it may read nothing of an answer that waits for it, `keep_alive_s` how long it may keep a connection
    without a request. `pipelined` requests may be sent ahead of an answer; what more comes is not read before
    its turn. All times are kept to within the server's `look_s`.
    """

    head_bytes: int = 64 * 1024
    head_s: float = 30.0
    upload_idle_s: float = 30.0
    upload_s: float = 300.0
    unread_s: float = 60.0
    keep_alive_s: float = 75.0
    pipelined: int = 8


class Head(msgspec.Struct, frozen=True):
    """A head that has been parsed. `before` and `after` are its bytes around the digits of its
    content-length, which are `length`."""

    before: bytes
    length: bytes
    after: bytes
    method: str
    path: str
    headers: dict[bytes, bytes]


class Request(State):
    """One request, whose head has come, and the way to answer it.

    `headers` have lower-case names; where a name comes twice, its values are joined by a comma (RFC 9110,
    section 5.3). `path` is decoded and has no query. `left` turns True when the client goes: the task that
    serves the request is cancelled then.

    A handler answers once: with `respond`, or with `begin`, any number of `write`s, and `end`. Each of them
    sends at once, and returns what to wait for where the client reads more slowly than it is answered. The
    headers of an answer are whole lines, each ended by CRLF; those of framing, `date` and `connection` are
    added.
    """

    _connection: Connection
    method: str
    path: str
    headers: dict[bytes, bytes]
    _chunked: bool
    _keep_alive: bool
    # As it came where it came at once. A list of parts would cost many times what it holds, if a client
    # chose to send byte by byte.
    _body: bytes | bytearray = b""
    _size: int = 0
    _body_whole: bool = False
    left: bool = False
    begun: bool = False
    answered: bool = False
    due: float = _NEVER
    _upload_ends: float = _NEVER
    _head: bytes = b""
    _limit: int = -1
    _unasked: int = _MOST_UNREAD
    _spoilt: bool = False
    _waiter: asyncio.Future[None] | None = None

    # -- the handler's side

    @property
    def client(self) -> str | None:
        """The peer's address, None where it left at once."""
        return self._connection.client

    def accept(self, limit: int) -> None:
        """Reads the body on while its handler waits for something else: a client that leaves is noticed only
        while it is read.

        Raises IsthmusError(TOO_LARGE) where more than `limit` bytes are announced.
        """
        self._refuse_beyond(limit)
        self._unasked = limit
        self._connection.read_on()

    async def body(self, limit: int) -> bytes:
        """The request's body.

        Raises IsthmusError: TOO_LARGE beyond `limit` bytes, INVALID_REQUEST (`upload_stalled`) for a client
        that pauses too long.
        """
        # Also where this body is whole: what follows may have stopped the reading, and it tells who leaves.
        self._connection.read_on()
        if not self._body_whole:
            self._refuse_beyond(limit)
            if self._spoilt:
                raise _malformed()
            if self._size <= limit:
                await self._rest_of_body(limit)
        if self._size > limit:
            raise _too_large(limit)
        body, self._body = bytes(self._body), b""
        return body

    def respond(self, status: int, body: bytes, headers: bytes) -> Awaitable[None] | None:
        """Answers with a whole body."""
        head = self._rendered_head(status, headers)
        self.begun = self.answered = True
        said = b"" if self.method == "HEAD" else body
        return self._connection.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), said))

    def begin(self, status: int, headers: bytes) -> None:
        """Begins a body whose length is not known yet; its head goes out with the first `write`."""
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._head = self._rendered_head(status, headers) + framing
        self.begun = True

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Sends a part of the body."""
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(data), data) if data else self._head
        elif self._head:
            data = self._head + data
        self._head = b""
        return self._connection.write(data)

    def end(self, data: bytes = b"") -> Awaitable[None] | None:
        """Sends the last of a body that was begun, and its end."""
        self.answered = True
        if self._chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        else:
            last = data
        head, self._head = self._head, b""
        return self._connection.write(head + last)

    # -- the connection's side

    @property
    def received(self) -> int:
        """How many bytes of the body have come."""
        return self._size

    def receive(self, part: bytes) -> bool:
        """Takes a part of the body; False where no more of it should be read for now."""
        if self.answered:
            return True
        if not self._size:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += part
        self._size += len(part)
        if self._limit < 0:
            return self._size <= self._unasked
        self.due = min(self._connection.now() + self._connection.bounds.upload_idle_s, self._upload_ends)
        if self._size > self._limit:
            self._wake()
        return True

    def receive_all(self, body: bytes) -> None:
        """Takes the whole body at once, before anybody asks for it."""
        self._body, self._size, self._body_whole = body, len(body), True

    def complete(self) -> None:
        """All of the body has come."""
        self._body_whole = True
        self.due = _NEVER
        self._wake()

    def look(self, now: float) -> bool:
        """False where the rest of the body is not worth waiting for any longer."""
        if now < self.due:
            return True
        if self._waiter is None or self._waiter.done():
            return False
        self._waiter.set_exception(_stalled())
        return True

    def spoil(self) -> None:
        """The rest of the body cannot be read: it is no HTTP."""
        self._keep_alive = False
        self._spoilt = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(_malformed())

    @property
    def lasts(self) -> bool:
        """True where the connection may outlive the request."""
        return self._keep_alive

    @property
    def reusable(self) -> bool:
        """True where another request can follow on the connection."""
        return self.answered and self._keep_alive

    @property
    def sends(self) -> bool:
        """True where more of the body can be expected: it was asked for, and is no nonsense."""
        unasked = self.expects_continue and self._limit < 0 and not self._size
        return not self._spoilt and not unasked

    @property
    def expects_continue(self) -> bool:
        """True where the client waits to be asked for the body."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue" and not self._body_whole

    def _refuse_beyond(self, limit: int) -> None:
        if int(self.headers.get(b"content-length", b"0")) > limit:
            raise _too_large(limit)

    async def _rest_of_body(self, limit: int) -> None:
        connection = self._connection
        now = connection.now()
        self._limit = limit
        self._upload_ends = now + connection.bounds.upload_s
        self.due = min(now + connection.bounds.upload_idle_s, self._upload_ends)
        if self.expects_continue and not self._size:
            connection.write(_CONTINUE)
        self._waiter = connection.loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _rendered_head(self, status: int, headers: bytes) -> bytes:
        if self._limit < 0 and self.expects_continue:
            # The client may send its body or not: nobody can tell what the next bytes would be.
            self._keep_alive = False
        if self._connection.draining:
            self._keep_alive = False
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        closing = b"" if self._keep_alive else b"connection: close\r\n"
        return b"%b%b%b%b" % (line, _date_line(), closing, headers)


class Connection(asyncio.Protocol):
    """One socket of a client. Its requests are served one after the other, in the order in which they came.

    `handler` serves one request; it is cancelled when the client leaves. `on_made` and `on_lost` are told of
    the connection's life; `look` is to be called now and then, and ends what has taken too long.
    """

    __slots__ = (
        "_due",
        "_handler",
        "_headers",
        "_joined",
        "_known",
        "_left",
        "_line",
        "_on_lost",
        "_on_made",
        "_parser",
        "_pending",
        "_read_paused",
        "_receiving",
        "_serving",
        "_transport",
        "_unsent",
        "_unsent_since",
        "_url",
        "_writable",
        "bounds",
        "client",
        "draining",
        "gone",
        "loop",
        "now",
        "task",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bounds: Bounds,
        handler: Handler,
        on_made: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.now = loop.time
        self.bounds = bounds
        self.client: str | None = None
        self.gone = False
        self.draining = False
        self.task: asyncio.Task[None] | None = None
        self._handler = handler
        self._on_made = on_made
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        # How many headers came under a name that was there already.
        self._joined = 0
        self._known: Head | None = None
        # What is to come of a body whose head was known; the parser does not see it.
        self._left = 0
        self._receiving: Request | None = None
        self._serving: Request | None = None
        self._line: deque[Request] = deque()
        # Bytes since the parser last came to a head's end or to a body's bytes.
        self._pending = 0
        # When a head has to be there, or an idle connection ends.
        self._due = _NEVER
        self._read_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._unsent = 0
        self._unsent_since = 0.0

    @property
    def idle(self) -> bool:
        """True where no request is served or waits to be."""
        return self._serving is None

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Sends the bytes; what to wait for where the client reads more slowly than they are made."""
        if self.gone:
            return None
        self._transport.write(data)
        return None if self._writable is None else asyncio.shield(self._writable)

    def read_on(self) -> None:
        """Reads from the socket again, where that was paused and not too many requests are in line."""
        if self._read_paused and len(self._line) <= self.bounds.pipelined:
            self._read_paused = False
            self._transport.resume_reading()

    def drain(self) -> None:
        """Ends the connection as soon as no request is served on it."""
        self.draining = True
        if self.idle:
            self._transport.close()

    def end(self) -> None:
        """Cuts off the request that is served, which may still say so, and ends the connection then."""
        self.drain()
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def look(self, now: float) -> None:
        """Ends the connection where its client has kept the gateway waiting for too long."""
        transport = self._transport
        # In both states nothing is added to what is unsent: as long as it changes, the client reads.
        waits = transport.is_closing() or self._writable is not None
        unsent = transport.get_write_buffer_size() if waits else 0
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since >= self.bounds.unread_s:
            transport.abort()
        if now >= self._due or (self._receiving is not None and not self._receiving.look(now)):
            transport.close()
        elif self._read_paused and not transport.is_closing() and _hung_up(transport):
            transport.abort()

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if isinstance(peer, tuple) else None
        self._due = self.now() + self.bounds.head_s
        self._on_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client has left, or was shown the door."""
        self.gone = True
        self._line.clear()
        if self._writable is not None:
            self.resume_writing()
        # The parser holds the connection.
        self._parser = None  # type: ignore[assignment]
        if self._serving is not None:
            self._serving.left = True
            if self.task is not None:
                self.task.cancel()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """asyncio: more is unsent than there should be."""
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """asyncio: the client has read."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        """asyncio: what one read of the socket held."""
        if self._left:
            data = self._take_body(data)
        elif self._known is not None:
            data = self._without_known_head(self._known, data)
        if data:
            self._take_unknown(data)

    def _without_known_head(self, head: Head, data: bytes) -> bytes:
        """What is left of the data when a request was taken whose head is the known one, but for its length.

        A client says nearly the same head with every request of a connection. What the parser has taken once
        it would take again: the bytes are the same, digits stand where digits stood, and no message is under
        way that they could belong to.
        """
        before, after = head.before, head.after
        if not data.startswith(before) or self._pending or self._serving or self._receiving:
            return data
        begins = len(before)
        ends = data.find(b"\r", begins, begins + _MOST_DIGITS + 1)
        length = data[begins:ends]
        if not length.isdigit() or not data.startswith(after, ends):
            return data
        body_at, size = ends + len(after), int(length)
        self._due = _NEVER
        request = Request(
            self,
            head.method,
            head.path,
            head.headers if length == head.length else {**head.headers, b"content-length": length},
            _chunked=True,
            _keep_alive=True,
        )
        self._serve(request)
        body = data[body_at:]
        if len(body) == size:
            request.receive_all(body)
            return b""
        self._receiving, self._left = request, size
        return self._take_body(body)

    def _take_body(self, data: bytes) -> bytes:
        """What is left of the data when the body of a request whose head was known has taken its part."""
        part, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(part)
        if part:
            self.on_body(part)
        if not self._left:
            self.on_message_complete()
        return rest

    def _take_unknown(self, data: bytes) -> None:
        """Have the parser read it."""
        longest = self.bounds.head_bytes
        before, came = self._pending, data
        begins = not before and self._serving is None and self._receiving is None
        while data:
            part, data = (data, b"") if self._pending + len(data) <= longest else self._cut(data)
            self._pending += len(part)
            if not self._parsed(part):
                return
            if self._pending >= longest:
                self._refuse(_HEAD_TOO_LONG)
                return
        if begins and self._serving is not None:
            self._remember(self._serving, came)
        elif self._pending and not before and self._serving is None:
            self._due = min(self._due, self.now() + self.bounds.head_s)

    def _remember(self, request: Request, data: bytes) -> None:
        """Know the request's head, with which the data begins, where only its own body follows."""
        self._known = None
        end = data.find(b"\r\n\r\n", 0, _LONGEST_KNOWN_HEAD) + 4
        if not request.lasts or len(data) - end != request.received:
            return
        headers, length = request.headers, _LENGTH_LINE.search(data, 0, end)
        if length is not None and headers.get(b"content-length") == length[1]:
            begins, ends = length.span(1)
            self._known = Head(
                data[:begins], length[1], data[ends:end], request.method, request.path, headers
            )

    def _cut(self, data: bytes) -> tuple[bytes, bytes]:
        room = self.bounds.head_bytes - self._pending
        return data[:room], data[room:]

    def _parsed(self, part: bytes) -> bool:
        """Feeds the parser; False where what came is no HTTP, and the connection ends."""
        while part:
            try:
                self._parser.feed_data(part)
            except httptools.HttpParserUpgrade as upgrade:
                part = self._without_upgrade(part[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._cannot_go_on()
                return False
            else:
                return True
        return False

    def _cannot_go_on(self) -> None:
        """What came is no HTTP: who is told so is the request that it belongs to, where there is one."""
        last = self._line[-1] if self._line else self._serving
        if self._receiving is not None:
            self._receiving.spoil()
            if self._serving is None:
                # It has its answer, and the rest of its body was dropped.
                self._transport.close()
        elif last is None or last.lasts:
            self._refuse(_BAD_REQUEST)
        # RFC 9112, section 9.6: what follows the last request of a connection is not looked at.

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The request as if no other protocol were proposed (RFC 9110, section 7.8, allows it), and the rest.

        The parser stops at such a head. Java's client proposes h2c with every first request.
        """
        request = self._line[-1] if self._line else self._serving
        self._receiving = None
        assert request is not None, "the head of the proposal was complete"
        self._forget(request)
        if request.method == "CONNECT":
            self._refuse(_BAD_REQUEST)
            return b""
        kept = [
            b"%b: %b\r\n" % pair
            for pair in request.headers.items()
            if pair[0] not in (b"upgrade", b"connection", b"http2-settings")
        ]
        if not request.lasts:
            kept.append(b"connection: close\r\n")
        version = self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        line = b"%b %b HTTP/%b\r\n" % (request.method.encode(), self._url, version)
        return b"".join((line, *kept, b"\r\n", rest))

    def _forget(self, request: Request) -> None:
        if request is self._serving:
            assert self.task is not None
            # It has not begun to run: a task takes its first step in a later turn of the loop.
            self.task.cancel()
            self._serving = self.task = None
        else:
            self._line.remove(request)

    def _refuse(self, said: bytes) -> None:
        """Ends the connection, with a word where no answer is under way that it could be taken for."""
        if self._serving is None:
            self._transport.write(said)
        self._transport.close()

    # -- the parser's side

    def on_message_begin(self) -> None:
        """httptools: a head begins."""
        # Its first bytes may have come with a request before it, and were counted as that one's.
        self._pending = self._pending or 1
        self._headers = {}
        self._joined = 0
        self._url = b""

    def on_url(self, url: bytes) -> None:
        """httptools: a part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header, or a trailer where the head is complete; trailers are dropped."""
        if self._receiving is None:
            headers, name = self._headers, name.lower()
            if name in headers:
                if name == b"host":
                    raise ValueError("two hosts")
                value = b"%b, %b" % (headers[name], value)
                self._joined += 1
            headers[name] = value
            if len(headers) + self._joined > _MOST_HEADERS:
                raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        """httptools: a head is complete: its request is served at once, or waits for its turn."""
        self._pending = 0
        self._due = _NEVER
        parser = self._parser
        recent = parser.get_http_version() == "1.1"
        if recent and b"host" not in self._headers:
            raise ValueError("no host")
        request = self._receiving = Request(
            self,
            parser.get_method().decode("latin-1"),
            _path_of(self._url),
            self._headers,
            _chunked=recent,
            _keep_alive=recent and parser.should_keep_alive(),
        )
        if self._serving is None:
            self._serve(request)
        else:
            self._line.append(request)
            if len(self._line) > self.bounds.pipelined:
                self._stop_reading()

    def on_body(self, body: bytes) -> None:
        """httptools: a part of a body."""
        self._pending = 0
        if self._receiving is not None and not self._receiving.receive(body):
            self._stop_reading()

    def on_message_complete(self) -> None:
        """httptools: a request is complete."""
        self._pending = 0
        request, self._receiving = self._receiving, None
        if request is not None:
            request.complete()
            if self._serving is None:
                # Its answer did not wait for the end of it.
                if request.lasts:
                    self._next()
                else:
                    self._transport.close()
            elif request.answered is False:
                self.read_on()

    # -- serving

    def _serve(self, request: Request) -> None:
        self._serving = request
        self.task = self.loop.create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        try:
            await self._handler(request)
        except Exception as bug:
            # The text of an exception may quote the prompt: only its kind is logged.
            log.error("a request failed by a bug: %s", type(bug).__name__)
        self._serving = self.task = None
        if self.gone:
            return
        if self._receiving is request and request.answered and request.sends:
            # The answer did not wait for all of the request: what is left of it is read and
            # dropped. To close now would reset the connection, and the client, which still
            # sends, would lose the answer.
            request.due = self.now() + self.bounds.upload_idle_s
            self.read_on()
        elif not request.reusable or (self.draining and not self._line):
            self._transport.close()
        else:
            self._next()

    def _next(self) -> None:
        if self._line:
            request = self._line.popleft()
            self.read_on()
            self._serve(request)
        else:
            if self._read_paused:
                self.read_on()
            waits = self.bounds.head_s if self._pending else self.bounds.keep_alive_s
            self._due = self.now() + waits

    def _stop_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()


def _hung_up(transport: asyncio.Transport) -> bool:
    """True where the peer is known to send no more; of a socket that is not read, only Linux tells."""
    if sys.platform != "linux":
        return False
    socket = select.poll()
    socket.register(transport.get_extra_info("socket"), select.POLLRDHUP)
    return bool(socket.poll(0))


def _path_of(url: bytes) -> str:
    if not url.startswith(b"/"):
        # RFC 9112, section 3.2: the absolute form, as proxies use it, or `*`.
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return ""
    path = url.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path


class _Clock:
    """The `date` header (RFC 9110, section 6.6.1), rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def __call__(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)).encode()
        return self._line


_date_line = _Clock()


def _too_large(limit: int) -> IsthmusError:
    return IsthmusError(
        Fault.TOO_LARGE,
        f"The request's body is larger than {limit:,} bytes.",
        code="body_too_large",
        hint="Send less, or have an operator raise gateway.max_body_mb.",
    )


def _malformed() -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        "The request's body is not framed as HTTP/1.1 wants it.",
        code="malformed_body",
        hint="Look at the chunks, or at what stands between the client and the gateway.",
    )


def _stalled() -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        "The request's body came too slowly, or stopped coming.",
        code="upload_stalled",
        hint="Send the whole body that content-length announces.",
    )
