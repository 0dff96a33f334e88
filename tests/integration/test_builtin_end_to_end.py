"""The vendors' clients, the gateway, and a real engine with real weights: what the protocols promise.

No test asserts what a model says.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import signal
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import anthropic
import msgspec
import openai
import pytest
import pytest_asyncio
from anthropic.types import Message

from isthmus.core.errors import Fault

from .gateway import Served, eventually, serving
from .official import Clients, Said, clients_of

if TYPE_CHECKING:
    from isthmus.testing.engines import RunningEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO: Any = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "kelvin"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
EITHER = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
APIS = pytest.mark.parametrize("api", ["chat", "responses", "messages"])


class House(NamedTuple):
    """A gateway with the built-in models, and with an engine that runs outside it as an upstream."""

    served: Served
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic

    @property
    def clients(self) -> Clients:
        return Clients(self.openai, self.anthropic)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(chat_engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "key").write_text(chat_engine.api_key)
    outside = {"base_url": chat_engine.base_url, "key": f"file:{folder / 'key'}", "kind": "local"}
    small = {"provider": "builtin", "weights": "qwen2.5-coder-0.5b-instruct"}
    anything = {"complete": False, "refuses": True}
    document = {
        "providers": {
            "builtin": {"engine": "builtin", "context": 2048, "parallel": 2},
            "messages": {"dialect": "anthropic", **outside},
            "responses": {"dialect": "responses", **outside},
        },
        "models": {
            "small": small,
            "embed": {"provider": "builtin", "weights": "all-minilm-l6-v2"},
            "by-messages": {"provider": "messages", "id": "any"},
            "by-responses": {"provider": "responses", "id": "any"},
        },
        "routes": {
            "default": "small",
            "embeddings": "embed",
            "by-messages": "by-messages",
            "by-responses": "by-responses",
            "sure": {"cascade": [{"model": "small", "accept": {**anything, "logprob": -50}}, "by-messages"]},
            "unsure": {"cascade": [{"model": "small", "accept": {**anything, "logprob": 0}}, "by-messages"]},
        },
    }
    async with (
        serving(msgspec.json.encode(document).decode(), folder) as served,
        clients_of(served.url) as clients,
    ):
        async with asyncio.timeout(120):
            await asyncio.gather(*(one.ready() for one in served.house.workshop.engines().values()))
        yield House(served, *clients)


# -- chat


@EITHER
@APIS
async def test_a_conversation(house: House, api: str, stream: bool) -> None:
    talk = house.clients.talk(api, "default", stream=stream, system="Be brief.", **_short(api))
    for question in ("Say hello.", "And goodbye."):
        said = await talk.say(question)
        assert said.text
        assert said.finish in (talk.FINISH["stop"], talk.FINISH["length"])
        assert said.usage.prompt > 0
        assert 0 < said.usage.output <= 16
    record = (await house.served.records())[-1]
    assert record.model == "small"
    assert record.charge is not None
    assert (record.charge.nanousd, record.charge.basis) == (0, "own engine")
    assert record.usage is not None
    assert not record.usage.estimated
    assert (record.usage.prompt, record.usage.output) == (said.usage.prompt, said.usage.output)


def _short(api: str, tokens: int = 16) -> dict[str, Any]:
    match api:
        case "chat":
            return {"max_tokens": tokens, "temperature": 0}
        case "responses":
            return {"max_output_tokens": tokens, "temperature": 0}
        case _:
            # The newest Claude models take no temperature, and their client has no parameter for it.
            return {"max_tokens": tokens, "extra_body": {"temperature": 0}}


async def test_a_stream_has_its_usage_and_its_first_word_early(house: House) -> None:
    stream = await house.openai.chat.completions.create(
        model="default",
        messages=HELLO,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content) > 1
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert 0 < usage.completion_tokens <= 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@EITHER
async def test_log_probabilities(house: House, stream: bool) -> None:
    request: dict[str, Any] = {
        "model": "default",
        "messages": HELLO,
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 3,
    }
    if stream:
        chunks = [chunk async for chunk in await house.openai.chat.completions.create(stream=True, **request)]
        told = [
            one
            for chunk in chunks
            for choice in chunk.choices
            if choice.logprobs
            for one in choice.logprobs.content or ()
        ]
    else:
        answer = await house.openai.chat.completions.create(**request)
        assert answer.choices[0].logprobs is not None
        told = answer.choices[0].logprobs.content or []
        assert answer.usage is not None
        assert len(told) == answer.usage.completion_tokens
    assert told
    assert all(one.logprob <= 0 and len(one.top_logprobs) == 3 for one in told)


async def test_a_seed_repeats_and_n_varies(house: House) -> None:
    async def ask(**options: Any) -> list[str | None]:
        answer = await house.openai.chat.completions.create(
            model="default", messages=HELLO, max_tokens=8, temperature=1, **options
        )
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.message.content for choice in answer.choices]

    assert await ask(seed=7) == await ask(seed=7)
    two = await ask(n=2)
    assert len(two) == 2
    assert all(two)


@EITHER
@APIS
async def test_json_of_a_schema(house: House, api: str, stream: bool) -> None:
    talk = house.clients.talk(api, "default", stream=stream, **_short(api, 60))
    said = await talk.say("Name a city and its size as JSON.", **talk.form(CITY))
    answer = json.loads(said.text)
    assert answer.keys() == {"city", "size"}
    assert answer["size"] in ("small", "large")


# -- tools


@pytest.mark.parametrize(
    ("api", "choice", "stream"),
    [
        ("chat", "required", False),
        ("chat", "required", True),
        ("chat", "named", True),
        ("chat", "auto", True),
        ("chat", "none", False),
        ("responses", "required", True),
        ("responses", "named", False),
        ("responses", "auto", False),
        ("messages", "required", True),
        ("messages", "named", False),
        ("messages", "auto", False),
    ],
)
async def test_tools(house: House, api: str, choice: str, stream: bool) -> None:
    talk = house.clients.talk(api, "default", stream=stream, **_short(api, 60))
    tools = [talk.tool("get_weather", WEATHER), talk.tool("get_city", CITY)]
    said = await talk.say("What is the weather in Oslo, in celsius?", tools=tools, **_choice(api, choice))
    if choice in ("required", "named"):
        assert said.calls
        assert said.finish == talk.FINISH["tools"]
    if choice == "named":
        assert {call.name for call in said.calls} == {"get_city"}
    if choice == "none":
        assert not said.calls
    _check_calls(said)
    if not said.calls:
        assert said.text
        return
    answer = await talk.tell(
        {call.id: "21 degrees, sunny" for call in said.calls}, tools=tools, **_short(api, 12)
    )
    assert answer.text or answer.calls
    _check_calls(answer)


def _check_calls(said: Said) -> None:
    assert len({call.id for call in said.calls}) == len(said.calls)
    for call in said.calls:
        assert call.id
        if call.name == "get_weather":
            assert call.arguments.keys() == {"city", "unit"}
            assert call.arguments["unit"] in ("celsius", "kelvin")
        else:
            assert call.name == "get_city"
            assert call.arguments.keys() == {"city", "size"}


def _choice(api: str, choice: str) -> dict[str, Any]:
    match api, choice:
        case "messages", "named":
            return {"tool_choice": {"type": "tool", "name": "get_city"}}
        case "messages", _:
            return {"tool_choice": {"type": "any" if choice == "required" else choice}}
        case "responses", "named":
            return {"tool_choice": {"type": "function", "name": "get_city"}}
        case _, "named":
            return {"tool_choice": {"type": "function", "function": {"name": "get_city"}}}
        case _:
            return {"tool_choice": choice}


@pytest.mark.parametrize("parallel", [False, True])
async def test_several_tools_at_once_only_where_that_is_wanted(house: House, parallel: bool) -> None:
    talk = house.clients.talk("chat", "default", **_short("chat", 100))
    said = await talk.say(
        "What is the weather in Oslo and in Rome, in celsius?",
        tools=[talk.tool("get_weather", WEATHER)],
        tool_choice="required",
        parallel_tool_calls=parallel,
    )
    _check_calls(said)
    assert len(said.calls) >= 1
    assert parallel or len(said.calls) == 1


# -- embeddings, counting


async def test_embeddings_have_length_one_however_they_are_sent(house: House) -> None:
    texts = ["A man is eating food.", "Someone eats a meal."]
    floats = await house.openai.embeddings.create(model="embeddings", input=texts, encoding_format="float")
    packed = await house.openai.embeddings.with_raw_response.create(
        model="embeddings", input=texts, encoding_format="base64"
    )
    assert [one.index for one in floats.data] == [0, 1]
    for number, one in enumerate(packed.http_response.json()["data"]):
        vector = floats.data[number].embedding
        assert len(vector) == 384
        assert math.fsum(x * x for x in vector) == pytest.approx(1, abs=1e-3)
        assert list(struct.unpack("<384f", base64.b64decode(one["embedding"]))) == pytest.approx(
            vector, abs=1e-6
        )
    assert floats.usage.prompt_tokens > 0
    with pytest.raises(openai.BadRequestError) as refused:
        await house.openai.embeddings.create(model="default", input=texts)
    assert refused.value.code == "no_model_allowed"
    with pytest.raises(openai.BadRequestError) as chatted:
        await house.openai.chat.completions.create(model="embeddings", messages=HELLO)
    assert chatted.value.code == "no_model_allowed"


@pytest.mark.parametrize("words", [600, 3000], ids=["beyond-the-context", "beyond-the-batch"])
async def test_an_input_too_long_to_embed_is_the_callers_fault(house: House, words: int) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await house.openai.embeddings.create(model="embeddings", input=["short", "word " * words])
    assert refused.value.code == "context_length_exceeded"
    record = (await house.served.records())[-1]
    assert [attempt.fault for attempt in record.attempts] == ["context_too_long"], "and not tried again"
    assert not Fault.CONTEXT_TOO_LONG.trips_breaker


async def test_tokens_are_counted_by_the_models_own_tokenizer(house: House) -> None:
    request: dict[str, Any] = {"model": "default", "messages": HELLO, "system": "Be brief."}
    counted = await house.anthropic.messages.count_tokens(**request)
    answered = await house.anthropic.messages.create(**request, max_tokens=1)
    assert counted.input_tokens == _prompt(answered)


def _prompt(message: Message) -> int:
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


# -- an engine that somebody else runs


@EITHER
@pytest.mark.parametrize(
    ("api", "route"),
    [
        ("messages", "by-messages"),
        ("chat", "by-messages"),
        ("responses", "by-messages"),
        ("chat", "by-responses"),
        ("messages", "by-responses"),
    ],
)
async def test_a_real_server_of_the_other_dialects(house: House, api: str, stream: bool, route: str) -> None:
    talk = house.clients.talk(api, route, stream=stream, system="Be brief.", **_short(api))
    for question in ("Say hello.", "And goodbye."):
        said = await talk.say(question)
        assert said.text
        assert said.finish in (talk.FINISH["stop"], talk.FINISH["length"])
        assert said.usage.prompt > 0
        assert said.usage.output > 0
    record = (await house.served.records())[-1]
    assert record.attempts[0].passthrough == (api == "messages" and route == "by-messages")


@pytest.mark.parametrize(("api", "stream"), [("chat", True), ("messages", False)])
async def test_real_log_probabilities_decide_how_far_a_cascade_goes(
    house: House, api: str, stream: bool
) -> None:
    """No model is surer than certain, and none so unsure."""
    for route, steps in (("sure", ["small"]), ("unsure", ["small", "by-messages"])):
        talk = house.clients.talk(api, route, stream=stream, system="Be brief.", **_short(api, 8))
        assert (await talk.say("Say hello.")).text
        record = (await house.served.records())[-1]
        first = record.attempts[0]
        assert [it.model for it in record.attempts] == steps
        assert first.confidence is not None
        assert 0 < first.confidence < 1
        assert record.usage is not None
        assert not record.usage.estimated


async def test_a_real_servers_own_responses_pass_through(house: House) -> None:
    """As they are: llama.cpp leaves out fields that the client's helpers rely on, so none is used here."""
    request: dict[str, Any] = {"model": "by-responses", "input": "Say hello.", "max_output_tokens": 16}
    assert (await house.openai.responses.create(**request)).output_text
    kinds = [event.type async for event in await house.openai.responses.create(**request, stream=True)]
    assert "response.output_text.delta" in kinds
    assert kinds[-1] in ("response.completed", "response.incomplete")
    record = (await house.served.records())[-1]
    assert record.attempts[0].passthrough
    assert record.usage is not None
    assert not record.usage.estimated


