"""Clients that leave, that read slowly, and that are too many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from isthmus.core.record import Record
from isthmus.gateway.server import LOOK_S
from isthmus.providers import attempts
from isthmus.testing import Script, Simulator

from .gateway import (
    ANTHROPIC,
    OPENAI,
    PROMPT,
    RESPONSES,
    Caller,
    Dialect,
    Served,
    config_text,
    eventually,
    serving,
    simulated,
)

PAIRS = [
    pytest.param(OPENAI, "openai", id="openai"),
    pytest.param(ANTHROPIC, "anthropic", id="anthropic"),
    pytest.param(RESPONSES, "openai", id="responses-to-openai"),
    pytest.param(OPENAI, "gemini", id="openai-to-gemini"),
]


async def _gone(served: Served, *, begun: bool) -> Record:
    """The only record, once the request is forgotten; `begun` where some of the answer had been sent."""
    gateway = served.house.gateway
    await eventually(lambda: gateway.tally.in_flight == 0)
    assert gateway.admission.inside == 0, "the place is given back"
    (record,) = await served.records()
    status = 200 if begun else 499
    assert (record.outcome, record.status, record.code) == ("cancelled", status, "cancelled")
    return record


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_client_that_leaves_in_the_midst_takes_the_upstream_along(
    tmp_path: Path, dialect: Dialect, upstream: str
) -> None:
    async with simulated({"r": f"{upstream}/sim-stall"}, tmp_path) as (sim, served):
        tasks = asyncio.all_tasks()
        caller = await Caller.ask(served, "r", dialect)
        await caller.until(b'"the"')
        await caller.leave()
        await sim.wait_aborted()
        record = await _gone(served, begun=True)
        (attempt,) = record.attempts
        assert (attempt.outcome, attempt.committed) == ("cancelled", True)
        assert record.usage is not None
        assert record.usage.estimated
        assert record.usage.input > 0
        assert record.usage.output > 0
        assert record.charge is not None
        assert record.charge.nanousd
        await eventually(lambda: asyncio.all_tasks() <= tasks)
        assert served.house.workshop.breakers()[f"{upstream}/sim-stall"].permits(0.0), (
            "it is nobody's failure"
        )


async def test_who_leaves_is_recorded_whatever_it_had_asked(tmp_path: Path) -> None:
    async with simulated({"r": "openai/sim-stall"}, tmp_path) as (_, served):
        # It passes as it is: only who estimates what it used has to read it.
        odd = {"5": msgspec.Raw(b"1" * 400)}
        caller = await Caller.ask(served, "r", logit_bias=odd)
        await caller.until(b'"the"')
        await caller.leave()
        record = await _gone(served, begun=True)
        assert record.usage is not None
        assert record.usage.estimated
        assert record.usage.input > 0


async def test_an_estimate_that_fails_costs_neither_the_record_nor_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ValueError(PROMPT)

    monkeypatch.setattr(attempts, "estimate_tokens", fail)
    budget = {"usd": 1, "per": "day"}
    async with simulated({"r": "openai/sim-stall"}, tmp_path, budgets=[budget]) as (_, served):
        caller = await Caller.ask(served, "r", max_tokens=50)
        await caller.until(b'"the"')
        await caller.leave()
        record = await _gone(served, begun=True)
        (attempt,) = record.attempts
        assert attempt.usage is not None
        assert attempt.usage.estimated
        assert attempt.usage.input > 0, "by its bytes"
        assert attempt.charge is not None
        (used,) = served.house.gateway.treasury.used(served.house.gateway.snapshot.config.budgets).values()
        assert used == pytest.approx((attempt.charge.nanousd or 0) / 1e9)
    assert PROMPT not in caplog.text
    assert "in fail" in caplog.text, "the log says where"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_client_that_leaves_before_the_first_word_takes_the_upstream_along(
    tmp_path: Path, dialect: Dialect, upstream: str, stream: bool
) -> None:
    async with simulated({"r": f"{upstream}/sim-stall-before-first"}, tmp_path) as (sim, served):
        tasks = asyncio.all_tasks()
        caller = await Caller.ask(served, "r", dialect, stream=stream)
        await sim.wait_held()
        await caller.leave()
        await sim.wait_aborted()
        record = await _gone(served, begun=False)
        (attempt,) = record.attempts
        assert (attempt.outcome, attempt.committed) == ("cancelled", False)
        assert record.usage is not None, "the prompt was sent, and may be charged for"
        assert record.usage.estimated
        assert record.usage.input > 0
        await eventually(lambda: asyncio.all_tasks() <= tasks)


async def test_a_client_that_leaves_between_two_attempts_has_no_second_one(tmp_path: Path) -> None:
    async with simulated({"r": {"model": "openai/sim-429", "patience": 30}}, tmp_path) as (sim, served):
        caller = await Caller.ask(served, "r")
        await sim.wait_requests()
        await caller.leave()
        record = await _gone(served, begun=False)
        assert len(record.attempts) == len(sim.requests) == 1


async def test_a_client_that_leaves_within_its_own_request_is_recorded(tmp_path: Path) -> None:
    async with simulated({"r": "openai/sim-echo"}, tmp_path) as (sim, served):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        await eventually(lambda: served.house.gateway.tally.in_flight == 1)
        writer.close()
        record = await _gone(served, begun=False)
        assert record.attempts == ()
        assert sim.requests == []


async def test_the_connection_of_a_finished_stream_is_used_again(tmp_path: Path) -> None:
    async with simulated({"r": "openai/sim-echo", "s": "anthropic/sim-echo"}, tmp_path) as (sim, served):
        for _ in range(3):
            for route in ("r", "s"):
                assert OPENAI.text(await served.ask(route, stream=True)) == PROMPT
        assert sim.connections == 2


# -- too many


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name)
async def test_whoever_finds_no_place_and_no_line_is_sent_away_in_their_own_dialect(
    tmp_path: Path, dialect: Dialect
) -> None:
    bounds = {"max_in_flight": 1, "max_queued": 0}
    async with simulated({"r": "openai/sim-stall-before-first"}, tmp_path, gateway=bounds) as (sim, served):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        answer = await served.ask("r", dialect)
        status = 529 if dialect is ANTHROPIC else 503
        assert (answer.status, answer.error["code"]) == (status, "gateway_overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert (answer.json.get("type") == "error") == (dialect is ANTHROPIC)
        assert (await served.record(answer)).code == "gateway_overloaded"
        assert (await served.get("/healthz")).status == 200, "what needs no model needs no place"
        sim.release()
        assert b"[DONE]" in await inside.until(b"[DONE]")


async def test_whoever_waits_in_line_is_served_in_turn_and_the_wait_is_told(tmp_path: Path) -> None:
    bounds = {"max_in_flight": 1, "max_queued": 2}
    async with simulated(
        {"r": "openai/sim-stall-before-first", "e": "openai/sim-echo"}, tmp_path, gateway=bounds
    ) as (
        sim,
        served,
    ):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        waiting = [asyncio.create_task(served.ask("e")) for _ in range(2)]
        await eventually(lambda: served.house.gateway.tally.in_flight == 3)
        assert len(sim.requests) == 1
        sim.release()
        await inside.until(b"[DONE]")
        for answer in await asyncio.gather(*waiting):
            assert OPENAI.text(answer) == PROMPT
            record = await served.record(answer)
            assert 0 < record.timings.queue_ms <= record.timings.total_ms
            assert record.timings.overhead_ms <= record.timings.total_ms - record.timings.queue_ms


async def test_waiting_for_a_connection_is_the_attempts_and_not_our_own_time(tmp_path: Path) -> None:
    routes = {"r": "openai/sim-stall-before-first", "e": {"model": "openai/sim-echo", "retries": 0}}
    provider = {"max_connections": 1, "max_waiting": 1, "timeouts": {"connect": 1}}
    async with simulated(routes, tmp_path, provider=provider) as (sim, served):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        late = await served.record(await served.ask("e"))
        (attempt,) = late.attempts
        assert (attempt.code, late.outcome) == ("pool_exhausted", "error")
        assert 990 <= attempt.queue_ms <= attempt.total_ms
        waiting = asyncio.create_task(served.ask("e"))
        await asyncio.sleep(0.05)
        sim.release()
        await inside.until(b"[DONE]")
        answer = await waiting
        record = await served.record(answer)
        (attempt,) = record.attempts
        assert 0 < attempt.queue_ms <= attempt.first_token_ms
        assert record.timings.queue_ms == 0
        assert record.timings.overhead_ms <= record.timings.total_ms - attempt.queue_ms
        (free,) = (await served.record(await served.ask("e"))).attempts
        assert free.queue_ms == 0


async def test_the_line_moves_or_ends(tmp_path: Path) -> None:
    bounds = {"max_in_flight": 1, "max_queued": 1, "queue_timeout": 0.02}
    async with simulated({"r": "openai/sim-stall-before-first"}, tmp_path, gateway=bounds) as (sim, served):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        for _ in range(2):
            answer = await served.ask("r")
            assert (answer.status, answer.error["code"]) == (503, "gateway_overloaded")
            assert "0.02 s" in answer.error["message"], "the line had room, and did not move"
        await inside.leave()


@pytest.mark.parametrize("size", [100, 8_000_000], ids=["small", "large"])
async def test_whoever_leaves_the_line_leaves_it_at_once(tmp_path: Path, size: int) -> None:
    bounds = {"max_in_flight": 1, "max_queued": 1}
    async with simulated({"r": "openai/sim-stall-before-first"}, tmp_path, gateway=bounds) as (sim, served):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % size
        writer.write(head + b"x" * size)
        await eventually(lambda: served.house.gateway.tally.in_flight == 2)
        async with asyncio.timeout(10):
            await writer.drain()
        writer.close()
        await eventually(lambda: served.house.gateway.tally.in_flight == 1, within_s=LOOK_S / 2)
        (record,) = await served.records()
        assert (record.outcome, record.status) == ("cancelled", 499)
        await inside.leave()


async def test_whoever_sends_too_much_need_not_wait_to_be_told(tmp_path: Path) -> None:
    bounds = {"max_in_flight": 1, "max_queued": 1, "max_body_mb": 0.001}
    async with simulated({"r": "openai/sim-stall-before-first"}, tmp_path, gateway=bounds) as (sim, served):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        answer = await served.ask("r", messages=[{"role": "user", "content": "x" * 1000}])
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        await inside.leave()


# -- too slow


CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":"' + b"x" * 60_000 + b'"},"finish_reason":null}]}\n\n'
)
CHUNKS = 5_000
"""Three hundred megabytes: more than the sockets' buffers hold, and more than a gateway may."""


