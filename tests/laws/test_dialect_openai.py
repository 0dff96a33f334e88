"""Chat Completions, for any call and any answer."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from isthmus.core.call import Call, Message, Reasoning, Text, Thinking
from isthmus.core.codec import Reading
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Finish, Piece, RefusalDelta, Start, TextDelta
from isthmus.core.usage import Usage
from isthmus.dialects import sse
from isthmus.dialects.openai import OPENAI, OpenAIChat
from isthmus.dialects.openai.answer import ReportedUsage, read_usage, write_usage
from tests.laws.calls import (
    answers,
    calls,
    cuts,
    folded,
    json_objects,
    names,
    response_formats,
    stream_of,
    texts,
    usages,
)

WIRE = OpenAIChat(OPENAI)


def again(call: Call, wire: OpenAIChat = WIRE) -> Call:
    return wire.decode_call(wire.peek(wire.encode_call(call, call.model).body))


@st.composite
def openai_calls(draw: st.DrawFn) -> Call:
    """Calls with what Chat Completions can say beyond the shared subset."""
    call = draw(calls())
    extra = draw(json_objects.map(lambda fields: {f"x_{name}": value for name, value in fields.items()}))
    return msgspec.structs.replace(
        call,
        seed=draw(st.none() | st.integers(0, 2**31)),
        n=draw(st.none() | st.integers(1, 4)),
        logprobs=draw(st.sampled_from([None, True])),
        top_logprobs=draw(st.none() | st.integers(0, 20)),
        frequency_penalty=draw(st.none() | st.floats(-2, 2)),
        presence_penalty=draw(st.none() | st.floats(-2, 2)),
        logit_bias=draw(
            st.none() | st.dictionaries(st.from_regex(r"[0-9]{1,5}", fullmatch=True), st.floats(-9, 9))
        ),
        response_format=draw(st.none() | response_formats),
        thinking=draw(
            st.sampled_from(
                [None, Thinking(enabled=True, effort="low"), Thinking(enabled=False, effort="none")]
            )
        ),
        user=draw(st.none() | names),
        metadata=draw(st.none() | st.dictionaries(names, texts, max_size=2)),
        parallel_tool_calls=draw(st.sampled_from([None, True, False])) if call.tools else None,
        messages=(Message(role="developer", parts=(Text("Be brief."),)), *call.messages),
        extra=extra,
    )


@given(openai_calls())
def test_decoding_undoes_encoding(call: Call) -> None:
    expected = call
    if not call.tools:
        expected = msgspec.structs.replace(call, tool_choice=None)
    assert again(call) == expected


@given(calls(dialect="anthropic"))
def test_a_call_of_another_dialect_keeps_its_meaning(call: Call) -> None:
    assert again(call) == msgspec.structs.replace(call, dialect="openai")


@given(st.data(), texts)
def test_thinking_goes_back_where_the_server_wants_it(data: st.DataObject, thought: str) -> None:
    turn = Message(role="assistant", parts=(Reasoning(text=thought, dialect="openai"), Text("Yes.")))
    call = data.draw(calls())
    call = msgspec.structs.replace(call, messages=(*call.messages, turn, *call.messages))
    assert again(call, OpenAIChat()).messages == call.messages
    encoded = WIRE.encode_call(call, "m")
    assert encoded.dropped == ("messages.reasoning",)
    # A text may say the word: the examples have it from our own source.
    assert not any("reasoning_content" in turn for turn in msgspec.json.decode(encoded.body)["messages"])


@given(json_objects, names, st.booleans())
def test_a_patch_changes_the_model_and_asks_for_usage_and_nothing_else(
    fields: dict[str, Any], model: str, stream: bool
) -> None:
    body = {f"x_{name}": value for name, value in fields.items()}
    body |= {"model": "route", "messages": [{"role": "user", "content": "ü"}], "stream": stream}
    patched = json.loads(WIRE.patch(WIRE.peek(json.dumps(body, ensure_ascii=False).encode()), model))
    expected = body | {"model": model}
    if stream:
        expected["stream_options"] = {"include_usage": True}
    assert patched == expected


def refusal_of(body: bytes) -> IsthmusError | None:
    try:
        WIRE.decode_call(WIRE.peek(body))
    except IsthmusError as error:
        return error
    return None


@given(st.binary(max_size=60) | json_objects.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    error = refusal_of(body)
    assert error is None or (error.fault is Fault.INVALID_REQUEST and error.message)


REQUEST: dict[str, Any] = {
    "model": "route",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.invalid/a.png"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    "stream_options": {"include_usage": True},
    "stop": ["a"],
    "temperature": 1,
    "max_tokens": 5,
    "logit_bias": {"7": 1},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


@given(
    st.sampled_from(places(REQUEST)[1:]),
    st.sampled_from([None, True, 7, 1.5, "secret", [], {}, ["secret"], [{}]]),
)
def test_a_wrong_type_anywhere_is_named_and_never_quoted(path: tuple[Any, ...], value: Any) -> None:
    request = json.loads(json.dumps(REQUEST))
    inner = request
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    error = refusal_of(json.dumps(request).encode())
    if error is not None:
        assert error.fault is Fault.INVALID_REQUEST
        assert error.param is not None
        assert error.param.split(".")[0].split("[")[0] == path[0]
        assert "secret" not in error.text


CALL = Call(dialect="openai", operation="chat", model="route", stream=True)


def body_of(pieces: list[Piece]) -> bytes:
    return WIRE.encode_answer(pieces, CALL, "r1", 1700000000)


def stream_bytes(pieces: list[Piece], *, asking: bool = False) -> bytes:
    call = msgspec.structs.replace(CALL, include_usage=asking)
    encoder = WIRE.stream_encoder(call, "r1", 1700000000)
    return b"".join(encoder.feed([piece]) for piece in pieces) + encoder.close()


@given(answers(with_reasoning=True))
def test_a_whole_answer_is_read_back_and_is_what_the_official_client_takes(pieces: list[Piece]) -> None:
    body = body_of(pieces)
    ChatCompletion.model_validate_json(body, strict=True)
    assert folded(WIRE.decode_answer(body)) == folded(pieces)


@given(st.data(), answers(with_reasoning=True))
def test_a_stream_in_any_cut_says_what_the_whole_answer_says(
    data: st.DataObject, pieces: list[Piece]
) -> None:
    stream = stream_bytes(pieces, asking=True)
    decoder = WIRE.stream_decoder()
    read = [piece for chunk in data.draw(cuts(stream)) for piece in decoder.feed(chunk)] + decoder.close()
    assert folded(read) == folded(pieces)


@given(answers(), st.booleans())
def test_chunks_are_what_the_official_client_takes(pieces: list[Piece], asking: bool) -> None:
    events = sse.Splitter().feed(stream_bytes(pieces, asking=asking))
    assert events[-1].data == b"[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(event.data, strict=True) for event in events[:-1]]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.usage is not None for chunk in chunks].count(True) == asking
    assert (chunks[-1].choices == []) == asking


@given(st.data(), answers(with_reasoning=True), st.booleans())
def test_a_watch_forwards_every_byte_but_the_usage_that_was_not_asked_for(
    data: st.DataObject, pieces: list[Piece], strip: bool
) -> None:
    asked = stream_bytes(pieces, asking=True)
    events = sse.parse(asked)
    usage_chunk = next(raw for raw, _ in events if b'"choices":[]' in raw)
    expected = asked.replace(usage_chunk, b"") if strip else asked
    watch = WIRE.watch(strip_usage=strip)
    sent = b""
    for chunk in data.draw(cuts(asked)):
        sent += watch.feed(chunk)
        assert sse.whole_events(sent) == len(sent), "only whole events are forwarded"
    assert sent + watch.close() == expected
    whole = folded(pieces)
    assert watch.reading.ended
    assert watch.reading.usage == whole.usage
    assert watch.reading.finish == whole.finish[0]


@given(st.data(), answers())
def test_a_cut_stream_is_never_taken_for_a_whole_one(data: st.DataObject, pieces: list[Piece]) -> None:
    stream = stream_bytes(pieces)
    finish = stream.rindex(b"data: ", 0, stream.rindex(b'"finish_reason":"'))
    cut = stream[: data.draw(st.integers(0, finish))]
    decoder, watch = WIRE.stream_decoder(), WIRE.watch(strip_usage=True)
    decoder.feed(cut)
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.BROKEN_STREAM
    sent = watch.feed(cut) + watch.close()
    assert not watch.reading.ended
    assert sse.whole_events(sent) == len(sent)


def _chunk(spaced: bool, index: int, **facts: Any) -> bytes:
    choice = {"index": index, "delta": {"content": "word"}, "finish_reason": None} | facts.pop("choice", {})
    separators = (", ", ": ") if spaced else (",", ":")
    said = json.dumps({"choices": [choice], **facts}, separators=separators)
    return b"data: %b\n\n" % said.encode()


def _events(spaced: bool) -> dict[str, bytes]:
    """Events of many kinds, as one server would spell them."""
    return {
        "plain": _chunk(spaced, 0),
        "second choice": _chunk(spaced, 1),
        "finish": _chunk(spaced, 0, choice={"delta": {}, "finish_reason": "length"}),
        "second finish": _chunk(spaced, 1, choice={"delta": {}, "finish_reason": "stop"}),
        "usage": _chunk(spaced, 0, usage={"prompt_tokens": 3, "completion_tokens": 4}),
        "error": b'data: {"error":{"message":"overloaded"}}\n\n',
        "named error": b'event: error\ndata: {"message":"overloaded"}\n\n',
        "detail": b'data: {"detail":"gone"}\n\n',
        "comment": b": ping\n\n",
        "other line ends": _chunk(spaced, 0).replace(b"\n", b"\r\n"),
        "done": b"data: [DONE]\n\n",
    }


@given(st.booleans(), st.lists(st.sampled_from(["plain", "plain", *_events(False)]), max_size=12))
def test_events_that_come_together_are_read_as_if_they_came_one_by_one(
    spaced: bool, kinds: list[str]
) -> None:
    events = [_events(spaced)[kind] for kind in kinds]
    together, apart = WIRE.watch(strip_usage=False), WIRE.watch(strip_usage=False)
    sent = together.feed(b"".join(events))
    assert sent == b"".join(map(apart.feed, events))
    assert together.close() == apart.close()
    assert together.reading == apart.reading or together.reading.error is not None
    assert _code(together.reading) == _code(apart.reading)


def _code(reading: Reading) -> str | None:
    return reading.error.code if reading.error else None


@given(usages)
def test_usage_is_partitioned_and_read_back(usage: Usage) -> None:
    assert read_usage(msgspec.convert(write_usage(usage), ReportedUsage)) == usage


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.integers(-9, 99) | st.floats(-9, 99)
            for name in (
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "prompt_cache_hit_tokens",
                "cached_tokens",
            )
        },
    ),
    st.integers(-9, 99),
    st.integers(-9, 99),
    st.integers(-9, 99),
)
def test_any_reported_usage_becomes_a_partition(
    top: dict[str, Any], read: int, written: int, reasoning: int
) -> None:
    reported = {
        **top,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    usage = read_usage(msgspec.convert(reported, ReportedUsage))
    assert usage is not None
    assert min(usage.input, usage.cache_read, usage.cache_write_5m, usage.output, usage.reasoning) >= 0
    assert usage.prompt == max(0, int(top.get("prompt_tokens") or 0))
    assert usage.reasoning <= usage.output


@given(st.lists(st.tuples(st.integers(0, 2), texts), min_size=1), st.booleans())
def test_choices_are_kept_apart(deltas: list[tuple[int, str]], refused: bool) -> None:
    made = RefusalDelta if refused else TextDelta
    choices = sorted({choice for choice, _ in deltas})
    pieces: list[Piece] = [
        Start(id="a", model="m"),
        *(made(text=text, choice=choice) for choice, text in deltas),
    ]
    pieces += [Finish(reason="stop", choice=choice) for choice in choices]
    whole = json.loads(body_of(pieces))
    assert [choice["index"] for choice in whole["choices"]] == choices
    decoder = WIRE.stream_decoder()
    assert folded(decoder.feed(stream_bytes(pieces))) == folded(pieces)
    assert folded(WIRE.decode_answer(body_of(pieces))) == folded(pieces)


@given(st.lists(texts, min_size=1, max_size=3), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_comments_and_line_ends_do_not_matter(words: list[str], end: bytes, data: st.DataObject) -> None:
    chunks: list[Any] = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in words
    ]
    chunks += [{"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, b"[DONE]"]
    stream = b": waiting" + end + end + stream_of(chunks, end)
    decoder, watch = WIRE.stream_decoder(), WIRE.watch(strip_usage=True)
    pieces, sent = [], b""
    for chunk in data.draw(cuts(stream)):
        pieces += decoder.feed(chunk)
        sent += watch.feed(chunk)
    assert folded(pieces + decoder.close()).text == {0: "".join(words)}
    assert sent + watch.close() == stream
    assert watch.reading.ended
