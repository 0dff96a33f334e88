"""A head that is known is taken as the parser takes it, in whatever order and however cut messages come."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.core.errors import IsthmusError
from isthmus.gateway import http1
from isthmus.gateway.http1 import Bounds, Connection, Request
from isthmus.gateway.server import BOUNDS

LIMIT = 100
"""What a handler takes of a body, in bytes."""

LARGE = b"7" * 70_000
"""More than is read of a body that nobody has asked for."""

How: TypeAlias = Literal["early", "at once", "slow"]


class Taken(NamedTuple):
    """A request, as its handler got it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes


class Heard(NamedTuple):
    """What became of a connection: its requests, what the client heard, and after each read, whether it was
    closed, and listened to."""

    taken: list[Taken]
    said: bytes
    states: list[tuple[bool, bool]]


class Forgetful(Connection):
    """A connection that has the parser read every head."""

    __slots__ = ()

    def _remember(self, request: Request, data: bytes) -> None:
        return


class Wire(asyncio.Transport):
    """What a client would hear, whether it is still connected, and whether it is listened to."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.closed = False
        self.listened_to = True

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        self.listened_to = False

    def resume_reading(self) -> None:
        self.listened_to = True


plain_heads = st.sampled_from(
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\nx-key: a\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\nx-key: b\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n",
    ]
)
odd_heads = st.sampled_from(
    [
        b"POST /a HTTP/1.1\r\nhost: here\r\nx: content-length: 7\r\ncontent-length:%d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\nx-b: 1\r\nx-b: 2\r\ncontent-length: 00%d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: %d \r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: %d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n",
        b"POST /a HTTP/1.0\r\nhost: here\r\nconnection: keep-alive\r\ncontent-length: %d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: %d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\ncontent-length: 3\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: -%d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: +%d\r\n\r\n",
        b"POST /a HTTP/1.1\ncontent-length: %d\nhost: here\n\n",
    ]
)
others = st.sampled_from(
    [
        b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n",
        b"POST /b HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"\r\n",
        b"P",
        b"nonsense\r\n\r\n",
        b"",
    ]
)
odd_lengths = st.sampled_from([b"%d ", b"-%d", b"+%d", b"%dx", b"%d,%d", b"", b"9" * 20]) | st.sampled_from(
    [b"0" * zeros + b"%d" for zeros in (1, 17, 18, 19, 30)]
)
bodies = st.binary(max_size=20) | st.sampled_from([b"\r\n\r\n", b"7" * 100, b"7" * 101, LARGE])


class Read(NamedTuple):
    """What one read of the socket holds, and the seconds that pass after it."""

    data: bytes
    seconds: float


@st.composite
def conversations(draw: st.DrawFn) -> list[Read]:
    """Reads of a socket: mostly messages with a head or two, whole, or cut where it may matter."""
    heads = draw(st.lists(st.one_of(plain_heads, plain_heads, odd_heads), min_size=1, max_size=2))
    parts: list[bytes] = []
    for _ in range(draw(st.integers(2, 6))):
        if draw(st.integers(0, 7)) == 0:
            parts.append(draw(others))
            continue
        head = draw(st.sampled_from(heads))
        body = draw(bodies)
        if draw(st.booleans()):
            # What is a body looks like a message of its own.
            body = draw(st.sampled_from([b"", b"\r\n"])) + _message(draw(st.sampled_from(heads)), b"%d", body)
        length = draw(odd_lengths) if draw(st.integers(0, 9)) == 0 else b"%d"
        message = _message(head, length, body)
        at = draw(st.sampled_from([0, len(message) - len(body), len(message) - 1, draw(st.integers(0, 200))]))
        parts += [part for part in (message[:at], message[at:]) if part]
    if draw(st.integers(0, 4)) == 0:
        parts = [b"".join(parts[:2]), *parts[2:]]
    pauses = st.sampled_from([0.0, 0.0, 0.0, 0.0, 20.0, 40.0, 80.0])
    return [Read(part, draw(pauses)) for part in parts]


def _message(head: bytes, length: bytes, body: bytes) -> bytes:
    digits = length.replace(b"%d", b"%d" % len(body))
    return head.replace(b"%d", digits) + body


async def heard(kind: type[Connection], reads: list[Read], *, how: How) -> Heard:
    """What becomes of a connection that gets these reads.

    A handler answers `early`, before it has seen the body, or at once when it has, or is `slow`.
    """
    taken: list[Taken] = []
    states: list[tuple[bool, bool]] = []
    clock = [0.0]

    async def handle(request: Request) -> None:
        try:
            body = b"" if how == "early" else await request.body(LIMIT)
        except IsthmusError as refused:
            request.respond(refused.status, refused.code.encode() if refused.code else b"", b"")
            return
        for _ in range(20 if how == "slow" else 0):
            await asyncio.sleep(0)
        taken.append(Taken(request.method, request.path, dict(request.headers), body))
        request.respond(200, b"%d" % len(taken), b"")

    wire = Wire()
    connection = kind(asyncio.get_running_loop(), BOUNDS, handle, lambda _: None, lambda _: None)
    connection.now = lambda: clock[0]
    connection.connection_made(wire)
    for read in reads:
        if not wire.closed:
            connection.data_received(read.data)
        for _ in range(8):
            await asyncio.sleep(0)
        clock[0] += read.seconds
        if not wire.closed:
            connection.look(clock[0])
        for _ in range(8):
            await asyncio.sleep(0)
        states.append((wire.closed, wire.listened_to))
    for _ in range(200):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return Heard(taken, wire.said, states)


@settings(max_examples=500)
@given(conversations(), st.sampled_from(get_args(How)))
def test_a_known_head_is_taken_as_the_parser_takes_it(reads: list[Read], how: How) -> None:
    async def both() -> None:
        knowing = await heard(Connection, reads, how=how)
        assert knowing == await heard(Forgetful, reads, how=how)

    _as_time_stands_still(both)


HEAD = b"POST /ask HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\nx-key: %b\r\n\r\n"
REST = Read(b"", 0.0)


def _of(key: bytes, body: bytes) -> Read:
    return Read(HEAD % (len(body), key) + body, 0.0)


def _in_two(key: bytes, body: bytes, *, behind_the_head: int) -> tuple[Read, Read]:
    message, head = _of(key, body).data, len(HEAD % (len(body), key))
    return Read(message[: head + behind_the_head], 0.0), Read(message[head + behind_the_head :], 0.0)


INNER = _of(b"b", b"stolen").data


@pytest.mark.parametrize("how", get_args(How))
@pytest.mark.parametrize(
    ("reads", "takes"),
    [
        # What is a body stays one, wherever it is cut.
        ([_of(b"a", b"1"), REST, *_in_two(b"a", INNER, behind_the_head=0)], [(b"a", b"1"), (b"a", INNER)]),
        ([_of(b"a", b"1"), REST, *_in_two(b"a", INNER, behind_the_head=9)], [(b"a", b"1"), (b"a", INNER)]),
        ([_of(b"a", b"1"), REST, *_in_two(b"b", INNER, behind_the_head=0)], [(b"a", b"1"), (b"b", INNER)]),
        ([_of(b"a", b"1"), REST, Read(b"POST /", 0.0), _of(b"a", b"2")], [(b"a", b"1")]),
        # Nobody is taken for another, who says a head of the same length, or while the other is served.
        (
            [_of(b"a", b"1"), REST, _of(b"b", b"2"), REST, _of(b"a", b"3")],
            [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")],
        ),
        (
            [_of(b"a", b"1"), _of(b"b", b"2"), REST, REST, REST, REST, _of(b"b", b"3")],
            [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")],
        ),
        # What is too long is refused, whatever is known.
        ([_of(b"a", b"1"), REST, REST, _of(b"a", b"7" * 101)], [(b"a", b"1")]),
        ([_of(b"a", b"1"), REST, REST, Read(HEAD.replace(b"%d", b"9" * 20) % b"a", 0.0)], [(b"a", b"1")]),
        # The time that an idle connection has does not count for who is served.
        ([_of(b"a", b"1"), REST, REST, Read(_of(b"a", b"2").data, 80.0)], [(b"a", b"1"), (b"a", b"2")]),
    ],
)
def test_what_is_known_is_nobody_elses(reads: list[Read], takes: list[tuple[bytes, bytes]], how: How) -> None:
    async def both() -> None:
        knowing = await heard(Connection, reads, how=how)
        assert knowing == await heard(Forgetful, reads, how=how)
        if how != "early":
            assert [(it.headers[b"x-key"], it.body) for it in knowing.taken] == takes

    _as_time_stands_still(both)


async def test_more_of_a_body_than_anybody_has_asked_for_is_not_read() -> None:
    wire = Wire()
    connection = Connection(
        asyncio.get_running_loop(),
        BOUNDS,
        cast(Any, lambda _: asyncio.sleep(9)),
        lambda _: None,
        lambda _: None,
    )
    connection.connection_made(wire)
    connection._known = http1.Head(b"POST / HTTP/1.1\r\ncontent-length: ", b"1", b"\r\n\r\n", "POST", "/", {})
    connection.data_received(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n" + LARGE)
    assert not wire.listened_to
    connection.connection_lost(None)
    await asyncio.sleep(0)


def _as_time_stands_still(both: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "_date_line", lambda: b"")
        patch.setattr(http1, "_hung_up", lambda _: False)
        asyncio.run(both())


def test_heads_of_a_connection_are_known_from_the_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bytes] = []
    taken = Connection._without_known_head

    def noted(self: Connection, head: http1.Head, data: bytes) -> bytes:
        rest = taken(self, head, data)
        known.append(data[: len(data) - len(rest)])
        return rest

    monkeypatch.setattr(Connection, "_without_known_head", noted)
    message = b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b"
    first, second = message % (3, b"abc"), message % (10, b"0123456789")
    cut = len(second) - 4
    reads = [Read(data, 0.0) for data in (first, second, second[:cut], second[cut:], first)]
    requests = asyncio.run(heard(Connection, reads, how="at once")).taken
    assert [it.body for it in requests] == [b"abc", b"0123456789", b"0123456789", b"abc"]
    assert [it.headers[b"content-length"] for it in requests] == [b"3", b"10", b"10", b"3"]
    assert known == [second, second[:cut], first]


def test_a_long_head_is_not_remembered() -> None:
    long = b"POST /a HTTP/1.1\r\nhost: here\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"a" * 5000)

    async def known() -> http1.Head | None:
        connection = Connection(
            asyncio.get_running_loop(),
            Bounds(),
            cast(Any, lambda _: asyncio.sleep(0)),
            lambda _: None,
            lambda _: None,
        )
        connection.connection_made(Wire())
        connection.data_received(long)
        return connection._known

    assert asyncio.run(known()) is None
