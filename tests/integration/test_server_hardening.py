"""What a client may cost that has shown no key, and what becomes of one that stops reading or leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
import uvicorn

from isthmus.bootstrap import open_house
from isthmus.gateway import exchange, server
from isthmus.testing import Script

from .gateway import OPENAI, Caller, Served, config_of, config_text, eventually, serving, simulated

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
        writer.write(flood.ljust(server.LONGEST_HEAD, b"a"))
        assert (await _told(reader)).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_trailers_without_end_are_refused(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"0\r\nx-long: ".ljust(server.LONGEST_HEAD, b"a"))
        assert b"HTTP/1.1 431 " in await _told(reader)
        writer.close()


async def test_a_head_of_just_the_length_and_a_longer_body_are_served(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        reader, writer = await _connected(served)
        writer.write(_head(server.LONGEST_HEAD))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        long = "long " * server.LONGEST_HEAD
        answer = await served.ask("r", messages=[{"role": "user", "content": long}])
        assert OPENAI.text(answer) == long


async def test_a_head_too_long_does_not_speak_into_the_answer_before_it(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        reader, writer = await _connected(served)
        writer.write(_request("slow"))
        await reader.readuntil(b'"the"')
        writer.write(b"GET /".ljust(server.LONGEST_HEAD, b"a"))
        assert b"431" not in await _told(reader)
        await sim.wait_aborted()
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEALTH + b"\r\n", HEALTH + b"GET"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    monkeypatch.setattr(server, "HEAD_S", 0.2)
    async with simulated(ROUTES, tmp_path) as (_, served):
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
    monkeypatch.setattr(server, "HEAD_S", 0.0)
    monkeypatch.setattr(server, "CLIENT_IDLE_S", 0.0)
    looks = 0
    look = server._Protocol._look

    def counted(protocol: server._Protocol) -> None:
        nonlocal looks
        looks += 1
        look(protocol)

    monkeypatch.setattr(server._Protocol, "_look", counted)
    async with simulated(ROUTES, tmp_path) as (sim, served):
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
    monkeypatch.setattr(server, "CLIENT_IDLE_S", 0.2)
    async with simulated({"r": "openai/big"}, tmp_path) as (sim, served):
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
    monkeypatch.setattr(exchange, "WATCH_AFTER_S", 0.0)
    heads = 0
    on_headers_complete = server._Protocol.on_headers_complete

    def counted(protocol: server._Protocol) -> None:
        nonlocal heads
        on_headers_complete(protocol)
        heads += 1

    monkeypatch.setattr(server._Protocol, "on_headers_complete", counted)
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


async def test_requests_in_line_are_answered_in_turn(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        count = 2 * server.MOST_PIPELINED + 3
        reader, writer = await _connected(served)
        writer.write(_request("r") * count)
        for _ in range(count):
            async with asyncio.timeout(10):
                await reader.readuntil(b"[DONE]")
        assert len(sim.requests) == count
        writer.close()


async def test_what_is_written_for_a_client_that_has_left_is_dropped() -> None:
    transport = _Recorder()
    gathering = server._Gathering(transport, asyncio.get_running_loop())
    gathering.write(b"one")
    gathering.write(b"two")
    assert gathering.get_write_buffer_size() == 6
    gathering.abort()
    await asyncio.sleep(0)
    assert transport.written == []
    assert gathering.get_write_buffer_size() == 0
    assert gathering.can_write_eof()
    assert gathering.get_write_buffer_limits() == (1, 2)


class _Recorder(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written.append(data)

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (1, 2)


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


async def test_a_server_that_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("no start")

    monkeypatch.setattr(uvicorn.Server, "startup", fail)
    with pytest.raises(RuntimeError, match="no start"):
        async with asyncio.timeout(10), serving(config_text("http://127.0.0.1:9", ROUTES), tmp_path):
            pass


async def test_a_server_that_dies_takes_its_owner_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = asyncio.Event()

    async def die(*_: object) -> bool:
        await dead.wait()
        raise RuntimeError("dead")

    monkeypatch.setattr(uvicorn.Server, "on_tick", die)
    config = config_of(config_text("http://127.0.0.1:9", ROUTES))

    async def own() -> None:
        async with (
            open_house(config, tmp_path / "isthmus.yaml") as house,
            server.listening(house.gateway, "127.0.0.1", 0),
        ):
            dead.set()
            await asyncio.Event().wait()

    owner = asyncio.create_task(own())
    done, _ = await asyncio.wait({owner}, timeout=10)
    assert done, "it need not wait for anybody's wish to stop"
    with pytest.raises(RuntimeError, match="dead"):
        owner.result()
    assert owner.cancelling() == 0
