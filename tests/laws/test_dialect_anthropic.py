"""What holds of the Anthropic dialect for any request, any answer and any cutting of a stream."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from isthmus.core.call import (
    Call,
    Message,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Piece, ToolArgumentsDelta, ToolCallStart
from isthmus.dialects import sse
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.anthropic.encode import tool_id
from tests.laws import calls
from tests.laws.messages import (
    answers,
    cuts,
    folded,
    identities,
    json_objects,
    names,
    rechunked,
    requests,
    texts,
    words,
)

WIRE = AnthropicMessages()
CALL = Call(dialect="anthropic", operation="chat", model="route")
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)


modest = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decoded(body: dict[str, Any]) -> Call:
    return WIRE.decode_call(WIRE.peek(msgspec.json.encode(body)))


@modest
@given(requests)
def test_a_request_survives_decoding_and_encoding(body: dict[str, Any]) -> None:
    call = decoded(body)
    again = msgspec.json.decode(WIRE.encode_call(call, body["model"]).body)
    assert decoded(again) == call


@modest
@given(requests)
def test_every_field_that_a_client_sent_is_said_again(body: dict[str, Any]) -> None:
    encoded = WIRE.encode_call(decoded(body), body["model"])
    assert encoded.dropped == ()
    assert normal(msgspec.json.decode(encoded.body)) == normal(body)


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """The request in its longer spelling: contents as lists, and no field that says nothing."""
    body = msgspec.json.decode(msgspec.json.encode(body))
    for message in body["messages"]:
        message["content"] = blocks(message["content"])
    if "system" in body:
        body["system"] = blocks(body["system"])
    return body


def blocks(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {**block, "content": blocks(block["content"])} if block["type"] == "tool_result" else block
        for block in content
    ]


@modest
@given(requests, st.text("abc-1", min_size=1))
def test_a_patch_changes_the_model_and_nothing_else(body: dict[str, Any], model_id: str) -> None:
    raw = msgspec.json.encode(body)
    assert msgspec.json.decode(WIRE.patch(WIRE.peek(raw), model_id)) == msgspec.json.decode(raw) | {
        "model": model_id
    }


@modest
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_what_is_no_request_is_an_error_of_the_caller(body: bytes) -> None:
    with pytest.raises(IsthmusError) as caught:
        WIRE.decode_call(WIRE.peek(body))
    assert caught.value.fault is Fault.INVALID_REQUEST


def complaint(body: dict[str, Any]) -> IsthmusError | None:
    try:
        decoded(body)
    except IsthmusError as error:
        return error
    return None


_places = st.sampled_from(
    [
        "model",
        "messages",
        "max_tokens",
        "tools",
        "system",
        "stop_sequences",
        "thinking",
        "temperature",
        "stream",
    ]
)


@modest
@given(requests, _places, st.sampled_from([7.5, "sesame", [7], {"a": "sesame"}, [["sesame"]]]))
def test_a_wrong_type_names_its_field_and_never_its_value(
    body: dict[str, Any], name: str, value: Any
) -> None:
    error = complaint(body | {name: value})
    assert error is None or error.fault is Fault.INVALID_REQUEST
    assert error is None or (error.param or "").startswith(name)
    assert error is None or "sesame" not in error.text


# Calls of another dialect.

_parts = st.one_of(
    st.builds(Text, words | st.just("  ")),
    st.builds(Reasoning, words, dialect=st.sampled_from(["openai", ""])),
)
_turns = st.one_of(
    st.builds(
        Message,
        role=st.sampled_from(["system", "developer", "user"]),
        parts=st.tuples(st.builds(Text, words)),
    ),
    st.builds(Message, role=st.just("assistant"), parts=st.lists(_parts, min_size=1, max_size=3).map(tuple)),
)


@st.composite
def _tool_round(draw: st.DrawFn) -> tuple[Message, ...]:
    """An assistant's parallel calls and their results."""
    called = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
    arguments = st.one_of(
        json_objects.map(lambda value: msgspec.json.encode(value).decode()), st.just(""), words
    )
    uses = tuple(ToolUse(identity, draw(names), draw(arguments)) for identity in called)
    results = tuple(ToolResult(identity, (Text("r"),)) for identity in called)
    return (Message(role="assistant", parts=uses), Message(role="user", parts=results))


