"""What answers tell of prices beside those of tokens, read in every way that an answer is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.core.codec import Wire
from isthmus.core.pieces import Piece, UsageReport
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.openai import OPENAI, OpenAIChat
from isthmus.dialects.responses import OpenAIResponses

CHAT, MESSAGES, RESPONSES = OpenAIChat(OPENAI), AnthropicMessages(), OpenAIResponses()

CHAT_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hello", "annotations": []}],
}


def chat(**more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    return _json({"id": "c", "model": "m", "choices": [choice], "usage": CHAT_USAGE, **more})


def chat_stream(first: dict[str, Any], middle: dict[str, Any], last: dict[str, Any]) -> bytes:
    def chunk(delta: dict[str, Any], finish: str | None, more: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "model": "m", "choices": [choice], **more}

    chunks = [
        chunk({"role": "assistant", "content": ""}, None, first),
        chunk({"content": "hel"}, None, first),
        chunk({"content": "lo"}, None, middle),
        chunk({}, "stop", middle),
        {"id": "c", "model": "m", "choices": [], "usage": CHAT_USAGE, **last},
    ]
    return b"".join(b"data: " + _json(one) + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"


def response(output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 2}
    return {"id": "r", "model": "m", "status": "completed", "output": output, "usage": usage, **more}


def response_stream(output: list[dict[str, Any]], **more: Any) -> bytes:
    begun = {**response([], **more), "status": "in_progress", "usage": None}
    events = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(output):
        events.append({"type": "response.output_item.added", "output_index": index, "item": item})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": response(output, **more)})
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), _json(one)) for one in events)


def message(**usage: Any) -> bytes:
    content = [{"type": "text", "text": "hello"}]
    counts = {"input_tokens": 3, "output_tokens": 2, **usage}
    head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    return _json({**head, "content": content, "usage": counts})


def message_stream(first: dict[str, Any], last: dict[str, Any]) -> bytes:
    head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    events = [
        {"type": "message_start", "message": {**head, "usage": {"input_tokens": 3, **first}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 2, **last},
        },
        {"type": "message_stop"},
    ]
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), _json(one)) for one in events)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def beyond_of_whole(wire: Wire, body: bytes) -> tuple[str, ...]:
    """What is read of an answer in one piece; the same where it passes through and where it is translated."""
    passed = wire.read_answer(body)
    assert passed.error is None
    assert passed.usage is not None
    assert passed.usage == _reported(wire.decode_answer(body))
    return passed.usage.beyond


def beyond_of_stream(wire: Wire, stream: bytes) -> tuple[str, ...]:
    """What is read of a stream, however it is cut and read."""
    decoder = wire.stream_decoder()
    told = {_reported([*decoder.feed(stream), *decoder.close()])}
    for size in (1, 7, 64, 333, len(stream)):
        watch = wire.watch(strip_usage=False)
        for at in range(0, len(stream), size):
            watch.feed(stream[at : at + size])
        watch.close()
        assert watch.reading.error is None
        told.add(watch.reading.usage)
    (usage,) = told
    assert usage is not None
    return usage.beyond


def _reported(pieces: list[Piece]) -> Any:
    return [piece.usage for piece in pieces if isinstance(piece, UsageReport)][-1]


TIERS = pytest.mark.parametrize(
    ("tier", "beyond"),
    [
        ("flex", ("tier.flex",)),
        ("priority", ("tier.priority",)),
        ("scale", ("tier.scale",)),
        ("default", ()),
        ("auto", ()),
        ("on_demand", ()),
        ("", ()),
        (None, ()),
        (7, ()),
        ({"name": "flex"}, ()),
        ("x" * 500, ("tier." + "x" * 40,)),
    ],
)


@TIERS
def test_openais_tier(tier: Any, beyond: tuple[str, ...]) -> None:
    said = {"service_tier": tier}
    assert beyond_of_whole(CHAT, chat(**said)) == beyond
    assert beyond_of_stream(CHAT, chat_stream(said, said, said)) == beyond
    assert beyond_of_whole(RESPONSES, _json(response([MESSAGE], **said))) == beyond
    assert beyond_of_stream(RESPONSES, response_stream([MESSAGE], **said)) == beyond


def test_a_tier_that_the_first_chunk_alone_tells_counts() -> None:
    flex, default = {"service_tier": "flex"}, {"service_tier": "default"}
    assert beyond_of_stream(CHAT, chat_stream(flex, {}, {})) == ("tier.flex",)
    assert beyond_of_stream(CHAT, chat_stream(flex, {}, default)) == ()
    assert beyond_of_stream(CHAT, chat_stream({}, {}, flex)) == ("tier.flex",)


@pytest.mark.parametrize(
    ("output", "beyond"),
    [
        ([MESSAGE], ()),
        ([SEARCH, SEARCH, MESSAGE], ("tool.web_search",)),
        ([{**SEARCH, "type": "file_search_call"}, SEARCH, MESSAGE], ("tool.file_search", "tool.web_search")),
        ([{**SEARCH, "type": "code_interpreter_call"}, MESSAGE], ("tool.code_interpreter",)),
        ([{**SEARCH, "type": "image_generation_call"}, MESSAGE], ("tool.image_generation",)),
        ([{**SEARCH, "type": "mcp_call"}, {**SEARCH, "type": "computer_call"}, MESSAGE], ()),
    ],
)
def test_tools_that_openai_runs(output: list[dict[str, Any]], beyond: tuple[str, ...]) -> None:
    assert beyond_of_whole(RESPONSES, _json(response(output))) == beyond
    assert beyond_of_stream(RESPONSES, response_stream(output)) == beyond


@pytest.mark.parametrize(
    ("usage", "beyond"),
    [
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, ()),
        ({"inference_geo": "not_available", "speed": None}, ()),
        ({"service_tier": "priority"}, ("tier.priority",)),
        ({"service_tier": "batch"}, ("tier.batch",)),
        ({"speed": "fast"}, ("speed.fast",)),
        ({"inference_geo": "us"}, ("geo.us",)),
        ({"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}, ("tool.web_search",)),
        ({"server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 3}}, ()),
        ({"server_tool_use": {"tool_search_requests": 1}}, ()),
        ({"server_tool_use": {"code_execution_requests": 1}}, ("tool.code_execution",)),
        ({"server_tool_use": {"web_search_requests": "many"}}, ()),
        ({"server_tool_use": None, "service_tier": 3}, ()),
        ({"server_tool_use": [], "speed": {}}, ()),
        (
            {"server_tool_use": {"web_search_requests": 1}, "speed": "fast", "service_tier": "priority"},
            ("speed.fast", "tier.priority", "tool.web_search"),
        ),
    ],
)
def test_how_anthropic_served_and_what_it_ran(usage: dict[str, Any], beyond: tuple[str, ...]) -> None:
    assert beyond_of_whole(MESSAGES, message(**usage)) == beyond
    assert beyond_of_stream(MESSAGES, message_stream(usage, {})) == beyond
    assert beyond_of_stream(MESSAGES, message_stream({}, usage)) == beyond
