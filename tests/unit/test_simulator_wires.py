"""The wires refuse or answer any JSON there is; and what they say adds up, whatever the Script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.testing import Script, ToolCall, echo, embeddings, gemini
from isthmus.testing.anthropic_messages import WIRE as ANTHROPIC
from isthmus.testing.behaviours import settled
from isthmus.testing.gemini import WIRE as GEMINI
from isthmus.testing.openai_chat import WIRE as CHAT
from isthmus.testing.openai_responses import WIRE as RESPONSES
from isthmus.testing.wire import Asked, House, Received, RefusedError, Wire

HOUSE = House(organisation="org", strict=True, key=None)
WIRES = pytest.mark.parametrize("wire", [CHAT, RESPONSES, ANTHROPIC, GEMINI], ids=lambda wire: wire.name)

KEY_NAMES = """
type role content text messages contents input parts tools tool_calls id name arguments function call_id
output tool_use_id functionCall functionResponse args response functionDeclarations parameters required
thoughtSignature thinking signature data summary encrypted_content json_schema schema format properties
items citations stop tool_choice response_format n logprobs generationConfig responseSchema toolConfig
include model stop_sequences strict
"""
VALUES = """
user assistant tool system model function text tool_use tool_result thinking redacted_thinking reasoning
function_call function_call_output message document image_url json_schema required any x call object array
"""
KEYS = st.sampled_from(KEY_NAMES.split())
WORDS = st.sampled_from(VALUES.split())
LEAVES = st.none() | st.booleans() | st.integers(-2, 5) | st.floats(allow_nan=False) | WORDS
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def received(body: Any) -> Received:
    return Received(
        method="POST",
        path="/v1beta/models/m:streamGenerateContent",
        query={"alt": "sse"},
        headers={"anthropic-version": "2026-10-21"},
        raw=b"",
        body=body,
    )


def valid(wire: Wire) -> dict[str, Any]:
    match wire.name:
        case "openai-chat":
            return {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
        case "openai-responses":
            return {"model": "m", "input": [{"role": "user", "content": "x"}], "stream": True}
        case "anthropic":
            return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        case _:
            return {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}


@WIRES
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_json_is_read_or_refused(wire: Wire, data: st.DataObject) -> None:
    base = valid(wire)
    name = data.draw(
        st.sampled_from(
            [*base, "tools", "tool_choice", "response_format", "generationConfig", "stop", "text"]
        )
    )
    body = base | {name: data.draw(JSON)}
    refused = refusal_of(lambda: say_all(wire, body))
    assert refused is None or 400 <= refused.status < 500
    assert refused is None or msgspec.json.encode(wire.error(refused))


def say_all(wire: Wire, body: dict[str, Any]) -> None:
    """Everything that an echo of the request would send."""
    asked = wire.read(received(body), HOUSE)
    script = settled(asked, echo(asked))
    msgspec.json.encode([wire.whole(asked, script), *(frame.data for frame in wire.frames(asked, script))])


def refusal_of(work: Callable[[], Any]) -> RefusedError | None:
    try:
        work()
    except RefusedError as refused:
        return refused
    return None


@settings(max_examples=200, deadline=None)
@given(JSON, JSON)
def test_any_json_is_embedded_or_refused(given_: Any, other: Any) -> None:
    def embed() -> None:
        body = {"model": "e", "input": given_}
        embeddings.model_of(received(body), HOUSE)
        embeddings.answer(body)

    for work in (
        embed,
        lambda: gemini.embed(received({"requests": given_, "content": other}), HOUSE),
        lambda: gemini.count_tokens(received({"contents": given_, "generateContentRequest": other}), HOUSE),
    ):
        refused = refusal_of(work)
        assert refused is None or refused.status == 400


PIECES = st.lists(st.text(min_size=1, max_size=9), max_size=4).map(tuple)
SCRIPTS = st.builds(
    Script,
    text=PIECES,
    reasoning=PIECES,
    refusal=st.just(()),
    tools=st.lists(
        st.builds(
            ToolCall,
            st.sampled_from(["f", "g"]),
            st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=3).map(
                lambda arguments: msgspec.json.encode(arguments).decode()
            ),
        ),
        max_size=3,
    ).map(tuple),
    fragment_bytes=st.integers(1, 12),
)


def told(wire: Wire, asked: Asked, script: Script) -> tuple[str, str, list[tuple[str, Any]]]:
    """The text, the reasoning and the calls of a body, by a reading as plain as possible."""
    body = wire.whole(asked, script)
    match wire.name:
        case "openai-chat":
            message = body["choices"][0]["message"]
            calls = [
                (one["function"]["name"], one["function"]["arguments"])
                for one in message.get("tool_calls", [])
            ]
            read = (message["content"] or "", message.get("reasoning_content", ""), calls)
        case "openai-responses":
            items = body["output"]
            text = "".join(
                part["text"] for one in items if one["type"] == "message" for part in one["content"]
            )
            thought = "".join(
                part["text"] for one in items if one["type"] == "reasoning" for part in one["summary"]
            )
            read = (
                text,
                thought,
                [(one["name"], one["arguments"]) for one in items if one["type"] == "function_call"],
            )
        case "anthropic":
            blocks = body["content"]
            text = "".join(one["text"] for one in blocks if one["type"] == "text")
            thought = "".join(one["thinking"] for one in blocks if one["type"] == "thinking")
            read = (
                text,
                thought,
                [(one["name"], one["input"]) for one in blocks if one["type"] == "tool_use"],
            )
        case _:
            parts = body["candidates"][0]["content"]["parts"]
            text = "".join(one["text"] for one in parts if "text" in one and "thought" not in one)
            thought = "".join(one["text"] for one in parts if "thought" in one)
            calls_ = [one["functionCall"] for one in parts if "functionCall" in one]
            read = (text, thought, [(one["name"], one["args"]) for one in calls_])
    text, thought, calls = read
    return text, thought, [(name, _object(arguments)) for name, arguments in calls]


def streamed(wire: Wire, asked: Asked, script: Script) -> tuple[str, str, list[tuple[str, Any]]]:
    """The same of a stream."""
    text, thought, names, arguments = "", "", [], {}
    for frame in wire.frames(asked, script):
        if not isinstance(frame.data, dict):
            continue
        for kind, key, value in _deltas(wire, frame.data):
            match kind:
                case "text":
                    text += value
                case "thought":
                    thought += value
                case "call":
                    names.append((key, value))
                case _:
                    arguments[key] = arguments.get(key, "") + value
    return text, thought, [(name, _object(arguments.get(key, "{}"))) for key, name in names]


def _deltas(wire: Wire, data: dict[str, Any]) -> list[tuple[str, Any, str]]:
    match wire.name:
        case "openai-chat":
            return [one for choice in data["choices"] for one in _chat_deltas(choice["delta"])]
        case "openai-responses":
            kinds = {
                "response.output_text.delta": "text",
                "response.reasoning_summary_text.delta": "thought",
                "response.function_call_arguments.delta": "arguments",
            }
            if data["type"] == "response.output_item.added" and data["item"]["type"] == "function_call":
                return [("call", data["item"]["id"], data["item"]["name"])]
            return [(kinds[data["type"]], data["item_id"], data["delta"])] if data["type"] in kinds else []
        case "anthropic":
            if data["type"] == "content_block_start" and data["content_block"]["type"] == "tool_use":
                return [("call", data["index"], data["content_block"]["name"])]
            if data["type"] != "content_block_delta":
                return []
            delta = data["delta"]
            kinds = {"text_delta": "text", "thinking_delta": "thought", "input_json_delta": "arguments"}
            value = delta.get("text", delta.get("thinking", delta.get("partial_json")))
            return [(kinds[delta["type"]], data["index"], value)] if delta["type"] in kinds else []
        case _:
            return [one for part in data["candidates"][0]["content"]["parts"] for one in _part_deltas(part)]


def _chat_deltas(delta: dict[str, Any]) -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = [("text", None, delta.get("content") or "")]
    found.append(("thought", None, delta.get("reasoning_content", "")))
    for call in delta.get("tool_calls", []):
        if "id" in call:
            found.append(("call", call["index"], call["function"]["name"]))
        found.append(("arguments", call["index"], call["function"]["arguments"]))
    return found


def _part_deltas(part: dict[str, Any]) -> list[tuple[str, Any, str]]:
    if "functionCall" in part:
        call = part["functionCall"]
        arguments = msgspec.json.encode(call["args"]).decode()
        return [("call", call["id"], call["name"]), ("arguments", call["id"], arguments)]
    return [("thought" if "thought" in part else "text", None, part["text"])]


def _object(arguments: Any) -> Any:
    return msgspec.json.decode(arguments or "{}") if isinstance(arguments, str) else arguments


@WIRES
@settings(max_examples=60, deadline=None)
@given(script=SCRIPTS)
def test_a_stream_and_a_body_tell_the_script(wire: Wire, script: Script) -> None:
    asked = wire.read(received(valid(wire)), HOUSE)
    meant = (
        "".join(script.text),
        "".join(script.reasoning),
        [(call.name, call.input) for call in script.tools],
    )
    assert told(wire, asked, script) == meant
    assert streamed(wire, asked, script) == meant
