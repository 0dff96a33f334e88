"""What a client may cost that has shown no key, and what becomes of one that stops reading or leaves."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import msgspec
import pytest

from isthmus.gateway import server
from isthmus.gateway.exchange import Exchange
from isthmus.gateway.http1 import Bounds, Connection
from isthmus.testing import Script

from .gateway import OPENAI, Caller, Served, eventually, simulated

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
ROUTES = {"r": "openai/sim-echo", "slow": "openai/sim-stall"}


async def _connected(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port)


async def _told(reader: asyncio.StreamReader) -> bytes:
    """All that the gateway says before it closes."""
    async with asyncio.timeout(10):
        return await reader.read()


def _request(route: str) -> bytes:
    body = msgspec.json.encode(OPENAI.body(route, True))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


def _head(length: int) -> bytes:
    """A whole head of so many bytes."""
    frame = HEALTH.replace(b"\r\n\r\n", b"\r\nx-long: %b\r\n\r\n")
    return frame % (b"a" * (length - len(frame % b"")))


# -- heads


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "later"])
@pytest.mark.parametrize("flood", [b"GET /", b"GET /healthz HTTP/1.1\r\nx-long: "], ids=["address", "header"])
async def test_a_head_without_end_is_refused(tmp_path: Path, before: bytes, flood: bytes) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        if before:
            writer.write(before)
            await reader.readuntil(b"}")
        writer.write(flood.ljust(server.BOUNDS.head_bytes, b"a"))
        assert (await _told(reader)).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_trailers_without_end_are_refused(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"0\r\nx-long: ".ljust(server.BOUNDS.head_bytes, b"a"))
        assert b"HTTP/1.1 431 " in await _told(reader)
        writer.close()


async def test_a_head_of_just_the_length_and_a_longer_body_are_served(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(_head(server.BOUNDS.head_bytes))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        long = "long " * server.BOUNDS.head_bytes
        answer = await served.ask("r", messages=[{"role": "user", "content": long}])
        assert OPENAI.text(answer) == long


async def test_a_head_too_long_does_not_speak_into_the_answer_before_it(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        reader, writer = await _connected(served)
        writer.write(_request("slow"))
        await reader.readuntil(b'"the"')
        writer.write(b"GET /".ljust(server.BOUNDS.head_bytes, b"a"))
        assert b"431" not in await _told(reader)
        await sim.wait_aborted()
        writer.close()


async def test_half_a_head_that_comes_with_a_request_is_not_waited_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    async with simulated(ROUTES, tmp_path, Bounds(head_s=0.2)) as (_, served):
        reader, writer = await _connected(served)
        writer.write(HEALTH + b"GET /healthz HT")
        assert (await _told(reader)).endswith(b'{"status":"ok"}')
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEALTH + b"\r\n", HEALTH + b"GET"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    async with simulated(ROUTES, tmp_path, Bounds(head_s=0.2)) as (_, served):
        reader, writer = await _connected(served)
        if sent.startswith(HEALTH):
            writer.write(HEALTH)
            await reader.readuntil(b"}")
        writer.write(sent.removeprefix(HEALTH))
        assert await _told(reader) == b""
        writer.close()


async def test_a_request_that_runs_and_a_connection_between_two_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    looks = 0
    look = Connection.look

    def counted(connection: Connection, now: float) -> None:
        nonlocal looks
        looks += 1
        look(connection, now)

    monkeypatch.setattr(Connection, "look", counted)
    async with simulated(ROUTES, tmp_path, Bounds(head_s=1.0, unread_s=0.0)) as (sim, served):
        running, between = await Caller.ask(served, "slow"), await _connected(served)
        between[1].write(HEALTH)
        await between[0].readuntil(b"}")
        await sim.wait_held()
        looks = 0
        await eventually(lambda: looks > 6)
        between[1].write(HEALTH)
        assert (await between[0].readline()).startswith(b"HTTP/1.1 200 ")
        sim.release()
        await running.until(b"[DONE]")
        await running.leave()
        between[1].close()


# -- clients that do not read, or leave


async def test_a_client_that_reads_nothing_loses_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    async with simulated({"r": "openai/big"}, tmp_path, Bounds(unread_s=0.2)) as (sim, served):
        sim.script = Script(text=("x" * 100_000,) * 500)
        caller = await Caller.ask(served, "r")
        gateway = served.house.gateway
        await eventually(lambda: gateway.admission.inside == 1)
        await eventually(lambda: gateway.admission.inside == gateway.tally.in_flight == 0, within_s=10)
        (record,) = await served.records()
        assert (record.outcome, record.code) == ("cancelled", "cancelled")
        await caller.leave()


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
async def test_a_client_that_leaves_with_requests_in_line_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    heads = 0
    on_headers_complete = Connection.on_headers_complete

    def counted(connection: Connection) -> None:
        nonlocal heads
        on_headers_complete(connection)
        heads += 1

    monkeypatch.setattr(Connection, "on_headers_complete", counted)
    async with simulated(ROUTES, tmp_path) as (sim, served):
        reader, writer = await _connected(served)
        writer.write(_request("slow") * (1 if later else 2))
        await reader.readuntil(b'"the"')
        if later:
            writer.write(_request("slow"))
        await eventually(lambda: heads == 2)
        writer.transport.abort()
        await sim.wait_aborted()
        await eventually(lambda: served.house.gateway.tally.in_flight == 0)
        assert len(sim.requests) == 1, "whoever has left is not served"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a socket that is not read")
async def test_a_client_that_leaves_with_more_in_line_than_is_read_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    async with simulated({"slow": "openai/sim-stall-before-first"}, tmp_path) as (sim, served):
        _, writer = await _connected(served)
        writer.write(_request("slow") * (server.BOUNDS.pipelined + 3))
        await sim.wait_held()
        writer.close()
        await sim.wait_aborted()
        await eventually(lambda: served.house.gateway.tally.in_flight == 0)
        assert len(sim.requests) == 1, "whoever has left is not served"


async def test_requests_in_line_are_answered_in_turn(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        count = 2 * server.BOUNDS.pipelined + 3
        reader, writer = await _connected(served)
        writer.write(_request("r") * count)
        for _ in range(count):
            async with asyncio.timeout(10):
                await reader.readuntil(b"[DONE]")
        assert len(sim.requests) == count
        writer.close()


# -- connections, and the server itself


async def test_connections_beyond_all_reason_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LEAST_CONNECTIONS", 2)
    async with simulated(ROUTES, tmp_path, gateway={"max_in_flight": 1}) as (_, served):
        held = [await _connected(served) for _ in range(server.CONNECTIONS_PER_PLACE)]
        for reader, writer in held:
            writer.write(HEALTH)
            await reader.readuntil(b"}")
        reader, writer = await _connected(served)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()
        held[0][1].write(HEALTH)
        assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()


# -- HTTP itself


async def test_a_body_is_asked_for_where_the_client_waits_to_be(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        head, _, body = _request("r").partition(b"\r\n\r\n")
        writer.write(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b"[DONE]")
        writer.close()


async def test_a_body_that_nobody_asked_for_ends_the_connection(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(
            b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
        )
        told = await _told(reader)
        assert told.startswith(b"HTTP/1.1 404 ")
        assert b"\r\nconnection: close\r\n" in told
        writer.close()


@pytest.mark.parametrize("later", [False, True], ids=["first", "in-line"])
async def test_a_proposal_of_another_protocol_is_passed_over(tmp_path: Path, later: bool) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        reader, writer = await _connected(served)
        proposing = (
            b"\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
        )
        writer.write(_request("r") * later + _request("r").replace(b"\r\n\r\n", proposing, 1) + _request("r"))
        for _ in range(2 + later):
            async with asyncio.timeout(10):
                await reader.readuntil(b"[DONE]")
        assert len(sim.requests) == 2 + later
        writer.close()


async def test_what_is_no_http_is_refused(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        for noise in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        ):
            reader, writer = await _connected(served)
            writer.write(noise)
            assert (await _told(reader)).startswith(b"HTTP/1.1 400 ")
            writer.close()


@pytest.mark.parametrize(
    "frame",
    [b"content-length: 9\r\ncontent-length: 8\r\n", b"content-length: 9\r\ntransfer-encoding: chunked\r\n"],
)
async def test_a_body_framed_in_two_ways_is_refused(tmp_path: Path, frame: bytes) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        reader, writer = await _connected(served)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + frame + b"\r\n0\r\n\r\nGET /"
        )
        told = await _told(reader)
        assert told == b"" or told.startswith(b"HTTP/1.1 400 ")
        assert sim.requests == []
        writer.close()


async def test_an_old_client_gets_its_stream_unframed_and_the_end_of_the_connection(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(_request("r").replace(b"HTTP/1.1", b"HTTP/1.0"))
        told = await _told(reader)
        assert b"transfer-encoding" not in told
        assert told.endswith(b"data: [DONE]\n\n")
        writer.close()


async def test_a_head_is_answered_without_a_body_and_a_path_in_its_absolute_form_is_understood(
    tmp_path: Path,
) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        writer.write(
            b"GET http://localhost/healthz?x=1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        first, _, second = (await _told(reader)).partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ncontent-length: 15" in first
        assert b"\r\ndate: " in first
        assert second.startswith(b"HTTP/1.1 200 OK\r\n")
        assert second.endswith(b'{"status":"ok"}')
        writer.close()


async def test_what_is_left_of_a_refused_body_is_passed_over(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        length = 3 * server.BOUNDS.head_bytes
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % length)
        await reader.readuntil(b"unknown_endpoint")
        writer.write(b"x" * length + HEALTH)
        await reader.readuntil(b'{"status":"ok"}')
        writer.close()


async def test_a_connection_without_requests_is_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    async with simulated(ROUTES, tmp_path, Bounds(keep_alive_s=0.05)) as (_, served):
        reader, writer = await _connected(served)
        writer.write(HEALTH)
        assert (await _told(reader)).endswith(b'{"status":"ok"}')
        writer.close()


async def test_many_proposals_in_one_read_are_all_passed_over(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        count = 1100
        proposing = HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n")
        writer.write(proposing * count)
        for _ in range(count):
            async with asyncio.timeout(10):
                await reader.readuntil(b'{"status":"ok"}')
        writer.close()


async def test_a_malformed_body_is_told_so_and_recorded(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        reader, writer = await _connected(served)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"zz\r\n")
        told = await _told(reader)
        assert told.startswith(b"HTTP/1.1 400 ")
        assert told.count(b"\r\ndate: ") == 1
        (record,) = await served.records()
        assert (record.outcome, record.status, record.code) == ("error", 400, "malformed_body")
        assert sim.requests == []
        writer.close()


async def test_what_follows_the_last_request_of_a_connection_harms_it_not(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        closing = _request("r").replace(b"host: localhost", b"host: localhost\r\nconnection: close")
        writer.write(closing + b"GET /healthz HTTP/1.1\r\n\r\n")
        told = await _told(reader)
        assert told.startswith(b"HTTP/1.1 200 ")
        assert told.count(b"\r\ndate: ") == 1
        writer.close()


@pytest.mark.parametrize("hosts", [b"", b"host: a\r\nHost: a\r\n"], ids=["none", "two"])
async def test_a_request_names_its_host_once(tmp_path: Path, hosts: bytes) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
        assert (await _told(reader)).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_an_old_client_need_not_name_a_host(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await _told(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_more_headers_than_anybody_needs_are_refused(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        many = b"".join(b"x-%d: 1\r\n" % number for number in range(1000))
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + many + b"\r\n")
        assert (await _told(reader)).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_failed_request_leaves_no_cycle(tmp_path: Path) -> None:
    async with simulated({"r": {"model": "openai/sim-500", "retries": 0}}, tmp_path) as (_, served):
        await served.ask("r")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                assert (await served.ask("r")).status == 502
            left = [one for one in gc.get_objects() if type(one) is Exchange]
            assert left == []
        finally:
            gc.enable()
