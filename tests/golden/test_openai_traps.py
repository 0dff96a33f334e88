"""The traps of Chat Completions that other gateways fell into, each as bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.laws.calls import Folded, folded, stream_of

from isthmus.catalog.presets import PRESETS, Preset
from isthmus.core.call import (
    Call,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import (
    Finish,
    OpaqueBlock,
    Piece,
    ReasoningSeal,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects import endpoint_wires
from isthmus.dialects.openai import OPENAI, OpenAIChat, Quirks
from isthmus.dialects.openai.encode_call import short_tool_id

WIRE = OpenAIChat(OPENAI)
CALL = Call(
    dialect="openai",
    operation="chat",
    model="route",
    messages=(Message(role="user", parts=(Text("Hi"),)),),
    stream=True,
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "Hello"})
STOP = chunk({}, "stop")
DONE = b"[DONE]"


def decoded(*events: Any) -> list[Piece]:
    decoder = WIRE.stream_decoder()
    return decoder.feed(stream_of(events)) + decoder.close()


def tool(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    delta: dict[str, Any] = {"function": function}
    if index is not None:
        delta["index"] = index
    if call_id is not None:
        delta["id"] = call_id
    return chunk({"tool_calls": [delta]})


def tools_of(*events: Any) -> list[list[str]]:
    return list(folded(decoded(*events, chunk({}, "tool_calls"), DONE)).calls.values())


# Tool calls in streams.


def test_parallel_calls_that_all_carry_index_0_are_told_apart_by_id() -> None:
    assert tools_of(tool(0, "a", "f", '{"x":1}'), tool(0, "b", "g", '{"y"'), tool(0, None, None, ":2}")) == [
        ["a", "f", '{"x":1}'],
        ["b", "g", '{"y":2}'],
    ]


def test_id_and_name_on_every_delta_are_said_once() -> None:
    assert tools_of(tool(0, "a", "f", '{"x"'), tool(0, "a", "f", ":1}")) == [["a", "f", '{"x":1}']]


def test_missing_ids_are_made_the_same_each_time() -> None:
    events = (tool(0, None, "f", "{}"), tool(1, None, "g", "{}"))
    assert tools_of(*events) == tools_of(*events) == [["call_0_0", "f", "{}"], ["call_0_1", "g", "{}"]]


def test_whole_calls_without_id_or_index_are_told_apart() -> None:
    assert [call[1:] for call in tools_of(tool(None, None, "f", "{}"), tool(None, None, "f", '{"x":1}'))] == [
        ["f", "{}"],
        ["f", '{"x":1}'],
    ]


def test_interleaved_calls_keep_their_arguments() -> None:
    events = (
        tool(0, "a", "f", ""),
        tool(1, "b", "g", ""),
        tool(0, None, None, "1"),
        tool(1, None, None, "2"),
    )
    assert tools_of(*events) == [["a", "f", "1"], ["b", "g", "2"]]


def test_a_name_that_comes_after_the_id_is_waited_for() -> None:
    assert tools_of(tool(0, "a", None, ""), tool(0, None, "f", '{"x"'), tool(0, None, None, ":1}")) == [
        ["a", "f", '{"x":1}']
    ]


def test_arguments_as_an_object_become_json_text() -> None:
    event = chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]})
    assert tools_of(event) == [["a", "f", '{"x":1}']]


def test_empty_tool_calls_are_no_tool_calls() -> None:
    said = folded(decoded(chunk({"content": "Hi", "tool_calls": []}), STOP, DONE))
    assert said == Folded(text={0: "Hi"}, finish={0: "stop"}, model="m", id="c1")
    body = WIRE.encode_answer([TextDelta(text="Hi"), Finish(reason="stop")], CALL, "r", 1)
    assert b"tool_calls" not in body


def test_stop_after_a_tool_call_means_tool_calls() -> None:
    finish = next(
        piece for piece in decoded(tool(0, "a", "f", "{}"), STOP, DONE) if isinstance(piece, Finish)
    )
    assert (finish.reason, finish.raw) == ("tool_calls", "stop")


# Reasoning, parts and what only this dialect knows.


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_is_read_under_both_names(field: str) -> None:
    said = folded(decoded(chunk({field: "Hm. "}), chunk({field: "So."}), HELLO, STOP, DONE))
    assert (said.reasoning, said.text) == ({0: "Hm. So."}, {0: "Hello"})


def test_thinking_as_parts_of_the_content_is_read() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    said = folded(decoded(chunk({"content": [thought]}), HELLO, STOP, DONE))
    assert (said.reasoning, said.text) == ({0: "Hm."}, {0: "Hello"})


def test_a_seal_of_another_dialect_is_left_out_and_the_text_kept() -> None:
    pieces: list[Piece] = [
        ReasoningSeal(dialect="anthropic", signature="s3al"),
        OpaqueBlock(dialect="anthropic", value={"type": "x"}),
        TextDelta(text="Hi"),
        Finish(reason="stop"),
    ]
    body = WIRE.encode_answer(pieces, CALL, "r", 1)
    assert b"s3al" not in body
    assert json.loads(body)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hi",
        "refusal": None,
    }


def test_geminis_thought_signature_survives_there_and_back() -> None:
    start = ToolCallStart(index=0, id="a", name="f", signature="sig+/=")
    pieces: list[Piece] = [start, ToolArgumentsDelta(index=0, text="{}"), Finish(reason="tool_calls")]
    message = json.loads(WIRE.encode_answer(pieces, CALL, "r", 1))["choices"][0]["message"]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}, message]}
    call = WIRE.decode_call(WIRE.peek(json.dumps(body).encode()))
    assert call.messages[1].parts == (ToolUse("a", "f", "{}", signature="sig+/="),)
    kept = WIRE.encode_call(call, "m")
    assert json.loads(kept.body)["messages"][1]["tool_calls"][0] == message["tool_calls"][0]
    left_out = WIRE.encode_call(msgspec.structs.replace(call, dialect="gemini"), "m")
    assert b"sig+" not in left_out.body
    assert left_out.dropped == ("messages.reasoning",)


def test_what_only_this_dialect_knows_of_an_answer_is_said_again() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "annotations": [{"type": "url_citation"}],
        "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}],
    }
    body = {"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    pieces = WIRE.decode_answer(json.dumps(body).encode())
    said = json.loads(WIRE.encode_answer(pieces, CALL, "r", 1))["choices"][0]
    assert said["message"] == {**message, "refusal": None}
    assert said["finish_reason"] == "tool_calls"


# Ends and errors of streams.


def test_a_stream_without_a_finish_is_broken_although_it_says_done() -> None:
    decoder = WIRE.stream_decoder()
    assert folded(decoder.feed(stream_of([ROLE, HELLO, DONE]))).text == {0: "Hello"}
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.BROKEN_STREAM
    watch = WIRE.watch(strip_usage=False)
    assert DONE not in watch.feed(stream_of([ROLE, HELLO, DONE])) + watch.close()
    assert not watch.reading.ended


@pytest.mark.parametrize(
    "more", [(), (chunk({}, "length"),)], ids=["without a reason", "with one all the same"]
)
def test_a_server_without_finish_reasons_is_taken_at_its_done(more: tuple[Any, ...]) -> None:
    wire = OpenAIChat(Quirks(finish_reason=False))
    stream = stream_of([ROLE, HELLO, *more, DONE])
    decoder, watch = wire.stream_decoder(), wire.watch(strip_usage=False)
    said = folded([*decoder.feed(stream), *decoder.close()])
    assert (said.text, said.finish) == ({0: "Hello"}, {0: "length" if more else "stop"})
    assert watch.feed(stream) + watch.close() == stream
    assert decoder.ended
    assert watch.reading.ended
    cut = wire.stream_decoder()
    cut.feed(stream_of([ROLE, HELLO]))
    with pytest.raises(IsthmusError):
        cut.close()


def test_a_stream_that_ends_after_the_finish_has_ended() -> None:
    assert folded(decoded(ROLE, HELLO, STOP)).finish == {0: "stop"}
    watch = WIRE.watch(strip_usage=False)
    watch.feed(stream_of([ROLE, HELLO, STOP]))
    assert not watch.reading.ended
    watch.close()
    assert watch.reading.ended


def test_one_finished_choice_of_two_is_no_end() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": None}]}
    watch = WIRE.watch(strip_usage=False)
    watch.feed(stream_of([HELLO, STOP]))
    watch.feed(stream_of([other]))
    watch.close()
    assert not watch.reading.ended


ERRORS = [
    (b'data: {"error":{"message":"Overloaded","type":"overloaded_error"}}\n\n', Fault.OVERLOADED),
    (
        b'data: {"error":{"code":429,"message":"no"},"choices":[{"delta":{},"finish_reason":"error"}]}\n\n',
        Fault.RATE_LIMITED,
    ),
    (b'event: error\ndata: {"message":"boom"}\n\n', Fault.UPSTREAM_ERROR),
    (b'data: {"object":"error","message":"boom","code":500}\n\n', Fault.UPSTREAM_ERROR),
    (b'data: {"error":"boom"}\n\n', Fault.UPSTREAM_ERROR),
    (b"data: {not json}\n\n", Fault.MALFORMED_ANSWER),
]


@pytest.mark.parametrize(("event", "fault"), ERRORS)
@pytest.mark.parametrize("size", [1, 20, 10_000])
def test_an_error_event_is_caught_and_what_came_before_is_kept(event: bytes, fault: Fault, size: int) -> None:
    stream = stream_of([ROLE, HELLO]) + event + stream_of([DONE])
    decoder, watch = WIRE.stream_decoder(), WIRE.watch(strip_usage=True)
    pieces: list[Piece] = []
    sent = b""
    caught: list[IsthmusError] = []
    for at in range(0, len(stream), size):
        sent += watch.feed(stream[at : at + size])
        if caught:
            continue
        try:
            pieces += decoder.feed(stream[at : at + size])
        except IsthmusError as error:
            pieces += decoder.salvage
            caught.append(error)
    assert [error.fault for error in caught] == [fault]
    assert folded(pieces).text == {0: "Hello"}
    assert sent + watch.close() == stream_of([ROLE, HELLO])
    assert watch.reading.error is not None
    assert watch.reading.error.fault is fault
    assert not watch.reading.ended


def test_bad_utf_8_is_an_error_where_text_is_read_and_is_passed_on_where_it_is_not() -> None:
    stream = stream_of([HELLO]) + b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'
    decoder = WIRE.stream_decoder()
    with pytest.raises(IsthmusError) as caught:
        decoder.feed(stream)
    assert caught.value.fault is Fault.MALFORMED_ANSWER
    assert folded(decoder.salvage).text == {0: "Hello"}
    assert WIRE.watch(strip_usage=True).feed(stream) == stream


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"<html>\n\n<body>Bad Gateway</body>\n</html>", Fault.MALFORMED_ANSWER),
        (
            b'{"error":{"message":"No such model","code":"model_not_found","status":404}}',
            Fault.UPSTREAM_NOT_FOUND,
        ),
        (
            b'{\n  "error": {\n    "message": "busy",\n    "type": "overloaded_error"\n  }\n}\n',
            Fault.OVERLOADED,
        ),
    ],
)
def test_a_page_in_place_of_a_stream_is_an_error(body: bytes, fault: Fault) -> None:
    decoder, watch = WIRE.stream_decoder(), WIRE.watch(strip_usage=True)
    assert decoder.feed(body) == []
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is fault
    assert watch.feed(body) + watch.close() == b""
    assert watch.reading.error is not None
    assert watch.reading.error.fault is fault


def test_nothing_is_forwarded_before_the_first_content() -> None:
    watch = WIRE.watch(strip_usage=False)
    assert watch.feed(b": waiting\n\n" + stream_of([chunk(None, prompt_filter_results=[]), ROLE])) == b""
    assert not watch.reading.committed
    assert watch.feed(stream_of([HELLO])).startswith(b": waiting\n\n")
    assert watch.reading.committed


# Usage.


def test_the_usage_chunk_is_stripped_where_it_was_not_asked_for() -> None:
    watch = WIRE.watch(strip_usage=True)
    last = stream_of([chunk(None, usage=USAGE), DONE])
    sent = watch.feed(stream_of([ROLE, HELLO, STOP])) + watch.feed(last) + watch.close()
    assert sent == stream_of([ROLE, HELLO, STOP, DONE])
    assert watch.reading.usage == Usage(input=10, output=5)


def test_usage_in_the_last_content_chunk_is_read_and_the_chunk_is_kept() -> None:
    stream = stream_of([ROLE, HELLO, chunk({}, "stop", usage=USAGE), DONE])
    watch = WIRE.watch(strip_usage=True)
    assert watch.feed(stream) + watch.close() == stream
    assert watch.reading.usage == Usage(input=10, output=5)


def test_usage_that_grows_on_every_chunk_is_the_last_one() -> None:
    events = [
        chunk({"content": "a"}, usage={**USAGE, "completion_tokens": 1}),
        chunk({}, "stop", usage=USAGE),
    ]
    watch = WIRE.watch(strip_usage=True)
    assert watch.feed(stream_of([*events, DONE])) == stream_of([*events, DONE])
    assert watch.reading.usage == folded(decoded(*events, DONE)).usage == Usage(input=10, output=5)


def test_text_that_looks_like_usage_or_an_end_is_text() -> None:
    text = 'the "usage": {"total_tokens": 1}, "finish_reason":"stop", "error": [DONE] data: \n\n'
    stream = stream_of([chunk({"content": text}), HELLO, STOP, DONE])
    watch = WIRE.watch(strip_usage=True)
    for at in range(len(stream)):
        watch.feed(stream[at : at + 1])
    assert watch.reading.usage is None
    assert watch.reading.ended
    assert watch.reading.error is None


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(input=6, cache_read=4, output=5)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 99}}, Usage(input=0, cache_read=10, output=5)),
        ({**USAGE, "prompt_cache_hit_tokens": 4}, Usage(input=6, cache_read=4, output=5)),
        ({**USAGE, "cached_tokens": 4}, Usage(input=6, cache_read=4, output=5)),
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 5}},
            Usage(input=1, cache_read=4, cache_write_5m=5, output=5),
        ),
        (
            {**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}},
            Usage(input=10, output=5, reasoning=3),
        ),
        # xAI counts reasoning beside the completion; only the total tells.
        (
            {**USAGE, "total_tokens": 18, "completion_tokens_details": {"reasoning_tokens": 3}},
            Usage(input=10, output=8, reasoning=3),
        ),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(input=3)),
    ],
)
def test_usage_is_partitioned_whatever_the_vendor_calls_it(reported: dict[str, Any], usage: Usage) -> None:
    body = {
        "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": reported,
    }
    raw = json.dumps(body).encode()
    assert WIRE.read_answer(raw).usage == usage
    assert folded(WIRE.decode_answer(raw)).usage == usage


def test_usage_is_said_only_to_a_client_that_asked() -> None:
    pieces: list[Piece] = [
        Start(id="c"),
        TextDelta(text="Hi"),
        Finish(reason="stop"),
        UsageReport(usage=Usage(input=1)),
    ]
    encoder = WIRE.stream_encoder(CALL, "r", 1)
    assert b"usage" not in encoder.feed(pieces) + encoder.close()


def test_usage_is_always_asked_for_upstream() -> None:
    assert json.loads(WIRE.encode_call(CALL, "m").body)["stream_options"] == {"include_usage": True}
    body = b'{"model":"r","stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false}}'
    patched = json.loads(WIRE.patch(WIRE.peek(body), "m"))
    assert patched["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    plain = OpenAIChat(Quirks(stream_options=False))
    assert "stream_options" not in json.loads(plain.patch(plain.peek(b'{"model":"r","stream":true}'), "m"))


# Finish reasons.


@pytest.mark.parametrize(
    ("raw", "reason", "said"),
    [
        ("stop", "stop", "stop"),
        ("eos", "stop", "stop"),
        ("length", "length", "length"),
        ("model_length", "context_length", "length"),
        ("content_filter", "content_filter", "content_filter"),
        ("model_context_window_exceeded", "context_length", "length"),
        ("insufficient_system_resource", "interrupted", "insufficient_system_resource"),
        ("network_error", "interrupted", "network_error"),
        ("error", "interrupted", "error"),
        ("abort", "interrupted", "abort"),
        ("a_word_of_tomorrow", "other", "a_word_of_tomorrow"),
    ],
)
def test_every_finish_reason_has_a_meaning(raw: str, reason: str, said: str) -> None:
    finish = next(piece for piece in decoded(HELLO, chunk({}, raw), DONE) if isinstance(piece, Finish))
    assert (finish.reason, finish.raw) == (reason, raw)
    body = json.loads(WIRE.encode_answer([finish], CALL, "r", 1))
    assert body["choices"][0]["finish_reason"] == said


def test_an_answer_without_any_reason_has_no_plain_end() -> None:
    body = json.loads(WIRE.encode_answer([TextDelta(text="a"), Finish(reason="other")], CALL, "r", 1))
    assert body["choices"][0]["finish_reason"] == "other"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_several_choices_the_one_that_was_interrupted_counts(order: tuple[int, int]) -> None:
    words = ("network_error", "stop")
    choices = [{"index": i, "message": {"content": "a"}, "finish_reason": words[i]} for i in order]
    whole = WIRE.read_answer(json.dumps({"choices": choices}).encode())
    watch = WIRE.watch(strip_usage=True)
    for choice in choices:
        watch.feed(stream_of([{"choices": [choice]}]))
    for reading in (whole, watch.reading):
        assert (reading.interrupted, reading.finish_raw) == (True, "network_error")


# Requests.


def decode(**fields: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return WIRE.decode_call(WIRE.peek(json.dumps(body).encode()))


def encode(call: Call, wire: OpenAIChat = WIRE) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(wire.encode_call(call, "m").body)
    return body


def test_tool_messages_become_one_turn_and_are_split_again() -> None:
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}]},
        {"role": "user", "content": "Go on"},
    ]
    call = decode(messages=messages)
    assert call.messages[2] == Message(
        role="user", parts=(ToolResult("a", (Text("1"),)), ToolResult("b", (Text("2"),)))
    )
    messages[3]["content"] = "2"
    assert encode(call)["messages"] == messages


def test_a_picture_in_a_tools_result_follows_in_a_users_turn() -> None:
    result = ToolResult("a", (Text("see"), Image(data="aGk=", media_type="image/png")))
    call = Call(
        dialect="anthropic", operation="chat", model="m", messages=(Message(role="user", parts=(result,)),)
    )
    said = encode(call)["messages"]
    assert [message["role"] for message in said] == ["tool", "user"]
    assert said[1]["content"][0]["image_url"]["url"] == "data:image/png;base64,aGk="


def test_developer_messages_are_system_messages_to_servers_that_know_none() -> None:
    plain = OpenAIChat()
    messages = [
        {"role": "developer", "content": 'say "developer"'},
        {"role": "user", "content": "Hi", "x": 1},
    ]
    assert encode(decode(messages=messages), plain)["messages"][0]["role"] == "system"
    body = json.dumps({"model": "m", "messages": messages}).encode()
    patched = json.loads(plain.patch(plain.peek(body), "m"))["messages"]
    assert patched == [{"role": "system", "content": 'say "developer"'}, messages[1]]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_limit_is_said_in_the_servers_word(field: str) -> None:
    for wire, word in ((WIRE, "max_completion_tokens"), (OpenAIChat(), "max_tokens")):
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], field: 7}
        for said in (
            json.loads(wire.patch(wire.peek(json.dumps(body).encode()), "m")),
            encode(decode(**{field: 7}), wire),
        ):
            assert said[word] == 7
            assert len({"max_tokens", "max_completion_tokens"} & said.keys()) == 1


@pytest.mark.parametrize(("newer", "older"), [(7, 9), (9, 7), (None, 7), (7, None)])
@pytest.mark.parametrize("wire", [WIRE, OpenAIChat()], ids=["OpenAI", "compatible"])
def test_of_two_limits_one_is_meant_whoever_reads_them(
    wire: OpenAIChat, newer: int | None, older: int | None
) -> None:
    limits = {"max_completion_tokens": newer, "max_tokens": older}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **limits}
    patched = json.loads(wire.patch(wire.peek(json.dumps(body).encode()), "m"))
    (said,) = [patched[word] for word in limits if word in patched]
    assert said == decode(**limits).max_tokens is not None


@pytest.mark.parametrize("field", ["functions", "function_call"])
def test_the_form_of_2023_is_refused_clearly(field: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        decode(**{field: [{"name": "f"}]})
    assert (caught.value.code, caught.value.param) == ("legacy_functions", field)
    assert "tools" in caught.value.hint


def test_allowed_tools_narrow_the_tools() -> None:
    offered = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": offered[:1]}}
    call = decode(tools=offered, tool_choice=choice)
    assert [tool.name for tool in call.tools] == ["a"]
    assert call.tool_choice == ToolChoice(mode="required")


def test_custom_tools_and_unknown_fields_survive() -> None:
    fields: dict[str, Any] = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
                    {
                        "type": "image_url",
                        "image_url": {"url": "https://x.invalid/a.png", "detail": "low", "z": 1},
                    },
                    {"type": "video_url", "video_url": {"url": "https://x.invalid/a.mp4"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="},
                    },
                    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
                ],
                "x_trace": 7,
            }
        ],
        "tools": [
            {"type": "custom", "custom": {"name": "sql", "format": {"type": "text"}}},
            {"type": "function", "function": {"name": "f", "strict": True, "x_cost": 1}, "x_tool": True},
        ],
        "tool_choice": {"type": "custom", "custom": {"name": "sql"}},
        "service_tier": "flex",
        "chat_template_kwargs": {"enable_thinking": False},
        "stream_options": {"include_obfuscation": False},
    }
    call = decode(**fields)
    assert call.messages[0].parts[3] == Document(data="aGk=", media_type="application/pdf", name="a.pdf")
    assert encode(call) == {"model": "m", **fields}


def test_what_another_dialect_cannot_be_told_is_dropped_or_refused() -> None:
    message = Message(
        role="user",
        parts=(Text("Hi", extra={"cache_control": {}}), Opaque("anthropic", {"type": "search_result"})),
    )
    thought = Message(
        role="assistant", parts=(Reasoning("Hm", signature="s", dialect="anthropic"), Text("Yes"))
    )
    call = Call(
        dialect="anthropic",
        operation="chat",
        model="m",
        messages=(message, thought),
        top_k=4,
        extra={"container": 1},
    )
    encoded = WIRE.encode_call(call, "m")
    assert set(encoded.dropped) == {
        "messages.content.cache_control",
        "messages.search_result",
        "messages.reasoning",
        "top_k",
        "container",
    }
    assert json.loads(encoded.body)["messages"][1] == {"role": "assistant", "content": "Yes"}
    search = Tool(name="web_search", opaque=Opaque("anthropic", {"type": "web_search_20250305"}))
    by_url = Message(role="user", parts=(Document(url="https://x.invalid/a.pdf"),))
    for other, param in (
        ({"tools": (search,)}, "tools[0]"),
        ({"messages": (by_url,)}, "messages[0].content[0]"),
    ):
        refused = Call(**{"dialect": "anthropic", "operation": "chat", "model": "m", **other})  # type: ignore[arg-type]
        with pytest.raises(IsthmusError) as caught:
            WIRE.encode_call(refused, "m")
        assert (caught.value.fault, caught.value.param) == (Fault.UNSUPPORTED, param)


def test_tool_ids_take_the_servers_form_and_stay_paired() -> None:
    assert short_tool_id("abcDEF123") == "abcDEF123"
    assert short_tool_id("call_1") == short_tool_id("call_1") != short_tool_id("call_2")
    use = Message(role="assistant", parts=(ToolUse("toolu_long_id", "f", "{}"),))
    result = Message(role="user", parts=(ToolResult("toolu_long_id", (Text("1"),)),))
    call = Call(dialect="anthropic", operation="chat", model="m", messages=(use, result))
    said = encode(call, OpenAIChat(Quirks(short_tool_ids=True)))["messages"]
    assert said[0]["tool_calls"][0]["id"] == said[1]["tool_call_id"]
    assert len(said[1]["tool_call_id"]) == 9


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"model": "m", "messages": [}', "malformed_json", None),
        (b'{"model": "m"', "malformed_json", None),
        (b'{"model": "\xff"}', "malformed_json", None),
        (b'{"model": "m", "temperature": NaN}', "malformed_json", None),
        (b'{"model": ' + b"[" * 100_000, "malformed_json", None),
        (b"[]", "invalid_request", None),
        (b"", "malformed_json", None),
        (b"{}", "invalid_request", "model"),
        (b'{"model": ""}', "invalid_request", "model"),
        (b'{"model": 7}', "invalid_request", "model"),
        (b'{"model": "m", "stream": "yes"}', "invalid_request", "stream"),
        (b'{"model": "m", "stream_options": 7}', "invalid_request", "stream_options"),
    ],
)
def test_an_envelope_that_is_none_is_refused(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(IsthmusError) as caught:
        WIRE.peek(body)
    assert (caught.value.fault, caught.value.code, caught.value.param) == (Fault.INVALID_REQUEST, code, param)


def test_the_place_of_the_fault_is_told() -> None:
    with pytest.raises(IsthmusError, match="byte 10"):
        WIRE.peek(b'{"model": oops}')


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        decode(**fields)
    assert caught.value.param == param


def test_a_lone_surrogate_and_a_huge_number_are_refused() -> None:
    for body in (
        b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"m","seed":1e999}',
    ):
        with pytest.raises(IsthmusError) as caught:
            WIRE.decode_call(WIRE.peek(body))
        assert caught.value.code == "malformed_json"


def test_an_error_is_told_as_the_official_client_expects() -> None:
    body = (
        b'{"error":{"message":"Unknown field: foo","type":"invalid_request_error","param":"foo","code":null}}'
    )
    error = json.loads(WIRE.encode_error(WIRE.decode_error(400, {}, body), "r1"))["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "foo"
    assert "Unknown field: foo" in error["message"]
    event = WIRE.stream_error(IsthmusError(Fault.BROKEN_STREAM, "Cut."), "r1")
    assert event.startswith(b'data: {"error":{')
    assert event.endswith(b"\n\n")


# What stands before a plain event, and several choices.

PLAIN = chunk({"content": "x"})


def watched(*reads: bytes) -> tuple[Any, bytes]:
    watch = WIRE.watch(strip_usage=True)
    sent = b"".join(watch.feed(read) for read in reads) + watch.close()
    return watch.reading, sent


def test_an_end_before_a_plain_event_of_the_same_read_is_an_end() -> None:
    reading, sent = watched(stream_of([HELLO]), stream_of([STOP, chunk({}), DONE]))
    assert reading.ended
    assert sent == stream_of([HELLO, STOP, chunk({}), DONE])


@pytest.mark.parametrize(("event", "fault"), ERRORS)
def test_an_error_before_a_plain_event_of_the_same_read_is_caught(event: bytes, fault: Fault) -> None:
    reading, sent = watched(stream_of([HELLO]), stream_of([PLAIN]) + event + stream_of([PLAIN, PLAIN]))
    assert reading.error is not None
    assert reading.error.fault is fault
    assert sent == stream_of([HELLO, PLAIN])


@pytest.mark.parametrize("spaced", [False, True])
def test_an_end_in_an_event_of_two_choices_is_seen(spaced: bool) -> None:
    both = {"choices": [{"delta": {}, "finish_reason": None}, {"delta": {}, "finish_reason": "length"}]}
    event = json.dumps(both, separators=None if spaced else (",", ":")).encode()
    reading, _ = watched(stream_of([HELLO]), stream_of([event, DONE]))
    assert (reading.finish, reading.ended) == ("length", True)


def said_by(choice: int, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": choice, "delta": {"content": "x"}, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ([said_by(0), said_by(1), said_by(0, "stop")], False),
        ([said_by(0), said_by(0, "stop"), said_by(1)], False),
        ([said_by(1), said_by(0), said_by(1, "stop")], False),
        ([said_by(0), said_by(1), said_by(2), said_by(0, "stop"), said_by(1, "stop")], False),
        ([said_by(0), said_by(1), said_by(1, "stop"), said_by(0, "stop")], True),
        ([said_by(0), said_by(0, "stop"), said_by(0)], True),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_without_done_every_choice_must_have_finished(events: list[Any], ended: bool, at_once: bool) -> None:
    reads = [stream_of(events[:1])] + (
        [stream_of(events[1:])] if at_once else [stream_of([e]) for e in events[1:]]
    )
    assert watched(*reads)[0].ended is ended


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_blank_line_cut_into_single_bytes_is_found(end: bytes) -> None:
    stream = stream_of([HELLO, PLAIN, STOP, DONE], end)
    watch = WIRE.watch(strip_usage=True)
    sent = [watch.feed(stream[at : at + 1]) for at in range(len(stream))]
    assert len([part for part in sent if part]) >= 3
    assert b"".join(sent) + watch.close() == stream
    assert watch.reading.ended


def test_an_event_without_an_end_is_bounded() -> None:
    watch = WIRE.watch(strip_usage=True)
    part = b"data: " + b"x" * 2**20
    for _ in range(17):
        assert watch.feed(part) == b""
    assert watch.reading.error is not None
    assert watch.reading.error.fault is Fault.MALFORMED_ANSWER


# Quirks: a request that passes through and one that is translated say the same.

QUIRKY: dict[str, Any] = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "reasoning"},
        {
            "role": "assistant",
            "content": "Yes.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
    ],
    "max_tokens": 7,
    "top_k": 4,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(),
        OPENAI,
        Quirks(max_tokens_field="max_completion_tokens"),
        Quirks(developer_role=True),
        Quirks(reasoning_field=None),
        Quirks(stream_options=False),
        Quirks(top_k=False),
        Quirks(short_tool_ids=True),
        Quirks(short_tool_ids=True, developer_role=True, reasoning_field=None, stream_options=False),
    ],
)
def test_quirks_are_minded_alike_by_patch_and_by_encoding(quirks: Quirks, stream: bool) -> None:
    wire = OpenAIChat(quirks)
    body = {"model": "m", **QUIRKY, "stream": stream}
    envelope = wire.peek(json.dumps(body).encode())
    patched = json.loads(wire.patch(envelope, "m"))
    if not stream:
        del patched["stream"]
    assert patched == encode(wire.decode_call(envelope), wire)


# Mistral 422 (BerriAI/litellm#30835, charmbracelet/crush#1590), Groq 400 (janhq/jan#8136), Cerebras 400
# (Kilo-Org/kilocode#10375). Others want it back: DeepSeek and Z.ai between tool calls, Fireworks, vLLM.
REFUSE_REASONING = {"openai", "azure-openai", "mistral", "groq", "cerebras", "anyllm"}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("row", [it for it in PRESETS if "openai" in it.wires], ids=lambda row: row.name)
def test_earlier_thinking_goes_only_where_it_is_taken(row: Preset, field: str) -> None:
    """A conversation that another model began, thinking and all, goes on with this one."""
    (wire,) = (it for it in endpoint_wires(("openai",), row.quirks) if isinstance(it, OpenAIChat))
    thought = {"role": "assistant", "content": "Yes.", field: "Hm."}
    body = {"model": "r", "messages": [{"role": "user", "content": "Is it?"}, thought], "top_k": 4}
    envelope = wire.peek(json.dumps(body).encode())
    passed = json.loads(wire.patch(envelope, "m"))
    translated = encode(wire.decode_call(envelope), wire)
    for sent in (passed, translated):
        said = sent["messages"][1]
        if row.name in REFUSE_REASONING:
            assert (said, "top_k" in sent) == ({"role": "assistant", "content": "Yes."}, False)
        else:
            assert "Hm." in (said.get("reasoning_content"), said.get("reasoning"))


def test_messages_that_no_quirk_concerns_pass_as_the_bytes_they_are() -> None:
    body = b'{"model":"r","messages":[ {"role":"user", "content":"\\u00fc \\"reasoning\\""} ]}'
    wire = OpenAIChat(Quirks(reasoning_field=None, short_tool_ids=True))
    assert b'[ {"role":"user", "content":"\\u00fc \\"reasoning\\""} ]' in wire.patch(wire.peek(body), "m")


def test_messages_of_a_wrong_shape_are_left_to_the_server() -> None:
    body = b'{"model":"r","messages":[{"role":"tool","tool_call_id":7}]}'
    wire = OpenAIChat(Quirks(short_tool_ids=True))
    assert json.loads(wire.patch(wire.peek(body), "m"))["messages"] == json.loads(body)["messages"]


# Answers of a wrong shape.


@pytest.mark.parametrize("count", [1e300, 2**64, 2**53 + 1])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_cannot_be_is_not_told(field: str, count: float) -> None:
    body = {
        "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {**USAGE, field: count},
    }
    raw = json.dumps(body).encode()
    assert WIRE.read_answer(raw).usage is None
    assert folded(WIRE.decode_answer(raw)).usage is None
    assert watched(stream_of([HELLO, STOP, chunk(None, usage=body["usage"]), DONE]))[0].usage is None


@pytest.mark.parametrize("call_id", [{"x": 1}, ["a"], 7])
def test_a_tool_call_with_an_id_that_is_no_text_is_malformed(call_id: Any) -> None:
    with pytest.raises(IsthmusError) as caught:
        tools_of(tool(0, call_id, "f", "{}"))
    assert caught.value.fault is Fault.MALFORMED_ANSWER


def test_thinking_without_text_is_nothing() -> None:
    thought = {"type": "thinking", "thinking": [{"text": None}, {"text": "Hm."}]}
    assert folded(decoded(chunk({"content": [thought]}), HELLO, STOP, DONE)).reasoning == {0: "Hm."}


@pytest.mark.parametrize(
    "content",
    [
        [7],
        [{}],
        [{"token": "x"}],
        [{"token": "x", "logprob": -1, "top_logprobs": [{}]}],
        [{"token": 1, "logprob": 1}],
    ],
)
def test_log_probabilities_of_a_wrong_shape_are_left_out(content: list[Any]) -> None:
    event = chunk({"content": "x"})
    event["choices"][0]["logprobs"] = {"content": content}
    texts = [piece for piece in decoded(event, STOP, DONE) if isinstance(piece, TextDelta)]
    assert texts == [TextDelta(text="x")]


def verdict_of_decoding(body: bytes) -> Fault | None:
    try:
        WIRE.decode_answer(body)
    except IsthmusError as error:
        return error.fault
    return None


FINISHED = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [FINISHED], "error": {"message": "busy", "type": "overloaded_error"}},
        {"choices": [FINISHED], "error": "boom"},
        {"choices": [FINISHED], "error": None},
        {"choices": [FINISHED | {"finish_reason": None}]},
        {"choices": [FINISHED | {"finish_reason": ""}]},
        {"choices": [FINISHED, FINISHED | {"index": 1, "finish_reason": None}]},
        {"choices": []},
        {"message": "boom", "code": 500, "choices": []},
        {"choices": [FINISHED]},
    ],
)
def test_a_body_that_passes_through_is_judged_as_one_that_is_translated(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    reading = WIRE.read_answer(raw)
    verdict = None if reading.error is None else reading.error.fault
    assert verdict == verdict_of_decoding(raw)
    assert reading.ended is (verdict is None)


def test_a_new_id_without_a_name_opens_no_call() -> None:
    assert tools_of(tool(0, "a", "f", '{"x"'), tool(0, "b", None, ":1}")) == [["a", "f", '{"x":1}']]


def test_one_id_under_two_indices_is_two_calls() -> None:
    decoder = WIRE.stream_decoder()
    events = [
        tool(0, "a", "f", "1"),
        tool(1, "a", "g", "2"),
        tool(0, "a", None, "3"),
        tool(1, None, None, "4"),
    ]
    pieces = decoder.feed(stream_of(events))
    assert [piece.name for piece in pieces if isinstance(piece, ToolCallStart)] == ["f", "g"]
    said = [(piece.index, piece.text) for piece in pieces if isinstance(piece, ToolArgumentsDelta)]
    assert said == [(0, "1"), (1, "2"), (0, "3"), (1, "4")]


def test_a_tool_call_that_is_never_named_is_malformed() -> None:
    with pytest.raises(IsthmusError) as caught:
        tools_of(tool(0, "a", None, "{}"))
    assert caught.value.fault is Fault.MALFORMED_ANSWER
