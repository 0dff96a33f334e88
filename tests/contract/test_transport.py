"""Every HTTP client behind the seam keeps the seam's promises, against a peer that breaks its own."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.forward_proxy import ForwardProxy

from isthmus.providers import http1
from isthmus.providers.http1 import Http1Transport
from isthmus.providers.http_aiohttp import AiohttpTransport
from isthmus.providers.transport import (
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    IdleTimeoutError,
    MalformedResponseError,
    Origin,
    Outgoing,
    PoolExhaustedError,
    Proxy,
    ProxyError,
    Reply,
    ResponseTooLargeError,
    Stream,
    Timeouts,
    TlsError,
    TotalTimeoutError,
    Transport,
    TransportError,
    as_target,
    render_headers,
)

from .misbehaving_peer import Conversation, Peer, Script

Open = Callable[..., Transport]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def ask(target: str = "/ask", body: bytes = b"{}", *, method: bytes = b"POST", **timeouts: float) -> Outgoing:
    return Outgoing(target=as_target(target), body=body, method=method, timeouts=Timeouts(**timeouts))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answers(wire: bytes) -> Script:
    """A peer that gives every request on a connection the same answer."""

    async def script(talk: Conversation) -> None:
        while True:
            await talk.request()
            await talk.write(wire)

    return script


async def serves_one_and_dies_under_the_next(talk: Conversation) -> None:
    await talk.request()
    await talk.write(OK)
    await talk.request()


async def rest_of(stream: Stream) -> bytes:
    return await stream.read(1 << 30)


async def within(seconds: float, awaitable: Any) -> Any:
    """Fail, rather than hang, where what is awaited never comes."""
    return await asyncio.wait_for(awaitable, seconds)


async def comes_within(seconds: float, event: asyncio.Event) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False


@pytest.fixture(params=[Http1Transport, AiohttpTransport], ids=["http1", "aiohttp"])
async def open_transport(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    opened: list[Transport] = []

    def open_one(url: str, *, ca_file: str | None = None, verify: bool = True, **limits: Any) -> Transport:
        origin = Origin.from_url(url, ca_file=ca_file, verify=verify)
        opened.append(request.param(origin, **limits))
        return opened[-1]

    yield open_one
    for transport in opened:
        await transport.aclose()


# -- what is sent and what comes back


async def test_a_request_goes_out_as_given_and_its_answer_comes_back_whole(open_transport: Open) -> None:
    async with Peer(answers(OK)) as peer:
        request = Outgoing(
            target=as_target("/v1/chat?x=%2F"),
            body=b'{"a": 1}',
            headers=render_headers([("Authorization", "Bearer k"), ("content-type", "application/json")]),
        )
        reply = await open_transport(peer.url).send(request)
    assert (reply.status, reply.body, reply.header("content-type")) == (200, b"ok", "text/plain")
    seen = peer.conversations[0].requests[0]
    assert seen.line == "POST /v1/chat?x=%2F HTTP/1.1"
    assert seen.body == b'{"a": 1}'
    assert seen.headers == {
        "host": peer.url.removeprefix("http://"),
        "accept-encoding": "identity",
        "authorization": "Bearer k",
        "content-type": "application/json",
        "content-length": "8",
    }


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
async def test_a_body_of_any_size_arrives_intact(open_transport: Open, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with Peer(answers(OK)) as peer:
        await open_transport(peer.url).send(ask(body=body))
    assert peer.conversations[0].requests[0].body == body


async def test_a_stream_returns_at_the_head_and_hands_on_what_comes(open_transport: Open) -> None:
    head_seen, first_seen = asyncio.Event(), asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED)
        await head_seen.wait()
        await talk.write(chunk(b"one"))
        await first_seen.wait()
        await talk.write(chunk(b"two") + b"0\r\n\r\n")

    async with Peer(script) as peer:
        stream = await open_transport(peer.url).stream(ask())
        assert stream.header("transfer-encoding") == "chunked"
        head_seen.set()
        assert await stream.next_chunk() == b"one"
        first_seen.set()
        assert await stream.next_chunk() == b"two"
        assert await stream.next_chunk() == b""
        assert await stream.next_chunk() == b""
        stream.close()


async def test_a_chunked_answer_reads_the_same_however_it_is_split(open_transport: Open) -> None:
    wire = CHUNKED + chunk(b"alpha") + b"5;ext=1\r\nbravo\r\n" + b"0\r\nX-Trailer: t\r\n\r\n"

    async def script(talk: Conversation) -> None:
        for cut in range(1, len(wire)):
            await talk.request()
            await talk.drip([wire[:cut], wire[cut:]])
        await talk.request()
        await talk.drip([wire[i : i + 1] for i in range(len(wire))])

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        for _ in range(len(wire)):
            stream = await transport.stream(ask())
            assert list(stream.headers) == [(b"transfer-encoding", b"chunked")]
            assert await rest_of(stream) == b"alphabravo"
            stream.close()
        assert len(peer.conversations) == 1


async def test_trailers_are_dropped_and_the_first_header_of_a_name_counts(open_transport: Open) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailed = head + chunk(b"ok") + b"0\r\nX-Late: 3\r\nX-A: 4\r\n\r\n"
    cuts = (len(trailed), len(head), len(trailed) - 2, len(trailed) - 10)
    for cut in cuts:
        parts = iter([trailed[:cut], trailed[cut:], OK, b""])

        async def script(talk: Conversation, parts: Iterator[bytes] = parts) -> None:
            for first, rest in ((next(parts), next(parts)), (next(parts), next(parts))):
                await talk.request()
                await talk.write(first)
                if rest:
                    await asyncio.sleep(0.01)
                    await talk.write(rest)
            await talk.request()

        async with Peer(script) as peer:
            transport = open_transport(peer.url)
            reply = await transport.send(ask())
            assert (reply.body, reply.header("x-a"), reply.header("x-late")) == (b"ok", "1", None)
            reply = await transport.send(ask())
            assert (reply.body, reply.header("x-a"), reply.header("x-late")) == (b"ok", None, None)
            assert len(peer.conversations) == 1


@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints"])
async def test_interim_answers_are_passed_over(open_transport: Open, status: bytes) -> None:
    async with Peer(answers(b"HTTP/1.1 %b\r\nLink: </a>\r\n\r\n" % status + OK)) as peer:
        transport = open_transport(peer.url)
        for _ in range(2):
            reply = await transport.send(ask())
            assert (reply.status, reply.body, reply.header("link")) == (200, b"ok", None)
        assert len(peer.conversations) == 1


@pytest.mark.parametrize(
    ("method", "wire", "status"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200),
        (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
    ],
)
async def test_answers_that_have_no_body_end_at_their_head(
    open_transport: Open, method: bytes, wire: bytes, status: int
) -> None:
    async with Peer(answers(wire)) as peer:
        transport = open_transport(peer.url)
        for _ in range(2):
            reply = await within(5, transport.send(ask(method=method, body=b"")))
            assert (reply.status, reply.body) == (status, b"")


async def test_a_body_without_a_frame_ends_with_its_connection(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(b"HTTP/1.1 200 OK\r\n\r\nall of ")
        await talk.write(b"it")

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        assert (await transport.send(ask())).body == b"all of it"
        assert await rest_of(await transport.stream(ask())) == b"all of it"


async def test_an_ipv6_origin_is_reached(open_transport: Open) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on loopback here")
    async with Peer(answers(OK), host="::1") as peer:
        assert (await open_transport(peer.url).send(ask())).body == b"ok"
    assert peer.conversations[0].requests[0].headers["host"] == peer.url.removeprefix("http://")


# -- the pool


async def test_a_connection_serves_one_request_after_the_other(open_transport: Open) -> None:
    async with Peer(answers(OK)) as peer:
        transport = open_transport(peer.url)
        for _ in range(5):
            await transport.send(ask())
            stream = await transport.stream(ask())
            assert await rest_of(stream) == b"ok"
            stream.close()
        assert len(peer.conversations) == 1


async def test_concurrent_requests_have_a_connection_each_and_all_are_used_again(
    open_transport: Open,
) -> None:
    count, arrived, everyone = 40, 0, asyncio.Event()

    async def script(talk: Conversation) -> None:
        nonlocal arrived
        while True:
            request = await talk.request()
            arrived += 1
            if arrived % count == 0:
                everyone.set()
            await everyone.wait()
            await talk.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body
            )

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        for _ in range(2):
            everyone.clear()
            bodies = [b"%d" % number for number in range(count)]
            replies = await within(20, asyncio.gather(*(transport.send(ask(body=body)) for body in bodies)))
            assert [reply.body for reply in replies] == bodies
            assert len(peer.conversations) == count


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + OK.replace(b"ok", b"no"),
    ],
    ids=["connection-close", "http-1.0", "a-second-answer"],
)
async def test_a_connection_that_cannot_be_trusted_any_more_is_not_used_again(
    open_transport: Open, wire: bytes
) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(wire)
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        for _ in range(2):
            assert (await within(5, transport.send(ask()))).body == b"ok"
        assert len(peer.conversations) == 2
        await within(5, peer.conversations[0].closed_by_client.wait())


async def test_a_connection_that_the_peer_closed_while_idle_is_not_used_again(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(OK)
        talk.hang_up()
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        assert (await transport.send(ask())).body == b"ok"
        await within(5, peer.conversations[0].closed_by_client.wait())
        assert (await transport.send(ask())).body == b"ok"
        assert len(peer.conversations) == 2


async def test_an_idle_connection_is_closed_in_time(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(OK)
        await talk.end_of_client()

    async with Peer(script) as peer:
        await open_transport(peer.url, keep_alive_s=0.05).send(ask())
        await within(10, peer.conversations[0].closed_by_client.wait())


async def test_requests_beyond_the_limits_are_refused_and_those_in_line_are_served_in_order(
    open_transport: Open,
) -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        while True:
            await talk.request()
            await go_on.wait()
            await talk.write(OK)

    async with Peer(script) as peer:
        transport = open_transport(peer.url, max_connections=1, max_waiting=3)
        served: list[int] = []

        async def send(number: int) -> None:
            await transport.send(ask(body=b"%d" % number))
            served.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(send(number))
                await asyncio.sleep(0)
            with pytest.raises(PoolExhaustedError) as caught:
                await transport.send(ask())
            go_on.set()
        assert served == [0, 1, 2, 3]
        assert [request.body for request in peer.conversations[0].requests] == [b"0", b"1", b"2", b"3"]
    assert (caught.value.code, caught.value.sent) == ("pool_exhausted", False)


async def test_who_waited_for_a_connection_is_told_how_long_and_nobody_else(open_transport: Open) -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        while True:
            await talk.request()
            await go_on.wait()
            await talk.write(OK)

    told: dict[str, list[float]] = {"first": [], "patient": [], "hasty": [], "turned away": []}

    def asking(name: str, **timeouts: float) -> Outgoing:
        return msgspec.structs.replace(ask(**timeouts), queued=told[name].append)

    async with Peer(script) as peer:
        transport = open_transport(peer.url, max_connections=1, max_waiting=2)
        async with asyncio.TaskGroup() as group:
            group.create_task(transport.send(asking("first")))
            await asyncio.sleep(0)
            group.create_task(transport.send(asking("patient")))
            await asyncio.sleep(0)
            hasty = asyncio.create_task(transport.send(asking("hasty", connect_s=0.05)))
            await asyncio.sleep(0)
            with pytest.raises(PoolExhaustedError):
                await transport.send(asking("turned away"))
            with pytest.raises(PoolExhaustedError):
                await hasty
            go_on.set()
    assert (told["first"], told["turned away"]) == ([], [])
    (patient,), (hasty_wait,) = told["patient"], told["hasty"]
    assert hasty_wait >= 0.045
    assert patient > hasty_wait


async def test_waiting_for_a_connection_ends_with_connect_s_and_takes_no_place_afterwards(
    open_transport: Open,
) -> None:
    async def script(talk: Conversation) -> None:
        while True:
            await talk.request()
            await talk.write(CHUNKED + chunk(b"more"))
            await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url, max_connections=1, max_waiting=1)
        first = await transport.stream(ask())
        with pytest.raises(PoolExhaustedError):
            await transport.send(ask(connect_s=0.05))
        waiting = asyncio.create_task(transport.stream(ask()))
        await asyncio.sleep(0)
        first.close()
        second = await within(5, waiting)
        assert await second.next_chunk() == b"more"
        second.close()


async def test_a_cancelled_place_in_the_line_goes_to_the_next(open_transport: Open) -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        while True:
            await talk.request()
            await go_on.wait()
            await talk.write(OK)

    async with Peer(script) as peer:
        transport = open_transport(peer.url, max_connections=1)
        tasks = []
        for _ in range(3):
            tasks.append(asyncio.create_task(transport.send(ask())))
            await asyncio.sleep(0)
        tasks[1].cancel()
        go_on.set()
        await within(5, asyncio.wait(tasks))
        assert [task.cancelled() for task in tasks] == [False, True, False]
        assert len(peer.conversations) == 1


async def test_a_place_given_to_one_who_has_just_been_cancelled_is_not_lost(open_transport: Open) -> None:
    async with Peer(answers(OK)) as peer:
        transport = open_transport(peer.url, max_connections=1)

        async def first() -> None:
            await transport.send(ask())
            # The connection went to the second in line in this turn of the loop; it has not woken up yet.
            second.cancel()

        leading = asyncio.create_task(first())
        await asyncio.sleep(0)
        second = asyncio.create_task(transport.send(ask()))
        await leading
        assert (await within(5, transport.send(ask()))).body == b"ok"
        assert second.cancelled()
        assert len(peer.conversations) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_every_place_comes_back(open_transport: Open, seed: int) -> None:
    dice = random.Random(seed)

    async def script(talk: Conversation) -> None:
        while True:
            request = await talk.request()
            match dice.choice(["answer", "answer", "close", "cut", "reset", "silence", "garbage"]):
                case _ if request.body == b"final":
                    await talk.write(OK)
                case "answer":
                    await talk.drip([OK[:20], OK[20:]])
                case "close":
                    return
                case "cut":
                    await talk.write(OK[:-1])
                    return
                case "reset":
                    talk.reset()
                case "silence":
                    await talk.end_of_client()
                case "garbage":
                    await talk.write(b"garbage")

    async def exchange(transport: Transport) -> None:
        stream = await transport.stream(ask(first_byte_s=0.02, connect_s=0.1))
        if dice.random() < 0.5:
            await stream.read(10)
        stream.close()

    async with Peer(script) as peer:
        transport = open_transport(peer.url, max_connections=3)
        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(exchange(transport)))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
        outcomes = await within(20, asyncio.gather(*tasks, return_exceptions=True))
        allowed = (type(None), TransportError, asyncio.CancelledError)
        assert [each for each in outcomes if not isinstance(each, allowed)] == []
        final = [transport.send(ask(body=b"final")) for _ in range(9)]
        for reply in await within(5, asyncio.gather(*final, return_exceptions=True)):
            # The peer may close a resting connection under a request, which then is lost: with reason.
            assert isinstance(reply, Reply) or (isinstance(reply, ConnectionLostError) and reply.reused)


# -- answers that break off


CUTS = {
    "before-the-head": b"",
    "in-the-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "in-a-body-of-known-length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "in-a-chunk": CHUNKED + b"a\r\nhalf",
    "between-chunks": CHUNKED + chunk(b"half"),
    "before-the-last-line": CHUNKED + chunk(b"half") + b"0\r\n",
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("violently", [False, True], ids=["closed", "reset"])
async def test_an_answer_that_breaks_off_is_never_a_clean_end(
    open_transport: Open, cut: bytes, violently: bool
) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.drip([cut])
        if violently:
            talk.reset()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        with pytest.raises(ConnectionLostError) as caught:
            await within(5, transport.send(ask()))
        assert not caught.value.reused
        if not violently:
            assert bool(caught.value.received) == bool(cut)
        with pytest.raises(ConnectionLostError):
            await within(5, rest_of(await transport.stream(ask())))


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
        CHUNKED + b"not-hex\r\n",
    ],
    ids=["not-http", "status", "two-lengths", "length-and-chunked", "long-head", "upgrade", "chunk-size"],
)
async def test_what_is_not_http_is_malformed(open_transport: Open, wire: bytes) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(wire)
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        with pytest.raises(MalformedResponseError) as caught:
            await within(5, transport.send(ask()))
        assert caught.value.code == "malformed_response"
        await within(5, peer.conversations[0].closed_by_client.wait())


async def test_a_body_over_the_limit_is_refused_and_its_connection_closed(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED + chunk(b"a" * 600) + chunk(b"b" * 600))
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url, max_body_bytes=1000)
        with pytest.raises(ResponseTooLargeError) as caught:
            await within(5, transport.send(ask()))
        assert caught.value.code == "response_too_large"
        stream = await transport.stream(ask())
        with pytest.raises(ResponseTooLargeError):
            await within(5, stream.read(1000))
        for conversation in peer.conversations:
            await within(5, conversation.closed_by_client.wait())


async def test_a_body_of_exactly_the_limit_is_accepted(open_transport: Open) -> None:
    async with Peer(answers(OK)) as peer:
        transport = open_transport(peer.url, max_body_bytes=2)
        assert (await transport.send(ask())).body == b"ok"
        assert await (await transport.stream(ask())).read(2) == b"ok"


# -- time


async def test_no_body_in_time_is_a_first_byte_timeout_of_streams_alone(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        request = await talk.request()
        if request.body == b"late":
            await asyncio.sleep(0.2)
            await talk.write(OK)
        elif request.body == b"head":
            await talk.write(CHUNKED)
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        with pytest.raises(FirstByteTimeoutError) as caught:
            await within(5, transport.stream(ask(first_byte_s=0.05)))
        assert caught.value.code == "first_byte_timeout"
        stream = await transport.stream(ask(body=b"head", first_byte_s=0.05))
        with pytest.raises(FirstByteTimeoutError):
            await within(5, stream.next_chunk())
        reply = await transport.send(ask(body=b"late", first_byte_s=0.05, idle_s=0.05))
        assert reply.body == b"ok"
        for conversation in peer.conversations[:2]:
            await within(5, conversation.closed_by_client.wait())


async def test_silence_in_the_middle_is_an_idle_timeout(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED + chunk(b"some"))
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        stream = await transport.stream(ask(idle_s=0.05))
        assert await stream.next_chunk() == b"some"
        with pytest.raises(IdleTimeoutError) as caught:
            await within(5, stream.next_chunk())
        assert caught.value.code == "idle_timeout"
        with pytest.raises(IdleTimeoutError):
            await within(5, transport.send(ask(idle_s=0.05)))
        for conversation in peer.conversations:
            await within(5, conversation.closed_by_client.wait())


async def test_silence_counts_again_once_a_slow_reader_has_caught_up(open_transport: Open) -> None:
    written = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED + chunk(b"x" * 300_000))
        written.set()
        await talk.end_of_client()

    async with Peer(script) as peer:
        stream = await open_transport(peer.url).stream(ask(idle_s=0.05))
        await within(5, written.wait())
        for _ in range(20):
            await asyncio.sleep(0)
        with pytest.raises(IdleTimeoutError):
            await within(5, rest_of(stream))


@pytest.mark.parametrize("begun", [False, True], ids=["before-the-head", "in-the-body"])
async def test_an_answer_that_does_not_end_is_a_total_timeout(open_transport: Open, begun: bool) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        if begun:
            await talk.write(CHUNKED)
            while True:
                await talk.write(chunk(b"drip"))
                await asyncio.sleep(0.01)
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        with pytest.raises(TotalTimeoutError) as caught:
            await within(5, transport.send(ask(total_s=0.15)))
        assert caught.value.code == "total_timeout"
        with pytest.raises(TotalTimeoutError):
            await within(5, rest_of(await transport.stream(ask(total_s=0.15))))


# -- connecting


async def test_a_port_that_refuses_is_a_connect_error(open_transport: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    transport = open_transport(f"http://127.0.0.1:{port}")
    for verb in (transport.send, transport.stream):
        with pytest.raises(ConnectError) as caught:
            await verb(ask())
        assert (caught.value.code, caught.value.sent) == ("connect_failed", False)
        assert str(port) in str(caught.value)


async def test_a_failed_connection_frees_its_place(open_transport: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    transport = open_transport(f"http://127.0.0.1:{port}", max_connections=1, max_waiting=5)
    outcomes = await within(
        5, asyncio.gather(*(transport.send(ask()) for _ in range(5)), return_exceptions=True)
    )
    assert [type(outcome) for outcome in outcomes] == [ConnectError] * 5


async def test_a_handshake_that_never_ends_is_a_connect_timeout(open_transport: Open) -> None:
    async with Peer(Conversation.end_of_client) as peer:
        transport = open_transport(peer.url.replace("http:", "https:"))
        with pytest.raises(ConnectTimeoutError) as caught:
            await within(5, transport.send(ask(connect_s=0.1)))
        assert (caught.value.code, caught.value.sent) == ("connect_timeout", False)
        await within(5, peer.conversations[0].closed_by_client.wait())


class Authority:
    """A certificate authority of the test's own, and a certificate for 127.0.0.1 that it signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca_file = str(folder / "ca.pem")
        key, request, certificate = (str(folder / name) for name in ("key.pem", "request.pem", "cert.pem"))
        extensions = folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        ca_key = str(folder / "ca-key.pem")
        _openssl(
            "req", "-x509", *new_key, "-keyout", ca_key, "-out", self.ca_file, "-subj", "/CN=test authority"
        )
        _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=peer")
        signing = ["-CA", self.ca_file, "-CAkey", ca_key, "-CAcreateserial", "-extfile", str(extensions)]
        _openssl("x509", "-req", "-in", request, *signing, "-out", certificate)
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_context.load_cert_chain(certificate, key)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    folder = tmp_path_factory.mktemp("authorities")
    return Authority(folder / "ours"), Authority(folder / "theirs")


