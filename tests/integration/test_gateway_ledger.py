"""What is known of each request when the gateway is killed, and when its disk is ill: on real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from isthmus import bootstrap
from isthmus.bootstrap import open_house
from isthmus.core.record import Record
from isthmus.store.hours import SqliteHours
from isthmus.store.keys import SqliteKeys
from isthmus.store.records import SqliteRecords
from isthmus.testing import Script, Simulator, words

from .gateway import (
    ANTHROPIC,
    OPENAI,
    PROMPT,
    Caller,
    Dialect,
    Served,
    config_of,
    config_text,
    eventually,
    serving,
    simulated,
)

ROUTES: dict[str, Any] = {
    "echo": "openai/sim-echo",
    "translated": "anthropic/sim-echo",
    "broken": {"model": "openai/sim-cut", "retries": 0},
    "refused": {"model": "openai/sim-400", "retries": 0},
    "ill": {"model": "anthropic/sim-500", "retries": 0},
    "stuck": "openai/sim-stall",
}


class Process:
    """`isthmus serve`, as users run it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, ledger: Path) -> None:
        self._process = process
        self.port = port
        self.ledger = ledger
        self.said = b""

    async def kill(self) -> None:
        """Signal 9: nothing is said, nothing is closed."""
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def terminate(self) -> int:
        """The graceful end; its status."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.stderr is not None
        self.said += await self._process.stderr.read()
        return await self._process.wait()


@asynccontextmanager
async def process(text: str, folder: Path) -> AsyncIterator[Process]:
    path = folder / "isthmus.yaml"
    path.write_text(text, encoding="utf-8")
    arguments = [
        sys.executable,
        "-c",
        "from isthmus.cli import main; main()",
        "serve",
        "-c",
        str(path),
        "--port",
        "0",
    ]
    environment = {**os.environ, "ISTHMUS_HOME": str(folder / "state")}
    started = await asyncio.create_subprocess_exec(
        *arguments, stderr=asyncio.subprocess.PIPE, env=environment, cwd=folder
    )
    assert started.stderr is not None
    try:
        said = b""
        async with asyncio.timeout(30):
            while b"OpenAI clients" not in said:
                line = await started.stderr.readline()
                assert line, said.decode()
                said += line
        port = int(said.rpartition(b"127.0.0.1:")[2].partition(b"/")[0])
        yield Process(started, port, folder / "state" / "ledger.db")
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def _ask(port: int, route: str, dialect: Dialect, stream: bool) -> str:
    """Ask, and return the request's id as soon as the last byte is there."""
    url = f"http://127.0.0.1:{port}{dialect.path}"
    async with aiohttp.request(
        "POST", url, data=msgspec.json.encode(dialect.body(route, stream))
    ) as response:
        await response.read()
        return response.headers["x-request-id"]


def _recorded(ledger: Path) -> dict[str, Record]:
    return {record.id: record for record in SqliteRecords(ledger).scan()}


async def test_strict_knows_every_answer_that_a_client_has(tmp_path: Path) -> None:
    async with Simulator() as sim:
        text = config_text(sim.url, ROUTES, ledger="strict")
        for number, route in enumerate(("echo", "broken", "refused")):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with process(text, folder) as gateway:
                stuck = await _open(gateway.port, "stuck")
                before = [
                    await _ask(gateway.port, name, dialect, stream)
                    for name in ("echo", "translated", "broken", "refused", "ill")
                    for dialect in (OPENAI, ANTHROPIC)
                    for stream in (False, True)
                ]
                last = await _ask(gateway.port, route, OPENAI, True)
                await gateway.kill()
            stuck.close()
            found = _recorded(gateway.ledger)
            assert set(found) == {*before, last}, "each answer, and nothing else yet"
            assert all(record.outcome in ("ok", "error") for record in found.values())
            await _reopen(gateway.ledger, text)
            (lost,) = [record for record in _recorded(gateway.ledger).values() if record.id not in found]
            assert (lost.outcome, lost.route, lost.stream) == ("interrupted", "stuck", True)


REFUSED: dict[str, tuple[int, str, bytes]] = {
    "malformed_json": (400, "echo", b"{"),
    "body_too_large": (413, "echo", b"x" * 100_000),
    "unknown_route": (404, "nowhere", b""),
    "route_not_allowed": (403, "translated", b""),
    "no_model_allowed": (400, "walled", b""),
    "budget_spent": (429, "once", b""),
}
"""Status, route and body of what is refused before any model is asked, by the error's code."""


