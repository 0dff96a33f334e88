"""A route's style card reaches each of its models, whatever is spoken, and counts like the client's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from isthmus.bootstrap import rescanner_of
from isthmus.cli.explain import explain
from isthmus.store.history import SqliteHistory
from isthmus.testing import Script

from .gateway import ANTHROPIC, DIALECTS, OPENAI, Dialect, config_of, config_text, simulated

CARD = "Speak as a lighthouse keeper."
ROUTES: dict[str, Any] = {
    name: {"model": f"{name}/m", "style": CARD} for name in ("openai", "responses", "anthropic", "gemini")
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
async def test_every_model_is_told_in_every_dialect(tmp_path: Path, dialect: Dialect) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        sim.scripts["m"] = Script(text=("aye",))
        for route in ROUTES:
            for stream in (False, True):
                answer = await served.ask(route, dialect, stream=stream)
                assert dialect.text(answer) == "aye"
                asked = sim.requests[-1]
                assert msgspec.json.encode(asked.body).count(CARD.encode()) == 1
                record = await served.record(answer)
                assert record.attempts[0].passthrough == (dialect.name == route)
                if dialect.name == route == "openai":
                    assert (asked.body or {})["messages"][0] == {"role": "system", "content": CARD}


async def test_steps_of_a_cascade_are_told_alike(tmp_path: Path) -> None:
    steps = [{"model": "openai/a", "retries": 0}, {"model": "anthropic/b", "context": "with_attempt"}]
    async with simulated({"r": {"cascade": steps, "style": CARD}}, tmp_path) as (sim, served):
        sim.scripts["a"] = Script(text=("I'm sorry, I cannot say.",))
        assert (await served.ask("r")).headers["x-isthmus-model"] == "anthropic/b"
        assert [msgspec.json.encode(it.body).count(CARD.encode()) for it in sim.requests] == [1, 1]


async def test_the_perimeter_looks_at_the_card_and_what_is_recorded_is_what_the_client_sent(
    tmp_path: Path,
) -> None:
    routes = {"r": {"model": "openai/a", "style": "Sign as keeper@light.example.", "record_bodies": True}}
    async with simulated(routes, tmp_path, perimeter={"clearance": {"closed": "internal"}}) as (sim, served):
        refused = await served.ask("r")
        assert refused.error["code"] == "no_model_allowed"
        assert not sim.requests
        (record,) = await served.records()
        assert list(record.findings or ()) == ["pii.email"]
        assert b"keeper" not in (record.request_body or b"keeper")
    (tmp_path / "explained.yaml").write_text(
        config_text("http://127.0.0.1:9", routes, perimeter={"clearance": {"closed": "internal"}})
    )
    said = CliRunner().invoke(explain, ["r", "hello", "-c", str(tmp_path / "explained.yaml")])
    assert (said.exit_code, "pii.email" in said.output) == (1, True)


async def test_the_card_counts_in_tokens_and_in_what_a_budget_holds(tmp_path: Path) -> None:
    routes = {"bare": "openai/a", "told": {"model": "openai/a", "style": CARD * 400}}
    budgets = [{"tokens": 8_000, "per": "day"}]
    async with simulated(routes, tmp_path, budgets=budgets) as (_, served):
        assert (await served.ask("bare", OPENAI, max_tokens=10)).status == 200
        spent = await served.ask("told", OPENAI, max_tokens=10)
        assert (spent.status, spent.error["code"]) == (429, "budget_spent")
    async with simulated(routes, tmp_path) as (_, served):
        body = {"messages": [{"role": "user", "content": "a"}]}
        counts = [
            (await served.post(f"{ANTHROPIC.path}/count_tokens", {"model": route, **body})).json[
                "input_tokens"
            ]
            for route in routes
        ]
        assert counts[1] > counts[0] + 1_000


async def test_who_looks_again_at_what_was_recorded_looks_at_the_card_too(tmp_path: Path) -> None:
    routes = {"r": {"model": "openai/a", "style": "Sign as keeper@light.example.", "record_bodies": True}}
    async with simulated(routes, tmp_path) as (sim, served):
        assert (await served.ask("r")).status == 200
        await served.house.ledger.flush()
        walled = config_of(config_text(sim.url, routes, perimeter={"clearance": {"closed": "internal"}}))
        history = SqliteHistory(served.house.ledger_path)
        pasts = [past for some in history.requests() for past in some]
        (again,) = rescanner_of(walled, history).look(pasts)
        assert again.again is not None
        assert again.again.kinds == {"pii.email"}
