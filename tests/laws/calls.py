"""Hypothesis strategies for calls and answers on the subset that every dialect shares, and how to compare
them."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from isthmus.core.call import (
    Call,
    Image,
    Message,
    Part,
    ResponseFormat,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.pieces import (
    Finish,
    FinishReason,
    Piece,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage

# Lone surrogates cannot be said in UTF-8, and a NUL is refused by some servers.
texts = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), min_size=1, max_size=30
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True)
ids = st.from_regex(r"call_[a-zA-Z0-9]{4,12}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-1000, 1000) | texts
json_objects = st.dictionaries(texts, scalars | st.lists(scalars, max_size=3), max_size=3)
arguments = json_objects.map(lambda value: json.dumps(value, ensure_ascii=False))
base64_data = st.binary(min_size=1, max_size=24).map(lambda raw: base64.b64encode(raw).decode())

plain_texts = st.builds(Text, texts)
images = st.builds(
    Image, data=base64_data, media_type=st.sampled_from(["image/png", "image/jpeg", "image/webp"])
)
schemas = st.dictionaries(
    names,
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}]),
    min_size=1,
    max_size=3,
).map(
    lambda properties: {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }
)
tools = st.builds(Tool, name=names, description=texts, parameters=schemas)


@st.composite
def tool_rounds(draw: st.DrawFn) -> list[Message]:
    """An assistant turn that calls one to three tools, and the user turn that answers each of them."""
    called = draw(st.lists(ids, min_size=1, max_size=3, unique=True))
    said: list[Part] = [draw(plain_texts)] if draw(st.booleans()) else []
    uses = [ToolUse(tool_id, draw(names), draw(arguments)) for tool_id in called]
    results = [ToolResult(tool_id, (draw(plain_texts),)) for tool_id in called]
    return [
        Message(role="assistant", parts=(*said, *uses)),
        Message(role="user", parts=tuple(results)),
    ]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """System first, then user and assistant in turns, with a round of tools now and then; the last is a
    user's."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message(role="system", parts=(draw(plain_texts),)))
    for _ in range(draw(st.integers(0, 2))):
        messages.append(Message(role="user", parts=(draw(plain_texts),)))
        if draw(st.booleans()):
            messages += draw(tool_rounds())
        messages.append(Message(role="assistant", parts=(draw(plain_texts),)))
    last = draw(st.lists(plain_texts | images, min_size=1, max_size=3))
    messages.append(Message(role="user", parts=tuple(last)))
    return tuple(messages)


@st.composite
def calls(draw: st.DrawFn, dialect: str = "openai") -> Call:
    """A chat call of `dialect` that says only what every dialect can say."""
    offered = tuple(draw(st.lists(tools, max_size=3, unique_by=lambda tool: tool.name)))
    choice = None
    if offered:
        modes = st.sampled_from(
            [ToolChoice(mode="auto"), ToolChoice(mode="required"), ToolChoice(mode="none")]
        )
        named = st.sampled_from(offered).map(lambda tool: ToolChoice(mode="tool", name=tool.name))
        choice = draw(st.none() | modes | named)
    stream = draw(st.booleans())
    return Call(
        dialect=dialect,
        operation="chat",
        model=draw(names),
        messages=draw(conversations()),
        stream=stream,
        include_usage=stream,
        tools=offered,
        tool_choice=choice,
        max_tokens=draw(st.integers(1, 8192)),
        temperature=draw(st.none() | st.floats(0, 1).map(lambda value: round(value, 2))),
        top_p=draw(st.none() | st.floats(0.1, 1).map(lambda value: round(value, 2))),
        stop=tuple(draw(st.lists(names, max_size=3))),
    )


response_formats = st.builds(
    ResponseFormat, kind=st.just("json_schema"), name=names, schema=schemas, strict=st.just(True)
)
usages = st.builds(
    Usage,
    input=st.integers(0, 5000),
    cache_read=st.integers(0, 5000),
    output=st.integers(200, 5000),
    reasoning=st.integers(0, 200),
)


@st.composite
def answers(draw: st.DrawFn, with_reasoning: bool = False) -> list[Piece]:
    """The pieces of one answer of one choice: text in deltas, then tool calls in deltas, finish and usage."""
    pieces: list[Piece] = [
        Start(id=draw(ids), model=draw(names), created=draw(st.integers(1, 2_000_000_000)))
    ]
    if with_reasoning:
        pieces += [ReasoningDelta(text=text) for text in draw(st.lists(texts, max_size=3))]
    pieces += [TextDelta(text=text) for text in draw(st.lists(texts, max_size=4))]
    reason: FinishReason = draw(st.sampled_from(["stop", "length"]))
    for index, tool_id in enumerate(draw(st.lists(ids, max_size=3, unique=True))):
        reason = "tool_calls"
        pieces.append(ToolCallStart(index=index, id=tool_id, name=draw(names)))
        whole = draw(arguments)
        cut = draw(st.integers(0, len(whole)))
        pieces += [ToolArgumentsDelta(index=index, text=part) for part in (whole[:cut], whole[cut:]) if part]
    if len(pieces) == 1:
        pieces.append(TextDelta(text=draw(texts)))
    return [*pieces, Finish(reason=reason), UsageReport(usage=draw(usages))]


class Folded(msgspec.Struct):
    """What an answer says in the end, however it was cut into pieces."""

    text: dict[int, str] = {}
    refusal: dict[int, str] = {}
    reasoning: dict[int, str] = {}
    calls: dict[tuple[int, int], list[str]] = {}
    finish: dict[int, str] = {}
    usage: Usage | None = None
    model: str = ""
    id: str = ""


def folded(pieces: Iterable[Piece]) -> Folded:
    """Folds pieces: two answers are the same answer where this is equal."""
    whole = Folded()
    for piece in pieces:
        match piece:
            case Start():
                whole.id, whole.model = piece.id, piece.model
            case TextDelta():
                whole.text[piece.choice] = whole.text.get(piece.choice, "") + piece.text
            case RefusalDelta():
                whole.refusal[piece.choice] = whole.refusal.get(piece.choice, "") + piece.text
            case ReasoningDelta():
                whole.reasoning[piece.choice] = whole.reasoning.get(piece.choice, "") + piece.text
            case ToolCallStart():
                key = (piece.choice, piece.index)
                assert key not in whole.calls, "a tool call is announced once"
                whole.calls[key] = [piece.id, piece.name, ""]
            case ToolArgumentsDelta():
                whole.calls[piece.choice, piece.index][2] += piece.text
            case Finish():
                assert piece.choice not in whole.finish, "a choice finishes once"
                whole.finish[piece.choice] = piece.reason
            case UsageReport():
                whole.usage = piece.usage
            case _:
                continue
    return whole


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in chunks, cut anywhere: also inside a UTF-8 character, a CRLF or a field's name."""
    if draw(st.booleans()):
        size = draw(st.integers(1, 7))
        return [data[at : at + size] for at in range(0, len(data), size)]
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def stream_of(events: Sequence[Any], end: bytes = b"\n") -> bytes:
    """Events with JSON data (bytes stand as they are), with `end` as the line end."""
    lines = (event if isinstance(event, bytes) else json.dumps(event).encode() for event in events)
    return b"".join(b"data: " + line + end + end for line in lines)
