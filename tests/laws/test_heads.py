"""A head that is known is taken as the parser takes it, in whatever order and however cut messages come."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gateway import http1
from isthmus.gateway.http1 import Bounds, Connection, Request
from isthmus.gateway.server import BOUNDS

LIMIT = 1_000_000

How: TypeAlias = Literal["early", "at once", "slow"]


class Taken(NamedTuple):
    """A request, as its handler got it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes


class Forgetful(Connection):
    """A connection that has the parser read every head."""

    __slots__ = ()

    def _remember(self, request: Request, data: bytes) -> None:
        return


class Wire(asyncio.Transport):
    """What a client would hear, and whether it is still connected."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """A whole message is given to the connection at once: it is heard in any case."""

    def resume_reading(self) -> None: ...


plain_heads = st.sampled_from(
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\nx-a: b\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n",
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
    ]
)
odd_lengths = st.sampled_from([b"0%d", b"%d ", b"-%d", b"+%d", b"%dx", b"%d,%d", b""])


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Reads of a socket: mostly messages with one head, whole, or cut where it may matter."""
    head, reads = draw(st.one_of(plain_heads, odd_heads)), list[bytes]()
    for _ in range(draw(st.integers(2, 6))):
        if draw(st.integers(0, 7)) == 0:
            reads.append(draw(others))
            continue
        body = draw(
            st.one_of(st.binary(max_size=20), st.sampled_from([b"\r\n\r\n", b"x\r\n\r\n", b"7" * 120]))
        )
        if draw(st.booleans()):
            # What is a body looks like a message of its own.
            body = draw(st.sampled_from([b"", b"\r\n"])) + _message(head, b"%d", body)
        length = draw(odd_lengths) if draw(st.integers(0, 9)) == 0 else b"%d"
        message = _message(head, length, body)
        at = draw(st.sampled_from([0, len(message) - len(body), len(message) - 1, draw(st.integers(0, 200))]))
        reads += [part for part in (message[:at], message[at:]) if part]
    return reads


def _message(head: bytes, length: bytes, body: bytes) -> bytes:
    digits = length.replace(b"%d", b"%d" % len(body))
    return head.replace(b"%d", digits) + body


async def heard(kind: type[Connection], reads: list[bytes], *, how: How) -> tuple[list[Taken], bytes, bool]:
    """The requests of a connection that gets these reads, what its client hears, and whether it was closed.

    A handler answers `early`, before it has seen the body, or at once when it has, or is `slow`.
    """
    taken: list[Taken] = []

    async def handle(request: Request) -> None:
        body = b"" if how == "early" else await request.body(LIMIT)
        for _ in range(20 if how == "slow" else 0):
            await asyncio.sleep(0)
        taken.append(Taken(request.method, request.path, dict(request.headers), body))
        request.respond(200, b"%d" % len(taken), b"")

    wire = Wire()
    loop = asyncio.get_running_loop()
    connection = kind(loop, BOUNDS, handle, lambda _: None, lambda _: None)
    connection.connection_made(wire)
    for data in reads:
        if not wire.closed:
            connection.data_received(data)
        for _ in range(8):
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return taken, wire.said, wire.closed


@given(conversations(), st.sampled_from(get_args(How)))
def test_a_known_head_is_taken_as_the_parser_takes_it(reads: list[bytes], how: How) -> None:
    async def both() -> None:
        knowing = await heard(Connection, reads, how=how)
        assert knowing == await heard(Forgetful, reads, how=how)

    _without_dates(both)


def _without_dates(both: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "_date_line", lambda: b"")
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
    reads = [first, second, second[:cut], second[cut:], first]
    requests, _, _ = asyncio.run(heard(Connection, reads, how="at once"))
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