foreign_calls = st.builds(
    Call,
    dialect=st.just("openai"),
    operation=st.just("chat"),
    model=st.just("route"),
    messages=st.lists(_turns.map(lambda turn: (turn,)) | _tool_round(), min_size=1, max_size=5).map(
        lambda rounds: (
            Message(role="user", parts=(Text("first"),)),
            *(turn for turns in rounds for turn in turns),
        )
    ),
    max_tokens=st.none() | st.integers(1, 5000),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    thinking=st.none()
    | st.builds(Thinking, enabled=st.just(True), effort=st.sampled_from(["minimal", "high"])),
    tools=st.just((Tool(name="f", parameters={"type": "object", "properties": {}}),)),
    tool_choice=st.none() | st.just(ToolChoice(mode="required")),
    parallel_tool_calls=st.none() | st.booleans(),
    seed=st.none() | st.integers(),
    user=st.none() | texts,
)


@modest
@given(
    foreign_calls,
    st.sampled_from(["claude-opus-5", "claude-sonnet-4-5", "claude-3-5-haiku-20241022", "local"]),
)
def test_a_call_of_another_dialect_is_what_anthropic_accepts(call: Call, model_id: str) -> None:
    encoded = WIRE.encode_call(call, model_id)
    body = msgspec.json.decode(encoded.body)
    PARAMS.validate_python(body)
    roles = [message["role"] for message in body["messages"]]
    assert set(roles) <= {"user", "assistant"}
    assert all(before != after for before, after in pairwise(roles))
    contents = [blocks(message["content"]) for message in body["messages"]]
    for content in contents:
        assert content
        for block in content:
            assert block["type"] != "text" or block["text"].strip()
    called = {block["id"] for content in contents for block in content if block["type"] == "tool_use"}
    answered = {
        block["tool_use_id"] for content in contents for block in content if block["type"] == "tool_result"
    }
    assert called == answered
    assert body.get("temperature", 0) <= 1
    assert ("seed" in encoded.dropped) == (call.seed is not None)
    thinking = body.get("thinking", {"type": "disabled"})
    if thinking["type"] == "enabled":
        assert 1024 <= thinking["budget_tokens"] < body["max_tokens"]


@modest
@given(json_objects)
def test_the_arguments_of_a_tool_call_keep_their_value(arguments: dict[str, Any]) -> None:
    said = msgspec.json.encode(arguments).decode()
    call = msgspec.structs.replace(
        CALL,
        dialect="openai",
        messages=(Message(role="assistant", parts=(ToolUse("a", "f", said),)),),
    )
    body = msgspec.json.decode(WIRE.encode_call(call, "m").body)
    assert body["messages"][0]["content"][0]["input"] == arguments
    (message,) = decoded(body).messages
    (use,) = message.parts
    assert isinstance(use, ToolUse)
    assert msgspec.json.decode(use.arguments) == arguments


@modest
@given(st.text(max_size=8), st.text(max_size=8))
def test_ids_of_tool_calls_stay_apart(one: str, other: str) -> None:
    assert (tool_id(one) == tool_id(other)) == (one == other)
    assert tool_id(tool_id(one)) == tool_id(one)


def test_a_schema_is_closed_and_its_bounds_are_told_in_words() -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 3}, "tags": {"type": "array", "maxItems": 2}},
    }
    call = msgspec.structs.replace(
        CALL,
        dialect="openai",
        messages=(Message(role="user", parts=(Text("q"),)),),
        response_format=ResponseFormat(kind="json_schema", name="n", schema=schema),
    )
    form = msgspec.json.decode(WIRE.encode_call(call, "m").body)["output_config"]["format"]
    assert form["schema"] == {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "description": "(minimum: 3)"},
            "tags": {"type": "array", "description": "(maxItems: 2)"},
        },
        "additionalProperties": False,
    }


# Answers.


@modest
@given(answers())
def test_an_answer_survives_encoding_and_decoding(pieces: list[Piece]) -> None:
    body = WIRE.encode_answer(pieces, CALL, "req_1", 0)
    AnthropicMessage.model_validate_json(body, strict=False)
    assert normal_tools(folded(WIRE.decode_answer(body))) == normal_tools(folded(pieces))


@modest
@given(answers(), cuts)
def test_a_stream_survives_any_cutting(pieces: list[Piece], places: list[int]) -> None:
    decoder = WIRE.stream_decoder()
    again = [
        piece for chunk in rechunked(streamed(pieces), places) for piece in decoder.feed(chunk)
    ] + decoder.close()
    assert normal_tools(folded(again)) == normal_tools(folded(pieces))


@modest
@given(answers())
def test_the_official_client_folds_the_stream_into_the_whole_answer(pieces: list[Piece]) -> None:
    message = accumulated(streamed(pieces))
    whole = AnthropicMessage.model_validate_json(WIRE.encode_answer(pieces, CALL, "req_1", 0)).model_dump(
        mode="json"
    )
    # message_delta has no place for the split by time to live.
    del message["usage"]["cache_creation"], whole["usage"]["cache_creation"]
    assert message == whole


