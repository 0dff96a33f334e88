"""Traps of the Responses API that broke other gateways; each with the bytes that sprang it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.core.call import (
    Call,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    Thinking,
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
    ReasoningDelta,
    ReasoningSeal,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.openai import OPENAI, OpenAIChat
from isthmus.dialects.responses import OpenAIResponses

WIRE = OpenAIResponses()
CHAT = Call(
    dialect="openai",
    operation="chat",
    model="route",
    messages=(Message(role="user", parts=(Text("Hello."),)),),
)
SEALED = "gAAAA+/=" + "q" * 40


def decoded(**body: Any) -> Call:
    request = {"model": "route", "input": "Hello.", **body}
    return WIRE.decode_call(WIRE.peek(json.dumps(request).encode()))


def encoded(call: Call = CHAT, **changes: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    fields = {name: getattr(call, name) for name in call.__struct_fields__}
    result = WIRE.encode_call(Call(**{**fields, **changes}), "gpt-x")
    return json.loads(result.body), result.dropped


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


CREATED = event("response.created", response={"id": "resp_7", "model": "m", "status": "in_progress"})
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 6,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 16,
}


def completed(status: str = "completed", **fields: Any) -> bytes:
    return event(f"response.{status}", response={"id": "resp_7", "status": status, "usage": USAGE, **fields})


def read(*events: bytes) -> list[Piece]:
    decoder = WIRE.stream_decoder()
    return decoder.feed(b"".join(events)) + decoder.close()


def delta(text: str, **place: Any) -> bytes:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0} | place
    return event("response.output_text.delta", delta=text, **place)


# Requests.


def test_messages_come_in_three_spellings() -> None:
    easy = decoded(input=[{"role": "user", "content": "Hello."}])
    full = decoded(
        input=[{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}]
    )
    assert decoded().messages == easy.messages == full.messages


def test_a_whole_answer_that_is_sent_back_is_one_turn_without_noise() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": SEALED}
    message = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Look.", "annotations": [], "logprobs": []}],
    }
    called = {
        "type": "function_call",
        "id": "fc_1",
        "status": "completed",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
    }
    answered = {"type": "function_call_output", "call_id": "c", "output": "4"}
    call = decoded(input=[{"role": "user", "content": "u"}, reasoning, message, called, answered])
    assert call.messages[1:] == (
        Message(
            role="assistant",
            parts=(
                Reasoning(encrypted=SEALED, id="rs_1", dialect="responses"),
                Text("Look."),
                ToolUse("c", "f", "{}"),
            ),
        ),
        Message(role="user", parts=(ToolResult("c", (Text("4"),)),)),
    )


def test_encrypted_reasoning_goes_back_byte_for_byte_and_nowhere_else() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": SEALED}
    call = decoded(
        input=[
            {"role": "user", "content": "u"},
            reasoning,
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"},
        ]
    )
    same = json.loads(WIRE.encode_call(call, "m").body)["input"][1]
    assert same == reasoning
    for other in (OpenAIChat(OPENAI), AnthropicMessages()):
        result = other.encode_call(call, "m")
        assert SEALED.encode() not in result.body
        assert "messages.reasoning" in result.dropped


def test_the_phase_of_a_message_survives_although_turns_are_joined() -> None:
    said = [
        {"type": "message", "role": "assistant", "content": "First.", "phase": "commentary"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": "Last.", "phase": "final_answer"},
    ]
    call = decoded(input=said)
    assert len(call.messages) == 1
    assert json.loads(WIRE.encode_call(call, "m").body)["input"] == said


def test_a_tool_may_answer_with_a_picture() -> None:
    output = [
        {"type": "input_text", "text": "See."},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
    ]
    items = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": output},
    ]
    call = decoded(input=items)
    picture = Image(data="aGk=", media_type="image/png")
    assert call.messages[1].parts == (ToolResult("c", (Text("See."), picture)),)
    assert json.loads(WIRE.encode_call(call, "m").body)["input"] == items


def test_items_that_only_responses_knows_are_kept_for_it_and_reported_to_others() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "q"}}
    call = decoded(input=[{"role": "user", "content": "u"}, search, {"role": "assistant", "content": "a"}])
    assert call.messages[1].parts == (Opaque("responses", search), Text("a"))
    result = OpenAIChat(OPENAI).encode_call(call, "m")
    assert result.dropped == ("messages.web_search_call",)


def test_only_the_allowed_tools_are_offered() -> None:
    tools = [{"type": "function", "name": name, "parameters": {}} for name in ("f", "g")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    call = decoded(tools=tools, tool_choice=choice)
    assert [tool.name for tool in call.tools] == ["g"]
    assert call.tool_choice == ToolChoice(mode="required")


def test_built_in_tools_are_refused_by_other_dialects() -> None:
    call = decoded(tools=[{"type": "web_search"}], tool_choice={"type": "web_search"})
    assert json.loads(WIRE.encode_call(call, "m").body)["tool_choice"] == {"type": "web_search"}
    for other in (OpenAIChat(OPENAI), AnthropicMessages()):
        with pytest.raises(IsthmusError) as caught:
            other.encode_call(call, "m")
        assert (caught.value.fault, caught.value.param) == (Fault.UNSUPPORTED, "tools[0]")


def test_no_state_is_asked_for() -> None:
    assert decoded(store=False, background=False, previous_response_id=None).extra == {}
    assert encoded()[0]["store"] is False


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("input", {"input": []}),
        ("input", {"input": ""}),
        ("input[0].role", {"input": [{"role": "tool", "content": "x"}]}),
        ("input[0].content", {"input": [{"role": "user"}]}),
        ("input[0].content[0].type", {"input": [{"role": "user", "content": [{}]}]}),
        ("input[0].call_id", {"input": [{"type": "function_call_output", "output": "x"}]}),
        ("text.format.type", {"text": {"format": {"type": "xml"}}}),
        ("tool_choice", {"tool_choice": "sometimes"}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("tools[0].type", {"tools": [{"name": "f"}]}),
    ],
)
def test_a_mistake_is_named_where_it_is(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(IsthmusError) as caught:
        decoded(**body)
    assert (caught.value.fault, caught.value.param) == (Fault.INVALID_REQUEST, path)


# Requests of other dialects.


def test_functions_of_others_are_not_made_strict() -> None:
    body, _ = encoded(tools=(Tool(name="f"), Tool(name="g", parameters={"type": "object"}, strict=True)))
    assert body["tools"] == [
        {
            "type": "function",
            "name": "f",
            "parameters": {"type": "object", "properties": {}},
            "strict": False,
        },
        {"type": "function", "name": "g", "parameters": {"type": "object"}, "strict": True},
    ]


@pytest.mark.parametrize(
    ("thinking", "reasoning", "include"),
    [
        (None, None, None),
        (Thinking(enabled=False, effort="none"), {"effort": "none"}, None),
        (Thinking(enabled=True, effort="high"), {"effort": "high"}, ["reasoning.encrypted_content"]),
        (Thinking(enabled=True, budget=8_000), {"effort": "medium"}, ["reasoning.encrypted_content"]),
    ],
)
def test_encrypted_reasoning_is_asked_for_only_where_there_is_reasoning(
    thinking: Thinking | None, reasoning: Any, include: Any
) -> None:
    body, _ = encoded(thinking=thinking)
    assert (body.get("reasoning"), body.get("include")) == (reasoning, include)


def test_reasoning_without_what_it_led_to_is_left_out() -> None:
    thought = Reasoning(encrypted=SEALED, id="rs_1", dialect="responses")
    foreign = Opaque("anthropic", {"type": "server_tool_use"})
    turn = Message(role="assistant", parts=(thought, foreign))
    body, dropped = encoded(messages=(*CHAT.messages, turn, *CHAT.messages), dialect="anthropic")
    assert [item["role"] for item in body["input"]] == ["user", "user"]
    assert set(dropped) == {"messages.reasoning", "messages.server_tool_use"}


def test_a_long_name_of_a_user_is_shortened_for_good() -> None:
    long = "user_" + "a" * 100
    first, second = encoded(user=long)[0]["user"], encoded(user=long)[0]["user"]
    assert first == second != encoded(user=long + "b")[0]["user"]
    assert len(first) == 64
    assert encoded(user="u")[0]["user"] == "u"


def test_hints_are_dropped_and_meaning_is_refused() -> None:
    body, dropped = encoded(seed=1, top_k=2, frequency_penalty=0.5, logit_bias={"7": 1.0}, max_tokens=5)
    assert dropped == ("top_k", "seed", "frequency_penalty", "logit_bias", "max_tokens")
    assert body["max_output_tokens"] == 16
    for meaning in ({"n": 2}, {"stop": ("END",)}):
        with pytest.raises(IsthmusError) as caught:
            encoded(**meaning)
        assert (caught.value.fault, caught.value.param) == (Fault.UNSUPPORTED, next(iter(meaning)))
    other_file = Message(role="user", parts=(Document(file_id="file_1"),))
    with pytest.raises(IsthmusError) as caught:
        encoded(messages=(other_file,), dialect="anthropic")
    assert caught.value.param == "messages[0].content[0]"


def test_what_both_apis_of_openai_know_is_said_in_both() -> None:
    extra = {"prompt_cache_key": "k", "verbosity": "low", "prediction": {"type": "content"}}
    body, dropped = encoded(extra=extra)
    assert (body["prompt_cache_key"], body["text"]) == ("k", {"verbosity": "low"})
    assert dropped == ("prediction",)


# Answers of endpoints.


def test_a_stream_with_everything() -> None:
    summary = {"item_id": "rs_1", "output_index": 0}
    pieces = read(
        CREATED,
        event("response.in_progress", response={"id": "resp_7"}),
        event("response.output_item.added", output_index=0, item={"type": "reasoning", "id": "rs_1"}),
        event("response.reasoning_summary_text.delta", **summary, summary_index=0, delta="One."),
        event("response.reasoning_summary_text.done", **summary, summary_index=0, text="One."),
        event("response.reasoning_summary_text.delta", **summary, summary_index=1, delta="Two."),
        event(
            "response.output_item.done",
            output_index=0,
            item={
                "type": "reasoning",
                "id": "rs_1",
                "encrypted_content": SEALED,
                "summary": [
                    {"type": "summary_text", "text": "One."},
                    {"type": "summary_text", "text": "Two."},
                ],
            },
        ),
        event("response.output_item.added", output_index=1, item={"type": "message", "id": "msg_1"}),
        delta("Hel", output_index=1),
        delta("lo", output_index=1),
        event("response.output_text.done", output_index=1, content_index=0, item_id="msg_1", text="Hello"),
        completed(output=[{"type": "message"}]),
        b"data: [DONE]\n\n",
    )
    assert pieces == [
        Start(id="resp_7", model="m"),
        ReasoningDelta(text="One."),
        ReasoningDelta(text="\n\nTwo."),
        ReasoningSeal(dialect="responses", encrypted=SEALED, id="rs_1"),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        Finish(reason="stop", raw="completed"),
        UsageReport(usage=Usage(input=6, cache_read=4, output=6, reasoning=2)),
    ]


def calls_of(pieces: list[Piece]) -> list[tuple[str, str]]:
    arguments: dict[int, str] = {}
    names = {piece.index: piece.id for piece in pieces if isinstance(piece, ToolCallStart)}
    for piece in pieces:
        if isinstance(piece, ToolArgumentsDelta):
            arguments[piece.index] = arguments.get(piece.index, "") + piece.text
    assert Finish(reason="tool_calls", raw="completed") in pieces
    return [(names[index], arguments[index]) for index in names]


def function_call(identity: str, arguments: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{identity}",
        "call_id": identity,
        "name": "f",
        "arguments": arguments,
    }


def test_parallel_calls_that_all_have_index_0_are_kept_apart() -> None:
    events = [CREATED]
    for identity in ("a", "b"):
        place = {"item_id": f"fc_{identity}", "output_index": 0}
        events += [
            event("response.output_item.added", output_index=0, item=function_call(identity, "")),
            event("response.function_call_arguments.delta", **place, delta='{"x":'),
            event("response.function_call_arguments.delta", **place, delta=f'"{identity}"}}'),
            event(
                "response.output_item.done",
                output_index=0,
                item=function_call(identity, f'{{"x":"{identity}"}}'),
            ),
        ]
    assert calls_of(read(*events, completed())) == [("a", '{"x":"a"}'), ("b", '{"x":"b"}')]


def test_an_item_whose_id_changes_in_every_event_is_one_item() -> None:
    added, done = function_call("a", ""), function_call("a", "{}")
    pieces = read(
        CREATED,
        event("response.output_item.added", output_index=0, item=added | {"id": "x1"}),
        event("response.function_call_arguments.delta", item_id="x2", output_index=0, delta="{}"),
        event("response.output_item.done", output_index=0, item=done | {"id": "x3"}),
        completed(),
    )
    assert calls_of(pieces) == [("a", "{}")]


def test_arguments_that_come_only_at_the_end_are_not_lost() -> None:
    calls = [function_call("a", '{"x":1}'), function_call("b", "{}")]
    place = {"item_id": "fc_a", "output_index": 0}
    told_late = read(
        CREATED,
        event("response.output_item.added", output_index=0, item=function_call("a", "")),
        event("response.function_call_arguments.done", **place, arguments='{"x":1}'),
        event("response.output_item.done", output_index=1, item=calls[1]),
        completed(),
    )
    told_once = read(CREATED, completed(output=calls))
    for pieces in (told_late, told_once):
        assert calls_of(pieces) == [("a", '{"x":1}'), ("b", "{}")]


def test_unknown_events_and_items_are_read_over_or_kept() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    pieces = read(
        CREATED,
        event("keepalive", sequence_number=3),
        event("response.hologram.delta", delta={"x": 1}),
        event("response.output_item.added", output_index=0, item=search | {"status": "in_progress"}),
        event("response.web_search_call.searching", output_index=0, item_id="ws_1"),
        event("response.output_item.done", output_index=0, item=search),
        completed(),
    )
    assert OpaqueBlock(dialect="responses", value=search) in pieces
    assert Finish(reason="stop", raw="completed") in pieces


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("max_output_tokens", "length"),
        ("content_filter", "content_filter"),
        ("steered", "other"),
        (None, "other"),
    ],
)
def test_an_incomplete_answer_says_why(reason: str | None, finish: str) -> None:
    details = {"incomplete_details": {"reason": reason}}
    (found,) = [
        piece
        for piece in read(CREATED, delta("Hi"), completed("incomplete", **details))
        if isinstance(piece, Finish)
    ]
    assert (found.reason, found.raw) == (finish, reason or "incomplete")
    watch = WIRE.watch(strip_usage=False)
    watch.feed(CREATED + delta("Hi") + completed("incomplete", **details))
    assert (watch.reading.finish, watch.reading.finish_raw) == (finish, found.raw)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": "server_error", "message": "Oh."}, Fault.UPSTREAM_ERROR),
        ({"code": "rate_limit_exceeded", "message": "Slowly."}, Fault.RATE_LIMITED),
        ({"code": "context_length_exceeded", "message": "Too long."}, Fault.CONTEXT_TOO_LONG),
        ({"code": "invalid_prompt", "message": "No."}, Fault.INVALID_REQUEST),
        ({"code": "image_too_large", "message": "No."}, Fault.INVALID_REQUEST),
        ({"type": "overloaded_error", "code": None, "message": "Busy."}, Fault.OVERLOADED),
    ],
)
def test_every_form_of_an_error_in_a_stream_is_read(error: dict[str, Any], fault: Fault) -> None:
    forms = [
        event("error", sequence_number=3, error=error),
        completed("failed", error=error),
    ]
    if "type" not in error:
        forms.append(event("error", sequence_number=3, **error))
    for form in forms:
        with pytest.raises(IsthmusError) as caught:
            read(CREATED, form)
        assert caught.value.fault is fault
        watch = WIRE.watch(strip_usage=False)
        sent = watch.feed(CREATED + delta("Hi")) + watch.feed(delta("!") + form)
        assert sent == CREATED + delta("Hi") + delta("!")
        assert watch.reading.error is not None
        assert watch.reading.error.fault is fault
        early = WIRE.watch(strip_usage=False)
        assert early.feed(CREATED + form) == b""
        assert not early.reading.committed
    whole = json.dumps({"id": "resp_7", "status": "failed", "error": error, "output": []}).encode()
    with pytest.raises(IsthmusError) as caught:
        WIRE.decode_answer(whole)
    assert caught.value.fault is fault
    reading = WIRE.read_answer(whole)
    assert reading.error is not None
    assert reading.error.fault is fault


@pytest.mark.parametrize("body", [b"<html>Sorry</html>", b"[]", b'{"object":"list"}', b'{"output":7}', b""])
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(IsthmusError) as caught:
        WIRE.decode_answer(body)
    assert caught.value.fault is Fault.MALFORMED_ANSWER
    assert not WIRE.read_answer(body).ended


def test_a_page_in_place_of_a_stream_is_malformed() -> None:
    decoder, watch = WIRE.stream_decoder(), WIRE.watch(strip_usage=False)
    decoder.feed(b"<html>Sorry</html>\n")
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.MALFORMED_ANSWER
    assert watch.feed(b"<html>Sorry</html>\n") + watch.close() == b""
    assert watch.reading.error is not None
    assert watch.reading.error.fault is Fault.MALFORMED_ANSWER


def test_a_response_in_the_background_is_no_answer_yet() -> None:
    body = json.dumps({"id": "resp_7", "status": "queued", "output": [], "error": None}).encode()
    with pytest.raises(IsthmusError) as caught:
        WIRE.decode_answer(body)
    assert caught.value.fault is Fault.MALFORMED_ANSWER
    assert WIRE.read_answer(body).finish is None


# Streams that pass through.


def test_nothing_is_forwarded_before_the_first_content() -> None:
    watch = WIRE.watch(strip_usage=False)
    empty = event("response.output_item.added", output_index=0, item={"type": "message", "id": "msg_1"})
    part = event("response.content_part.added", output_index=0, content_index=0, part={"type": "output_text"})
    assert watch.feed(CREATED + empty + part) == b""
    assert watch.feed(delta("H")) == CREATED + empty + part + delta("H")
    assert watch.reading.committed


def test_a_text_that_looks_like_an_end_is_no_end() -> None:
    watch = WIRE.watch(strip_usage=False)
    looks = (
        delta("response.completed") + delta('event: response.completed\ndata: {"error"}') + delta("[DONE]")
    )
    assert watch.feed(CREATED + looks) == CREATED + looks
    assert not watch.reading.ended
    assert watch.reading.error is None


def test_an_end_without_its_blank_line_and_one_with_spaced_json_are_ends() -> None:
    watch = WIRE.watch(strip_usage=False)
    assert watch.feed(CREATED + delta("Hi") + completed().rstrip()) == CREATED + delta("Hi")
    assert not watch.reading.ended
    assert watch.close() == completed()
    assert watch.reading.ended
    assert watch.reading.usage == Usage(input=6, cache_read=4, output=6, reasoning=2)


# Answers to clients.


def told(*pieces: Piece) -> dict[str, Any]:
    call = Call(dialect="responses", operation="chat", model="route")
    answer: dict[str, Any] = json.loads(WIRE.encode_answer(pieces, call, "req_0a", 1700000000))
    return answer


def test_ids_are_made_of_the_request_id() -> None:
    answer = told(
        Start(id="chatcmpl-1", model="m"),
        ReasoningDelta(text="Hm."),
        TextDelta(text="Yes."),
        ToolCallStart(index=0, id="call_1", name="f"),
        Finish(reason="tool_calls"),
    )
    assert answer["id"] == "resp_0a"
    assert [item["id"] for item in answer["output"]] == ["rs_0a_0", "msg_0a_1", "fc_0a_2"]


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ((TextDelta(text="a"), Finish(reason="stop")), "completed", None),
        ((TextDelta(text="a"), Finish(reason="length")), "incomplete", "max_output_tokens"),
        ((TextDelta(text="a"), Finish(reason="context_length")), "incomplete", "max_output_tokens"),
        ((TextDelta(text="a"), Finish(reason="content_filter")), "incomplete", "content_filter"),
        ((TextDelta(text="a"), Finish(reason="refusal")), "incomplete", "content_filter"),
        ((RefusalDelta(text="No."), Finish(reason="refusal")), "completed", None),
        ((TextDelta(text="a"), Finish(reason="other", raw="new_word")), "incomplete", "new_word"),
        ((TextDelta(text="a"), Finish(reason="other")), "incomplete", "other"),
    ],
)
def test_every_finish_has_its_status(pieces: tuple[Piece, ...], status: str, reason: str | None) -> None:
    answer = told(*pieces)
    assert answer["status"] == status
    assert answer["incomplete_details"] == ({"reason": reason} if reason else None)


def test_items_of_the_dialect_and_sources_are_told_again() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    source = {
        "type": "url_citation",
        "url": "https://example.org",
        "title": "t",
        "start_index": 0,
        "end_index": 1,
    }
    answer = told(
        OpaqueBlock(dialect="responses", value=search),
        OpaqueBlock(dialect="anthropic", value={"type": "server_tool_use"}),
        TextDelta(text="See."),
        OpaqueBlock(dialect="responses", value={"annotation": source}),
        Finish(reason="stop"),
    )
    assert answer["output"][0] == search
    assert answer["output"][1]["content"][0]["annotations"] == [source]
    assert len(answer["output"]) == 2
    pieces = WIRE.decode_answer(json.dumps(answer).encode())
    assert OpaqueBlock(dialect="responses", value={"annotation": source}) in pieces


def test_thinking_that_nobody_signed_is_recognised_when_it_returns() -> None:
    (item, _) = told(ReasoningDelta(text="Hm."), TextDelta(text="a"), Finish(reason="stop"))["output"]
    body = {"model": "route", "input": [item, {"role": "assistant", "content": "a"}]}
    envelope = WIRE.peek(json.dumps(body).encode())
    assert WIRE.decode_call(envelope).messages[0].parts[0] == Reasoning(text="Hm.")
    assert len(json.loads(WIRE.patch(envelope, "m"))["input"]) == 1


def test_a_refusal_that_is_sent_back_is_a_refusal() -> None:
    (item,) = told(RefusalDelta(text="No."), Finish(reason="stop"))["output"]
    assert decoded(input=[item]).messages == (Message(role="assistant", parts=(Refusal("No."),)),)


def test_an_error_has_the_form_of_openai() -> None:
    error = IsthmusError(Fault.RATE_LIMITED, "Too fast.", hint="Wait.", param="model")
    body = json.loads(WIRE.encode_error(error, "req_0a"))
    assert body["error"] == {
        "message": "Too fast. Wait.",
        "type": "rate_limit_error",
        "param": "model",
        "code": "rate_limited",
    }
    last = WIRE.stream_error(error, "req_0a")
    assert last.startswith(b"event: error\ndata: ")
    said = json.loads(last[len(b"event: error\ndata: ") :])
    assert (said["type"], said["message"], said["error"]) == ("error", "Too fast. Wait.", body["error"])


# What other gateways took on trust.


@pytest.mark.parametrize("count", [2**53 + 1, 2**64, 1e300])
def test_a_count_that_cannot_be_is_not_told(count: float) -> None:
    end = completed().replace(b'"input_tokens": 10', b'"input_tokens": %b' % json.dumps(count).encode())
    watch = WIRE.watch(strip_usage=True)
    assert watch.feed(CREATED + delta("a") + end) == CREATED + delta("a") + end
    assert (watch.reading.ended, watch.reading.usage) == (True, None)
    assert not any(isinstance(piece, UsageReport) for piece in read(CREATED, delta("a"), end))


@pytest.mark.parametrize("entry", [7, {}, {"token": "a"}, {"token": 1, "logprob": 0}, {"top_logprobs": 3}])
def test_log_probabilities_of_a_wrong_form_are_malformed(entry: Any) -> None:
    pieces: list[Piece] = [TextDelta(text="a", logprobs=[entry]), Finish(reason="stop")]
    call = Call(dialect="responses", operation="chat", model="route", logprobs=True)
    with pytest.raises(IsthmusError) as caught:
        WIRE.encode_answer(pieces, call, "req_1", 0)
    assert caught.value.fault is Fault.MALFORMED_ANSWER


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_an_odd_order_is_read_alike_however_it_is_cut(newline: bytes) -> None:
    failure = event("error", code="server_error", message="m")
    for last in (completed(), failure, b""):
        odd = CREATED + delta("an error") + delta("response.completed") + last + delta("late")
        stream = odd.replace(b"\n", newline)
        seen = set()
        for size in (1, 2, 3, 7, 64, 301, len(stream)):
            watch = WIRE.watch(strip_usage=True)
            sent = b"".join(watch.feed(stream[at : at + size]) for at in range(0, len(stream), size))
            sent += watch.close()
            assert (sent == stream) is (last != failure)
            reading = watch.reading
            seen.add((sent, reading.ended, reading.usage, reading.error is None))
        assert len(seen) == 1