@pytest.mark.parametrize("route", ["by-messages", "by-responses"])
async def test_a_real_server_of_the_other_dialects_is_offered_tools(house: House, route: str) -> None:
    """It does not bind a small model to call one; what is offered must be understood."""
    talk = house.clients.talk("chat", route, **_short("chat", 48))
    said = await talk.say("What is the weather in Oslo?", tools=[talk.tool("get_weather", WEATHER)])
    assert said.text or said.calls


async def test_a_real_server_counts_tokens(house: House) -> None:
    request: dict[str, Any] = {"model": "by-messages", "messages": HELLO}
    counted = await house.anthropic.messages.count_tokens(**request)
    answered = await house.anthropic.messages.create(**request, max_tokens=1)
    assert counted.input_tokens == _prompt(answered)


# -- leaving, dying


async def test_leaving_a_stream_frees_the_engine(house: House) -> None:
    gateway = house.served.house.gateway
    async with await house.openai.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Count from one to a thousand, in words."}],
        max_tokens=1500,
        stream=True,
    ) as stream:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
    await eventually(lambda: gateway.tally.in_flight == 0)
    record = (await house.served.records())[-1]
    assert record.outcome == "cancelled"
    assert record.usage is not None
    assert record.usage.output < 1500
    assert (await house.openai.chat.completions.create(model="default", messages=HELLO, max_tokens=2)).choices