def accumulated(stream: bytes) -> dict[str, Any]:
    """The Message that the package `anthropic` makes of a stream; every event must be one of its types."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in sse.Splitter().feed(stream):
        validated = EVENTS.validate_json(event.data)
        assert validated.type == event.event
        snapshot = accumulate_event(event=validated, current_snapshot=snapshot, json_bufs=buffers)
    return AnthropicMessage.model_validate(snapshot.model_dump(mode="json")).model_dump(mode="json")


@modest
@given(calls.answers(with_reasoning=True))
def test_an_answer_of_another_dialect_reaches_an_anthropic_client(pieces: list[Piece]) -> None:
    message = accumulated(streamed(pieces))
    want = calls.folded(pieces)
    of_kind = {
        kind: [block for block in message["content"] if block["type"] == kind]
        for kind in ("thinking", "text", "tool_use")
    }
    assert "".join(block["thinking"] for block in of_kind["thinking"]) == want.reasoning.get(0, "")
    assert "".join(block["text"] for block in of_kind["text"]) == want.text.get(0, "")
    said = [[block["id"], block["name"], block["input"]] for block in of_kind["tool_use"]]
    assert said == [[*one[:2], msgspec.json.decode(one[2])] for one in want.calls.values()]
    assert want.usage is not None
    assert message["usage"]["input_tokens"] == want.usage.input
    assert message["usage"]["cache_read_input_tokens"] == want.usage.cache_read


@modest
@given(st.lists(st.tuples(identities, names, json_objects), min_size=2, max_size=3), st.randoms())
def test_interleaved_tool_calls_become_one_block_after_another(
    called: list[tuple[str, str, dict[str, Any]]], random: Any
) -> None:
    said = [msgspec.json.encode(arguments).decode() for _, _, arguments in called]
    pieces: list[Piece] = [
        ToolCallStart(index=index, id=identity, name=name) for index, (identity, name, _) in enumerate(called)
    ]
    letters = [index for index, text in enumerate(said) for _ in text]
    random.shuffle(letters)
    rest = [iter(text) for text in said]
    pieces += [ToolArgumentsDelta(index=index, text=next(rest[index])) for index in letters]
    message = accumulated(streamed(pieces))
    assert [block["input"] for block in message["content"]] == [arguments for _, _, arguments in called]
    whole = msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "req_1", 0))
    assert [block["input"] for block in whole["content"]] == [arguments for _, _, arguments in called]


@modest
@given(answers(), cuts, st.sampled_from([b"\n", b"\r\n"]))
def test_a_watch_forwards_every_byte_and_reads_the_end(
    pieces: list[Piece], places: list[int], newline: bytes
) -> None:
    stream = streamed(pieces).replace(b"\n", newline)
    watch = WIRE.watch(strip_usage=True)
    forwarded = b""
    for chunk in rechunked(stream, places):
        said = watch.feed(chunk)
        assert sse.whole_events(said) == len(said)
        assert not said or watch.reading.committed
        forwarded += said
    assert forwarded + watch.close() == stream
    want = folded(pieces)
    assert watch.reading.ended
    assert watch.reading.usage == want["usage"]
    assert (watch.reading.finish, None) == want["finish"][0]
    whole = WIRE.read_answer(WIRE.encode_answer(pieces, CALL, "req_1", 0))
    assert (whole.usage, whole.finish) == (watch.reading.usage, watch.reading.finish)


@modest
@given(answers(), st.integers(0, 1 << 16))
def test_a_cut_stream_never_looks_whole(pieces: list[Piece], place: int) -> None:
    stream = streamed(pieces)
    part = stream[: place % (stream.rindex(b"event: message_delta") + 1)]
    watch, decoder = WIRE.watch(strip_usage=False), WIRE.stream_decoder()
    forwarded = watch.feed(part) + watch.close()
    assert sse.whole_events(forwarded) == len(forwarded)
    assert not watch.reading.ended
    decoder.feed(part)
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.BROKEN_STREAM


def streamed(pieces: list[Piece]) -> bytes:
    encoder = WIRE.stream_encoder(CALL, "req_1", 0)
    return b"".join(encoder.feed([piece]) for piece in pieces) + encoder.close()


def normal_tools(whole: dict[str, Any]) -> dict[str, Any]:
    """Tool arguments by value: an Anthropic body holds them as an object, not as text."""
    tools = [
        (identity, name, msgspec.json.decode(said or "{}"))
        for identity, name, said in whole["tools"].values()
    ]
    return whole | {"tools": tools}
