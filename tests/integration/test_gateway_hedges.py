"""A hedge after a quantile of its model's own times to the first token, on real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner

from isthmus.cli.explain import explain
from isthmus.core.record import Record
from isthmus.gateway.silences import LEAST
from isthmus.testing import Asked, Fault, Refusal, Script, Simulator

from .gateway import Served, config_of, config_text, eventually, serving, simulated

ROUTES: dict[str, Any] = {"hedge": {"hedge": "openai/a", "beside": "openai/b", "after": "p90"}}
GAUGE = 'isthmus_hedge_after_seconds{model="openai/a",operation="chat",quantile="p90",stream="true"}'
EVERY = 10
SLOW = Script(text=("slow",), fault=Fault(stall_after=0))
"""It never says a word."""


def sometimes_slow(asked: Asked) -> Script:
    """One stream of ten never begins, once it is known how soon they do."""
    slow = asked.stream and asked.nth >= LEAST and asked.nth % EVERY == 0
    return SLOW if slow else Script(text=("a",))


async def recorded(served: Served, requests: int) -> list[Record]:
    """Streamed requests, one after the other, as they were recorded."""
    return [await served.record(await served.ask("hedge", stream=True)) for _ in range(requests)]


def after(record: Record) -> float | str:
    """How long the hedge was to wait."""
    assert record.decision is not None
    found: float | str = record.decision.plan["after"]
    return found


def silence(record: Record) -> float:
    """How long the model was known to be silent."""
    assert record.decision is not None
    (known,) = record.decision.silences
    return known.seconds


async def explained(folder: Path, *options: str) -> dict[str, Any]:
    """What `isthmus explain` says of the hedge."""
    arguments = ["hedge", "hello", "-c", str(folder / "isthmus.yaml"), "--json", *options]
    said = await asyncio.to_thread(CliRunner().invoke, explain, arguments)
    assert said.exit_code == 0, said.output
    decision: dict[str, Any] = msgspec.json.decode(said.stdout)
    return {name: it for name, it in decision.items() if name not in ("found", "blind", "hidden", "why")}


async def test_who_is_slow_for_its_like_is_hedged_and_nobody_on_a_guess(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        sim.scripts |= {"a": sometimes_slow, "b": Script(text=("b",))}
        unknown, known = await recorded(served, LEAST), await recorded(served, 4 * EVERY)
        assert {after(record) for record in unknown} == {"p90"}
        assert {len(record.attempts) for record in unknown} == {1}
        assert all(after(record) == silence(record) > 0 for record in known)
        assert {record.outcome for record in known} == {"ok"}
        # Those that would never have spoken; and others perhaps, that were slower than most.
        for record in known[::EVERY]:
            lost, won = record.attempts
            assert (lost.outcome, lost.first_token_ms, won.outcome) == ("cancelled", None, "ok")
            assert record.model == "openai/b"
            assert lost.total_ms >= 990 * silence(record)

        whole = await served.record(await served.ask("hedge"))
        assert after(whole) == "p90", "whole answers are measured apart"


async def test_the_ledger_explains_what_is_decided_live_and_a_restart_knows_it(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.scripts |= {"a": sometimes_slow, "b": Script(text=("b",))}
        config = config_text(sim.url, ROUTES)
        (tmp_path / "isthmus.yaml").write_text(config, encoding="utf-8")
        async with serving(config, tmp_path) as served:
            assert GAUGE not in await served.metrics()
            await recorded(served, LEAST + 2 * EVERY)
            now = (await served.metrics())[GAUGE]
            said = await explained(tmp_path, "--stream")
            assert said["plan"]["after"] == now
            assert f"p90 of openai/a's times to the first token is {now:g} s now" in said["reasons"]
            (live,) = await recorded(served, 1)
            assert msgspec.json.decode(msgspec.json.encode(live.decision)) == said
            assert (await explained(tmp_path))["plan"]["after"] == "p90", "of whole answers nothing is known"
            now = (await served.metrics())[GAUGE]
        async with serving(config, tmp_path) as again:
            assert (await again.metrics())[GAUGE] == now
            (live,) = await recorded(again, 1)
            assert after(live) == now


async def test_a_reload_to_a_quantile_knows_what_the_ledger_has(tmp_path: Path) -> None:
    fixed = {"hedge": {**ROUTES["hedge"], "after": 5}}
    async with simulated(fixed, tmp_path) as (sim, served):
        sim.scripts |= {"a": Script(text=("a",)), "b": Script(text=("b",))}
        await recorded(served, LEAST)
        served.house.reload(config_of(config_text(sim.url, ROUTES)))
        gauge = served.house.gateway.tally.gauges["hedge_after_seconds"][2]
        await eventually(lambda: bool(gauge()))
        (live,) = await recorded(served, 1)
        assert after(live) == silence(live)


async def test_without_knowledge_a_failure_is_answered_by_the_other_at_once(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        sim.scripts |= {"a": Script(fault=Fault(refuse=Refusal(status=500))), "b": Script(text=("b",))}
        (record,) = await recorded(served, 1)
        assert (record.model, after(record)) == ("openai/b", "p90")
