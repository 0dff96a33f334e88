"""Counting tokens: the two wires, and the estimate for endpoints that cannot count."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from anthropic.types import MessageTokensCount
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from isthmus.core.call import Call, Image, Message, Text, Tool
from isthmus.core.codec import EndpointWire, Wire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import TokenCount
from isthmus.dialects.counting import AnthropicCountTokens, GeminiCountTokens, estimate_tokens
from tests.laws.calls import calls
from tests.laws.messages import requests, words

ANTHROPIC: Wire = AnthropicCountTokens()
GEMINI: EndpointWire = GeminiCountTokens()
PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCountTokensParams)
modest = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def chat(*messages: Message, **fields: Any) -> Call:
    return Call(dialect="openai", operation="count_tokens", model="route", messages=messages, **fields)


@modest
@given(requests)
def test_what_is_counted_is_what_would_be_sent(body: dict[str, Any]) -> None:
    for name in ("max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences", "metadata"):
        body.pop(name, None)
    call = ANTHROPIC.decode_call(ANTHROPIC.peek(msgspec.json.encode(body)))
    assert call.operation == "count_tokens"
    again = msgspec.json.decode(ANTHROPIC.encode_call(call, body["model"]).body)
    assert ANTHROPIC.decode_call(ANTHROPIC.peek(msgspec.json.encode(again))) == call
    assert again.keys() == body.keys()


@modest
@given(calls())
def test_a_count_of_another_dialects_call_names_only_what_is_counted(call: Call) -> None:
    body = msgspec.json.decode(ANTHROPIC.encode_call(call, "claude-opus-5").body)
    PARAMS.validate_python(body)
    assert body.keys() <= {"model", "system", "messages", "tools", "tool_choice"}
    request = msgspec.json.decode(GEMINI.encode_call(call, "gemini-3-flash").body)["generateContentRequest"]
    assert request["model"] == "models/gemini-3-flash"
    assert "generationConfig" not in request


@pytest.mark.parametrize("estimated", [False, True])
def test_a_count_is_what_the_official_client_reads(estimated: bool) -> None:
    body = ANTHROPIC.encode_answer([TokenCount(tokens=7, estimated=estimated)], chat(), "req_1", 0)
    assert MessageTokensCount.model_validate_json(body).input_tokens == 7
    assert ANTHROPIC.decode_answer(body) == [TokenCount(tokens=7)]
    assert (b"estimated" in body) == estimated
    assert ANTHROPIC.read_answer(body).ended


def test_gemini_counts_in_total_tokens() -> None:
    assert GEMINI.decode_answer(b'{"totalTokens":31}') == [TokenCount(tokens=31)]
    assert GEMINI.target("models/gemini-3-pro", False) == "/models/gemini-3-pro:countTokens"


@pytest.mark.parametrize("wire", [ANTHROPIC, GEMINI])
def test_what_is_no_count_is_an_error(wire: EndpointWire) -> None:
    with pytest.raises(IsthmusError) as caught:
        wire.decode_answer(b"{}")
    assert caught.value.fault is Fault.MALFORMED_ANSWER
    with pytest.raises(IsthmusError) as caught:
        wire.stream_decoder()
    assert caught.value.param == "stream"


def test_an_estimate_by_hand() -> None:
    call = chat(
        Message(role="user", parts=(Text("x" * 9), Image(data="aGk=", media_type="image/png"))),
        tools=(Tool(name="f", description="d", parameters={}),),
    )
    # Nine letters, the picture, the message, and a tool that is declared in `["f","d",{}]`.
    assert estimate_tokens(call) == TokenCount(tokens=3 + 1600 + 4 + 8 + 3, estimated=True)


@modest
@given(calls(), words)
def test_an_estimate_grows_with_the_prompt_and_never_with_the_sampling(call: Call, word: str) -> None:
    before = estimate_tokens(call).tokens
    longer = msgspec.structs.replace(
        call, messages=(*call.messages, Message(role="user", parts=(Text(word),)))
    )
    assert estimate_tokens(longer).tokens > before
    assert estimate_tokens(msgspec.structs.replace(call, max_tokens=1, temperature=None)).tokens == before


@modest
@given(st.text(max_size=200).filter(str.isascii))
def test_prose_is_a_token_for_four_letters(text: str) -> None:
    empty = estimate_tokens(chat(Message(role="user", parts=()))).tokens
    whole = estimate_tokens(chat(Message(role="user", parts=(Text(text),)))).tokens
    assert whole - empty == (len(text) + 3) // 4
