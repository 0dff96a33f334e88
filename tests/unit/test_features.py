"""What a request looks like from outside."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.core.record import Features
from isthmus.dialects import CLIENT_WIRES
from isthmus.dialects.features import features_of


def features(wire: str, body: dict[str, Any]) -> Features:
    encoded = msgspec.json.encode({"model": "m", **body})
    found = features_of(CLIENT_WIRES[wire].peek(encoded), len(encoded))
    assert found.size == len(encoded)
    return msgspec.structs.replace(found, size=0)


def turn(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_plain_request_has_its_size_and_its_turns() -> None:
    assert features("openai", {"messages": [turn("Hi")]}) == Features(size=0, turns=1)
    talk = [turn("Be brief.", "system"), turn("Hi"), turn("Yes?", "assistant"), turn("Why?")]
    assert features("openai", {"messages": talk}).turns == 4


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (
            "openai",
            {
                "messages": [turn([{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}])],
                "max_completion_tokens": 70,
                "max_tokens": 99,
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
                "temperature": 0,
                "reasoning_effort": "low",
                "logprobs": True,
            },
        ),
        (
            "responses",
            {
                "input": [turn([{"type": "input_image", "image_url": "https://x.example/a.png"}])],
                "max_output_tokens": 70,
                "tools": [{"type": "function", "name": "f"}],
                "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}},
                "temperature": 0,
                "reasoning": {"effort": "low"},
                "top_logprobs": 2,
            },
        ),
        (
            "anthropic",
            {
                "messages": [
                    turn([{"type": "image", "source": {"type": "url", "url": "https://x.example"}}])
                ],
                "max_tokens": 70,
                "tools": [{"name": "f", "input_schema": {}}],
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
                "temperature": 0,
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "top_logprobs": 2,
            },
        ),
    ],
)
def test_every_dialect_tells_the_same(wire: str, body: dict[str, Any]) -> None:
    assert features(wire, body) == Features(
        size=0,
        turns=1,
        max_output=70,
        tools=True,
        pictures=True,
        form="schema",
        temperature=0.0,
        thinking=True,
        logprobs=True,
    )


@pytest.mark.parametrize(
    ("wire", "part", "named"),
    [
        ("openai", {"type": "file", "file": {"file_id": "f"}}, "files"),
        ("openai", {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "audio"),
        ("anthropic", {"type": "document", "source": {"type": "text", "data": "x"}}, "files"),
        ("responses", {"type": "input_file", "file_id": "f"}, "files"),
    ],
)
def test_files_and_sound_are_seen(wire: str, part: dict[str, Any], named: str) -> None:
    field = "input" if wire == "responses" else "messages"
    found = features(wire, {field: [turn([part])]})
    assert found == msgspec.structs.replace(Features(size=0, turns=1), **{named: True})


def test_texts_that_speak_of_parts_and_roles_are_no_parts() -> None:
    text = 'Is {"type": "image_url", "role": "user"} JSON? And "input_audio"?'
    assert features("openai", {"messages": [turn(text)]}) == Features(size=0, turns=1)


def test_what_is_not_said_is_not_there() -> None:
    said = {"tools": [], "temperature": None, "max_tokens": None, "logprobs": False, "thinking": {}}
    assert features("openai", {"messages": [turn("Hi")], **said}) == Features(size=0, turns=1)
    assert (
        features("openai", {"messages": [turn("Hi")], "response_format": {"type": "json_object"}}).form
        == "json"
    )


def test_nonsense_is_no_feature_and_no_error() -> None:
    said = {"tools": 3, "temperature": "hot", "max_tokens": -1, "max_output_tokens": 2**60, "text": 7}
    found = features("openai", {"messages": {"role": "user"}, **said})
    assert found == Features(size=0, tools=True)


def test_texts_to_embed_have_no_turns() -> None:
    assert features("openai-embeddings", {"input": ["a", "b"]}) == Features(size=0)
    assert features("responses", {"input": "Hi"}).turns == 1
