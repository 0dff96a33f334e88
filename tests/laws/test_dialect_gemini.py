"""What holds of the Gemini dialect for any call, any answer and any cutting of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.core.call import Call, Message, Text, ToolResult, ToolUse
from isthmus.core.codec import EndpointWire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.gemini import GeminiGenerateContent
from tests.laws.calls import calls, cuts, folded, ids, json_objects, names, stream_of, texts

WIRE: EndpointWire = GeminiGenerateContent()
ANTHROPIC = AnthropicMessages()
modest = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def said(call: Call, model_id: str = "gemini-3-flash") -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(WIRE.encode_call(call, model_id).body)
    return body


@modest
@given(calls(), st.sampled_from(["gemini-2.5-flash", "gemini-3-pro", "gemini-flash-latest"]))
def test_a_call_is_what_gemini_accepts(call: Call, model_id: str) -> None:
    body = said(call, model_id)
    roles = [content["role"] for content in body["contents"]]
    assert all(before != after for before, after in pairwise(roles))
    assert roles[-1] == "user"
    asked: list[str] = []
    for content in body["contents"]:
        answered = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        assert [one["name"] for one in answered] == asked
        calls_of_turn = [part for part in content["parts"] if "functionCall" in part]
        asked = [part["functionCall"]["name"] for part in calls_of_turn]
        signed = ["thoughtSignature" in part for part in calls_of_turn]
        # The first of parallel calls is signed and no other, where the model asks for it.
        assert not signed or signed == [not model_id.startswith("gemini-2.5")] + [False] * (len(signed) - 1)
    offered = [one["name"] for tool in body.get("tools", []) for one in tool["functionDeclarations"]]
    assert offered == [tool.name for tool in call.tools]
    assert body["generationConfig"]["maxOutputTokens"] == call.max_tokens


@modest
@given(json_objects, json_objects, ids, names)
def test_tool_arguments_and_results_keep_their_value(
    arguments: dict[str, Any], result: dict[str, Any], identity: str, name: str
) -> None:
    """The trap: a call that Gemini made, through an Anthropic client and back to Gemini."""
    part = {"functionCall": {"id": identity, "name": name, "args": arguments}, "thoughtSignature": "Sig+/=="}
    pieces = WIRE.decode_answer(
        json.dumps({"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}).encode()
    )
    empty = Call(dialect="anthropic", operation="chat", model="route")
    answer = msgspec.json.decode(ANTHROPIC.encode_answer(pieces, empty, "req_1", 0))
    assert answer["content"][-1]["input"] == arguments
    told = {"type": "tool_result", "tool_use_id": identity, "content": json.dumps(result)}
    request = {
        "model": "route",
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": [told]},
        ],
    }
    call = ANTHROPIC.decode_call(ANTHROPIC.peek(msgspec.json.encode(request)))
    contents = said(call)["contents"]
    assert contents[1] == {"role": "model", "parts": [part]}
    (response,) = [part["functionResponse"] for part in contents[2]["parts"]]
    assert (response["id"], response["name"]) == (identity, name)
    assert json.loads(response["response"]["output"]) == result


_texts = st.builds(lambda text: {"text": text}, texts)
_thoughts = st.builds(lambda text: {"text": text, "thought": True}, texts)
_calls = st.builds(lambda name, args: {"functionCall": {"name": name, "args": args}}, names, json_objects)
_usage = st.fixed_dictionaries(
    {"promptTokenCount": st.integers(0, 99)},
    optional={
        "cachedContentTokenCount": st.integers(0, 150),
        "candidatesTokenCount": st.integers(0, 99),
        "thoughtsTokenCount": st.integers(0, 99),
        "toolUsePromptTokenCount": st.integers(0, 9),
    },
)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The responses of a stream, for one or two candidates."""
    responses: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 2))):
        parts = draw(st.lists(_thoughts, max_size=2)) + draw(
            st.lists(_texts | _calls, min_size=1, max_size=4)
        )
        responses += [{"candidates": [{"index": index, "content": {"parts": [part]}}]} for part in parts]
        reason = draw(st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY", "SOMETHING_NEW"]))
        responses.append({"candidates": [{"index": index, "finishReason": reason}]})
    responses[-1]["usageMetadata"] = draw(_usage)
    return [{"responseId": "r", "modelVersion": "m", **response} for response in responses]


def whole(responses: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The body that would have been sent instead of the stream."""
    candidates: dict[int, dict[str, Any]] = {}
    body: dict[str, Any] = {}
    for response in responses:
        body |= response
        for part in response["candidates"]:
            merged = candidates.setdefault(part["index"], {"index": part["index"], "content": {"parts": []}})
            merged["content"]["parts"] += part.get("content", {}).get("parts", [])
            merged |= {name: value for name, value in part.items() if name != "content"}
    return body | {"candidates": list(candidates.values())}


@modest
@given(st.data(), answers(), st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_however_cut_is_the_whole_answer(
    data: st.DataObject, responses: list[dict[str, Any]], newline: bytes
) -> None:
    decoder = WIRE.stream_decoder()
    pieces: list[Piece] = []
    for chunk in data.draw(cuts(stream_of(responses, newline))):
        pieces += decoder.feed(chunk)
    pieces += decoder.close()
    body = WIRE.decode_answer(json.dumps(whole(responses)).encode())
    assert folded(pieces) == folded(body)


@modest
@given(_usage)
def test_usage_is_a_partition(counts: dict[str, int]) -> None:
    body = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": counts}
    usage = folded(WIRE.decode_answer(json.dumps(body).encode())).usage
    assert usage is not None
    assert usage.prompt == counts["promptTokenCount"] + counts.get("toolUsePromptTokenCount", 0)
    assert min(usage.input, usage.cache_read, usage.output, usage.reasoning) >= 0
    assert usage.output == counts.get("candidatesTokenCount", 0) + counts.get("thoughtsTokenCount", 0)
    assert usage.reasoning == counts.get("thoughtsTokenCount", 0)


@modest
@given(answers(), st.integers(0, 1 << 16))
def test_a_cut_stream_is_broken(responses: list[dict[str, Any]], place: int) -> None:
    stream = stream_of(responses)
    decoder = WIRE.stream_decoder()
    # The first event stays whole: of less than a line nobody can tell whether it is a stream.
    first = stream.index(b"\n\n") + 2
    decoder.feed(stream[: first + place % max(1, stream.index(b"finishReason") - first)])
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.BROKEN_STREAM


@given(st.binary(max_size=80) | json_objects.map(lambda value: json.dumps(value).encode()))
@modest
def test_what_is_no_answer_is_an_error_of_the_endpoint(body: bytes) -> None:
    with pytest.raises(IsthmusError) as caught:
        WIRE.decode_answer(body)
    assert caught.value.fault not in (Fault.INTERNAL, Fault.UNSUPPORTED)


@modest
@given(texts.filter(lambda text: not text.startswith("models/")))
def test_a_models_id_cannot_leave_its_place_in_the_path(model_id: str) -> None:
    path = WIRE.target(model_id, True)
    assert path.startswith("/models/")
    assert path.endswith(":streamGenerateContent?alt=sse")
    middle = path.removeprefix("/models/").removesuffix(":streamGenerateContent?alt=sse")
    assert not set(middle) & set("/?#: ")
    assert middle.isascii()


def test_a_result_without_its_call_is_refused() -> None:
    orphan = Message(role="user", parts=(ToolResult("lost", (Text("r"),)),))
    known = Message(role="assistant", parts=(ToolUse("other", "f", "{}"),))
    with pytest.raises(IsthmusError) as caught:
        said(Call(dialect="openai", operation="chat", model="route", messages=(known, orphan)))
    assert caught.value.param == "messages[1].content[0]"
