"""Every client API against every upstream dialect: what was said arrives, and goes back as it came."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from isthmus.testing import Script, Simulator, ToolCall
from isthmus.testing import Usage as Told

from .gateway import Served, simulated
from .official import TALKS, Clients, Counted, Said, Talk, clients_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPSTREAMS = ("openai", "responses", "anthropic", "gemini")
MODEL = {"anthropic": "claude-sim-4-5", "gemini": "gemini-3-sim"}
"""Model ids that switch on what codecs know of these families; the others are called `sim`."""

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class World(NamedTuple):
    """A simulator that speaks as one upstream, a gateway with a route to it, and the clients."""

    upstream: str
    sim: Simulator
    served: Served
    clients: Clients

    def talk(self, api: str, **options: Any) -> Talk:
        """A conversation with the upstream."""
        return self.clients.talk(api, self.upstream, **options)

    def says(self, **script: Any) -> None:
        """Set what the upstream answers from now on."""
        self.sim.script = Script(**script)

    @property
    def asked(self) -> Any:
        """The body of the last request that reached the upstream."""
        return self.sim.requests[-1].body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Simulator, Served, Clients]]:
    routes = {upstream: f"{upstream}/{MODEL.get(upstream, 'sim')}" for upstream in UPSTREAMS}
    async with (
        simulated(routes, tmp_path_factory.mktemp("gateway")) as (sim, served),
        clients_of(served.url) as clients,
    ):
        yield sim, served, clients


@pytest.fixture(params=UPSTREAMS, ids=lambda upstream: f"to-{upstream}")
def world(request: pytest.FixtureRequest, house: tuple[Simulator, Served, Clients]) -> World:
    sim, served, clients = house
    sim.script = None
    return World(request.param, sim, served, clients)


@pytest.fixture(params=TALKS)
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    flag: bool = request.param
    return flag


async def test_a_conversation_of_two_turns_with_a_system_message(
    world: World, api: str, stream: bool
) -> None:
    world.says(text=("Grüße", " aus", " Köln 🌍"))
    talk = world.talk(api, stream=stream, system="Be brief.")
    said = await talk.say("Where are you?")
    assert said.text == "Grüße aus Köln 🌍"
    assert said.finish == talk.FINISH["stop"]
    world.says(text=("Still", " there."))
    assert (await talk.say("And now?")).text == "Still there."
    told = json.dumps(world.asked, ensure_ascii=False)
    for words in ("Be brief.", "Where are you?", "Grüße aus Köln 🌍", "And now?"):
        assert told.count(words) == 1


async def test_a_picture_arrives(world: World, api: str, stream: bool) -> None:
    talk = world.talk(api, stream=stream)
    assert (await talk.say("What is this?", picture=True)).text
    told = json.dumps(world.asked)
    assert "iVBORw0KGgo" in told
    assert "image/png" in told


async def test_parallel_tool_calls_and_their_results(world: World, api: str, stream: bool) -> None:
    world.says(
        text=("Let me see.",),
        tools=(ToolCall("weather", '{"city":"Köln"}'), ToolCall("weather", '{"city":"Bonn \\"B\\""}')),
    )
    talk = world.talk(api, stream=stream)
    offer = {"tools": [talk.tool("weather", CITY), talk.tool("time", CITY)]}
    said = await talk.say("How is the weather?", **offer)
    assert said.text == "Let me see."
    assert [(call.name, call.arguments) for call in said.calls] == [
        ("weather", {"city": "Köln"}),
        ("weather", {"city": 'Bonn "B"'}),
    ]
    assert len({call.id for call in said.calls}) == 2
    assert said.finish == talk.FINISH["tools"]
    world.says(text=("Rain", " and sun."))
    answer = await talk.tell(
        {call.id: f"{number} degrees" for number, call in enumerate(said.calls)}, **offer
    )
    assert (answer.text, answer.calls) == ("Rain and sun.", [])
    told = json.dumps(world.asked)
    assert "0 degrees" in told
    assert "1 degrees" in told
    assert told.index("0 degrees") < told.index("1 degrees")


async def test_thinking_comes_back_to_the_model_that_thought(world: World, api: str, stream: bool) -> None:
    """The simulator refuses a seal that comes back altered, and the lack of one where it is required."""
    world.says(reasoning=("I must ", "look."), tools=(ToolCall("weather", '{"city":"Oslo"}'),))
    talk = world.talk(api, stream=stream, **_thinking(api))
    offer = {"tools": [talk.tool("weather", CITY)]}
    said = await talk.say("How warm is it?", **offer)
    assert said.reasoning == "I must look."
    assert [call.arguments for call in said.calls] == [{"city": "Oslo"}]
    world.says(text=("Warm.",), reasoning=("Good.",))
    answer = await talk.tell({said.calls[0].id: "21"}, **offer)
    assert (answer.reasoning, answer.text) == ("Good.", "Warm.")
    world.says(text=("Bye.",))
    assert (await talk.say("Thanks.", **offer)).text == "Bye."


def _thinking(api: str) -> dict[str, Any]:
    match api:
        case "chat":
            return {"reasoning_effort": "low"}
        case "responses":
            return {"reasoning": {"effort": "low", "summary": "auto"}}
        case _:
            return {"thinking": {"type": "enabled", "budget_tokens": 1024}}


async def test_json_of_a_schema(world: World, api: str, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "size": {"enum": ["small", "large"], "type": "string"}},
        "required": ["city", "size"],
        "additionalProperties": False,
    }
    talk = world.talk(api, stream=stream)
    said = await talk.say("Name a city.", **talk.form(schema))
    answer = json.loads(said.text)
    assert answer.keys() == {"city", "size"}
    assert answer["size"] in ("small", "large")


@pytest.mark.parametrize("end", ["stop", "length", "filter"])
async def test_why_an_answer_ends(world: World, api: str, stream: bool, end: str) -> None:
    world.says(text=("Once", " upon"), finish=end)
    talk = world.talk(api, stream=stream)
    said = await talk.say("Tell.")
    assert said.finish == talk.FINISH[end]


async def test_usage_tells_the_cache_and_the_thoughts_apart(world: World, api: str, stream: bool) -> None:
    world.says(text=("Yes.",), usage=Told(uncached=10, cache_read=100, output=7, reasoning=3))
    said = await world.talk(api, stream=stream).say("Do you remember?")
    assert said.usage == Counted(prompt=110, cached=100, output=10, reasoning=3)
    record = (await world.served.records())[-1]
    assert record.usage is not None
    assert (record.usage.input, record.usage.cache_read, record.usage.output) == (10, 100, 10)


async def test_a_stream_and_a_whole_answer_are_the_same(world: World, api: str) -> None:
    world.says(
        reasoning=("Hm. ", "So."),
        text=("It", " is", " so."),
        tools=(ToolCall("weather", '{"city":"Ürümqi","n":[1,2.5,null]}'),),
        usage=Told(uncached=5, cache_read=2, output=20, reasoning=5),
    )
    said: list[Said] = []
    for stream in (False, True):
        talk = world.talk(api, stream=stream, **_thinking(api))
        said.append(await talk.say("Why?", tools=[talk.tool("weather", CITY)]))
    whole, streamed = (_without_ids(one) for one in said)
    assert streamed == whole


def _without_ids(said: Said) -> tuple[Any, ...]:
    calls = [(call.name, call.arguments) for call in said.calls]
    return said.text, said.reasoning, calls, said.finish, said.usage


async def test_a_conversation_survives_a_change_of_models(
    house: tuple[Simulator, Served, Clients], api: str
) -> None:
    """Each model begins where another left: what is sealed for one is kept from the others."""
    sim, _, clients = house
    talk = clients.talk(api, "", **_thinking(api))
    offer = {"tools": [talk.tool("weather", CITY)]}
    for upstream in (*UPSTREAMS, *reversed(UPSTREAMS)):
        talk.route = upstream
        sim.script = Script(reasoning=("Hm.",), tools=(ToolCall("weather", '{"city":"Rome"}'),))
        said = await talk.say("And?", **offer)
        assert [call.arguments for call in said.calls] == [{"city": "Rome"}]
        sim.script = Script(reasoning=("So.",), text=("Sunny.",))
        assert (await talk.tell({said.calls[0].id: "sunny"}, **offer)).text == "Sunny."