async def test_a_client_that_does_not_read_makes_the_upstream_wait(tmp_path: Path) -> None:
    poured = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal poured
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for _ in range(CHUNKS):
            writer.write(CHUNK)
            await writer.drain()
            poured += len(CHUNK)

    async def still() -> int:
        """What was sent when nothing more is."""
        while True:
            before = poured
            await asyncio.sleep(0.3)
            if before and poured == before:
                return before

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, serving(config_text(url, {"r": "openai/torrent"}), tmp_path) as served:
        caller = await Caller.ask(served, "r")
        async with asyncio.timeout(15):
            sent = await still()
        assert sent < CHUNKS * len(CHUNK) / 4, "the rest waits where it was made"
        for _ in range(200):
            await caller.reader.readexactly(len(CHUNK))
        assert poured > sent, "who reads on is served on"
        await caller.leave()
        await _gone(served, begun=True)


async def test_a_slow_client_delays_nobody_else(tmp_path: Path) -> None:
    async with simulated({"big": "openai/big", "r": "openai/sim-echo"}, tmp_path) as (sim, served):
        sim.scripts["big"] = Script(text=("x" * 100_000,) * 300)
        slow = [await Caller.ask(served, "big") for _ in range(3)]
        for caller in slow:
            await caller.until(b"xx")
        assert OPENAI.text(await served.ask("r", stream=True)) == PROMPT
        for caller in slow:
            await caller.leave()
        await _until_idle(sim, served)


async def _until_idle(sim: Simulator, served: Served) -> None:
    await eventually(lambda: served.house.gateway.tally.in_flight == 0)
    await eventually(lambda: sim.open_connections <= 1)