async def test_an_engine_that_is_killed_comes_back(house: House) -> None:
    hosted = house.served.house.workshop.engines()["small"]
    assert hosted.engine is not None
    before = hosted.engine.pid
    assert before is not None
    broken = asyncio.create_task(_tell_a_story(house))
    await eventually(lambda: house.served.house.gateway.tally.in_flight == 1)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(openai.APIError):
        await broken
    await eventually(lambda: hosted.state != "ready", 20)
    with pytest.raises(openai.InternalServerError) as failed:
        await house.openai.chat.completions.create(model="default", messages=HELLO, max_tokens=2)
    assert (failed.value.status_code, failed.value.code) == (503, f"engine_{hosted.state}")
    assert int(failed.value.response.headers["retry-after"]) >= 1
    assert (await house.served.get("/readyz")).status == 503
    assert (await house.openai.embeddings.create(model="embeddings", input="a")).data, "the other one lives"
    await eventually(lambda: hosted.state == "ready", 60)
    assert hosted.engine.pid != before
    answer = await house.openai.chat.completions.create(model="default", messages=HELLO, max_tokens=2)
    assert answer.choices[0].message.content
    assert (await house.served.get("/readyz")).status == 200


async def _tell_a_story(house: House) -> None:
    stream = await house.openai.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Tell a very long story."}],
        max_tokens=1500,
        stream=True,
    )
    async for _ in stream:
        pass
