"""Experiments that are decided while the gateway serves, from the ledger to the next request."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from isthmus.cli import main
from isthmus.evals.trials.referee import SETTLED_US
from isthmus.testing import Fault, Refusal, Script

from .gateway import Served, config_of, config_text, serving, simulated

FAILS = Script(fault=Fault(refuse=Refusal(status=500)))
ARMS = [
    {"model": "openai/a", "retries": 0, "name": "usual"},
    {"model": "openai/b", "retries": 0, "name": "new"},
]
TRIAL: dict[str, Any] = {"trial": {"split": ARMS, "stop": {}}}


def settle(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was asked lies long enough ago to count."""
    monkeypatch.setattr(served.house.referee, "_now_us", lambda: time.time_ns() // 1000 + 2 * SETTLED_US)


async def ask(served: Served, many: int, route: str = "trial") -> Counter[str]:
    """Ask so many times; how often each arm was drawn."""
    answers = await asyncio.gather(*(served.ask(route) for _ in range(many)))
    asked = {answer.headers["x-request-id"] for answer in answers}
    drawn = [record.decision for record in await served.records() if record.id in asked]
    return Counter(decision.arms[0] for decision in drawn if decision is not None)


async def test_a_loser_is_stopped_and_stays_so_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        heard.append(await request.json())
        return web.Response(status=500 if len(heard) == 1 else 200)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{port}/hook")
    routes = {"trial": {"split": ARMS, "stop": {"webhook": "env:HOOK"}}}
    async with simulated(routes, tmp_path) as (sim, served):
        sim.scripts["b"] = FAILS
        before = await ask(served, 80)
        assert set(before) == {"usual", "new"}
        await served.house.referee.look()
        assert served.house.referee.weights == {}, "what may still be under way does not count"
        settle(served, monkeypatch)
        await served.house.referee.look()
        after = await ask(served, 20)
        assert after == {"usual": 20}
        record = (await served.records())[-1]
        assert record.decision is not None
        assert (record.decision.propensity, record.decision.weights) == (1.0, (("new", 0.0),))
        metrics = await served.metrics()
        assert metrics['isthmus_arm_share{arm="new",route="trial"}'] == 0
        assert metrics['isthmus_arm_share{arm="usual",route="trial"}'] == 1
        # It was not taken at first, then it was, and is not told again.
        await served.house.referee.look()
        await served.house.referee.look()
        assert [it["event"] for it in heard] == ["arm_stopped"] * 2
        assert (heard[0]["arm"], heard[0]["than"], heard[0]["measure"]) == ("new", "usual", "answered")

        # Another price, say, is no other experiment; another salt is.
        text = config_text(sim.url, routes, gateway={"max_queued": 7})
        served.house.reload(config_of(text))
        await served.house.referee.look()
        assert set(await ask(served, 20)) == {"usual"}

    (tmp_path / "isthmus.yaml").write_text(text)
    said = CliRunner().invoke(main, ["explain", "trial", "-c", str(tmp_path / "isthmus.yaml"), "--json"])
    assert said.exit_code == 0, said.output
    explained = json.loads(said.stdout)
    assert (explained["weights"], explained["arms"], explained["propensity"]) == (
        [["new", 0.0]],
        ["usual"],
        1,
    )
    told = CliRunner().invoke(main, ["experiment", "trial", "-c", str(tmp_path / "isthmus.yaml")])
    assert "new was stopped on " in told.output
    assert "it answers fewer requests than usual (p = " in told.output
    async with simulated(routes, tmp_path) as (_, served):
        assert set(await ask(served, 20)) == {"usual"}
    again = {"trial": {**routes["trial"], "salt": "anew"}}
    async with simulated(again, tmp_path) as (_, served):
        assert set(await ask(served, 30)) == {"usual", "new"}
    await runner.cleanup()


async def test_what_two_looks_read_at_once_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with simulated(TRIAL, tmp_path) as (_, served):
        drawn = await ask(served, 20)
        settle(served, monkeypatch)
        referee = served.house.referee
        await asyncio.gather(referee.look(), referee.look(), referee.look())
        (live,) = referee._live.values()
        assert live.evidence.requests == {"usual": drawn["usual"], "new": drawn["new"]}


async def test_a_bandits_shares_are_those_that_are_logged(tmp_path: Path) -> None:
    routes = {"trial": {"split": ARMS, "bandit": {"explore": 0.2}}}
    async with simulated(routes, tmp_path) as (_, served):
        await ask(served, 40)
        for record in await served.records():
            assert record.decision is not None
            score = 1.0 if record.decision.arms == ("new",) else 0.0
            body = {"request_id": record.id, "score": score}
            assert (await served.post("/v1/feedback", body)).status == 200
        await served.house.referee.look()
        drawn = await ask(served, 30)
        assert drawn["new"] > drawn["usual"]
        last = (await served.records())[-1].decision
        assert last is not None
        assert dict(last.weights) == pytest.approx({"usual": 0.1, "new": 0.9}, abs=0.02)
        assert last.propensity == pytest.approx(dict(last.weights)[last.arms[0]])


async def test_an_experiment_that_cannot_be_read_is_said_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with simulated(TRIAL, tmp_path) as (_, served):

        def fail(*_: object) -> None:
            raise RuntimeError("the canary sings")

        monkeypatch.setattr(served.house.referee, "_read", fail)
        await served.house.referee.look()
        assert "the experiment on the route trial was not looked at: RuntimeError" in caplog.text
        assert "canary" not in caplog.text
        assert set(await ask(served, 30)) == {"usual", "new"}


async def test_without_an_experiment_nothing_is_written_down(tmp_path: Path) -> None:
    async with serving(config_text("http://127.0.0.1:9", {"r": {"split": ARMS}}), tmp_path) as served:
        await served.house.referee.look()
        assert served.house.referee.weights == {}
        assert served.house.referee.shares() == {}
