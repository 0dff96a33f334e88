"""Hypothesis strategies for Anthropic Messages: requests as clients send them, and answers in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import strategies as st

from isthmus.core.pieces import (
    Finish,
    Piece,
    ReasoningDelta,
    ReasoningSeal,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
texts = words.filter(lambda text: bool(text.strip()))
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,11}", fullmatch=True)
identities = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(words, json_values, max_size=4)
strange = st.dictionaries(st.just("x_unheard_of"), json_objects, max_size=1)
marks = st.dictionaries(st.just("cache_control"), st.just({"type": "ephemeral", "ttl": "1h"}), max_size=1)


def _block(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A content block with cache marks and fields that no documentation names."""
    block = st.fixed_dictionaries({"type": st.just(kind), **fields})
    return st.builds(lambda known, mark, unknown: known | mark | unknown, block, marks, strange)


text_blocks = _block("text", text=texts)
image_blocks = _block(
    "image",
    source=st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("base64"), "media_type": st.just("image/png"), "data": st.just("aGk=")}
        ),
        st.just({"type": "url", "url": "https://example.org/a.png"}),
        st.just({"type": "file", "file_id": "file_1"}),
    ),
)
document_blocks = _block(
    "document",
    title=texts,
    source=st.sampled_from(
        [
            {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
            {"type": "url", "url": "https://example.org/a.pdf"},
            {"type": "text", "media_type": "text/plain", "data": "words"},
            {"type": "file", "file_id": "file_2"},
            {"type": "content", "content": [{"type": "text", "text": "words"}]},
        ]
    ),
)
tool_uses = _block("tool_use", id=identities, name=names, input=json_objects)
tool_results = st.builds(
    lambda block, error: block | error,
    _block(
        "tool_result",
        tool_use_id=identities,
        content=texts | st.lists(text_blocks | image_blocks, min_size=1, max_size=2),
    ),
    st.sampled_from([{}, {"is_error": True}]),
)
thoughts = _block("thinking", thinking=texts, signature=identities) | _block(
    "redacted_thinking", data=identities
)
opaque_blocks = _block("server_tool_use", id=identities, name=st.just("web_search"), input=json_objects)

user_turns = st.fixed_dictionaries(
    {
        "role": st.just("user"),
        "content": texts
        | st.lists(text_blocks | image_blocks | document_blocks | tool_results, min_size=1, max_size=3),
    }
)
assistant_turns = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": texts
        | st.lists(text_blocks | thoughts | tool_uses | opaque_blocks, min_size=1, max_size=3),
    }
)
tools = st.one_of(
    st.builds(
        lambda tool, mark, unknown: tool | mark | unknown,
        st.fixed_dictionaries(
            {
                "name": names,
                "description": texts,
                "input_schema": json_objects.map(lambda schema: {"type": "object"} | schema),
                "strict": st.booleans(),
            }
        ),
        marks,
        strange,
    ),
    st.just({"type": "web_search_20260318", "name": "web_search", "max_uses": 3}),
)
tool_choices = st.sampled_from(
    [
        {"type": "auto"},
        {"type": "auto", "disable_parallel_tool_use": True},
        {"type": "any", "disable_parallel_tool_use": False},
        {"type": "tool", "name": "f"},
        {"type": "none"},
    ]
)
_optional: dict[str, st.SearchStrategy[Any]] = {
    "system": texts | st.lists(text_blocks, min_size=1, max_size=2),
    "stop_sequences": st.lists(words, min_size=1, max_size=2),
    "temperature": st.floats(0, 1),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 500),
    "stream": st.just(True),
    "thinking": st.sampled_from(
        [
            {"type": "adaptive"},
            {"type": "adaptive", "display": "omitted"},
            {"type": "enabled", "budget_tokens": 2048, "display": "summarized"},
            {"type": "disabled"},
            {"type": "between_tools"},
        ]
    ),
    "output_config": st.sampled_from(
        [
            {"effort": "high"},
            {"format": {"type": "json_schema", "schema": {"type": "object", "maxProperties": 2}}},
            {"effort": "low", "task_budget": {"type": "tokens", "total": 9}},
        ]
    ),
    "metadata": st.sampled_from([{"user_id": "u-1"}, {"user_id": "u-1", "trace": "t"}]),
    "mcp_servers": st.just([{"type": "url", "name": "m", "url": "https://example.org/mcp"}]),
    "service_tier": st.just("auto"),
    "x_unheard_of": json_objects,
}
_with_tools = st.fixed_dictionaries(
    {"tools": st.lists(tools, min_size=1, max_size=2)}, optional={"tool_choice": tool_choices}
)

