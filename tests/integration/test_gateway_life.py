"""What changes while the gateway runs: its config, and its end."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from isthmus.bootstrap import open_house
from isthmus.config.config import Config
from isthmus.config.reload import Watcher
from isthmus.core.errors import IsthmusError
from isthmus.gateway.server import listening
from isthmus.gateway.story import clock
from isthmus.store.records import SqliteRecords
from isthmus.testing import Fault, Refusal, Script, Simulator, words

from .gateway import (
    ANTHROPIC,
    OPENAI,
    PROMPT,
    RESPONSES,
    Answer,
    Caller,
    Dialect,
    Served,
    config_of,
    config_text,
    eventually,
    failure,
    serving,
    simulated,
)

SLOW = Script(text=words(PROMPT), piece_delay_s=60.0)


async def _release(sim: Simulator) -> None:
    """Let every answer go on, for ever."""
    while True:
        await sim.wait_held(timeout_s=60)
        sim.release()
        await asyncio.sleep(0)


async def _rest(sim: Simulator, caller: Caller, mark: bytes) -> bytes:
    releasing = asyncio.create_task(_release(sim))
    rest = await caller.until(mark)
    releasing.cancel()
    return rest


# -- reload


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
async def test_a_new_config_is_taken_while_an_old_stream_goes_on(tmp_path: Path, dialect: Dialect) -> None:
    async with (
        Simulator() as old,
        Simulator() as new,
        serving(config_text(old.url, {"r": "openai/slow"}), tmp_path) as served,
    ):
        old.script = SLOW
        caller = await Caller.ask(served, "r", dialect)
        begun = await caller.until(b'"the"')
        before = served.house.gateway.snapshot.config.hash
        served.house.reload(config_of(config_text(new.url, {"r": "openai/slow", "s": "openai/other"})))

        answer = await served.ask("r", dialect)
        assert dialect.text(answer) == PROMPT
        assert (len(old.requests), len(new.requests)) == (1, 1)
        assert (await served.ask("s", dialect)).status == 200
        assert old.open_connections == 1, "its stream is not disturbed"

        end = b"[DONE]" if dialect is OPENAI else b'"type":"message_stop"'
        whole = begun + await _rest(old, caller, end)
        for word in PROMPT.split()[1:]:
            assert word.encode() in whole
        await eventually(lambda: old.open_connections == 0)

        records = await served.records()
        assert [record.outcome for record in records] == ["ok"] * 3
        after = served.house.gateway.snapshot.config.hash
        assert [record.config_hash for record in records] == [before, after, after]
        assert (await served.metrics())[f'isthmus_config_info{{hash="{after}"}}'] == 1
        assert (await served.metrics())['isthmus_config_reloads_total{result="ok"}'] == 1


async def test_connections_of_a_provider_that_is_gone_are_closed(tmp_path: Path) -> None:
    async with (
        Simulator() as old,
        Simulator() as new,
        serving(config_text(old.url, {"r": "openai/m"}), tmp_path) as served,
    ):
        await served.ask("r")
        assert old.open_connections == 1
        served.house.reload(config_of(config_text(new.url, {"r": "anthropic/m"})))
        await eventually(lambda: old.open_connections == 0)
        assert (await served.ask("r")).status == 200


async def test_what_a_reload_does_not_touch_stays_as_it_is(tmp_path: Path) -> None:
    provider = {"breaker": {"failures": 1, "cooldown": 60}}
    routes: dict[str, Any] = {"r": {"model": "openai/ill", "retries": 0}, "e": "openai/well"}
    async with simulated(routes, tmp_path, provider=provider) as (sim, served):
        sim.scripts["ill"] = Script(fault=Fault(refuse=Refusal(status=500)))
        await served.ask("r")
        await served.ask("e")
        connections = sim.connections
        served.house.reload(
            config_of(config_text(sim.url, {**routes, "more": "openai/well"}, provider=provider))
        )
        assert (await served.ask("r")).error["code"] == "breaker_open"
        assert (await served.ask("more")).status == 200
        assert sim.connections == connections, "the connections are kept alive"
        other = {"breaker": {"failures": 2, "cooldown": 60}}
        served.house.reload(config_of(config_text(sim.url, routes, provider=other)))
        assert served.house.workshop.breakers()["openai/ill"].state(clock()) == "closed", (
            "new rules, new breaker"
        )


async def test_a_wrong_config_keeps_the_last_good_one(tmp_path: Path) -> None:
    async with simulated({"r": "openai/m"}, tmp_path) as (sim, served):
        path = tmp_path / "isthmus.yaml"
        path.write_text(config_text(sim.url, {"r": "openai/m"}), encoding="utf-8")
        refused: list[Any] = []
        house = served.house

        def adopt(config: Config) -> None:
            house.reload(config)

        watcher = Watcher(
            path, on_config=adopt, on_faults=refused.append, current=house.gateway.snapshot.config
        )
        await watcher.check()
        good = house.gateway.snapshot
        path.write_text("routes: {r: nothing-like-this", encoding="utf-8")
        await watcher.check()
        assert len(refused) == 1
        assert house.gateway.snapshot is good
        assert (await served.ask("r")).status == 200

        path.write_text(config_text(sim.url, {"new": "openai/m"}), encoding="utf-8")
        await watcher.check()
        assert (await served.ask("new")).status == 200
        assert (await served.ask("r")).error["code"] == "unknown_route"


async def test_a_reload_that_fails_half_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with simulated({"r": "openai/m"}, tmp_path) as (sim, served):
        monkeypatch.setenv("A_SECRET", "one")
        text = config_text(sim.url, {"r": "anthropic/m", "s": "openai/m"})
        text = text.replace('"dialect": "openai"', '"dialect": "openai", "key": "env:A_SECRET"')
        config = config_of(text)
        monkeypatch.delenv("A_SECRET")
        good, breakers = served.house.gateway.snapshot, served.house.workshop.breakers()
        with pytest.raises(IsthmusError) as refused:
            served.house.reload(config)
        assert refused.value.code == "secret_unavailable"
        assert served.house.gateway.snapshot is good
        assert served.house.workshop.breakers() == breakers, "what was made for it is given up again"
        assert (await served.ask("r")).status == 200


async def test_a_certificate_that_cannot_be_read_is_a_failure_in_words(tmp_path: Path) -> None:
    async with simulated({"r": "openai/m"}, tmp_path) as (sim, served):
        (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
        text = config_text(
            sim.url.replace("http:", "https:"),
            {"r": "openai/m"},
            provider={"ca_file": str(tmp_path / "ca.pem")},
        )
        with pytest.raises(IsthmusError) as refused:
            served.house.reload(config_of(text))
        assert refused.value.code == "tls_failed"
        assert (await served.ask("r")).status == 200


async def test_new_bounds_count_at_once(tmp_path: Path) -> None:
    async with simulated({"r": "openai/sim-stall-before-first"}, tmp_path) as (sim, served):
        inside = await Caller.ask(served, "r")
        await sim.wait_held()
        bounds = {"max_in_flight": 1, "max_queued": 0, "max_body_mb": 0.0001}
        served.house.reload(config_of(config_text(sim.url, {"r": "openai/m"}, gateway=bounds)))
        assert (await served.post(OPENAI.path, b"{}")).error["code"] == "gateway_overloaded"
        assert (await served.ask("r")).error["code"] == "body_too_large"
        sim.release()
        await inside.until(b"[DONE]")
        await eventually(lambda: served.house.gateway.admission.inside == 0)
        assert (await served.ask("r")).error["code"] == "body_too_large"


# -- the end


class Ending:
    """A gateway that can be told to stop while requests are open."""

    def __init__(self, folder: Path, text: str) -> None:
        self._folder = folder
        self._text = text
        self._stop = asyncio.Event()
        self._up = asyncio.Event()

    async def __aenter__(self) -> Served:
        self._task = asyncio.create_task(self._run())
        await asyncio.wait(
            {self._task, asyncio.create_task(self._up.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        return self.served

    async def __aexit__(self, *_: object) -> None:
        await self.stopped()

    def stop(self) -> None:
        self._stop.set()

    async def stopped(self) -> None:
        self._stop.set()
        await self._task

    async def _run(self) -> None:
        async with (
            open_house(config_of(self._text), self._folder / "isthmus.yaml") as house,
            listening(house.gateway, "127.0.0.1", 0) as url,
            aiohttp.ClientSession() as session,
        ):
            self.served = Served(house, url, session)
            self._up.set()
            await self._stop.wait()

    async def records(self) -> list[Any]:
        return await asyncio.to_thread(lambda: list(SqliteRecords(self.served.house.ledger_path).scan()))


def _body(raw: bytes) -> Answer:
    """The body of a chunked answer."""
    body, rest = b"", raw
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return Answer(200, {"content-type": "text/event-stream"}, body)


async def test_open_streams_may_end_and_nobody_new_comes_in(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.script = SLOW
        ending = Ending(tmp_path, config_text(sim.url, {"r": "openai/slow"}))
        async with ending as served:
            caller = await Caller.ask(served, "r")
            await caller.until(b"\r\n\r\n")
            await sim.wait_held()
            ending.stop()
            await eventually(lambda: served.house.gateway.draining)
            async with aiohttp.ClientSession() as session:
                others = Served(served.house, served.url, session)
                ready = await others.get("/readyz")
                assert (ready.status, ready.json["status"]) == (503, "draining")
                late = await others.ask("r")
                assert (late.status, late.error["code"]) == (503, "shutting_down")
                assert late.headers["connection"] == "close"
            releasing = asyncio.create_task(_release(sim))
            answer = _body(await caller.rest())
            releasing.cancel()
            assert OPENAI.text(answer) == PROMPT
            assert OPENAI.ended(answer.events)
            await ending.stopped()
        records = await ending.records()
        assert sorted(record.outcome for record in records) == ["error", "ok"]


@pytest.mark.parametrize(
    ("dialect", "upstream"),
    [(OPENAI, "openai"), (ANTHROPIC, "anthropic"), (RESPONSES, "openai"), (OPENAI, "gemini")],
    ids=["openai", "anthropic", "responses-to-openai", "openai-to-gemini"],
)
@pytest.mark.parametrize(
    ("mode", "client"), [("batched", "http1"), ("strict", "http1"), ("strict", "aiohttp")]
)
async def test_what_does_not_end_in_time_is_told_so_and_recorded(
    tmp_path: Path,
    dialect: Dialect,
    upstream: str,
    mode: str,
    client: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with Simulator() as sim:
        text = config_text(
            sim.url,
            {"r": f"{upstream}/sim-stall", "b": f"{upstream}/sim-stall-before-first"},
            gateway={"drain": 0, "max_in_flight": 2},
            ledger=mode,
            provider={"client": client},
        )
        ending = Ending(tmp_path, text)
        async with ending as served:
            stuck = await Caller.ask(served, "r", dialect)
            await stuck.until(b"\r\n\r\n")
            silent = await Caller.ask(served, "b", dialect, stream=False)
            queued = None
            await sim.wait_held(2)
            queued = await Caller.ask(served, "r", dialect, stream=False)
            await eventually(lambda: served.house.gateway.tally.in_flight == 3)
            ending.stop()

            answer = _body(await stuck.rest())
            error = failure(answer.events)
            assert error is not None
            assert error["code"] == "shutting_down"
            assert dialect.text(answer) == "the"
            assert not dialect.ended(answer.events)
            for caller in (silent, queued):
                told = await caller.rest()
                assert told.startswith(b"HTTP/1.1 529" if dialect is ANTHROPIC else b"HTTP/1.1 503")
                assert b"shutting_down" in told
                assert b"retry-after: " in told
            await ending.stopped()
        await sim.wait_aborted(2)
        records = await ending.records()
        assert [record.outcome for record in records] == ["interrupted"] * 3
        assert {record.code for record in records} == {"shutting_down"}
        assert [len(record.attempts) for record in records] == [1, 1, 0]
    assert "Traceback" not in caplog.text


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.script = Script(text=("x" * 100_000,) * 500)
        ending = Ending(tmp_path, config_text(sim.url, {"r": "openai/big"}, gateway={"drain": 0}))
        async with ending as served:
            caller = await Caller.ask(served, "r")
            await caller.until(b"xx")
            await eventually(lambda: served.house.gateway.tally.in_flight == 1)
            async with asyncio.timeout(10):
                await ending.stopped()
            await caller.leave()
        (record,) = await ending.records()
        assert record.outcome in ("interrupted", "cancelled")


async def test_an_idle_gateway_leaves_nothing_behind(tmp_path: Path) -> None:
    tasks = asyncio.all_tasks()
    async with simulated({"r": "openai/m"}, tmp_path) as (sim, served):
        await asyncio.gather(*(served.ask("r", stream=True) for _ in range(10)))
        held = sim.open_connections
    assert held > 0
    await eventually(lambda: asyncio.all_tasks() <= tasks)
