"""Reasoning goes back to whoever issued it, and to nobody else, though others speak the same dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio

from isthmus.testing import Script, Simulator, ToolCall

from .gateway import ANTHROPIC, Served, config_text, serving
from .official import TALKS, Clients, clients_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASES = {"responses": "/v1", "anthropic": "/v1", "gemini": "/v1beta"}
IDS = {"responses": "sim", "anthropic": "claude-sim-4-5", "gemini": "gemini-3-sim"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
THINKING: dict[str, dict[str, Any]] = {
    "chat": {"reasoning_effort": "low"},
    "responses": {"reasoning": {"effort": "low", "summary": "auto"}},
    "messages": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
}


class World(NamedTuple):
    """Two organisations, each with an endpoint of every dialect, and a gateway before both.

    A route is `DIALECT-ours` or `DIALECT-theirs`. The simulators refuse each other's seals.
    """

    sims: dict[str, Simulator]
    served: Served
    clients: Clients

    def say(self, **script: Any) -> None:
        for sim in self.sims.values():
            sim.script = Script(**script)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with Simulator(organisation="ours") as ours, Simulator(organisation="theirs") as theirs:
        sims = {"ours": ours, "theirs": theirs}
        places = {f"{wire}-{whose}": (wire, sim) for wire in BASES for whose, sim in sims.items()}
        document = {
            "providers": {
                name: {"dialect": wire, "base_url": sim.url + BASES[wire], "kind": "closed"}
                for name, (wire, sim) in places.items()
            },
            "models": {name: {"provider": name, "id": IDS[wire]} for name, (wire, _) in places.items()},
            "routes": {name: name for name in places},
        }
        text = msgspec.json.encode(document).decode()
        async with (
            serving(text, tmp_path_factory.mktemp("gateway")) as served,
            clients_of(served.url) as clients,
        ):
            yield World(sims, served, clients)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("wire", sorted(BASES))
@pytest.mark.parametrize("api", TALKS)
async def test_a_conversation_survives_a_change_of_issuers(
    world: World, api: str, wire: str, stream: bool
) -> None:
    talk = world.clients.talk(api, "", stream=stream, **THINKING[api])
    offer = {"tools": [talk.tool("weather", CITY)]}
    for whose in ("ours", "theirs", "ours"):
        talk.route = f"{wire}-{whose}"
        world.say(reasoning=("Hm.",), tools=(ToolCall("weather", '{"city":"Rome"}'),))
        said = await talk.say("And?", **offer)
        assert [call.arguments for call in said.calls] == [{"city": "Rome"}]
        world.say(reasoning=("So.",), text=("Sunny.",))
        assert (await talk.tell({said.calls[0].id: "sunny"}, **offer)).text == "Sunny."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_was_left_out_is_told_and_what_is_ones_own_is_not(world: World, stream: bool) -> None:
    world.say(reasoning=("Hm.",), text=("Yes.",))
    talk = world.clients.talk("messages", "anthropic-ours", stream=stream, **THINKING["messages"])
    await talk.say("So?")
    turns = [*talk.turns, {"role": "user", "content": "Why?"}]
    for whose, dropped in (("ours", None), ("theirs", "messages.reasoning")):
        answer = await world.served.ask(
            f"anthropic-{whose}", ANTHROPIC, messages=turns, **THINKING["messages"]
        )
        assert answer.status == 200
        assert answer.headers.get("x-isthmus-dropped") == dropped
        told = world.sims[whose].requests[-1].body["messages"][1]
        assert ("signature" in str(told)) == (dropped is None)
        assert (await world.served.record(answer)).attempts[0].passthrough


async def test_nothing_is_marked_where_there_is_one_issuer_only(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.script = Script(reasoning=("Hm.",), text=("Yes.",))
        async with serving(config_text(sim.url, {"r": "anthropic/claude-sim-4-5"}), tmp_path) as served:
            answer = await served.ask("r", ANTHROPIC, stream=True, **THINKING["messages"])
    assert b"signature_delta" in answer.body
    assert b"isthmus:" not in answer.body