def _refusing(url: str) -> str:
    return config_text(
        url,
        {**ROUTES, "walled": {"model": "openai/sim-echo", "floor": "restricted"}, "once": "openai/sim-echo"},
        ledger="strict",
        gateway={"max_body_mb": 0.05},
        budgets=[{"requests": 1, "per": "day", "route": "once"}],
    )


def _bound_key(ledger: Path) -> str:
    """The secret of a key that may not use every route."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    return SqliteKeys(ledger).create("a", ("echo", "walled", "once", "stuck"), 0).secret


async def _refused(url: str, secret: str, code: str) -> str:
    """Be refused so; returns the request's id as soon as the last byte is there."""
    status, route, body = REFUSED[code]
    async with aiohttp.request(
        "POST",
        url + OPENAI.path,
        data=body or msgspec.json.encode(OPENAI.body(route, False)),
        headers={"authorization": f"Bearer {secret}"},
    ) as response:
        told = await response.json()
        assert (response.status, told["error"]["code"]) == (status, code)
        return response.headers["x-request-id"]


async def test_strict_knows_every_refusal_that_a_client_has(tmp_path: Path) -> None:
    secret = _bound_key(tmp_path / "state" / "ledger.db")
    async with Simulator() as sim, process(_refusing(sim.url), tmp_path) as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        bearer = {"authorization": f"Bearer {secret}"}
        body = msgspec.json.encode(OPENAI.body("once", False))
        async with aiohttp.request("POST", url + OPENAI.path, data=body, headers=bearer) as response:
            assert response.status == 200
        # Together: a writer that gathers for a moment would lose all of them.
        told = await asyncio.gather(*(_refused(url, secret, code) for code in REFUSED))
        await gateway.kill()
        found = _recorded(gateway.ledger)
        codes = {found[it].code: found[it].outcome for it in told if it in found}
        assert codes == dict.fromkeys(REFUSED, "error")
        assert not any(found[it].attempts for it in told)


async def test_strict_tells_what_is_wrong_with_a_request_while_its_disk_is_ill(tmp_path: Path) -> None:
    secret = _bound_key(tmp_path / "ledger.db")
    async with Simulator() as sim:
        document = msgspec.json.decode(_refusing(sim.url))
        document["ledger"] = {"mode": "strict", "path": str(tmp_path / "ledger.db")}
        async with serving(msgspec.json.encode(document).decode(), tmp_path) as served:
            async with ill_disk(served):
                # What has no valid key does not even make the ledger look at its disk.
                stranger = await served.ask("echo", headers={"authorization": "Bearer isk_wrong"})
                assert stranger.status == 401
                assert served.house.ledger.health().queued == 0
                codes = ("malformed_json", "body_too_large", "unknown_route", "no_model_allowed")
                told = await asyncio.gather(*(_refused(served.url, secret, code) for code in codes))
                assert served.house.ledger.health().state == "failing"
                assert (await served.get("/readyz")).status == 503
            await _until_well(served)
            assert {it.id: it.code for it in await served.records()} == dict(zip(told, codes, strict=True))


async def _open(port: int, route: str) -> asyncio.StreamWriter:
    """A request whose answer has begun and does not end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = msgspec.json.encode(OPENAI.body(route, True))
    head = f"POST {OPENAI.path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b'"the"')
    return writer


async def _reopen(ledger: Path, text: str) -> None:
    """Start on this ledger again, and stop."""
    document = msgspec.json.decode(text)
    document["ledger"] = {"mode": "strict", "path": str(ledger)}
    async with open_house(config_of(msgspec.json.encode(document).decode())):
        pass


async def test_batched_loses_no_more_than_its_window(tmp_path: Path) -> None:
    async with Simulator() as sim, process(config_text(sim.url, ROUTES), tmp_path) as gateway:
        early = [await _ask(gateway.port, "echo", OPENAI, stream) for stream in (False, True)]
        # The window is 100 ms: what was answered before it began has to be there.
        await asyncio.sleep(0.1)
        late = [await _ask(gateway.port, "echo", OPENAI, False) for _ in range(3)]
        await gateway.kill()
        found = set(_recorded(gateway.ledger))
        assert set(early) <= found <= {*early, *late}


async def test_a_graceful_end_loses_nothing_and_says_so(tmp_path: Path) -> None:
    async with Simulator() as sim, process(config_text(sim.url, ROUTES), tmp_path) as gateway:
        asked = [await _ask(gateway.port, "echo", OPENAI, True) for _ in range(3)]
        assert await gateway.terminate() == 0
        assert set(_recorded(gateway.ledger)) == set(asked)
        assert b"Traceback" not in gateway.said
        assert gateway.said.rstrip().endswith(b"Stopped.")


@asynccontextmanager
async def ill_disk(served: Served) -> AsyncIterator[None]:
    """Somebody else holds the ledger's file: nothing can be written."""
    holder = sqlite3.connect(
        served.house.ledger_path, isolation_level=None, timeout=10, check_same_thread=False
    )
    try:
        await asyncio.to_thread(holder.execute, "BEGIN IMMEDIATE")
        yield
    finally:
        holder.close()


