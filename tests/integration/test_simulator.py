"""The simulator, driven by the vendors' own clients, and by plain sockets where it misbehaves."""

from __future__ import annotations

import asyncio
import base64
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import anthropic
import msgspec
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from isthmus.testing import MODELS, Asked, Fault, Script, Simulator, ToolCall, Usage, words

TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
        "required": ["city"],
    },
}
CHAT_TOOL: Any = {"type": "function", "function": TOOL}
RESPONSES_TOOL: Any = {"type": "function", **TOOL}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "input_schema": TOOL["parameters"]}
HELLO: Any = [{"role": "user", "content": "Guten Tag, schöne Welt"}]
TEXT = "Guten Tag, schöne Welt"
LONG_S = 30
"""Seconds after which a test that waits has failed."""


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def chat(sim: Simulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="any", max_retries=0, timeout=LONG_S) as client:
        yield client


@pytest.fixture
async def claude(sim: Simulator) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=sim.url, api_key="any", max_retries=0, timeout=LONG_S) as client:
        yield client


# Plain HTTP: what no client library would let us see.


async def exchange(
    sim: Simulator, path: str, body: Any, method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: the status, the headers, and all bytes after the head."""
    async with asyncio.timeout(LONG_S):
        reader, writer = await dial(sim, path, body, method, connection="close", **headers)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        told = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        rest = await reader.read()
        writer.close()
    return int(head[0].split()[1]), told, rest


async def dial(
    sim: Simulator, path: str, body: Any, method: str = "POST", **headers: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sim.url.rpartition(":")[2]))
    writer.write(request(method, path, body, **headers))
    return reader, writer


def request(method: str, path: str, body: Any, **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    told = {"host": "sim", "content-length": str(len(data))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def dechunk(data: bytes) -> tuple[bytes, bool]:
    """The bytes inside the chunks, and whether the last chunk came."""
    body = b""
    while b"\r\n" in data:
        size, _, rest = data.partition(b"\r\n")
        if int(size, 16) == 0:
            return body, True
        body += rest[: int(size, 16)]
        data = rest[int(size, 16) + 2 :]
    return body, False


def events(body: bytes) -> list[dict[str, Any]]:
    """The JSON of each data line."""
    lines = [line for line in body.splitlines() if line.startswith(b"data:")]
    return [msgspec.json.decode(line[5:]) for line in lines if line[5:].strip() != b"[DONE]"]


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, "stream": True} | more


GEMINI = "/v1beta/models/{}:{}"
CONTENTS: Any = [{"role": "user", "parts": [{"text": TEXT}]}]


async def gemini(sim: Simulator, model: str, body: dict[str, Any]) -> dict[str, Any]:
    status, _, data = await exchange(sim, GEMINI.format(model, "generateContent"), body)
    assert status == 200, data
    return dict(msgspec.json.decode(data))


async def gemini_stream(sim: Simulator, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    path = GEMINI.format(model, "streamGenerateContent?alt=sse")
    status, headers, data = await exchange(sim, path, body)
    assert status == 200, data
    assert headers["content-type"].startswith("text/event-stream")
    body_, whole = dechunk(data)
    assert whole
    return events(body_)


def parts(responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for one in responses for part in one["candidates"][0]["content"]["parts"]]


# OpenAI Chat Completions


async def test_chat_echoes_and_counts(sim: Simulator, chat: AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(model="anything", messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 4)
    assert sim.requests[0].body == {"model": "anything", "messages": HELLO}
    assert sim.requests[0].headers["authorization"] == "Bearer any"
    assert "any" not in repr(sim.requests[0])


async def test_chat_stream_ends_with_a_usage_chunk_without_choices(chat: AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(
        model="sim-echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == TEXT
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 9


async def test_chat_stream_has_no_usage_unless_asked(chat: AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(model="sim-echo", messages=HELLO, stream=True)
    assert not [chunk async for chunk in stream if "usage" in chunk.model_fields_set]


async def test_chat_choices_alternate_and_have_texts_of_their_own(sim: Simulator, chat: AsyncOpenAI) -> None:
    sim.script = Script(text=("a", "b"), choices=(("c", "d"),))
    answer = await chat.chat.completions.create(model="m", messages=HELLO, n=2)
    assert [choice.message.content for choice in answer.choices] == ["ab", "cd"]
    stream = await chat.chat.completions.create(model="m", messages=HELLO, n=2, stream=True)
    said = [(one.choices[0].index, one.choices[0].delta.content) async for one in stream]
    assert [one for one in said if one[1]] == [(0, "a"), (1, "c"), (0, "b"), (1, "d")]


async def test_chat_logprobs(sim: Simulator, chat: AsyncOpenAI) -> None:
    sim.script = Script(text=("Ja", "."), logprobs=(-0.5,))
    answer = await chat.chat.completions.create(model="m", messages=HELLO, logprobs=True, top_logprobs=2)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [(one.token, one.logprob) for one in told.content] == [("Ja", -0.5), (".", -0.1)]
    assert [len(one.top_logprobs) for one in told.content] == [2, 2]
    stream = await chat.chat.completions.create(model="m", messages=HELLO, logprobs=True, stream=True)
    streamed = [chunk.choices[0].logprobs async for chunk in stream]
    assert [one.content[0].token for one in streamed if one and one.content] == ["Ja", "."]


@pytest.mark.parametrize(("model", "count"), [("sim-tools", 1), ("sim-parallel-tools", 3)])
async def test_chat_tool_calls_are_the_same_streamed_and_whole(
    chat: AsyncOpenAI, model: str, count: int
) -> None:
    whole = await chat.chat.completions.create(model=model, messages=HELLO, tools=[CHAT_TOOL])
    calls = whole.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.arguments for call in calls if call.type == "function"] == [
        '{"city":"text","days":2}'
    ] * count
    async with chat.chat.completions.stream(model=model, messages=HELLO, tools=[CHAT_TOOL]) as stream:
        final = await stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls
    assert streamed is not None
    assert [(one.function.name, one.function.arguments) for one in streamed] == [
        (one.function.name, one.function.arguments) for one in calls if one.type == "function"
    ]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_chat_tool_loop(chat: AsyncOpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": 'Please call get_weather {"city": "Bern"}'}]
    first = await chat.chat.completions.create(model="m", messages=asked, tools=[CHAT_TOOL])
    message = first.choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].type == "function"
    assert message.tool_calls[0].function.arguments == '{"city": "Bern"}'
    asked += [
        message.model_dump(include={"role", "tool_calls"}),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"},
    ]
    second = await chat.chat.completions.create(model="m", messages=asked, tools=[CHAT_TOOL])
    assert second.choices[0].message.content == "rain"


async def test_chat_json_schema(chat: AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "label": {"enum": ["spam", "ham"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["label", "tags"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "mail", "schema": schema, "strict": True}}
    answer = await chat.chat.completions.create(model="m", messages=HELLO, response_format=wanted)
    assert answer.choices[0].message.content == '{"label":"spam","tags":["text"]}'


async def test_chat_reasoning_and_refusal(chat: AsyncOpenAI) -> None:
    thought = await chat.chat.completions.create(model="sim-reasoning", messages=HELLO)
    assert thought.choices[0].message.model_dump()["reasoning_content"].startswith("The question")
    assert thought.usage is not None
    assert thought.usage.completion_tokens_details is not None
    assert thought.usage.completion_tokens_details.reasoning_tokens == 7
    stream = await chat.chat.completions.create(model="sim-reasoning-field", messages=HELLO, stream=True)
    pieces = [chunk.choices[0].delta.model_dump().get("reasoning", "") async for chunk in stream]
    assert "".join(pieces).startswith("The question")
    refused = await chat.chat.completions.create(model="sim-refusal", messages=HELLO)
    assert refused.choices[0].message.refusal == "I cannot help with that."
    assert refused.choices[0].message.content is None


async def test_chat_stops_at_limits(chat: AsyncOpenAI) -> None:
    short = await chat.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("Guten Tag,", "length")
    stopped = await chat.chat.completions.create(model="m", messages=HELLO, stop=["schöne"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("Guten Tag, ", "stop")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("sim-400", openai.BadRequestError),
        ("sim-401", openai.AuthenticationError),
        ("sim-403", openai.PermissionDeniedError),
        ("sim-404", openai.NotFoundError),
        ("sim-409", openai.ConflictError),
        ("sim-422", openai.UnprocessableEntityError),
        ("sim-429", openai.RateLimitError),
        ("sim-500", openai.InternalServerError),
        ("sim-529", openai.InternalServerError),
    ],
)
async def test_openai_errors_have_their_class(
    chat: AsyncOpenAI, model: str, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        await chat.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.body["message"]
    with pytest.raises(kind):
        await chat.responses.create(model=model, input="x", stream=True)
    with pytest.raises(kind):
        await chat.embeddings.create(model=model, input="x")


async def test_openai_error_codes(chat: AsyncOpenAI) -> None:
    for model, code in (
        ("sim-400-context", "context_length_exceeded"),
        ("sim-429-quota", "insufficient_quota"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await chat.chat.completions.create(model=model, messages=HELLO)
        assert caught.value.code == code


async def test_retry_after_in_its_three_forms(sim: Simulator) -> None:
    _, seconds, _ = await exchange(sim, "/chat/completions", ask("sim-429"))
    assert seconds["retry-after"] == "1"
    _, date, _ = await exchange(sim, "/chat/completions", ask("sim-429-date"))
    assert parsedate_to_datetime(date["retry-after"]).utcoffset() is not None
    _, milliseconds, _ = await exchange(sim, "/chat/completions", ask("sim-429-ms"))
    assert milliseconds["retry-after-ms"] == "1000"
    assert "retry-after" not in milliseconds


async def test_flaky_model_answers_the_second_time(chat: AsyncOpenAI) -> None:
    patient = chat.with_options(max_retries=1)
    answer = await patient.chat.completions.create(model="sim-flaky", messages=HELLO)
    assert answer.choices[0].message.content == TEXT


CALL: Any = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": None}, "'model'"),
        ({"messages": []}, "empty array"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}, "input_text"),
        ({"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "preceding"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [CALL]}]}, "c1"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x", "tool_calls": []}]}, "empty array"),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, "pattern"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "object",
        ),
        ({"tools": []}, "empty array"),
        ({"tool_choice": "required"}, "only allowed when 'tools'"),
        ({"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "not found"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": True}, "integer"),
        ({"invented": 1}, "Unknown parameter: 'invented'"),
    ],
)
async def test_chat_refuses_nonsense(sim: Simulator, change: dict[str, Any], said: str) -> None:
    body = {"model": "m", "messages": HELLO} | change
    status, _, data = await exchange(sim, "/v1/chat/completions", body)
    assert status == 400
    assert said in msgspec.json.decode(data)["error"]["message"]


async def test_strict_schemas_must_be_closed(chat: AsyncOpenAI) -> None:
    open_: Any = {"type": "function", "function": TOOL | {"strict": True}}
    with pytest.raises(openai.BadRequestError, match="additionalProperties"):
        await chat.chat.completions.create(model="m", messages=HELLO, tools=[open_])


async def test_lenient_house_accepts_inventions() -> None:
    async with Simulator(strict=False) as sim:
        status, _, _ = await exchange(sim, "/v1/chat/completions", ask("m", invented=1))
        assert status == 200


async def test_house_with_a_key_refuses_others() -> None:
    async with Simulator(key="right") as sim:
        for key, status in (("Bearer right", 200), ("Bearer wrong", 401)):
            answer, _, _ = await exchange(sim, "/chat/completions", ask("m"), authorization=key)
            assert answer == status
        for key, status in (("right", 200), ("wrong", 401)):
            headers = {"x_api_key": key, "anthropic_version": "2023-06-01"}
            answer, _, _ = await exchange(sim, "/v1/messages", ask("m", max_tokens=9), **headers)
            assert answer == status
        for key, status in (("right", 200), ("wrong", 400)):
            path = GEMINI.format("m", "generateContent")
            answer, _, _ = await exchange(sim, path, {"contents": CONTENTS}, x_goog_api_key=key)
            assert answer == status


# OpenAI Responses


async def test_responses_whole(chat: AsyncOpenAI) -> None:
    answer = await chat.responses.create(model="m", input=TEXT, instructions="Repeat.")
    assert answer.output_text == TEXT
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (6, 4)


@pytest.mark.parametrize("model", ["sim-echo", "sim-reasoning", "sim-parallel-tools", "sim-refusal"])
async def test_responses_stream_adds_up(chat: AsyncOpenAI, model: str) -> None:
    more: Any = {"include": ["reasoning.encrypted_content"]}
    stream = await chat.responses.create(model=model, input=TEXT, tools=[RESPONSES_TOOL], stream=True, **more)
    events_ = [event async for event in stream]
    assert [event.sequence_number for event in events_] == list(range(len(events_)))
    assert [event.type for event in events_[:2]] == ["response.created", "response.in_progress"]
    last = events_[-1]
    assert last.type == "response.completed"
    done = [event.item for event in events_ if event.type == "response.output_item.done"]
    assert done == last.response.output
    texts = "".join(one.delta for one in events_ if one.type == "response.output_text.delta")
    assert texts == last.response.output_text
    arguments = "".join(one.delta for one in events_ if one.type == "response.function_call_arguments.delta")
    assert arguments == "".join(one.arguments for one in done if one.type == "function_call")
    assert last.response.usage is not None


async def test_responses_tool_loop_with_encrypted_reasoning(sim: Simulator, chat: AsyncOpenAI) -> None:
    sim.scripts["thinker"] = lambda asked: (
        Script(reasoning=("Hm",), tools=(ToolCall("get_weather", '{"city":"Bern"}'),))
        if asked.nth == 0
        else Script(text=words(asked.text))
    )
    asked: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}]
    more: Any = {"tools": [RESPONSES_TOOL], "include": ["reasoning.encrypted_content"], "store": False}
    first = await chat.responses.create(model="thinker", input=asked, **more)
    reasoning, call = (one.model_dump(exclude_none=True) for one in first.output)
    assert "Hm" not in reasoning["encrypted_content"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    second = await chat.responses.create(model="thinker", input=[*asked, reasoning, call, output], **more)
    assert second.output_text == "rain"
    forged = reasoning | {"encrypted_content": base64.b64encode(b"x" * 40).decode()}
    with pytest.raises(openai.BadRequestError) as caught:
        await chat.responses.create(model="thinker", input=[*asked, forged, call, output], **more)
    assert caught.value.code == "invalid_encrypted_content"
    async with Simulator(organisation="another") as other:
        moved = chat.with_options(base_url=f"{other.url}/v1")
        with pytest.raises(openai.BadRequestError):
            await moved.responses.create(model="thinker", input=[*asked, reasoning, call, output], **more)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": None}, "'input'"),
        ({"input": [{"role": "tool", "content": "x"}]}, "tool"),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "Invalid value: 'text'"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "No tool call found"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}]},
            "No tool output",
        ),
        ({"input": [{"type": "reasoning", "id": "rs", "summary": []}]}, "required following item"),
        ({"max_output_tokens": 1}, "max_output_tokens"),
        ({"messages": HELLO}, "Unknown parameter"),
        ({"tools": [CHAT_TOOL]}, "name"),
    ],
)
async def test_responses_refuses_nonsense(sim: Simulator, change: dict[str, Any], said: str) -> None:
    status, _, data = await exchange(sim, "/v1/responses", {"model": "m", "input": "x"} | change)
    assert status == 400
    assert said in msgspec.json.decode(data)["error"]["message"]


async def test_responses_incomplete_and_failed(chat: AsyncOpenAI) -> None:
    stream = await chat.responses.create(model="sim-length", input=TEXT, stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    stream = await chat.responses.create(model="sim-error-mid-stream", input=TEXT, stream=True)
    types = [event.type async for event in stream]
    assert types[-2:] == ["error", "response.failed"]


# Embeddings and models


async def test_embeddings_tell_the_same_in_both_encodings(chat: AsyncOpenAI) -> None:
    floats = await chat.embeddings.create(
        model="e", input=["a b", "a c"], dimensions=8, encoding_format="float"
    )
    coded = await chat.embeddings.create(model="e", input=["a b", "a c"], dimensions=8)
    assert [one.embedding for one in coded.data] == [one.embedding for one in floats.data]
    assert sum(x * x for x in floats.data[0].embedding) == pytest.approx(1)
    assert floats.usage.prompt_tokens == 4


async def test_embeddings_send_base64_of_little_endian_floats(sim: Simulator) -> None:
    body = {"model": "e", "input": "a", "dimensions": 2, "encoding_format": "base64"}
    _, _, data = await exchange(sim, "/v1/embeddings", body)
    coded = msgspec.json.decode(data)["data"][0]["embedding"]
    assert len(struct.unpack("<2f", base64.b64decode(coded))) == 2


@pytest.mark.parametrize("given", ["missing", [], [""], [1, "a"], {"a": 1}])
async def test_embeddings_refuse_nonsense(sim: Simulator, given: Any) -> None:
    body = {"model": "e"} if given == "missing" else {"model": "e", "input": given}
    status, _, _ = await exchange(sim, "/v1/embeddings", body)
    assert status == 400


async def test_models_are_listed_in_each_shape(
    sim: Simulator, chat: AsyncOpenAI, claude: AsyncAnthropic
) -> None:
    assert [one.id async for one in chat.models.list()] == list(MODELS)
    assert [one.id async for one in claude.models.list()] == list(MODELS)
    status, _, data = await exchange(sim, "/v1beta/models", b"", method="GET")
    assert status == 200
    assert msgspec.json.decode(data)["models"][0]["name"] == "models/sim-echo"


# Anthropic Messages


async def test_claude_whole(sim: Simulator, claude: AsyncAnthropic) -> None:
    answer = await claude.messages.create(model="m", max_tokens=64, messages=HELLO, system="Repeat.")
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": TEXT}]
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 6, 4)
    assert sim.requests[0].headers["authorization"] == "Bearer any"


@pytest.mark.parametrize("model", ["sim-echo", "sim-redacted", "sim-parallel-tools", "sim-cached"])
async def test_claude_stream_adds_up_to_the_whole(claude: AsyncAnthropic, model: str) -> None:
    asked: Any = {"model": model, "max_tokens": 64, "messages": HELLO, "tools": [ANTHROPIC_TOOL]}
    async with claude.messages.stream(**asked) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert types[0] == "message_start"
    assert types[-1] == "message_stop"
    whole = await claude.messages.create(**asked)

    def told(message: Any) -> Any:
        return [block.to_dict() | {"id": "", "parsed_output": None} for block in message.content]

    assert told(final) == told(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.cache_read_input_tokens == whole.usage.cache_read_input_tokens
    assert final.usage.cache_creation == whole.usage.cache_creation


async def test_claude_events_in_their_order(sim: Simulator) -> None:
    body = ask("sim-redacted", max_tokens=9)
    _, headers, data = await exchange(sim, "/v1/messages", body, anthropic_version="2023-06-01")
    assert headers["content-type"].startswith("text/event-stream")
    names = [event["type"] for event in events(dechunk(data)[0])]
    assert names[:4] == ["message_start", "content_block_start", "ping", "content_block_delta"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    lines = dechunk(data)[0].decode().split("\n")
    named = [line.removeprefix("event: ") for line in lines if line.startswith("event")]
    assert named == names


async def test_claude_cached_tokens_are_outside_of_input_tokens(claude: AsyncAnthropic) -> None:
    usage = (await claude.messages.create(model="sim-cached", max_tokens=9, messages=HELLO)).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (
        10,
        100,
        25,
    )
    assert usage.cache_creation is not None
    assert usage.cache_creation.ephemeral_5m_input_tokens == 20
    assert usage.cache_creation.ephemeral_1h_input_tokens == 5
    assert usage.output_tokens == 10


async def test_the_same_tokens_in_the_other_wires(sim: Simulator, chat: AsyncOpenAI) -> None:
    usage = (await chat.chat.completions.create(model="sim-cached", messages=HELLO)).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (135, 100)
    told = (await gemini(sim, "sim-cached", {"contents": CONTENTS}))["usageMetadata"]
    assert told == {
        "promptTokenCount": 135,
        "cachedContentTokenCount": 100,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 3,
        "totalTokenCount": 145,
    }


async def test_claude_tool_loop_with_signed_thinking(sim: Simulator, claude: AsyncAnthropic) -> None:
    sim.scripts["thinker"] = lambda asked: (
        Script(reasoning=("Hm", ", so"), tools=(ToolCall("get_weather", '{"city":"Bern"}'),))
        if asked.nth == 0
        else Script(text=words(asked.text))
    )
    tools: Any = {"tools": [ANTHROPIC_TOOL], "max_tokens": 64, "model": "thinker"}
    first = await claude.messages.create(messages=HELLO, **tools)
    blocks: list[Any] = [block.to_dict() for block in first.content]
    assert blocks[0]["thinking"] == "Hm, so"
    result = {"type": "tool_result", "tool_use_id": blocks[1]["id"], "content": "rain"}
    turns: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": [result]},
    ]
    second = await claude.messages.create(messages=turns, **tools)
    assert second.content[0].to_dict()["text"] == "rain"
    blocks[0]["thinking"] += "!"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        await claude.messages.create(messages=turns, **tools)


async def test_claude_forced_tool_and_json(claude: AsyncAnthropic) -> None:
    forced = await claude.messages.create(
        model="m",
        max_tokens=9,
        messages=HELLO,
        tools=[ANTHROPIC_TOOL],
        tool_choice={"type": "tool", "name": "get_weather"},
    )
    assert forced.content[0].to_dict()["input"] == {"city": "text", "days": 2}
    assert forced.stop_reason == "tool_use"
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    shaped: Any = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    answer = await claude.messages.create(model="m", max_tokens=9, messages=HELLO, **shaped)
    assert answer.content[0].to_dict()["text"] == '{"ok":true}'


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("sim-length", "max_tokens"),
        ("sim-pause-turn", "pause_turn"),
        ("sim-refusal", "refusal"),
        ("sim-blocked", "refusal"),
        ("sim-context-full", "model_context_window_exceeded"),
        ("sim-unknown-finish", "because"),
    ],
)
async def test_claude_stop_reasons(claude: AsyncAnthropic, model: str, reason: str) -> None:
    answer = await claude.messages.create(model=model, max_tokens=64, messages=HELLO)
    assert answer.stop_reason == reason
    stream = await claude.messages.create(model=model, max_tokens=64, messages=HELLO, stream=True)
    deltas = [event async for event in stream if event.type == "message_delta"]
    assert [one.delta.stop_reason for one in deltas] == [reason]


async def test_claude_names_the_stop_sequence(claude: AsyncAnthropic) -> None:
    answer = await claude.messages.create(model="m", max_tokens=9, messages=HELLO, stop_sequences=["Tag"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Tag")


@pytest.mark.parametrize(
    ("model", "kind", "type_"),
    [
        ("sim-400-context", anthropic.BadRequestError, "invalid_request_error"),
        ("sim-401", anthropic.AuthenticationError, "authentication_error"),
        ("sim-403", anthropic.PermissionDeniedError, "permission_error"),
        ("sim-429", anthropic.RateLimitError, "rate_limit_error"),
        ("sim-500", anthropic.InternalServerError, "api_error"),
        ("sim-529", anthropic.APIStatusError, "overloaded_error"),
    ],
)
async def test_anthropic_errors(
    claude: AsyncAnthropic, model: str, kind: type[anthropic.APIStatusError], type_: str
) -> None:
    with pytest.raises(kind) as caught:
        await claude.messages.create(model=model, max_tokens=9, messages=HELLO)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == type_


async def test_claude_error_inside_a_stream(claude: AsyncAnthropic) -> None:
    stream = await claude.messages.create(
        model="sim-error-mid-stream", max_tokens=9, messages=HELLO, stream=True
    )
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        [event async for event in stream]


async def test_claude_counts_tokens(claude: AsyncAnthropic) -> None:
    assert (await claude.messages.count_tokens(model="m", messages=HELLO)).input_tokens == 5


USE: Any = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
RESULT: Any = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
MARKED: Any = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "Unexpected role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "first message"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Input tag 'image_url'"),
        ({"messages": [{"role": "user", "content": [RESULT]}]}, "unexpected `tool_use_id`"),
        ({"messages": [*HELLO, {"role": "assistant", "content": [USE]}]}, "without `tool_result`"),
        ({"messages": [*HELLO, {"role": "assistant", "content": [USE]}, *HELLO]}, "without `tool_result`"),
        (
            {"messages": [*HELLO, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}]},
            "signature: Field required",
        ),
        ({"messages": [{"role": "user", "content": [MARKED] * 5}]}, "maximum of 4"),
        ({"temperature": 1.5}, "temperature"),
        ({"tools": [{"name": "f"}]}, "input_schema: Field required"),
        ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "'object'"),
        ({"tools": [CHAT_TOOL]}, "Input tag 'function'"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "greater than"),
        ({"n": 2}, "n: Extra inputs are not permitted"),
    ],
)
async def test_claude_refuses_nonsense(sim: Simulator, change: dict[str, Any], said: str) -> None:
    body = {"model": "m", "max_tokens": 1024, "messages": HELLO} | change
    status, _, data = await exchange(sim, "/v1/messages", body, anthropic_version="2023-06-01")
    error = msgspec.json.decode(data)
    assert (status, error["type"], error["error"]["type"]) == (400, "error", "invalid_request_error")
    assert said in error["error"]["message"]


CITED: Any = {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}
DOCUMENT: Any = {"type": "document", "source": {"type": "text", "data": "x"}}


@pytest.mark.parametrize(
    ("version", "change", "said"),
    [
        (None, {}, "header is required"),
        ("2025-01-01", {}, "not a valid version"),
        ("2023-06-01", {"temperature": 0.5, "top_p": 0.9, "top_k": 5}, None),
        ("2026-10-21", {}, None),
        ("2026-10-21", {"temperature": 1.0}, "temperature: Extra inputs are not permitted"),
        ("2026-10-21", {"messages": [{"role": "user", "content": [CITED]}]}, "citations"),
        ("2023-06-01", {"messages": [{"role": "user", "content": [CITED]}]}, None),
        ("2026-10-21", {"messages": [*HELLO, {"role": "assistant", "content": [DOCUMENT]}]}, "`document`"),
    ],
)
async def test_claude_rules_depend_on_the_version(
    sim: Simulator, version: str | None, change: dict[str, Any], said: str | None
) -> None:
    headers = {"anthropic_version": version} if version else {}
    body = ask("m", max_tokens=9, stream=False) | change
    status, _, data = await exchange(sim, "/v1/messages", body, **headers)
    assert status == (200 if said is None else 400)
    assert said is None or said in msgspec.json.decode(data)["error"]["message"]


# Gemini


async def test_gemini_whole_and_stream(sim: Simulator) -> None:
    whole = await gemini(sim, "sim-reasoning", {"contents": CONTENTS})
    thought, said = parts([whole])
    assert thought["thought"] is True
    assert said == {"text": TEXT}
    streamed = await gemini_stream(sim, "sim-reasoning", {"contents": CONTENTS})
    assert "".join(part["text"] for part in parts(streamed) if "thought" not in part) == TEXT
    finishes = [one["candidates"][0].get("finishReason") for one in streamed]
    assert finishes == [None] * (len(streamed) - 1) + ["STOP"]
    assert streamed[-1]["usageMetadata"] == whole["usageMetadata"]
    assert all("usageMetadata" in one for one in streamed)


async def test_gemini_colon_may_be_percent_encoded(sim: Simulator) -> None:
    path = "/v1beta/models/m%3AgenerateContent"
    status, _, _ = await exchange(sim, path, {"contents": CONTENTS})
    assert status == 200
    assert sim.requests[0].path == "/v1beta/models/m:generateContent"


async def test_gemini_signed_tool_loop(sim: Simulator) -> None:
    declared = {"tools": [{"functionDeclarations": [TOOL]}]}
    first = await gemini_stream(sim, "sim-signed-tools", {"contents": CONTENTS} | declared)
    call, end = parts(first)
    assert call["functionCall"]["args"] == {"city": "text", "days": 2}
    assert end == {"text": ""}
    reply = {"functionResponse": {"name": "get_weather", "response": {"output": "rain"}}}
    turns = [*CONTENTS, {"role": "model", "parts": [call]}, {"role": "user", "parts": [reply]}]
    await gemini(sim, "sim-signed-tools", {"contents": turns} | declared)
    assert (await gemini(sim, "m", {"contents": turns}))["candidates"][0]["content"]["parts"] == [
        {"text": "rain"}
    ]
    for allowed in (
        call["thoughtSignature"].replace("+", "-").replace("/", "_"),
        "skip_thought_signature_validator",
    ):
        turns[1] = {"role": "model", "parts": [call | {"thoughtSignature": allowed}]}
        await gemini(sim, "sim-signed-tools", {"contents": turns} | declared)
    for broken in (call | {"thoughtSignature": "AAAA"}, {"functionCall": call["functionCall"]}):
        turns[1] = {"role": "model", "parts": [broken]}
        path = GEMINI.format("sim-signed-tools", "generateContent")
        status, _, data = await exchange(sim, path, {"contents": turns} | declared)
        assert status == 400
        assert "thought" in msgspec.json.decode(data)["error"]["message"]


async def test_gemini_parallel_calls_sign_only_the_first(sim: Simulator) -> None:
    calls = parts([await gemini(sim, "sim-parallel-tools", {"contents": CONTENTS})])
    assert ["thoughtSignature" in one for one in calls] == [True, False, False]


async def test_gemini_blocked_prompt(sim: Simulator) -> None:
    for answer in (
        await gemini(sim, "sim-blocked", {"contents": CONTENTS}),
        *await gemini_stream(sim, "sim-blocked", {"contents": CONTENTS}),
    ):
        assert answer["promptFeedback"]["blockReason"] == "SAFETY"
        assert "candidates" not in answer


async def test_gemini_json_and_logprobs(sim: Simulator) -> None:
    config = {
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}},
        "responseLogprobs": True,
        "logprobs": 1,
    }
    answer = await gemini(sim, "m", {"contents": CONTENTS, "generation_config": config})
    assert parts([answer]) == [{"text": '{"n":1}'}]
    chosen = answer["candidates"][0]["logprobsResult"]["chosenCandidates"]
    assert "".join(one["token"] for one in chosen) == '{"n":1}'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [{"role": "user", "parts": [{"text": "x", "inlineData": {}}]}]}, "one field"),
        (
            {"contents": [{"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
            "number of function response parts",
        ),
        (
            {
                "contents": [
                    *CONTENTS,
                    {"role": "model", "parts": [{"functionCall": {"name": "f"}}]},
                    *CONTENTS,
                ]
            },
            "number of function response parts",
        ),
        ({"messages": HELLO}, 'Unknown name "messages"'),
        ({"generationConfig": {"max_tokens": 5}}, 'Unknown name "maxTokens"'),
        ({"tools": [{"functionDeclarations": [{"name": "1f"}]}]}, "Invalid function name"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"$schema": "x"}}]}]},
            'Unknown name "$schema"',
        ),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": ["object"]}}]}]},
            "not repeating",
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "without function_declarations"),
    ],
)
async def test_gemini_refuses_nonsense(sim: Simulator, change: dict[str, Any], said: str) -> None:
    body = {"contents": CONTENTS} | change
    status, _, data = await exchange(sim, GEMINI.format("m", "generateContent"), body)
    error = msgspec.json.decode(data)["error"]
    assert (status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert said in error["message"]


@pytest.mark.parametrize(("model", "status"), [("sim-429", "RESOURCE_EXHAUSTED"), ("sim-503", "UNAVAILABLE")])
async def test_gemini_errors(sim: Simulator, model: str, status: str) -> None:
    for method in ("generateContent", "streamGenerateContent?alt=sse"):
        code, _, data = await exchange(sim, GEMINI.format(model, method), {"contents": CONTENTS})
        assert str(code) in model
        assert msgspec.json.decode(data)["error"]["status"] == status


async def test_gemini_counts_and_embeds(sim: Simulator) -> None:
    async def post(method: str, body: dict[str, Any]) -> Any:
        status, _, data = await exchange(sim, GEMINI.format("e", method), body)
        assert status == 200, data
        return msgspec.json.decode(data)

    assert (await post("countTokens", {"contents": CONTENTS}))["totalTokens"] == 5
    content = {"parts": [{"text": "a"}]}
    one = await post("embedContent", {"content": content, "outputDimensionality": 3})
    assert len(one["embedding"]["values"]) == 3
    each = {"model": "models/e", "content": content, "outputDimensionality": 3}
    assert (await post("batchEmbedContents", {"requests": [each, each]}))["embeddings"] == [
        one["embedding"]
    ] * 2


# Faults

WIRES = pytest.mark.parametrize("wire", ["openai-chat", "anthropic", "openai-responses", "gemini"])


def streaming(wire: str, model: str) -> tuple[str, dict[str, Any]]:
    match wire:
        case "openai-chat":
            return "/v1/chat/completions", ask(model, stream_options={"include_usage": True})
        case "anthropic":
            return "/v1/messages", ask(model, max_tokens=64)
        case "openai-responses":
            return "/v1/responses", {"model": model, "input": TEXT, "stream": True}
        case _:
            return GEMINI.format(model, "streamGenerateContent?alt=sse"), {"contents": CONTENTS}


async def stream(sim: Simulator, wire: str, model: str) -> bytes:
    """All bytes after the head of a streamed answer."""
    status, _, data = await exchange(sim, *streaming(wire, model), anthropic_version="2023-06-01")
    assert status == 200
    return data


TERMINAL = {
    "openai-chat": b"[DONE]",
    "anthropic": b"message_stop",
    "openai-responses": b"response.completed",
    "gemini": b'"finishReason":"STOP"',
}


@WIRES
async def test_a_stream_ends_with_its_terminal_event(sim: Simulator, wire: str) -> None:
    body, whole = dechunk(await stream(sim, wire, "sim-echo"))
    assert whole
    assert TERMINAL[wire] in body.split(b"data: ")[-1]


@WIRES
async def test_cut_comes_inside_a_chunk(sim: Simulator, wire: str) -> None:
    data = await stream(sim, wire, "sim-cut")
    body, whole = dechunk(data)
    assert not whole
    assert b"Guten" in body
    assert not body.endswith(b"\n\n")
    assert TERMINAL[wire] not in body


@WIRES
async def test_cut_before_the_first_piece(sim: Simulator, wire: str) -> None:
    body, whole = dechunk(await stream(sim, wire, "sim-cut-before-first"))
    assert not whole
    assert b"Guten" not in body


@WIRES
async def test_truncated_stream_ends_in_order_but_too_early(sim: Simulator, wire: str) -> None:
    body, whole = dechunk(await stream(sim, wire, "sim-truncated"))
    assert whole
    assert b"Guten" in body
    assert b"Welt" not in body
    assert TERMINAL[wire] not in body


@WIRES
async def test_no_done_leaves_only_the_terminal_event_out(sim: Simulator, wire: str) -> None:
    body, whole = dechunk(await stream(sim, wire, "sim-no-done"))
    assert whole
    assert b"Welt" in body
    assert TERMINAL[wire] not in body


@WIRES
async def test_error_comes_inside_the_stream(sim: Simulator, wire: str) -> None:
    body, whole = dechunk(await stream(sim, wire, "sim-error-mid-stream"))
    assert whole
    assert b"Guten" in body
    assert any("error" in event or event.get("type") == "error" for event in events(body)[-2:])
    assert TERMINAL[wire] not in body


@WIRES
async def test_usage_is_missing_or_repeated(sim: Simulator, wire: str) -> None:
    missing, _ = dechunk(await stream(sim, wire, "sim-missing-usage"))
    assert b'okens":' not in missing.replace(b'"max_output_tokens":', b"")
    assert b"TokenCount" not in missing
    again, _ = dechunk(await stream(sim, wire, "sim-usage-every-chunk"))
    once, _ = dechunk(await stream(sim, wire, "sim-echo"))
    name = {"gemini": b"totalTokenCount", "openai-chat": b'"total_tokens"'}.get(wire, b'"output_tokens"')
    # Gemini tells it in every chunk anyway.
    assert again.count(name) > once.count(name) > 0 or (wire == "gemini" and once.count(name) == 5)


@WIRES
async def test_crlf_one_byte_writes_and_heartbeats_say_the_same(sim: Simulator, wire: str) -> None:
    plain, _ = dechunk(await stream(sim, wire, "sim-echo"))
    expected = events(plain)
    for model in ("sim-crlf", "sim-one-byte-writes", "sim-heartbeats", "sim-tight-fields", "sim-spaced-json"):
        data = await stream(sim, wire, model)
        body, whole = dechunk(data)
        assert whole
        assert len(events(body)) == len(expected)
        if model == "sim-crlf":
            assert b"\r\n\r\n" in body
            assert b"\n" not in body.replace(b"\r\n", b"")
        if model == "sim-one-byte-writes":
            assert data.startswith(b"1\r\n")
            assert data.count(b"\r\n1\r\n") > 100
        if model == "sim-heartbeats":
            assert body.count(b": still here") == body.count(b"data: ")
        if model == "sim-tight-fields":
            assert b"data: " not in body
        if model == "sim-spaced-json":
            assert b'": "' in body
            assert b"\\u00f6" in body


@WIRES
async def test_bad_utf8_and_bad_json_stand_in_the_second_piece(sim: Simulator, wire: str) -> None:
    body, _ = dechunk(await stream(sim, wire, "sim-bad-utf8"))
    assert body.count(b"\xff\xfe") == 1
    assert b"Guten" in body[: body.index(b"\xff\xfe")]
    body, _ = dechunk(await stream(sim, wire, "sim-not-json"))
    with pytest.raises(msgspec.DecodeError):
        events(body)


@WIRES
async def test_strange_events_stand_beside_the_known(sim: Simulator, wire: str) -> None:
    body, _ = dechunk(await stream(sim, wire, "sim-strange-events"))
    assert b"event: sim.strange" in body
    assert all("sim_strange" in one for one in events(body) if one.get("type") != "sim.strange")


async def test_reset_is_a_reset(sim: Simulator) -> None:
    reader, writer = await dial(sim, "/v1/chat/completions", ask("sim-reset"))
    with pytest.raises(ConnectionResetError):
        await reader.readuntil(b"[DONE]")
    writer.close()


async def test_disconnect_sends_nothing(sim: Simulator) -> None:
    reader, writer = await dial(sim, "/v1/chat/completions", ask("sim-disconnect"))
    assert await reader.read() == b""
    writer.close()
    assert sim.aborted == 0


async def test_unary_cut_promises_more_than_it_sends(sim: Simulator) -> None:
    status, headers, data = await exchange(sim, "/v1/chat/completions", ask("sim-cut", stream=False))
    assert status == 200
    assert 0 < len(data) < int(headers["content-length"])


@pytest.mark.parametrize(
    ("model", "status", "content_type", "body"),
    [
        ("sim-html-502", 502, "text/html", b"<html>"),
        ("sim-redirect", 307, "text/plain", b""),
        ("sim-empty-body", 200, "application/json", b""),
        ("sim-wrong-content-type", 200, "application/octet-stream", b'{"id"'),
        ("sim-not-json", 200, "application/json", b"upstream says"),
    ],
)
async def test_answers_that_are_none(
    sim: Simulator, model: str, status: int, content_type: str, body: bytes
) -> None:
    got, headers, data = await exchange(sim, "/v1/chat/completions", ask(model, stream=False))
    assert (got, headers["content-type"]) == (status, content_type)
    assert data.startswith(body)
    assert ("location" in headers) == (status == 307)


async def test_tool_deltas_of_servers_that_break_the_rules(sim: Simulator) -> None:
    async def deltas(model: str) -> list[dict[str, Any]]:
        body, _ = dechunk(await stream(sim, "openai-chat", model))
        choices = [one["choices"][0]["delta"] for one in events(body) if one["choices"]]
        return [call for delta in choices for call in delta.get("tool_calls", [])]

    zero = await deltas("sim-tools-index-zero")
    assert {one["index"] for one in zero} == {0}
    assert len([one for one in zero if "id" in one]) == 2
    repeated = await deltas("sim-tools-repeat-id")
    assert all({"id", "type"} <= one.keys() for one in repeated)
    assert {one["index"] for one in repeated} == {0, 1}
    whole = await deltas("sim-tools-whole")
    assert [msgspec.json.decode(one["function"]["arguments"])["city"] for one in whole] == ["Zürich"] * 2
    body, _ = dechunk(await stream(sim, "openai-chat", "sim-empty-tool-calls"))
    assert b'"tool_calls":[]' in body


async def test_giant_arguments_arrive_whole(chat: AsyncOpenAI) -> None:
    async with chat.chat.completions.stream(model="sim-giant-tool-args", messages=HELLO) as told:
        final = await told.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert len(msgspec.json.decode(calls[0].function.arguments)["text"]) == 1_000_000


# Time and connections


async def test_a_stalled_stream_goes_on_when_released(sim: Simulator) -> None:
    reader, writer = await dial(sim, "/v1/chat/completions", ask("sim-stall"))
    await sim.wait_held()
    early = await reader.readuntil(b"Guten")
    assert b"Tag" not in early
    sim.release()
    assert b"Tag" in await reader.readuntil(b"[DONE]")
    assert sim.held == 0
    writer.close()


async def test_release_ends_a_delay_at_once(sim: Simulator) -> None:
    sim.script = Script(text=("a", "b"), first_delay_s=3600, piece_delay_s=3600)
    reader, writer = await dial(sim, "/v1/chat/completions", ask("m"))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    for _ in "ab":
        await sim.wait_held()
        sim.release()
    await reader.readuntil(b"[DONE]")
    writer.close()


async def test_a_client_that_leaves_is_counted(sim: Simulator, chat: AsyncOpenAI) -> None:
    told = await chat.chat.completions.create(model="sim-stall", messages=HELLO, stream=True)
    await sim.wait_held()
    await told.close()
    await sim.wait_aborted()
    assert sim.aborted == 1
    await exchange(sim, "/v1/chat/completions", ask("sim-echo"))
    assert sim.aborted == 1


async def test_a_client_that_leaves_before_the_head_is_counted(sim: Simulator) -> None:
    _, writer = await dial(sim, "/v1/chat/completions", ask("sim-stall", stream=False))
    await sim.wait_held()
    writer.close()
    await sim.wait_aborted()


async def test_waiting_in_vain_ends(sim: Simulator) -> None:
    with pytest.raises(TimeoutError):
        await sim.wait_aborted(timeout_s=0.01)


async def test_connections_are_kept(sim: Simulator, chat: AsyncOpenAI) -> None:
    for _ in range(3):
        await chat.chat.completions.create(model="m", messages=HELLO)
    assert (sim.connections, len(sim.requests)) == (1, 3)
    assert sim.open_connections == 1


async def test_close_comes_after_a_whole_answer_that_did_not_announce_it(sim: Simulator) -> None:
    reader, writer = await dial(sim, "/v1/chat/completions", ask("sim-close"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: close" not in head
    assert dechunk(await reader.read())[1]
    writer.close()


async def test_requests_may_be_pipelined_chunked_and_hesitant(sim: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sim.url.rpartition(":")[2]))
    body = msgspec.json.encode(ask("m", stream=False))
    head = b"POST /chat/completions HTTP/1.1\r\nhost: sim\r\n"
    chunked = b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    writer.write(head + b"transfer-encoding: chunked\r\n\r\n" + chunked + b"0\r\n\r\n")
    writer.write(head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"100 Continue\r\n\r\n")
    writer.write(body)
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert [one.raw for one in sim.requests] == [body, body]


async def test_bytes_that_are_no_http(sim: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sim.url.rpartition(":")[2]))
    writer.write(b"HELO sim\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize(
    ("path", "headers", "inside"),
    [
        ("/v1/nothing", {}, ("error", "message")),
        ("/v1/messages/nothing", {"anthropic_version": "2023-06-01"}, ("error", "message")),
        ("/v1beta/nothing", {}, ("error", "status")),
    ],
)
async def test_unknown_paths_are_404_in_the_vendors_shape(
    sim: Simulator, path: str, headers: dict[str, str], inside: tuple[str, str]
) -> None:
    status, _, data = await exchange(sim, path, {}, **headers)
    assert status == 404
    assert msgspec.json.decode(data)[inside[0]][inside[1]]


async def test_scripts_by_model_by_function_and_by_default(sim: Simulator, chat: AsyncOpenAI) -> None:
    def repeat(asked: Asked) -> Script:
        return Script(text=(f"{asked.wire} {asked.model} {asked.nth}",))

    sim.script = repeat
    sim.scripts["special"] = Script(text=("mine",), usage=Usage(uncached=1), fault=Fault(newline="\r\n"))
    said = [
        (await chat.chat.completions.create(model=model, messages=HELLO)).choices[0].message.content
        for model in ("a", "b", "a", "special", "sim-429")
    ]
    assert said == ["openai-chat a 0", "openai-chat b 0", "openai-chat a 1", "mine", "openai-chat sim-429 0"]


@pytest.mark.parametrize("model", list(MODELS))
@WIRES
async def test_every_model_answers_on_every_wire(sim: Simulator, wire: str, model: str) -> None:
    """Whatever it does, it does so by itself: nothing in the simulator breaks."""
    path, body = streaming(wire, model)
    reader, writer = await dial(sim, path, body, connection="close", anthropic_version="2023-06-01")
    if MODELS[model].says(await asked_of(sim)).fault.stall_after is not None or "slow" in model:
        await sim.wait_held()
        sim.release()
    try:
        got = await reader.read()
    except ConnectionResetError:
        got = b""
    writer.close()
    assert got.startswith(b"HTTP/1.1 ") or model in ("sim-disconnect", "sim-reset")
    status = int(got[9:12] or b"0")
    planned = [int(part) for part in model.split("-") if part.isdigit()]
    assert status == (planned[0] if planned else status)
    assert sim.aborted == 0


async def asked_of(sim: Simulator) -> Asked:
    await sim.wait_requests()
    return Asked(wire="any", model="any", received=sim.requests[0])


# Beside asyncio


def test_simulator_in_a_thread() -> None:
    with Simulator.thread() as sim:
        with openai.OpenAI(base_url=f"{sim.url}/v1", api_key="any", max_retries=0, timeout=LONG_S) as client:
            answer = client.chat.completions.create(model="m", messages=HELLO)
            assert answer.choices[0].message.content == TEXT
            told = client.chat.completions.create(model="sim-stall", messages=HELLO, stream=True)
            sim.wait_held()
            sim.release()
            assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == TEXT
            with client.chat.completions.create(model="sim-stall", messages=HELLO, stream=True):
                sim.wait_held()
            sim.wait_aborted()
        assert (sim.aborted, len(sim.requests)) == (1, 3)
        sim.wait_requests(3)
        assert sim.connections >= 1


def test_command_lists_and_serves() -> None:
    command = [sys.executable, "-m", "isthmus.testing"]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(MODELS)
    as_json = subprocess.run([*command, "--json"], capture_output=True, check=True).stdout
    assert [one["model"] for one in msgspec.json.decode(as_json)] == list(MODELS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        with openai.OpenAI(base_url=url, api_key="any") as client:
            assert client.models.list().data[0].id == "sim-echo"
        running.terminate()
