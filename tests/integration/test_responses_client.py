"""A client of the Responses API reaches models of every dialect, as strict as their vendors are."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai.types.responses import Response

from isthmus.core.codec import EndpointWire
from isthmus.core.pieces import Piece
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.gemini import GeminiGenerateContent
from isthmus.dialects.openai import OPENAI, OpenAIChat
from isthmus.dialects.responses import OpenAIResponses
from isthmus.testing import Script, Simulator, ToolCall

CLIENT = OpenAIResponses()
MODELS: dict[str, tuple[EndpointWire, str, str]] = {
    "openai": (OpenAIChat(OPENAI), "/v1", "gpt-x"),
    "responses": (OpenAIResponses(), "/v1", "gpt-x"),
    "anthropic": (AnthropicMessages(), "/v1", "claude-sonnet-5"),
    "gemini": (GeminiGenerateContent(), "/v1beta", "gemini-3-pro"),
}
HEADERS = {
    "content-type": "application/json",
    "authorization": "Bearer any",
    "anthropic-version": "2023-06-01",
}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}
QUESTION: dict[str, Any] = {
    "model": "route",
    "instructions": "Be brief.",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "How warm is it?"}, PICTURE]}],
    "tools": [WEATHER],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "max_output_tokens": 2048,
    "store": False,
}
CALLS = (ToolCall("weather", '{"city":"Oslo"}'), ToolCall("weather", '{"city":"Rome"}'))


async def ask(sim: Simulator, dialect: str, request: dict[str, Any]) -> dict[str, Any]:
    """The response object that the client gets from a model of a dialect."""
    wire, base, model = MODELS[dialect]
    envelope = CLIENT.peek(json.dumps(request).encode())
    call = CLIENT.decode_call(envelope)
    encoded = wire.encode_call(call, model)
    async with httpx2.AsyncClient() as http:
        url = f"{sim.url}{base}{wire.target(model, call.stream).removeprefix('/v1')}"
        reply = await http.post(url, content=encoded.body, headers=HEADERS)
    assert reply.status_code == 200, reply.text
    if not call.stream:
        body = CLIENT.encode_answer(wire.decode_answer(reply.content), call, "req_1", 1700000000)
    else:
        decoder, encoder = wire.stream_decoder(), CLIENT.stream_encoder(call, "req_1", 1700000000)
        pieces: list[Piece] = [*decoder.feed(reply.content), *decoder.close()]
        stream = encoder.feed(pieces) + encoder.close()
        last = json.loads(stream.rstrip().rpartition(b"data: ")[2])
        body = json.dumps(last["response"]).encode()
    Response.model_validate_json(body, strict=True)
    response: dict[str, Any] = json.loads(body)
    return response


def of_type(response: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in response["output"] if item["type"] == kind]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", MODELS)
async def test_a_conversation_with_tools_and_thinking_in_two_turns(dialect: str, stream: bool) -> None:
    """What a model signed or encrypted in the first turn comes back to it in the second, or it refuses."""
    async with Simulator() as sim:
        sim.script = Script(reasoning=("I must ", "look."), tools=CALLS)
        request = QUESTION | {"stream": stream}
        first = await ask(sim, dialect, request)
        assert first["status"] == "completed"
        assert first["usage"]["input_tokens"] > 0
        calls = of_type(first, "function_call")
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            ("weather", {"city": "Oslo"}),
            ("weather", {"city": "Rome"}),
        ]
        said = "".join(part["text"] for item in of_type(first, "reasoning") for part in item["summary"])
        assert said == "I must look."
        results = [
            {"type": "function_call_output", "call_id": call["call_id"], "output": "21 degrees"}
            for call in calls
        ]
        sim.script = Script(text=("Warm", " enough."))
        second = await ask(
            sim, dialect, request | {"input": [*QUESTION["input"], *first["output"], *results]}
        )
        assert [part["text"] for item in of_type(second, "message") for part in item["content"]] == [
            "Warm enough."
        ]


@pytest.mark.parametrize("dialect", MODELS)
async def test_json_that_satisfies_a_schema(dialect: str) -> None:
    schema = {
        "type": "object",
        "properties": {"degrees": {"type": "integer"}},
        "required": ["degrees"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "weather", "schema": schema, "strict": True}
    async with Simulator() as sim:
        response = await ask(
            sim, dialect, {"model": "route", "input": "How warm is it?", "text": {"format": form}}
        )
    (message,) = of_type(response, "message")
    assert json.loads(message["content"][0]["text"]) == {"degrees": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", MODELS)
async def test_an_answer_that_was_cut_off_is_incomplete(dialect: str, stream: bool) -> None:
    async with Simulator() as sim:
        sim.script = Script(text=("Once", " upon"), finish="length")
        response = await ask(sim, dialect, {"model": "route", "input": "Tell.", "stream": stream})
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("switched", MODELS)
@pytest.mark.parametrize("before", ["anthropic", "responses", "gemini"])
async def test_a_switch_of_models_strips_what_the_first_one_sealed(before: str, switched: str) -> None:
    async with Simulator() as sim:
        sim.script = Script(reasoning=("Hm.",), text=("Yes.",))
        first = await ask(sim, before, QUESTION)
        assert of_type(first, "reasoning")
        sim.script = Script(text=("No.",))
        more = {"role": "user", "content": "Are you sure?"}
        request = QUESTION | {"input": [*QUESTION["input"], *first["output"], more]}
        await ask(sim, switched, request)
    passed = json.loads(CLIENT.patch(CLIENT.peek(json.dumps(request).encode()), "gpt-x"))
    kept = of_type({"output": passed["input"][1:-1]}, "reasoning")
    assert bool(kept) is (before == "responses")


async def test_an_anthropic_client_returns_encrypted_reasoning_to_a_responses_model() -> None:
    client, (wire, base, model) = AnthropicMessages(), MODELS["responses"]
    tool = {"name": "weather", "input_schema": WEATHER["parameters"]}
    request: dict[str, Any] = {
        "model": "route",
        "max_tokens": 2048,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "user_" + "0" * 100},
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "How warm is it?"}],
        "tools": [tool],
    }

    async def turn(sim: Simulator) -> dict[str, Any]:
        call = client.decode_call(client.peek(json.dumps(request).encode()))
        async with httpx2.AsyncClient() as http:
            url = f"{sim.url}{base}{wire.target(model, False)}"
            reply = await http.post(url, content=wire.encode_call(call, model).body, headers=HEADERS)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = json.loads(
            client.encode_answer(wire.decode_answer(reply.content), call, "req_1", 1700000000)
        )
        return answer

    async with Simulator() as sim:
        sim.script = Script(reasoning=("Look.",), tools=CALLS[:1])
        first = await turn(sim)
        assert [block["type"] for block in first["content"]] == ["thinking", "tool_use"]
        result = {"type": "tool_result", "tool_use_id": first["content"][1]["id"], "content": "21"}
        request["messages"] += [
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [result]},
        ]
        sim.script = Script(text=("Warm.",))
        assert (await turn(sim))["content"] == [{"type": "text", "text": "Warm."}]
        received = sim.requests[-1].body
        assert received is not None
        assert [item["type"] for item in received["input"]] == [
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
        ]
