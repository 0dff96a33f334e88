"""A conversation keeps its model, and its label, on real sockets."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from isthmus.cli.explain import explain
from isthmus.core.decision import Previous
from isthmus.testing import Fault, Refusal, Script

from .gateway import ANTHROPIC, DIALECTS, OPENAI, RESPONSES, Answer, Dialect, Served, config_text, simulated

REFUSES = Script(text=("I'm sorry,", " I cannot", " say."))
CASCADE: dict[str, Any] = {
    "cascade": [{"model": "openai/small", "retries": 0}, {"model": "openai/strong", "retries": 0}]
}
ROUTES: dict[str, Any] = {
    "cascade": {**CASCADE, "continuity": True},
    "returns": {**CASCADE, "escalated": "returns", "continuity": True},
    "forgets": CASCADE,
    "fallback": {
        "fallback": [
            {"model": "openai/first", "retries": 0},
            {"model": "openai/second", "retries": 0},
        ],
        "continuity": True,
    },
    "split": {
        "split": [
            {"model": "openai/a", "name": "left"},
            {"model": "openai/b", "name": "right"},
        ],
        "continuity": True,
    },
}


def turns(*said: str) -> list[dict[str, Any]]:
    """What users and models said by turns, the users first."""
    return [{"role": ("user", "assistant")[at % 2], "content": words} for at, words in enumerate(said)]


async def talk(served: Served, route: str, dialect: Dialect, *said: str, **headers: str) -> Answer:
    field = "input" if dialect is RESPONSES else "messages"
    answer = await served.ask(route, dialect, headers=headers, **{field: turns(*said)})
    assert answer.status == 200, answer.body
    return answer


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
async def test_a_conversation_that_escalated_stays_with_the_strong_model(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        for route, second in (("cascade", "strong"), ("returns", "small"), ("forgets", "small")):
            sim.scripts["small"] = REFUSES
            first = await talk(served, route, dialect, "why?")
            assert first.headers["x-isthmus-model"] == "openai/strong"
            sim.scripts["small"] = Script(text=("so",))
            answer = await talk(served, route, dialect, "why?", "because", "and how?")
            assert answer.headers["x-isthmus-model"] == f"openai/{second}", route
            other = await talk(served, route, dialect, "where?", "there", "and when?")
            assert other.headers["x-isthmus-model"] == "openai/small", "another conversation"
        record = (await served.records())[1]
        assert record.decision is not None
        assert record.decision.previous == Previous(model="openai/strong")
        assert record.decision.reasons[-1] == (
            "the conversation stays with openai/strong, which has answered it"
        )


async def test_a_conversation_keeps_its_arm_and_is_found_again_after_calls_of_tools(tmp_path: Path) -> None:
    async with simulated({"split": ROUTES["split"]}, tmp_path) as (_, served):
        for at in range(8):
            first = await talk(served, "split", OPENAI, f"question {at}")
            call = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            }
            result = {"role": "tool", "tool_call_id": "1", "content": "4"}
            said = [{"role": "user", "content": f"question {at}"}, call, result]
            second = await served.ask("split", messages=said)
            more = [*said, {"role": "assistant", "content": "4"}, {"role": "user", "content": "sure?"}]
            third = await served.ask("split", messages=more)
            models = {it.headers["x-isthmus-model"] for it in (first, second, third)}
            assert len(models) == 1
            kept = (await served.record(third)).decision
            assert kept is not None
            assert (kept.propensity, kept.arms) == (1.0, ({"a": "left", "b": "right"}[models.pop()[-1]],))


async def test_a_conversation_moves_where_its_model_fails_and_stays_there(tmp_path: Path) -> None:
    async with simulated({"fallback": ROUTES["fallback"]}, tmp_path) as (sim, served):
        sim.scripts["first"] = Script(fault=Fault(refuse=Refusal(status=500)))
        moved = await talk(served, "fallback", OPENAI, "a")
        sim.scripts["first"] = Script(text=("well",))
        stays = await talk(served, "fallback", OPENAI, "a", "b", "c")
        new = await talk(served, "fallback", OPENAI, "d")
        said = [it.headers["x-isthmus-model"][7:] for it in (moved, stays, new)]
        assert said == ["second", "second", "first"]


async def test_a_label_only_rises_along_a_conversation_that_its_caller_names(tmp_path: Path) -> None:
    perimeter = {"clearance": {"closed": "internal"}, "labels": []}
    async with simulated({"r": "openai/a"}, tmp_path, perimeter=perimeter) as (sim, served):
        name = {"x-isthmus-conversation": "case 7"}
        raised = {**name, "x-isthmus-label": "restricted"}
        refused = await served.ask("r", headers=raised)
        later = await served.ask("r", headers=name)
        assert (refused.error["code"], later.error["code"]) == ("no_model_allowed", "no_model_allowed")
        assert (await served.ask("r", headers={"x-isthmus-conversation": "case 8"})).status == 200
        assert (await served.ask("r")).status == 200
        assert len(sim.requests) == 2
        record = (await served.records())[1]
        assert record.grounds is not None
        assert (record.grounds.before.level, record.grounds.said) == ("restricted", ())


async def test_a_conversation_leaves_a_model_that_may_not_receive_it_any_more(tmp_path: Path) -> None:
    routes = {"r": {"fallback": ["openai/a", "openai/b"], "continuity": True}}
    text = config_text("http://127.0.0.1:9", routes)
    document = msgspec.json.decode(text)
    document["models"]["openai/b"]["clearance"] = "restricted"
    (tmp_path / "isthmus.yaml").write_bytes(msgspec.json.encode(document))
    options = ["r", "-c", str(tmp_path / "isthmus.yaml"), "--after", "openai/a", "--json"]
    stays = CliRunner().invoke(explain, options)
    leaves = CliRunner().invoke(explain, [*options, "--label", "restricted"])
    assert (stays.exit_code, leaves.exit_code) == (0, 0), stays.output + leaves.output
    assert "the conversation stays with openai/a, which has answered it" in stays.output
    reasons = msgspec.json.decode(leaves.stdout)["reasons"]
    assert any(it.startswith("the conversation leaves openai/a: ") for it in reasons)
    unknown = CliRunner().invoke(explain, [*options[:-2], "nobody"])
    assert (unknown.exit_code, "There is no model 'nobody'" in unknown.output) == (1, True)


async def test_what_cannot_be_read_as_turns_has_no_conversation(tmp_path: Path) -> None:
    async with simulated({"cascade": ROUTES["cascade"]}, tmp_path) as (_, served):
        answer = await served.ask("cascade", messages=7)
        assert answer.status == 400
        assert await kept(served) == 0
        await talk(served, "cascade", ANTHROPIC, "a")
        assert await kept(served) == 1


async def kept(served: Served) -> int:
    """How many conversations are written down."""
    await served.house.gateway.conversations.write()
    with sqlite3.connect(served.house.ledger_path) as connection:
        return int(connection.execute("SELECT count(*) FROM conversations").fetchone()[0])


@pytest.mark.parametrize("mode", ["batched", "strict"])
async def test_a_conversation_outlives_the_gateway_with_its_model_and_its_label(
    tmp_path: Path, mode: str
) -> None:
    more: dict[str, Any] = {"ledger": {"mode": mode}, "perimeter": {"clearance": {"closed": "internal"}}}
    routes = {"cascade": ROUTES["cascade"]}
    async with simulated(routes, tmp_path, **more) as (sim, served):
        sim.scripts["small"] = REFUSES
        await talk(served, "cascade", OPENAI, "why?")
        raised = {"x-isthmus-conversation": "case 7", "x-isthmus-label": "restricted"}
        assert (await served.ask("cascade", headers=raised)).error["code"] == "no_model_allowed"
    async with simulated(routes, tmp_path, **more) as (_, served):
        stays = await talk(served, "cascade", OPENAI, "why?", "because", "and how?")
        assert stays.headers["x-isthmus-model"] == "openai/strong"
        again = await served.ask("cascade", headers={"x-isthmus-conversation": "case 7"})
        assert again.error["code"] == "no_model_allowed"
        assert (await served.ask("cascade", headers={"x-isthmus-conversation": "case 8"})).status == 200
    written = await asyncio.to_thread(everything_in, tmp_path)
    assert b"conversations" in written
    assert b"why?" not in written
    assert b"case 7" not in written


def everything_in(folder: Path) -> bytes:
    return b"".join(it.read_bytes() for it in sorted(folder.rglob("*")) if it.is_file())


async def test_a_ledger_that_cannot_be_read_leaves_what_goes_on_restricted(tmp_path: Path) -> None:
    perimeter = {"clearance": {"closed": "internal"}}
    async with simulated({"cascade": ROUTES["cascade"]}, tmp_path, perimeter=perimeter) as (_, served):
        await talk(served, "cascade", OPENAI, "a")
        await served.house.gateway.conversations.write()
        with sqlite3.connect(served.house.ledger_path) as connection:
            connection.execute("DROP TABLE conversations")
        await talk(served, "cascade", OPENAI, "b")
        goes_on = await served.ask("cascade", messages=turns("a", "x", "c"))
        assert goes_on.error["code"] == "no_model_allowed"


WALLED: dict[str, Any] = {
    "clearance": {"closed": "internal"},
    "labels": [{"when": "pii", "level": "confidential"}],
}
STORES: dict[str, Any] = {
    "r": {"fallback": ["responses/first", "responses/second"], "continuity": True},
    "plain": {"fallback": ["responses/first", "responses/second"]},
    "translated": {"model": "openai/a", "continuity": True},
}


async def points(served: Served, route: str, before: str, **more: Any) -> Answer:
    body = {"model": route, "input": "and then?", "previous_response_id": before, **more}
    return await served.post(RESPONSES.path, body)


def id_of(answer: Answer) -> str:
    if answer.headers["content-type"].startswith("application/json"):
        return str(answer.json["id"])
    return str(answer.events[-1].json["response"]["id"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_on_from_a_stored_answer(tmp_path: Path, stream: bool) -> None:
    async with simulated(STORES, tmp_path, perimeter=WALLED) as (sim, served):
        sim.scripts["first"] = Script(fault=Fault(refuse=Refusal(status=500)))
        first = await served.ask("r", RESPONSES, store=True, stream=stream)
        assert first.headers["x-isthmus-model"] == "responses/second"
        sim.scripts["first"] = Script(text=("well",))
        second = await points(served, "r", id_of(first), stream=stream)
        assert second.headers["x-isthmus-model"] == "responses/second"
        assert (sim.requests[-1].body or {})["previous_response_id"] == id_of(first)
        record = await served.record(second)
        assert record.decision is not None
        assert record.decision.previous == Previous(model="responses/second")
        assert record.grounds is not None
        assert (record.grounds.blind, record.grounds.before.level) == (False, "internal")
        third = await points(served, "r", id_of(second), stream=stream)
        assert third.headers["x-isthmus-model"] == "responses/second"


async def test_what_the_gateway_does_not_know_stays_blind(tmp_path: Path) -> None:
    async with simulated(STORES, tmp_path, perimeter=WALLED) as (sim, served):
        unkept = await served.ask("r", RESPONSES, store=False)
        plain = await served.ask("plain", RESPONSES, store=True)
        here = await served.ask("r", RESPONSES, store=True)
        translated = await served.ask("translated", RESPONSES, store=None)
        asked = len(sim.requests)
        pointed = {
            "somebody else's": await points(served, "r", "resp_unknown"),
            "not stored": await points(served, "r", id_of(unkept)),
            "of a route that keeps none": await points(served, "r", id_of(plain)),
            "by a route that keeps none": await points(served, "plain", id_of(here)),
            "of another dialect": await points(served, "r", id_of(translated)),
            "and something else": await points(served, "r", id_of(here), conversation="conv_1"),
        }
        for what, answer in pointed.items():
            assert answer.error["code"] == "no_model_allowed", what
        assert len(sim.requests) == asked


async def test_what_a_model_has_said_counts_where_it_is_gone_on_from(tmp_path: Path) -> None:
    async with simulated(STORES, tmp_path, perimeter=WALLED) as (sim, served):
        sim.scripts["first"] = Script(text=("write to ", "ada@light.example"))
        for stream in (False, True):
            first = await served.ask("r", RESPONSES, store=True, stream=stream)
            assert first.status == 200
            second = await points(served, "r", id_of(first))
            assert second.error["code"] == "no_model_allowed"
            record = (await served.records())[-1]
            assert record.grounds is not None
            assert record.grounds.before.level == "confidential"


async def test_other_rules_make_a_stored_answer_unknown(tmp_path: Path) -> None:
    async with simulated({"r": STORES["r"]}, tmp_path, perimeter=WALLED) as (_, served):
        first = await served.ask("r", RESPONSES, store=True)
    other = {**WALLED, "labels": [*WALLED["labels"], {"when": "secret", "level": "restricted"}]}
    async with simulated({"r": STORES["r"]}, tmp_path, perimeter=other) as (_, served):
        assert (await points(served, "r", id_of(first))).error["code"] == "no_model_allowed"
    async with simulated({"r": STORES["r"]}, tmp_path, perimeter=WALLED) as (_, served):
        assert (await points(served, "r", id_of(first))).status == 200
