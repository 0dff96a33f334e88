"""Tokens of reasoning are marked as their issuer's, and nothing else is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.core.call import Call, Message, Opaque, Reasoning, ToolUse
from isthmus.dialects.anthropic.stream import Watch
from isthmus.dialects.issuers import MarkingWatch, marked_body, told_to


def marked(body: Any) -> Any:
    return msgspec.json.decode(marked_body(msgspec.json.encode(body), "ours"))


@pytest.mark.parametrize(
    ("kind", "field"),
    [("thinking", "signature"), ("redacted_thinking", "data"), ("reasoning", "encrypted_content")],
)
def test_each_opaque_token_is_marked(kind: str, field: str) -> None:
    body = {"content": [{"type": kind, field: "dG9rZW4="}, {"type": "text", "text": "x"}]}
    expected = {"content": [{"type": kind, field: "isthmus:ours:dG9rZW4="}, {"type": "text", "text": "x"}]}
    assert marked(body) == expected


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "input": {"type": "thinking", "signature": "of a form"}},
        {"type": "text", "text": '{"type":"thinking","signature":"of a text"}'},
        {"type": "thinking", "thinking": "unsigned", "signature": ""},
        {"type": "image", "data": "iVBORw0K", "signature": 5},
    ],
)
def test_what_only_looks_like_a_token_is_left_alone(block: dict[str, Any]) -> None:
    body = msgspec.json.encode({"content": [block]})
    assert marked_body(body, "ours") is body


def test_a_stream_is_marked_event_by_event_and_the_rest_of_its_bytes_pass() -> None:
    start = (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
        b'{"type":"thinking","thinking":"","signature":""}}\n\n'
    )
    seal = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"signature_delta","signature":"%b"}}\n\n'
    )
    ping = b': "signature"\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    word = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":'
        b'{"type":"text_delta","text":"x"}}\n\n'
    )
    watch = MarkingWatch(Watch(), "ours")
    said = watch.feed(start + ping + seal % b"c2VhbA==" + word) + watch.close()
    assert said == start + ping + seal % b"isthmus:ours:c2VhbA==" + word


def test_a_token_goes_back_to_its_issuer_as_it_was_and_to_nobody_else() -> None:
    thought = Reasoning(text="Hm.", signature="isthmus:ours:a", dialect="anthropic")
    hidden = Reasoning(encrypted="isthmus:ours:b", dialect="responses")
    unmarked = Reasoning(text="Old.", signature="c", dialect="anthropic")
    use = ToolUse(id="1", name="f", arguments="{}", signature="isthmus:ours:d")
    block = Opaque("responses", {"type": "compaction", "encrypted_content": "isthmus:ours:e"})
    call = Call(
        dialect="anthropic",
        operation="chat",
        model="m",
        messages=(Message(role="assistant", parts=(thought, hidden, unmarked, use, block)),),
    )
    replace = msgspec.structs.replace
    foreign = "another issuer"
    assert told_to("ours", call).messages[0].parts == (
        replace(thought, signature="a"),
        replace(hidden, encrypted="b"),
        unmarked,
        replace(use, signature="d"),
        Opaque("responses", {"type": "compaction", "encrypted_content": "e"}),
    )
    assert told_to("theirs", call).messages[0].parts == (
        Reasoning(text="Hm.", dialect=foreign),
        Reasoning(dialect=foreign),
        unmarked,
        Reasoning(dialect=foreign),
        replace(use, signature=None),
        replace(block, dialect=foreign),
    )
