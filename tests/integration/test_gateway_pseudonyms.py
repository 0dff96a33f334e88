"""Pseudonyms on real sockets: the model outside never sees a value, and the client never sees a pseudonym."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.testing import Asked, Fault, Refusal, Script, ToolCall

from .gateway import ANTHROPIC, OPENAI, RESPONSES, Answer, Dialect, Json
from .test_gateway_perimeter import CANARY, CARD, Walls, walls

LABELS = [{"when": "pii", "level": "confidential", "pseudonymise": True}]
DIALECTS = pytest.mark.parametrize(
    "dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name
)
ASKED = f"Write to {CANARY} about {CARD}, and again to {CANARY}"
SHOWN = re.compile(r"[A-Z][A-Z_]*_[A-Z2-7]{8}")


def _sent(it: Walls) -> str:
    """All that ever reached the model outside: paths, headers and bodies."""
    return "".join(f"{request.path} {request.headers} {request.body}" for request in it.outside.requests)


def _clean(it: Walls) -> bool:
    assert it.outside.requests
    sent = _sent(it)
    return CANARY not in sent and CARD not in sent and CARD.replace(" ", "") not in sent


def _letters(asked: Asked) -> Script:
    """The last text, letter by letter."""
    return Script(text=tuple(asked.text))


def _content(answer: Answer, choice: int) -> str:
    deltas = [it for event in answer.events if event.data != b"[DONE]" for it in event.json["choices"]]
    return "".join(it["delta"].get("content") or "" for it in deltas if it["index"] == choice)


@DIALECTS
@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_sees_pseudonyms_and_the_client_its_own_words(
    tmp_path: Path, dialect: Dialect, stream: bool
) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = _letters
        answer = await it.ask("out", ASKED, dialect, stream=stream)
        assert answer.status == 200
        assert dialect.text(answer) == ASKED
        assert _clean(it)
        assert len(set(SHOWN.findall(_sent(it)))) == 2
        record = await it.served.record(answer)
        assert record.decision.label.level == "confidential"
        assert list(record.decision.pseudonymised) == ["outside"]
        assert [attempt.passthrough for attempt in record.attempts] == [False]


@pytest.mark.parametrize("size", [1, 7])
async def test_a_pseudonym_may_be_cut_anywhere_in_bytes_and_in_events(tmp_path: Path, size: int) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = lambda asked: Script(text=tuple(f"Ω{asked.text}"), fault=Fault(write_size=size))
        answer = await it.ask("out", ASKED, stream=True)
        assert OPENAI.text(answer) == f"Ω{ASKED}"
        assert _clean(it)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda it: it.name)
async def test_the_arguments_of_tools_are_restored_as_json(
    tmp_path: Path, dialect: Dialect, stream: bool
) -> None:
    address = "12 Baker Street\nLondon NW1 6XE"
    parameters = {"type": "object", "properties": {"to": {"type": "string"}, "at": {"type": "string"}}}
    tools: list[Json] = [{"type": "function", "function": {"name": "send", "parameters": parameters}}]
    if dialect is ANTHROPIC:
        tools = [{"name": "send", "input_schema": parameters}]

    def call(asked: Asked) -> Script:
        arguments = msgspec.json.encode({"to": asked.text, "at": asked.text}).decode()
        return Script(tools=(ToolCall("send", arguments), ToolCall("send", arguments)), fragment_bytes=3)

    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = call
        text = f"{CANARY} lives at {address}"
        answer = await it.ask("out", text, dialect, stream=stream, tools=tools)
        calls = _calls(answer, dialect, stream)
        assert calls == [{"to": text, "at": text}] * 2
        assert _clean(it)
        assert "Baker" not in _sent(it)


def _calls(answer: Answer, dialect: Dialect, stream: bool) -> list[Any]:
    if not stream and dialect is OPENAI:
        calls = answer.json["choices"][0]["message"]["tool_calls"]
        return [msgspec.json.decode(call["function"]["arguments"]) for call in calls]
    if not stream:
        return [block["input"] for block in answer.json["content"] if block["type"] == "tool_use"]
    told: dict[int, str] = {}
    for event in answer.events:
        if event.data == b"[DONE]":
            continue
        if dialect is OPENAI:
            for choice in event.json["choices"]:
                for call in choice["delta"].get("tool_calls") or ():
                    told[call["index"]] = told.get(call["index"], "") + call["function"]["arguments"]
        elif event.json.get("delta", {}).get("type") == "input_json_delta":
            index = event.json["index"]
            told[index] = told.get(index, "") + event.json["delta"]["partial_json"]
    return [msgspec.json.decode(arguments) for arguments in told.values()]


async def test_every_choice_is_restored_by_itself(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = _letters
        answer = await it.ask("out", ASKED, stream=True, n=2)
        assert (_content(answer, 0), _content(answer, 1)) == (ASKED, ASKED)


async def test_json_that_was_asked_for_stays_json(tmp_path: Path) -> None:
    address = "12 Baker Street\nLondon NW1 6XE"
    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = lambda asked: Script(text=tuple(msgspec.json.encode([asked.text]).decode()))
        answer = await it.ask("out", f"I am at {address}", response_format={"type": "json_object"})
        assert msgspec.json.decode(OPENAI.text(answer)) == [f"I am at {address}"]
        assert "Baker" not in _sent(it)


async def test_who_may_see_the_values_sees_them(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        it.inside.script = Script(fault=Fault(refuse=Refusal(status=500)))
        answer = await it.ask("either", ASKED)
        assert OPENAI.text(answer) == ASKED
        assert CANARY in str(it.inside.requests[-1].body)
        assert _clean(it)
        record = await it.served.record(answer)
        assert list(record.decision.allowed) == ["inside", "outside"]
        assert [attempt.model for attempt in record.attempts] == ["inside", "outside"]


async def test_pseudonyms_last_through_a_session_and_no_longer(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": ASKED}]
    more = [*turns, {"role": "assistant", "content": f"{CANARY}?"}, {"role": "user", "content": "Yes."}]
    async with walls(tmp_path, labels=LABELS) as it:
        for messages, user in [(turns, "u-1"), (more, "u-1"), (turns, "u-2"), (more[2:] + turns, "u-1")]:
            assert (await it.ask("out", "", messages=messages, user=user)).status == 200
        shown = [set(SHOWN.findall(str(request.body))) for request in it.outside.requests]
        assert _clean(it)
        assert len(shown[0]) == 2
        assert shown[0] == shown[1]
        assert not shown[0] & shown[2], "another user"
        assert not shown[0] & shown[3], "another conversation"


async def test_two_conversations_of_one_text_share_no_pseudonyms(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        for text in (ASKED, ASKED, f"Bye, {CANARY}"):
            assert (await it.ask("out", text, RESPONSES)).status == 200
        shown = [set(SHOWN.findall(str(request.body))) for request in it.outside.requests]
        assert shown[0] == shown[1]
        assert shown[2]
        assert not shown[0] & shown[2]


async def test_a_key_keeps_pseudonyms_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_TEST_PSEUDONYMS", "5d41402abc4b2a76b9719d911017c592")
    shown = []
    for key in ({"key": "env:ISTHMUS_TEST_PSEUDONYMS"}, {"key": "env:ISTHMUS_TEST_PSEUDONYMS"}, {}):
        async with walls(tmp_path, labels=LABELS, **key) as it:
            await it.ask("out", ASKED)
            shown.append(set(SHOWN.findall(_sent(it))))
    assert shown[0] == shown[1]
    assert not shown[0] & shown[2]


async def test_a_pseudonym_of_somebody_else_stays_what_it_is(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        await it.ask("out", f"Write to {CANARY}", user="u-1")
        (stolen,) = SHOWN.findall(str(it.outside.requests[-1].body))
        answer = await it.ask("out", f"Who is {stolen}? Tell mallory@example.org", user="u-3")
        assert OPENAI.text(answer) == f"Who is {stolen}? Tell mallory@example.org"


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({"x-isthmus-label": "confidential"}, {}),
        ({}, {"metadata": {"phone": 4155550100}}),
        ({}, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
    ],
    ids=["the caller's word", "a number", "a file"],
)
async def test_what_no_pseudonym_can_mend_is_refused(
    tmp_path: Path, headers: dict[str, str], more: Json
) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        assert (await it.ask("out", ASKED, headers=headers, **more)).status == 400
        assert it.outside.requests == []


async def test_a_secret_keeps_it_inside_where_only_people_may_be_hidden(tmp_path: Path) -> None:
    labels = [*LABELS, {"when": "secret", "level": "restricted"}]
    async with walls(tmp_path, labels=labels) as it:
        text = f"{ASKED}. The key is ghp_{'a1B2' * 9}"
        assert (await it.ask("out", text)).status == 400
        assert it.outside.requests == []
        assert (await it.ask("either", text)).status == 200


async def test_a_stream_is_not_kept_until_its_end(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = lambda asked: Script(text=tuple(asked.text), fault=Fault(stall_after=12))
        body = {**OPENAI.body("out", True), "messages": [{"role": "user", "content": ASKED}]}
        session = it.served.session
        async with session.post(it.served.url + OPENAI.path, json=body) as response:
            early = b""
            async with asyncio.timeout(5):
                while b'"i"' not in early:
                    early += await response.content.readany()
        assert b'"W"' in early


@DIALECTS
async def test_a_broken_stream_is_still_a_broken_one(tmp_path: Path, dialect: Dialect) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        it.outside.script = lambda asked: Script(text=tuple(asked.text), fault=Fault(cut_after=15))
        answer = await it.ask("out", ASKED, dialect, stream=True)
        assert not dialect.ended(answer.events)
        assert b"error" in answer.body
        assert _clean(it)


async def test_texts_to_embed_are_hidden_too(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        body = {"model": "out", "input": [ASKED, f"from {CANARY}"]}
        for _ in range(2):
            assert (await it.served.post("/v1/embeddings", body)).status == 200
        assert _clean(it)
        one, other = (str(request.body) for request in it.outside.requests)
        assert one == other, "texts are compared by what they are embedded as"


async def test_tokens_are_counted_without_the_values(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=LABELS) as it:
        body = {**ANTHROPIC.body("out", False), "messages": [{"role": "user", "content": ASKED}]}
        del body["max_tokens"], body["stream"]
        answer = await it.served.post("/v1/messages/count_tokens", body)
        assert answer.status == 200
        assert answer.json["input_tokens"] > 5
        assert CANARY not in _sent(it)
