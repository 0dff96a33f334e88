"""By what a conversation is known, without a gateway."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.label import Label
from isthmus.dialects import CLIENT_WIRES
from isthmus.gateway.conversations import Conversations, Standing, Trail

STANDING = Standing(Label("confidential"))


def trail(known: Conversations, body: dict[str, Any], wire: str = "openai", key: str | None = None) -> Trail:
    envelope = CLIENT_WIRES[wire].peek(msgspec.json.encode({"model": "r", **body}))
    found = known.trail(envelope, key, None)
    assert found is not None
    return found


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_request_finds_the_one_before_whatever_has_become_of_the_answer_and_the_system_prompt() -> None:
    known = Conversations()
    first = trail(known, said(("system", "it is noon"), ("user", "a"), ("user", "b")))
    assert first.before is None
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    after = (("system", "it is one"), ("user", parts), ("user", "b"), ("assistant", "changed"), ("user", "c"))
    second = trail(known, said(*after), "anthropic")
    assert second.before == first.now
    assert trail(known, said(("user", "a"), ("assistant", "x"), ("user", "c"))).before != first.now


def test_a_conversation_is_its_callers_alone() -> None:
    known = Conversations()
    body = said(("user", "a"))
    trails = [trail(known, body), trail(known, body, key="k"), trail(known, {**body, "user": "ada"})]
    assert len({it.now for it in trails}) == 3
    assert trail(Conversations(), body).now != trails[0].now, "nobody can tell turns by their digest"


def test_what_rested_longest_is_forgotten() -> None:
    known = Conversations(most=2)
    trails = [trail(known, said(("user", name))) for name in "abc"]
    for one in trails[:2]:
        known.keep(one, STANDING)
    known.keep(trails[0], STANDING)
    known.keep(trails[2], STANDING)
    found = [known.standing(Trail(one.now, one.now)) for one in trails]
    assert found == [STANDING, None, STANDING]


def test_the_responses_api_may_name_a_conversation_itself() -> None:
    known = Conversations()
    one = trail(known, {"input": "a", "conversation": "conv_1"}, "responses")
    other = trail(known, {"input": "b", "conversation": {"id": "conv_1"}}, "responses")
    assert one == other
    assert one.before == one.now
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "4"},
    ]
    assert trail(known, {"input": items}, "responses").before == trail(known, {"input": "a"}, "responses").now
