"""Traps of the Anthropic wire that broke other gateways; each with the bytes that sprang it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from anthropic.types.shared.error_response import ErrorResponse

from isthmus.core.call import (
    Audio,
    Call,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import Reading
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import (
    Finish,
    OpaqueBlock,
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
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.anthropic.models import limits
from isthmus.dialects.counting import AnthropicCountTokens, GeminiCountTokens
from isthmus.dialects.gemini import GeminiGenerateContent
from isthmus.dialects.seals import Seal, wrap

WIRE = AnthropicMessages()
CALL = Call(dialect="anthropic", operation="chat", model="route")


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **fields}))


def started(usage: dict[str, Any] | None = None) -> bytes:
    message = {"id": "msg_7", "type": "message", "role": "assistant", "model": "m", "content": []}
    return event("message_start", message=message | ({} if usage is None else {"usage": usage}))


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    said = b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
    return (
        event("content_block_start", index=index, content_block=start)
        + said
        + event("content_block_stop", index=index)
    )


def text_block(index: int, text: str) -> bytes:
    return block(index, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})


def ended(word: str = "end_turn", usage: dict[str, Any] | None = None) -> bytes:
    delta = {"stop_reason": word, "stop_sequence": None}
    return event("message_delta", delta=delta, usage=usage or {"output_tokens": 3}) + event("message_stop")


def decoded(stream: bytes) -> list[Piece]:
    decoder = WIRE.stream_decoder()
    return decoder.feed(stream) + decoder.close()


def usage_in(pieces: list[Piece]) -> Usage:
    return [piece.usage for piece in pieces if isinstance(piece, UsageReport)][-1]


def watched(stream: bytes) -> tuple[bytes, Any]:
    watch = WIRE.watch(strip_usage=False)
    return watch.feed(stream) + watch.close(), watch.reading


def said(call: Call, model_id: str = "local") -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(WIRE.encode_call(call, model_id).body)
    return body


def openai(*messages: Message, **fields: Any) -> Call:
    return Call(dialect="openai", operation="chat", model="route", messages=messages, **fields)


def user(*parts: Any) -> Message:
    return Message(role="user", parts=parts or (Text("q"),))


# Usage.

SPLIT = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 12}


def test_cached_tokens_are_beside_the_prompt_and_split_by_time_to_live() -> None:
    counts = {
        "input_tokens": 5,
        "cache_creation_input_tokens": 42,
        "cache_read_input_tokens": 100,
        "cache_creation": SPLIT,
        "output_tokens": 1,
    }
    final = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}
    stream = started(counts) + text_block(0, "a") + ended(usage=final)
    want = Usage(input=5, cache_read=100, cache_write_5m=30, cache_write_1h=12, output=9, reasoning=4)
    assert usage_in(decoded(stream)) == want
    assert watched(stream)[1].usage == want
    assert want.prompt == 147


def test_a_count_that_is_repeated_as_zero_does_not_erase_the_first() -> None:
    stream = started({"input_tokens": 25, "output_tokens": 1}) + text_block(0, "a")
    stream += ended(usage={"input_tokens": 0, "output_tokens": 9})
    assert usage_in(decoded(stream)) == Usage(input=25, output=9)


def test_zeros_at_the_start_are_replaced_at_the_end() -> None:
    stream = started({"input_tokens": 0, "output_tokens": 0}) + text_block(0, "a")
    stream += ended(usage={"input_tokens": 25, "cache_read_input_tokens": 8, "output_tokens": 9})
    assert usage_in(decoded(stream)) == Usage(input=25, cache_read=8, output=9)
    assert watched(stream)[1].usage == Usage(input=25, cache_read=8, output=9)


def test_running_usage_in_the_midst_is_no_end() -> None:
    running = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 1})
    stream = started() + running + text_block(0, "a") + running
    reading = watched(stream)[1]
    assert reading.committed
    assert (reading.ended, reading.finish) == (False, None)
    with pytest.raises(IsthmusError) as caught:
        decoded(stream)
    assert caught.value.fault is Fault.BROKEN_STREAM


@pytest.mark.parametrize("count", [2**53 + 1, 2**64, 1e300])
def test_a_count_that_cannot_be_is_not_told(count: float) -> None:
    stream = started() + text_block(0, "a") + ended(usage={"output_tokens": count})
    forwarded, reading = watched(stream)
    assert forwarded == stream
    assert (reading.ended, reading.usage) == (True, None)
    assert not any(isinstance(piece, UsageReport) for piece in decoded(stream))


def test_missing_usage_is_unknown_and_not_zero() -> None:
    stream = started() + text_block(0, "a")
    stream += event("message_delta", delta={"stop_reason": "end_turn"}) + event("message_stop")
    assert not any(isinstance(piece, UsageReport) for piece in decoded(stream))
    assert watched(stream)[1].usage is None


# Ends.


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop_sequence"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "context_length"),
    ],
)
def test_every_stop_reason_goes_both_ways(word: str, reason: str) -> None:
    stream = started() + text_block(0, "a") + ended(word)
    pieces = decoded(stream)
    assert pieces[-1] == Finish(reason=reason, raw=word)  # type: ignore[arg-type]
    assert watched(stream)[1].finish == reason
    assert msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "req_1", 0))["stop_reason"] == word


@pytest.mark.parametrize("word", ["a_word_of_tomorrow", "MALFORMED_FUNCTION_CALL"])
def test_a_reason_that_nobody_knows_is_told_as_it_is_and_never_as_a_plain_end(word: str) -> None:
    pieces: list[Piece] = [TextDelta(text="a"), Finish(reason="other", raw=word)]
    assert msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "r", 0))["stop_reason"] == word
    encoder = WIRE.stream_encoder(CALL, "r", 0)
    assert b'"stop_reason":"%b"' % word.encode() in encoder.feed(pieces) + encoder.close()
    reading = watched(started() + text_block(0, "a") + ended(word))[1]
    assert (reading.finish, reading.finish_raw, reading.why) == ("other", word, word)


def test_an_answer_without_any_reason_has_no_plain_end() -> None:
    pieces: list[Piece] = [TextDelta(text="a"), Finish(reason="other")]
    assert msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "r", 0))["stop_reason"] == "other"


@pytest.mark.parametrize("word", ["the prompt was: so and so", "x" * 65, ""])
def test_a_record_takes_no_text_for_a_reason(word: str) -> None:
    assert watched(started() + text_block(0, "a") + ended(word))[1].why == "other"


def test_plain_stop_after_tool_calls_is_tool_use() -> None:
    pieces: list[Piece] = [ToolCallStart(index=0, id="a", name="f"), Finish(reason="stop", raw="stop")]
    assert msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "r", 0))["stop_reason"] == "tool_use"
    encoder = WIRE.stream_encoder(CALL, "r", 0)
    assert b'"stop_reason":"tool_use"' in encoder.feed(pieces) + encoder.close()


def test_a_stream_without_its_terminal_event_is_not_ended() -> None:
    stream = started() + text_block(0, "a") + event("message_delta", delta={"stop_reason": "end_turn"})
    forwarded, reading = watched(stream)
    assert forwarded == stream
    assert not reading.ended
    with pytest.raises(IsthmusError) as caught:
        decoded(stream)
    assert caught.value.fault is Fault.BROKEN_STREAM


def test_the_last_event_may_lack_its_blank_line() -> None:
    stream = (started() + text_block(0, "a") + ended()).rstrip(b"\n")
    forwarded, reading = watched(stream)
    assert forwarded == stream + b"\n\n"
    assert reading.ended


def test_what_follows_the_end_is_not_read() -> None:
    stream = started() + text_block(0, "a") + ended() + b"data: [DONE]\n\n"
    assert watched(stream)[1].error is None
    assert decoded(stream)[-1] == Finish(reason="stop", raw="end_turn")


# Errors inside a stream.

OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def test_an_error_before_any_content_leaves_nothing_forwarded() -> None:
    forwarded, reading = watched(started() + event("ping") + OVERLOADED)
    assert forwarded == b""
    assert not reading.committed
    assert reading.error.fault is Fault.OVERLOADED


def test_an_error_in_the_midst_ends_what_is_forwarded() -> None:
    whole = started() + text_block(0, "a")
    watch = WIRE.watch(strip_usage=False)
    assert watch.feed(whole) == whole
    assert watch.feed(text_block(1, "b") + OVERLOADED) == text_block(1, "b")
    assert watch.feed(ended()) == b""
    assert watch.reading.error is not None
    assert not watch.reading.ended
    decoder = WIRE.stream_decoder()
    with pytest.raises(IsthmusError) as caught:
        decoder.feed(whole + OVERLOADED)
    assert caught.value.fault is Fault.OVERLOADED
    assert TextDelta(text="a") in decoder.salvage


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"<html><body>Bad gateway</body></html>", Fault.MALFORMED_ANSWER),
        (b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}', Fault.RATE_LIMITED),
    ],
)
def test_what_is_no_stream_is_told_as_what_it_is(body: bytes, fault: Fault) -> None:
    assert watched(body)[1].error.fault is fault
    with pytest.raises(IsthmusError) as caught:
        decoded(body)
    assert caught.value.fault is fault
    with pytest.raises(IsthmusError) as caught:
        WIRE.decode_answer(body)
    assert caught.value.fault is fault
    assert WIRE.read_answer(body).error is not None


def test_text_that_looks_like_an_end_is_text() -> None:
    trap = '{"type":"message_stop"} "error" event: error\n\ndata: {"stop_reason":"end_turn"}'
    whole = started() + text_block(0, trap)
    forwarded, reading = watched(whole)
    assert forwarded == whole
    assert (reading.ended, reading.finish, reading.error) == (False, None, None)
    assert TextDelta(text=trap) in decoded(whole + ended())


# Thinking.


def test_thinking_and_its_seals_survive_byte_for_byte() -> None:
    signature, data = "Eqo/+B==", "EmwK/+x=="
    stream = started() + block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": signature},
    )
    stream += block(1, {"type": "redacted_thinking", "data": data}) + text_block(2, "a") + ended()
    pieces = decoded(stream)
    body = msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "req_1", 0))
    assert body["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": signature},
        {"type": "redacted_thinking", "data": data},
        {"type": "text", "text": "a"},
    ]
    request = {"model": "m", "max_tokens": 9, "messages": [{"role": "assistant", "content": body["content"]}]}
    call = WIRE.decode_call(WIRE.peek(msgspec.json.encode(request)))
    assert said(call)["messages"] == request["messages"]


def test_omitted_thinking_is_a_block_of_signature_alone() -> None:
    stream = started() + block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "signature_delta", "signature": "sig"},
    )
    body = msgspec.json.decode(WIRE.encode_answer(decoded(stream + ended()), CALL, "r", 0))
    assert body["content"] == [{"type": "thinking", "thinking": "", "signature": "sig"}]


def test_geminis_signatures_return_to_gemini_and_never_reach_anthropic() -> None:
    pieces: list[Piece] = [
        ReasoningDelta(text="hm"),
        ReasoningSeal(dialect="gemini", signature="GS1"),
        ToolCallStart(index=0, id="a", name="f", signature="GS2"),
        ToolArgumentsDelta(index=0, text="{}"),
        Finish(reason="tool_calls"),
    ]
    content = msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "r", 0))["content"]
    assert [one["type"] for one in content] == ["thinking", "redacted_thinking", "tool_use"]
    raw = msgspec.json.encode(
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [
                {"role": "assistant", "content": content},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "r"}]},
            ],
        }
    )
    envelope = WIRE.peek(raw)
    call = WIRE.decode_call(envelope)
    assert call.messages[0].parts == (
        Reasoning("hm", signature="GS1", dialect="gemini"),
        ToolUse("a", "f", "{}", signature="GS2"),
    )
    encoded = WIRE.encode_call(call, "claude-opus-5")
    assert encoded.dropped == ("messages.reasoning",)
    assert b"isthmus" not in encoded.body
    # Pass-through would carry them to Anthropic: the patch takes them out.
    assert b"isthmus" not in WIRE.patch(envelope, "claude-opus-5")


def test_thinking_that_nobody_signed_still_has_the_signature_that_clients_expect() -> None:
    pieces: list[Piece] = [ReasoningDelta(text="hm"), TextDelta(text="a"), Finish(reason="stop")]
    content = msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "r", 0))["content"]
    request = {"model": "m", "max_tokens": 9, "messages": [{"role": "assistant", "content": content}]}
    call = WIRE.decode_call(WIRE.peek(msgspec.json.encode(request)))
    assert said(call, "claude-opus-5")["messages"] == [{"role": "assistant", "content": "a"}]


# Tools.


def test_a_server_may_send_all_arguments_with_the_start() -> None:
    stream = started() + block(0, {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1.50}})
    assert decoded(stream + ended("tool_use"))[1:3] == [
        ToolCallStart(index=0, id="a", name="f"),
        ToolArgumentsDelta(index=0, text='{"x":1.5}'),
    ]


def test_whole_arguments_keep_the_digits_of_their_numbers() -> None:
    body = (
        b'{"id":"msg_1","type":"message","role":"assistant","model":"m","stop_reason":"tool_use","content":'
        b'[{"type":"tool_use","id":"a","name":"f","input":{"x": 0.1000000000000000000001}}]}'
    )
    assert ToolArgumentsDelta(index=0, text='{"x": 0.1000000000000000000001}') in WIRE.decode_answer(body)


def test_unknown_blocks_and_citations_reach_an_anthropic_client() -> None:
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"encrypted_content": "E=="}]}
    cited = {"type": "web_search_result_location", "url": "https://example.org", "cited_text": "c"}
    stream = started()
    stream += block(0, use, {"type": "input_json_delta", "partial_json": '{"query":"q"}'}) + block(1, result)
    stream += block(
        2,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "a"},
        {"type": "citations_delta", "citation": cited},
    )
    pieces = decoded(stream + ended("pause_turn"))
    assert OpaqueBlock(dialect="anthropic", value=result) in pieces
    content = msgspec.json.decode(WIRE.encode_answer(pieces, CALL, "r", 0))["content"]
    assert content == [
        use | {"input": {"query": "q"}},
        result,
        {"type": "text", "text": "a", "citations": [cited]},
    ]


def test_ids_that_anthropic_refuses_are_changed_alike_in_call_and_result() -> None:
    call = openai(
        user(),
        Message(role="assistant", parts=(ToolUse("call:1.x", "f", "{}"), ToolUse("call_1_x", "f", "{}"))),
        user(ToolResult("call_1_x", (Text("r"),)), ToolResult("call:1.x", (Text("r"),))),
    )
    messages = said(call)["messages"]
    uses = [one["id"] for one in messages[1]["content"]]
    assert uses[1] == "call_1_x"
    assert uses[0].startswith("call_1_x_")
    assert [one["tool_use_id"] for one in messages[2]["content"]] == uses[::-1]


def test_arguments_that_are_no_object_are_kept_as_text() -> None:
    call = openai(
        user(), Message(role="assistant", parts=(ToolUse("a", "f", '{"x":'), ToolUse("b", "f", "")))
    )
    content = said(call)["messages"][1]["content"]
    assert [one["input"] for one in content] == [{"arguments": '{"x":'}, {}]


def test_one_call_at_a_time_and_a_named_tool() -> None:
    tools = (Tool(name="f", parameters={"type": "object", "properties": {}}),)
    choice = ToolChoice(mode="tool", name="f")
    body = said(openai(user(), tools=tools, tool_choice=choice, parallel_tool_calls=False))
    assert body["tool_choice"] == {"type": "tool", "name": "f", "disable_parallel_tool_use": True}
    # Without tools the field is refused.
    assert "tool_choice" not in said(openai(user(), tool_choice=ToolChoice(mode="auto")))


def test_images_and_errors_in_a_tool_result() -> None:
    result = ToolResult("a", (Text("r"), Image(data="aGk=", media_type="image/png")), is_error=True)
    call = openai(
        user(), Message(role="assistant", parts=(ToolUse("a", "f", "{}"),)), user(Text("and"), result)
    )
    assert said(call)["messages"][2]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "a",
            "content": [
                {"type": "text", "text": "r"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
            ],
            "is_error": True,
        },
        {"type": "text", "text": "and"},
    ]


# Calls of another dialect.


def test_system_messages_are_gathered_and_turns_merged() -> None:
    body = said(
        openai(
            Message(role="developer", parts=(Text("be brief"),)),
            user(Text("one")),
            Message(role="system", parts=(Text("now in French"),)),
            user(Text("two"), Text(" \n")),
            Message(role="assistant", parts=(Text("so: "),)),
        )
    )
    assert [one["text"] for one in body["system"]] == ["be brief", "now in French"]
    assert [one["role"] for one in body["messages"]] == ["user", "assistant"]
    assert [one["text"] for one in body["messages"][0]["content"]] == ["one", "two"]
    assert body["messages"][1]["content"] == "so:"


def test_nothing_but_system_messages_is_a_question() -> None:
    body = said(openai(Message(role="system", parts=(Text("tell a joke"),))))
    assert body["messages"] == [{"role": "user", "content": "tell a joke"}]
    assert "system" not in body


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": ResponseFormat(kind="json_object")}, "response_format"),
        ({"tools": (Tool(name="web", opaque=Opaque("responses", {})),)}, "tools[0]"),
    ],
)
def test_what_would_change_the_answer_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        said(openai(user(), **fields))
    assert caught.value.fault is Fault.UNSUPPORTED
    assert caught.value.param == param


@pytest.mark.parametrize("part", [Audio("aGk=", "wav"), Document(file_id="file-1"), Image(url="gs://b/c")])
def test_a_part_that_cannot_be_said_is_refused_by_its_place(part: Any) -> None:
    with pytest.raises(IsthmusError) as caught:
        said(openai(user(), user(Text("a"), part)))
    assert caught.value.fault is Fault.UNSUPPORTED
    assert caught.value.param == "messages[1].content[1]"


def test_hints_are_dropped_and_told() -> None:
    call = openai(
        user(), seed=1, presence_penalty=0.5, metadata={"a": "b"}, temperature=1.7, extra={"store": True}
    )
    encoded = WIRE.encode_call(call, "local")
    assert encoded.dropped == ("seed", "presence_penalty", "metadata", "store", "temperature")
    assert msgspec.json.decode(encoded.body)["temperature"] == 1


@pytest.mark.parametrize(
    ("model_id", "kept"),
    [
        ("local-model", {"temperature", "top_p"}),
        ("claude-3-5-haiku-20241022", {"temperature", "top_p"}),
        ("claude-sonnet-4-20250514", {"temperature", "top_p"}),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", {"temperature"}),
        ("claude-opus-4.6", {"temperature"}),
        ("claude-opus-4-7", set()),
        ("claude-sonnet-5", set()),
        ("claude-mythos-preview", set()),
    ],
)
def test_samplers_go_only_where_they_are_taken(model_id: str, kept: set[str]) -> None:
    body = said(openai(user(), temperature=0.2, top_p=0.9), model_id)
    assert body.keys() & {"temperature", "top_p"} == kept


def test_an_effort_is_said_in_the_words_of_the_model() -> None:
    thinking = Thinking(enabled=True, effort="minimal")
    newest = said(openai(user(), thinking=thinking), "claude-opus-5")
    assert newest["thinking"] == {"type": "adaptive"}
    assert newest["output_config"] == {"effort": "low"}
    assert newest["max_tokens"] == limits("claude-opus-5").max_tokens == 16_384
    older = said(openai(user(), thinking=thinking), "claude-sonnet-4-5")
    assert older["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert older["max_tokens"] == 4_096 + 1024
    short = WIRE.encode_call(openai(user(), thinking=thinking, max_tokens=500), "claude-sonnet-4-5")
    assert short.dropped == ("thinking",)
    off = said(openai(user(), thinking=Thinking(enabled=False, effort="none")), "claude-sonnet-4-5")
    assert off["thinking"] == {"type": "disabled"}


def test_a_budget_is_not_asked_for_where_the_thinking_was_lost() -> None:
    turns = (
        user(),
        Message(role="assistant", parts=(ToolUse("a", "f", "{}"),)),
        user(ToolResult("a", (Text("r"),))),
    )
    call = openai(*turns, thinking=Thinking(enabled=True, effort="high"), max_tokens=50_000)
    assert WIRE.encode_call(call, "claude-sonnet-4-5").dropped == ("thinking",)
    # Adaptive thinking does not demand it.
    assert said(call, "claude-opus-4-6")["thinking"] == {"type": "adaptive"}


def test_marks_of_the_prompt_cache_pass_from_openais_parts_and_nothing_else() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    content = said(openai(user(Text("a", extra=mark | {"x": 1}))))["messages"][0]["content"]
    assert content == [{"type": "text", "text": "a"} | mark]


def test_a_blank_stop_sequence_that_claude_refuses_is_dropped() -> None:
    encoded = WIRE.encode_call(openai(user(), stop=("\n", "END")), "claude-opus-5")
    assert encoded.dropped == ("stop",)
    assert msgspec.json.decode(encoded.body)["stop_sequences"] == ["END"]
    assert said(openai(user(), stop=("\n",)))["stop_sequences"] == ["\n"]


def test_an_open_object_cannot_be_a_schema() -> None:
    form = ResponseFormat(
        kind="json_schema", name="n", schema={"type": "object", "additionalProperties": {"type": "string"}}
    )
    with pytest.raises(IsthmusError) as caught:
        said(openai(user(), response_format=form))
    assert caught.value.param == "response_format"


# Errors.


@pytest.mark.parametrize(
    ("status", "kind", "message", "fault"),
    [
        (
            400,
            "invalid_request_error",
            "prompt is too long: 208310 tokens > 200000 maximum",
            Fault.CONTEXT_TOO_LONG,
        ),
        (400, "invalid_request_error", "messages: Field required", Fault.INVALID_REQUEST),
        (401, "authentication_error", "invalid x-api-key", Fault.UPSTREAM_AUTHENTICATION),
        (404, "not_found_error", "model: claude-x", Fault.UPSTREAM_NOT_FOUND),
        (413, "request_too_large", "Request exceeds the maximum size", Fault.TOO_LARGE),
        (429, "rate_limit_error", "slow down", Fault.RATE_LIMITED),
        (500, "api_error", "Internal server error", Fault.UPSTREAM_ERROR),
        (529, "overloaded_error", "Overloaded", Fault.OVERLOADED),
    ],
)
def test_anthropics_errors_are_classed(status: int, kind: str, message: str, fault: Fault) -> None:
    body = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    error = WIRE.decode_error(status, {"retry-after": "7"}, body)
    assert (error.fault, error.upstream_status, error.retry_after_s) == (fault, status, 7.0)


@pytest.mark.parametrize("fault", list(Fault))
def test_every_error_is_one_that_the_official_client_knows(fault: Fault) -> None:
    error = IsthmusError(fault, "What happened.", hint="What to do.", param="messages")
    body = msgspec.json.decode(WIRE.encode_error(error, "req_1"))
    assert body["request_id"] == "req_1"
    assert "What happened. What to do." in body["error"]["message"]
    assert body["error"]["code"] == fault
    if fault is not Fault.TOO_LARGE:
        # A 413 comes from Anthropic's edge, and its type is not among those of the package.
        ErrorResponse.model_validate(body)


@pytest.mark.parametrize("wire", [WIRE, AnthropicCountTokens()])
@pytest.mark.parametrize("fault", list(Fault))
def test_an_overload_has_anthropics_own_status(wire: Any, fault: Fault) -> None:
    error = IsthmusError(fault, "What happened.")
    kind = msgspec.json.decode(wire.encode_error(error, "r"))["error"]["type"]
    assert wire.status_of(error) == (529 if kind == "overloaded_error" else fault.status)
    assert (kind == "overloaded_error") is (fault in (Fault.OVERLOADED, Fault.UNAVAILABLE))


def test_an_overlong_prompt_says_the_words_that_make_clients_compact() -> None:
    error = IsthmusError(Fault.CONTEXT_TOO_LONG, "The context is full.")
    assert b"prompt is too long" in WIRE.encode_error(error, "r")


def test_an_error_ends_a_stream_after_content() -> None:
    encoder = WIRE.stream_encoder(CALL, "r", 0)
    encoder.feed([Start(id="x"), TextDelta(text="a")])
    last = encoder.error(IsthmusError(Fault.BROKEN_STREAM, "Cut."))
    assert last.startswith(b"event: error\n")
    assert b"message_stop" not in last


# Conversations that began elsewhere.


def tool_loop(*thoughts: dict[str, Any], **fields: Any) -> bytes:
    """The request of a client whose last turn thought `thoughts` and called a tool."""
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "r"}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [*thoughts, call]},
        {"role": "user", "content": [result]},
    ]
    body = {"model": "route", "max_tokens": 9000, "messages": messages}
    return msgspec.json.encode(body | fields)


def thinking(signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "t", "signature": signature}


FOREIGN = thinking(wrap(Seal(dialect="gemini", signature="s")))
BUDGET = {"type": "enabled", "budget_tokens": 2000}


@pytest.mark.parametrize("wire", [WIRE, AnthropicCountTokens()])
@pytest.mark.parametrize("thought", [FOREIGN, thinking("")])
def test_thoughts_that_anthropic_did_not_sign_never_reach_it(
    wire: AnthropicMessages | AnthropicCountTokens, thought: dict[str, Any]
) -> None:
    body = tool_loop(thought, thinking("own"))
    patched = msgspec.json.decode(wire.patch(wire.peek(body), "m"))
    assert patched["model"] == "m"
    assert [block.get("signature") for block in patched["messages"][1]["content"]] == ["own", None]
    whole = msgspec.json.decode(body)
    assert patched["messages"][2] == whole["messages"][2] | {"content": patched["messages"][2]["content"]}


def test_thinking_is_not_asked_for_where_only_foreign_thoughts_precede_a_tool_call() -> None:
    budgeted, adaptive = "claude-3-7-sonnet-latest", "claude-opus-4-6"
    assert (limits(budgeted).adaptive, limits(adaptive).adaptive) == (False, True)
    call = WIRE.decode_call(WIRE.peek(tool_loop(FOREIGN, thinking=BUDGET)))
    encoded = WIRE.encode_call(call, budgeted)
    assert "thinking" not in msgspec.json.decode(encoded.body)
    assert set(encoded.dropped) == {"messages.reasoning", "thinking"}
    assert "thinking" in said(call, adaptive)
    kept = WIRE.decode_call(WIRE.peek(tool_loop(FOREIGN, thinking("own"), thinking=BUDGET)))
    assert said(kept, budgeted)["thinking"] == BUDGET


@pytest.mark.parametrize("wire", [WIRE, AnthropicCountTokens(), GeminiGenerateContent(), GeminiCountTokens()])
def test_nothing_but_blank_messages_is_refused(wire: Any) -> None:
    with pytest.raises(IsthmusError) as caught:
        wire.encode_call(openai(user(Text(""))), "m")
    assert (caught.value.fault, caught.value.param) == (Fault.INVALID_REQUEST, "messages")


# Watches.


def pieces_watched(stream: bytes, size: int) -> tuple[bytes, Reading]:
    watch = WIRE.watch(strip_usage=False)
    sent = b"".join(watch.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    return sent + watch.close(), watch.reading


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_an_odd_order_is_read_alike_however_it_is_cut(newline: bytes) -> None:
    end = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
    odd = started() + text_block(0, "error") + end + text_block(1, "message_stop") + event("ping")
    for last in (event("message_stop"), event("error", error={"type": "api_error", "message": "m"}), b""):
        stream = (odd + last + text_block(2, "late")).replace(b"\n", newline)
        whole = pieces_watched(stream, len(stream))
        assert whole[1].finish == "stop"
        assert (whole[0] == stream) is not last.startswith(b"event: error")
        for size in (1, 2, 3, 7, 64, 301):
            forwarded, reading = pieces_watched(stream, size)
            assert forwarded == whole[0]
            assert (reading.ended, reading.usage) == (whole[1].ended, whole[1].usage)
            assert (reading.error is None) is (whole[1].error is None)