async def test_tls_works_with_the_right_authority_and_keeps_connections(
    open_transport: Open, authorities: tuple[Authority, Authority]
) -> None:
    ours, _ = authorities
    async with Peer(answers(OK), tls=ours.server_context) as peer:
        transport = open_transport(peer.url, ca_file=ours.ca_file)
        for _ in range(3):
            assert (await transport.send(ask(body=b"x" * 200_000))).body == b"ok"
        assert await rest_of(await transport.stream(ask())) == b"ok"
        assert len(peer.conversations) == 1
        assert (await open_transport(peer.url, verify=False).send(ask())).body == b"ok"


async def test_a_certificate_of_an_unknown_authority_is_refused(
    open_transport: Open, authorities: tuple[Authority, Authority]
) -> None:
    ours, theirs = authorities
    async with Peer(answers(OK), tls=ours.server_context) as peer:
        for ca_file in (theirs.ca_file, None):
            with pytest.raises(TlsError) as caught:
                await open_transport(peer.url, ca_file=ca_file).send(ask())
            assert (caught.value.code, caught.value.sent) == ("tls_failed", False)
        assert not any(conversation.requests for conversation in peer.conversations)


async def test_plain_http_where_tls_was_meant_is_a_tls_error(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await talk.end_of_client()

    async with Peer(script) as peer:
        with pytest.raises(TlsError):
            await open_transport(peer.url.replace("http:", "https:")).send(ask())


def test_an_authority_file_that_cannot_be_used_is_told_at_once(open_transport: Open, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(TlsError):
            open_transport("https://127.0.0.1:1", ca_file=str(tmp_path / name))


# -- leaving


@pytest.mark.parametrize("verb", ["send", "head", "chunk", "read"])
async def test_cancelling_the_one_who_waits_closes_the_connection(open_transport: Open, verb: str) -> None:
    asked = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.request()
        if verb != "head":
            await talk.write(CHUNKED)
        asked.set()
        await talk.end_of_client()

    async def wait(transport: Transport) -> None:
        if verb == "send":
            await transport.send(ask())
            return
        stream = await transport.stream(ask())
        await (stream.next_chunk() if verb == "chunk" else stream.read(100))

    async with Peer(script) as peer:
        waiting = asyncio.create_task(wait(open_transport(peer.url)))
        await within(5, asked.wait())
        for _ in range(3):
            await asyncio.sleep(0)
        waiting.cancel()
        await within(5, peer.conversations[0].closed_by_client.wait())
        assert (await asyncio.gather(waiting, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_closing_an_unfinished_stream_closes_its_connection_and_may_be_repeated(
    open_transport: Open,
) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED + chunk(b"some"))
        await talk.end_of_client()

    async with Peer(script) as peer:
        stream = await open_transport(peer.url).stream(ask())
        assert await stream.next_chunk() == b"some"
        stream.close()
        stream.close()
        await within(5, peer.conversations[0].closed_by_client.wait())
        with pytest.raises(ConnectionLostError):
            await stream.next_chunk()


async def test_a_reader_who_is_slow_makes_the_upstream_wait_and_loses_nothing(open_transport: Open) -> None:
    block, blocks = b"x" * 65536, 640
    written = 0
    moved = asyncio.Event()

    async def script(talk: Conversation) -> None:
        nonlocal written
        await talk.request()
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(block) * blocks))
        for _ in range(blocks):
            await talk.write(block)
            written += 1
            moved.set()

    async with Peer(script) as peer:
        stream = await open_transport(peer.url).stream(ask(idle_s=0.1))
        first = await stream.next_chunk()
        while await comes_within(0.4, moved):
            moved.clear()
        # What is on its way fills the kernel's buffers (some MiB), ours, and no more.
        assert written * len(block) < 24 * 1024 * 1024
        total = len(first)
        while data := await within(5, stream.next_chunk()):
            assert len(data) <= 1024 * 1024
            total += len(data)
        assert total == len(block) * blocks


async def test_a_retired_transport_finishes_what_is_in_flight_and_keeps_nothing(open_transport: Open) -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        request = await talk.request()
        if request.body == b"quick":
            await talk.write(OK)
        else:
            await talk.write(CHUNKED + chunk(b"one"))
            await go_on.wait()
            await talk.write(chunk(b"two") + b"0\r\n\r\n")
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        stream = await transport.stream(ask(body=b"slow"))
        assert await stream.next_chunk() == b"one"
        await transport.send(ask(body=b"quick"))
        transport.retire()
        go_on.set()
        assert await rest_of(stream) == b"two"
        stream.close()
        assert (await transport.send(ask(body=b"quick"))).body == b"ok"
        assert len(peer.conversations) == 3
        for conversation in peer.conversations:
            await within(5, conversation.closed_by_client.wait())


async def test_closing_the_transport_ends_everything(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED + chunk(b"one"))
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_transport(peer.url)
        stream = await transport.stream(ask())
        assert await stream.next_chunk() == b"one"
        reading = asyncio.create_task(stream.next_chunk())
        await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(ConnectionLostError):
            await reading
        with pytest.raises(ConnectError):
            await transport.send(ask())
        await within(5, peer.conversations[0].closed_by_client.wait())


# -- what aiohttp is there for


async def test_a_proxy_carries_requests_in_the_clear_and_is_told_the_login_each_time() -> None:
    async def serves_one(talk: Conversation) -> None:
        await talk.request()
        await talk.write(OK)

    async with Peer(serves_one) as peer, ForwardProxy("me:secret") as proxy:
        upstream = peer.url.replace("127.0.0.1", "upstream.invalid")
        transport = AiohttpTransport(Origin.from_url(upstream), proxy=Proxy(url=proxy.url, login="me:secret"))
        for _ in range(2):
            assert (await transport.send(ask("/v1/chat?x=%2F"))).body == b"ok"
        await transport.aclose()
    assert proxy.asked == [(f"POST {upstream}/v1/chat?x=%2F HTTP/1.1", True)] * 2
    assert proxy.connections == 1, "the second request was written on a connection that was used before"
    for talk in peer.conversations:
        assert "proxy-authorization" not in talk.requests[0].headers


async def test_a_proxy_tunnels_tls_and_is_told_the_login_once(
    authorities: tuple[Authority, Authority],
) -> None:
    ours, _ = authorities
    async with Peer(answers(OK), tls=ours.server_context) as peer, ForwardProxy("me:secret") as proxy:
        origin = Origin.from_url(peer.url, ca_file=ours.ca_file)
        transport = AiohttpTransport(origin, proxy=Proxy(url=proxy.url, login="me:secret"))
        for _ in range(2):
            assert (await transport.send(ask())).body == b"ok"
        assert await rest_of(await transport.stream(ask())) == b"ok"
        await transport.aclose()
    assert proxy.asked == [(f"CONNECT {peer.url.removeprefix('https://')} HTTP/1.1", True)]
    (talk,) = peer.conversations
    assert len(talk.requests) == 3
    assert not any("proxy-authorization" in request.headers for request in talk.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("login", [None, "me:wrong"])
async def test_a_proxy_that_refuses_is_not_taken_for_the_upstream(scheme: str, login: str | None) -> None:
    async with ForwardProxy("me:secret") as proxy:
        origin = Origin.from_url(f"{scheme}://upstream.invalid:9")
        transport = AiohttpTransport(origin, proxy=Proxy(url=proxy.url, login=login))
        with pytest.raises(ProxyError, match="407") as caught:
            await transport.send(ask())
        await transport.aclose()
    assert (caught.value.code, caught.value.sent) == ("proxy_failed", False)
    assert [asked.known for asked in proxy.asked] == [False]


async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with ForwardProxy() as proxy:
        gone = proxy.url
    transport = AiohttpTransport(Origin.from_url("http://upstream.invalid"), proxy=Proxy(url=gone))
    with pytest.raises(ProxyError, match="proxy cannot be reached"):
        await transport.send(ask())
    await transport.aclose()


def test_a_proxys_login_is_shown_nowhere() -> None:
    assert "secret" not in repr(Proxy(url="http://proxy.example:3128", login="me:secret"))


async def test_a_reused_connection_that_dies_under_a_request_says_so() -> None:
    async with Peer(serves_one_and_dies_under_the_next) as peer:
        transport = AiohttpTransport(Origin.from_url(peer.url))
        await transport.send(ask())
        with pytest.raises(ConnectionLostError) as caught:
            await transport.send(ask())
        await transport.aclose()
    assert (caught.value.reused, caught.value.received, caught.value.code) == (True, 0, "connection_lost")


# -- what our own client promises beyond that (aiohttp does not, and `http_aiohttp` says so)


@pytest.fixture
async def open_http1() -> AsyncIterator[Callable[[str], Http1Transport]]:
    opened: list[Http1Transport] = []

    def open_one(url: str, **limits: Any) -> Http1Transport:
        opened.append(Http1Transport(Origin.from_url(url), **limits))
        return opened[-1]

    yield open_one
    for transport in opened:
        await transport.aclose()


@pytest.mark.parametrize("violently", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("method", [b"POST", b"GET"])
@pytest.mark.parametrize("verb", ["send", "stream"])
async def test_a_request_that_a_dying_connection_swallowed_is_made_again_on_a_new_one(
    open_http1: Open, verb: str, method: bytes, violently: bool
) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(OK)
        await talk.request()
        if violently:
            talk.reset()

    async with Peer(script) as peer:
        transport = open_http1(peer.url, max_connections=1)
        for number in range(3):
            outgoing = ask(body=b"%d" % number, method=method)
            if verb == "send":
                assert (await within(5, transport.send(outgoing))).body == b"ok"
            else:
                assert await within(5, rest_of(await transport.stream(outgoing))) == b"ok"
        bodies = [[request.body for request in each.requests] for each in peer.conversations]
    assert bodies == [[b"0", b"1"], [b"1", b"2"], [b"2"]]


async def test_a_repeated_request_does_without_the_other_idle_connections(open_http1: Open) -> None:
    both = asyncio.Barrier(2)

    async def script(talk: Conversation) -> None:
        if (await talk.request()).body == b"first":
            await both.wait()
        await talk.write(OK)
        await talk.request()

    async with Peer(script) as peer:
        transport = open_http1(peer.url, max_connections=2)
        await within(5, asyncio.gather(*(transport.send(ask(body=b"first")) for _ in range(2))))
        assert (await within(5, transport.send(ask()))).body == b"ok"
        assert len(peer.conversations) == 3


async def test_a_request_is_made_again_once_and_only_where_nothing_had_come(open_http1: Open) -> None:
    async def script(talk: Conversation) -> None:
        if len(peer.conversations) == 1:
            await talk.request()
            await talk.write(OK)
        request = await talk.request()
        if request.body == b"begun":
            await talk.write(OK[:10])

    for body, conversations, reused in ((b"{}", 2, False), (b"begun", 1, True)):
        async with Peer(script) as peer:
            transport = open_http1(peer.url)
            await transport.send(ask())
            with pytest.raises(ConnectionLostError) as caught:
                await within(5, transport.send(ask(body=body)))
            assert (len(peer.conversations), caught.value.reused) == (conversations, reused)


async def test_a_transport_that_is_closed_makes_no_request_again(open_http1: Open) -> None:
    asked = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(OK)
        await talk.request()
        asked.set()
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_http1(peer.url)
        await transport.send(ask())
        waiting = asyncio.create_task(transport.send(ask()))
        await within(5, asked.wait())
        await transport.aclose()
        with pytest.raises(ConnectionLostError):
            await waiting
        assert len(peer.conversations) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
async def test_a_machine_without_sockets_is_not_blamed_on_the_upstream(
    open_http1: Open, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def exhausted(*_: object, **__: object) -> socket.socket:
        raise OSError(number, "none left")

    monkeypatch.setattr(http1, "start_connection", exhausted)
    with pytest.raises(PoolExhaustedError) as caught:
        await open_http1("http://127.0.0.1:1").send(ask())
    assert (caught.value.sent, "none left" in str(caught.value)) == (False, True)


@pytest.mark.parametrize(("files_left", "kind"), [(False, PoolExhaustedError), (True, ConnectError)])
async def test_a_name_that_is_not_found_for_want_of_files_is_not_blamed_on_the_upstream(
    open_http1: Open, monkeypatch: pytest.MonkeyPatch, files_left: bool, kind: type[TransportError]
) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    transport = open_http1("http://upstream.invalid")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    with monkeypatch.context() as exhausted:
        if not files_left:
            exhausted.setattr(socket, "socket", refused)
        with pytest.raises(TransportError) as caught:
            await transport.send(ask())
    assert type(caught.value) is kind


@pytest.mark.parametrize(("scheme", "kind"), [("http", ConnectError), ("https", TlsError)])
async def test_only_tls_fails_for_tls(
    open_http1: Open, monkeypatch: pytest.MonkeyPatch, scheme: str, kind: type[TransportError]
) -> None:
    async def broken_off(*_: object, **__: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    async with Peer(answers(OK)) as peer:
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", broken_off)
        with pytest.raises(TransportError) as caught:
            await open_http1(peer.url.replace("http", scheme)).send(ask())
    assert type(caught.value) is kind


@pytest.mark.parametrize("stray", [OK.replace(b"ok", b"no"), b"H"], ids=["an-answer", "a-byte"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "later"])
async def test_bytes_that_nobody_asked_for_never_become_an_answer(
    open_http1: Open, stray: bytes, at_once: bool
) -> None:
    answered = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(OK + stray if at_once else OK)
        await answered.wait()
        if not at_once:
            await talk.write(stray)
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_http1(peer.url)
        assert (await transport.send(ask())).body == b"ok"
        answered.set()
        await within(5, peer.conversations[0].closed_by_client.wait())
        assert (await transport.send(ask())).body == b"ok"


async def test_retiring_closes_idle_connections_while_others_are_in_flight(open_http1: Open) -> None:
    async def script(talk: Conversation) -> None:
        request = await talk.request()
        await talk.write(OK if request.body == b"quick" else CHUNKED)
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_http1(peer.url)
        stream = await transport.stream(ask(body=b"slow"))
        await transport.send(ask(body=b"quick"))
        slow, quick = peer.conversations
        transport.retire()
        await within(5, quick.closed_by_client.wait())
        assert not slow.closed_by_client.is_set()
        stream.close()


async def test_what_came_before_the_break_is_handed_over_first(open_http1: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.write(CHUNKED + chunk(b"half"))
        talk.hang_up()
        await talk.end_of_client()

    async with Peer(script) as peer:
        transport = open_http1(peer.url)
        stream = await transport.stream(ask())
        await within(5, peer.conversations[0].closed_by_client.wait())
        assert await stream.next_chunk() == b"half"
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                await stream.next_chunk()


async def test_a_body_without_a_frame_that_is_reset_is_lost(open_http1: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.drip([b"HTTP/1.1 200 OK\r\n\r\nhalf"])
        talk.reset()

    async with Peer(script) as peer:
        with pytest.raises(ConnectionLostError):
            await within(5, open_http1(peer.url).send(ask()))


# -- the seam's own words


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a", Origin(scheme="http", host="a", port=80)),
        ("https://A.example/v1/", Origin(scheme="https", host="a.example", port=443)),
        ("http://a:8000?x", Origin(scheme="http", host="a", port=8000)),
        ("http://[::1]:9", Origin(scheme="http", host="::1", port=9)),
    ],
)
def test_an_origin_is_read_from_a_url(url: str, origin: Origin) -> None:
    assert Origin.from_url(url) == origin


@pytest.mark.parametrize(
    "url", ["a:80", "ftp://a", "http://", "http://a:x", "http://a:99999", "http://u:p@a"]
)
def test_what_is_no_origin_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="the URL") as caught:
        Origin.from_url(url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-key", "secret\r\nx-other: 1"),
        ("x-key", "secret\n"),
        ("x-key", "secret\0"),
        ("x key", "secret"),
        ("x-key:", "secret"),
        ("", "secret"),
        ("Content-Length", "3"),
        ("transfer-encoding", "chunked"),
        ("Host", "secret"),
        ("x-key", "secret\u20ac"),
    ],
)
def test_a_header_that_would_break_the_request_is_refused_without_quoting_it(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        render_headers([(name, value)])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("target", ["", "v1", "/a b", "/a\r\nx: y", "/é", "http://other/"])
def test_a_target_that_would_break_the_request_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        as_target(target)


async def test_no_text_of_ours_shows_what_was_said(open_transport: Open) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.drip([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nX-A: hush\r\n\r\nhush"])

    outgoing = Outgoing(
        target=as_target("/a?key=hush"), body=b"hush", headers=render_headers([("x-key", "hush")])
    )
    async with Peer(script) as peer:
        with pytest.raises(TransportError) as caught:
            await open_transport(peer.url).send(outgoing)
    assert "hush" not in f"{caught.value} {caught.value!r} {outgoing!r}"
    assert caught.value.hint in str(caught.value)