async def _until_well(served: Served) -> None:
    await eventually(lambda: served.house.ledger.health().state == "ok", within_s=10)


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
async def test_strict_serves_nobody_whom_it_cannot_record(tmp_path: Path, dialect: Dialect) -> None:
    async with simulated(ROUTES, tmp_path, ledger="strict") as (sim, served):
        sim.scripts["sim-stall"] = Script(text=words(PROMPT), piece_delay_s=60.0, first_delay_s=0.0)
        streamed = await Caller.ask(served, "stuck", dialect)
        await streamed.until(b'"the"')
        seen = len(sim.requests)
        async with ill_disk(served):
            releasing = asyncio.create_task(_release(sim))
            refused = [
                served.ask(route, dialect, stream=stream) for route in ROUTES for stream in (False, True)
            ]
            status = 529 if dialect is ANTHROPIC else 503
            for answer in await asyncio.gather(*refused):
                assert (answer.status, answer.error["code"]) == (status, "ledger_unavailable")
            assert len(sim.requests) == seen, "what cannot be recorded is not tried"
            # And what was tried before does not end as if it were recorded.
            async with asyncio.timeout(10):
                told = await streamed.until(b"ledger_unavailable")
            releasing.cancel()
            assert b"[DONE]" not in told
            assert b'"message_stop"' not in told
            ready = await served.get("/readyz")
            assert (ready.status, ready.json["status"], ready.json["ledger"]["state"]) == (
                503,
                "not ready",
                "failing",
            )
        await _until_well(served)
        assert (await served.get("/readyz")).status == 200
        assert (await served.ask("echo", dialect)).status == 200
        outcomes = [record.route for record in await served.records() if record.outcome == "ok"]
        assert sorted(outcomes) == ["echo", "stuck"], (
            "what the model answered is recorded when the disk is well"
        )


async def _release(sim: Simulator) -> None:
    while True:
        await sim.wait_held(timeout_s=60)
        sim.release()
        await asyncio.sleep(0)


async def test_batched_serves_on_and_raises_the_alarm(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        async with ill_disk(served):
            answers = [await served.ask("echo", stream=stream) for stream in (False, True)]
            assert [OPENAI.text(answer) for answer in answers] == [PROMPT, PROMPT]
            await eventually(lambda: served.house.ledger.health().state == "failing", within_s=10)
            ready = await served.get("/readyz")
            assert (ready.status, ready.json["ledger"]["state"]) == (503, "failing")
            metrics = await served.metrics()
            assert metrics["isthmus_ledger_failing"] == 1
            assert metrics["isthmus_ledger_queued_records"] == 2
        await _until_well(served)
        assert (await served.metrics())["isthmus_ledger_failing"] == 0
        assert {record.id for record in await served.records()} == {
            answer.headers["x-request-id"] for answer in answers
        }


async def test_the_gateway_adds_up_by_hour_what_it_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SETTLED_US", 0)
    async with simulated(ROUTES, tmp_path) as (_, served):
        await served.ask("echo")
    async with simulated(ROUTES, tmp_path) as (_, served):
        ledger = served.house.ledger_path
        connection = sqlite3.connect(ledger)
        count = "SELECT count(*) FROM hours"
        await eventually(lambda: connection.execute(count).fetchone() == (1,))
        connection.close()
        assert [(it.route, it.requests) for it in SqliteHours(ledger).hours()] == [("echo", 1)]


async def test_bodies_are_kept_only_where_the_config_says_so_and_then_wholly(tmp_path: Path) -> None:
    plans = {"kept-openai": "openai/sim-echo", "kept-anthropic": "anthropic/sim-echo"}
    routes = {name: {"plan": plan, "record_bodies": True} for name, plan in plans.items()} | ROUTES
    for mode in ("batched", "strict"):
        folder = tmp_path / mode
        folder.mkdir()
        async with simulated(routes, folder, ledger=mode) as (_, served):
            for route in plans:
                for stream in (False, True):
                    answer = await served.ask(route, stream=stream)
                    record = await served.record(answer)
                    assert record.request_body is not None
                    assert PROMPT.encode() in record.request_body
                    assert record.response_body == answer.body
            record = await served.record(await served.ask("echo"))
            assert (record.request_body, record.response_body) == (None, None)