requests = st.builds(
    lambda known, offered: known | offered,
    st.fixed_dictionaries(
        {
            "model": names,
            "max_tokens": st.integers(1, 9_999),
            "messages": st.lists(user_turns | assistant_turns, min_size=1, max_size=4),
        },
        optional=_optional,
    ),
    _with_tools | st.just({}),
)
"""Bodies of POST /v1/messages."""

counts = st.integers(0, 10_000)
usages = st.builds(
    Usage,
    input=counts,
    output=counts,
    cache_read=counts,
    cache_write_5m=counts,
    cache_write_1h=counts,
)
_calls = st.tuples(identities, names, json_objects).map(
    lambda said: (said[0], said[1], msgspec.json.encode(said[2]).decode())
)


@st.composite
def answers(draw: st.DrawFn) -> list[Piece]:
    """The pieces of an answer that Anthropic could give, with texts and arguments cut at random."""
    pieces: list[Piece] = [Start(id="msg_1", model="claude-x")]
    for thought in draw(st.lists(words, max_size=2)):
        pieces.append(ReasoningDelta(text=thought))
    if len(pieces) > 1:
        pieces.append(ReasoningSeal(dialect="anthropic", signature=draw(identities)))
    pieces += [TextDelta(text=text) for text in draw(st.lists(words, max_size=3))]
    called = draw(st.lists(_calls, max_size=3))
    for index, (identity, name, arguments) in enumerate(called):
        pieces.append(ToolCallStart(index=index, id=identity, name=name))
        cut = draw(st.integers(0, len(arguments)))
        pieces += [
            ToolArgumentsDelta(index=index, text=part) for part in (arguments[:cut], arguments[cut:]) if part
        ]
    pieces.append(UsageReport(usage=draw(usages)))
    word = (
        "tool_use" if called else draw(st.sampled_from(["end_turn", "max_tokens", "refusal", "pause_turn"]))
    )
    reasons = {
        "tool_use": "tool_calls",
        "end_turn": "stop",
        "max_tokens": "length",
        "refusal": "refusal",
        "pause_turn": "pause",
    }
    pieces.append(Finish(reason=reasons[word], raw=word))  # type: ignore[arg-type]
    return pieces


def folded(pieces: Iterable[Piece]) -> dict[str, Any]:
    """An answer with its deltas joined: what must not depend on how it was cut."""
    whole: dict[str, Any] = {
        "text": "",
        "reasoning": "",
        "seals": [],
        "tools": {},
        "usage": None,
        "finish": {},
    }
    for piece in pieces:
        match piece:
            case TextDelta():
                whole["text"] += piece.text
            case ReasoningDelta():
                whole["reasoning"] += piece.text
            case ReasoningSeal():
                whole["seals"].append((piece.dialect, piece.signature, piece.encrypted))
            case ToolCallStart():
                whole["tools"][piece.index] = [piece.id, piece.name, ""]
            case ToolArgumentsDelta():
                whole["tools"][piece.index][2] += piece.text
            case UsageReport():
                whole["usage"] = piece.usage
            case Finish():
                whole["finish"][piece.choice] = (piece.reason, piece.stop_sequence)
            case _:
                pass
    return whole


def rechunked(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The bytes, cut at the given places (taken modulo their length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


cuts = st.lists(st.integers(0, 1 << 16), max_size=12)
