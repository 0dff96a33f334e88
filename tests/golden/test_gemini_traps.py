"""Traps of the Gemini wire that broke other gateways; each with the bytes that sprang it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

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
from isthmus.dialects.gemini import GeminiGenerateContent

WIRE = GeminiGenerateContent()
NEWER, OLDER = "gemini-3-flash", "gemini-2.5-flash"


def candidate(*parts: dict[str, Any], finish: str | None = "STOP", **fields: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    return said | ({} if finish is None else {"finishReason": finish}) | fields


def response(*candidates: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"responseId": "r1", "modelVersion": "gemini-x", "candidates": list(candidates)} | fields


def decoded(body: dict[str, Any]) -> list[Piece]:
    return WIRE.decode_answer(json.dumps(body).encode())


def streamed(*responses: dict[str, Any]) -> list[Piece]:
    decoder = WIRE.stream_decoder()
    stream = b"".join(b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in responses)
    return decoder.feed(stream) + decoder.close()


def said(call: Call, model_id: str = NEWER) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(WIRE.encode_call(call, model_id).body)
    return body


def openai(*messages: Message, **fields: Any) -> Call:
    turns = messages or (Message(role="user", parts=(Text("q"),)),)
    return Call(dialect="openai", operation="chat", model="route", messages=turns, **fields)


def user(*parts: Any) -> Message:
    return Message(role="user", parts=parts)


# Usage.


def test_cached_tokens_are_inside_the_prompt_and_thoughts_outside_the_candidates() -> None:
    counts = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 60,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 30,
        "toolUsePromptTokenCount": 5,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 88},
            {"modality": "AUDIO", "tokenCount": 12},
        ],
    }
    usage = Usage(input=45, cache_read=60, output=37, reasoning=30, input_audio=12)
    assert UsageReport(usage=usage) in decoded(response(candidate({"text": "a"}), usageMetadata=counts))


def test_a_cache_that_is_larger_than_the_prompt_is_clamped() -> None:
    counts = {"promptTokenCount": 10, "cachedContentTokenCount": 60}
    pieces = decoded(response(candidate({"text": "a"}), usageMetadata=counts))
    assert UsageReport(usage=Usage(input=0, cache_read=10)) in pieces


def test_usage_in_every_chunk_is_told_when_it_changes() -> None:
    first, last = {"promptTokenCount": 4}, {"promptTokenCount": 4, "candidatesTokenCount": 2}
    pieces = streamed(
        response(candidate({"text": "a"}, finish=None), usageMetadata=first),
        response(candidate({"text": "b"}, finish=None), usageMetadata=first),
        response(candidate({"text": ""}), usageMetadata=last),
    )
    reports = [piece.usage for piece in pieces if isinstance(piece, UsageReport)]
    assert reports == [Usage(input=4), Usage(input=4, output=2)]


# Ends.


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "interrupted"),
        ("MALFORMED_RESPONSE", "interrupted"),
        ("UNEXPECTED_TOOL_CALL", "interrupted"),
        ("TOO_MANY_TOOL_CALLS", "interrupted"),
        ("LANGUAGE", "other"),
        ("OTHER", "other"),
        ("A_WORD_OF_TOMORROW", "other"),
    ],
)
def test_every_finish_reason_is_mapped(word: str, reason: str) -> None:
    body = response(candidate({"text": "a"}, finish=word))
    assert decoded(body)[-1] == streamed(body)[-1] == Finish(reason=reason, raw=word)  # type: ignore[arg-type]


def test_a_stop_after_a_function_call_waits_for_its_result() -> None:
    pieces = streamed(
        response(candidate({"functionCall": {"name": "f", "args": {}}}, finish=None)),
        response(candidate({"text": ""})),
    )
    assert pieces[-1] == Finish(reason="tool_calls", raw="STOP")


def test_a_finish_reason_in_every_chunk_is_one_end() -> None:
    pieces = streamed(
        response(candidate({"text": "a"})), response(candidate({"text": "b"}, finish="MAX_TOKENS"))
    )
    assert [piece for piece in pieces if isinstance(piece, Finish)] == [
        Finish(reason="length", raw="MAX_TOKENS")
    ]
    assert [piece.text for piece in pieces if isinstance(piece, TextDelta)] == ["a", "b"]


def test_a_blocked_prompt_is_a_filtered_answer() -> None:
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}
    want = [
        Start(),
        UsageReport(usage=Usage(input=3)),
        Finish(reason="content_filter", raw="PROHIBITED_CONTENT"),
    ]
    assert decoded(body) == want
    assert streamed(body) == want


def test_a_candidate_without_content_is_an_answer() -> None:
    body = {"candidates": [{"finishReason": "SAFETY"}]}
    assert decoded(body) == [Start(), Finish(reason="content_filter", raw="SAFETY")]


def test_a_stream_without_a_finish_reason_is_broken() -> None:
    decoder = WIRE.stream_decoder()
    decoder.feed(b"data: " + json.dumps(response(candidate({"text": "a"}, finish=None))).encode() + b"\n\n")
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.BROKEN_STREAM


# Tool calls and signatures.


def test_calls_without_ids_get_ids_that_differ_between_calls_and_answers() -> None:
    call = {"functionCall": {"name": "f", "args": {"x": 1}}}
    starts = [piece for piece in decoded(response(candidate(call, call))) if isinstance(piece, ToolCallStart)]
    assert [piece.id for piece in starts] == ["call_r1_0", "call_r1_1"]
    assert [piece.index for piece in starts] == [0, 1]


def test_arguments_keep_the_digits_of_their_numbers() -> None:
    call = b'{"functionCall":{"name":"f","args":{"x": 0.10000000000000000001}}}'
    body = b'{"candidates":[{"finishReason":"STOP","content":{"parts":[%b]}}]}' % call
    assert ToolArgumentsDelta(index=0, text='{"x": 0.10000000000000000001}') in WIRE.decode_answer(body)


def test_a_signature_is_kept_wherever_it_stands() -> None:
    pieces = decoded(
        response(
            candidate(
                {"text": "hm", "thought": True},
                {"text": "a", "thoughtSignature": "S1+/="},
                {"functionCall": {"id": "c", "name": "f", "args": {}}, "thoughtSignature": "S2+/="},
                {"text": "", "thoughtSignature": "S3+/="},
            )
        )
    )
    assert pieces[1:-1] == [
        ReasoningDelta(text="hm"),
        TextDelta(text="a"),
        ReasoningSeal(dialect="gemini", signature="S1+/="),
        ToolCallStart(index=0, id="c", name="f", signature="S2+/="),
        ToolArgumentsDelta(index=0, text="{}"),
        ReasoningSeal(dialect="gemini", signature="S3+/="),
    ]


def test_signatures_of_gemini_return_and_those_of_others_do_not() -> None:
    thoughts = (
        Reasoning("hm", signature="S1", dialect="gemini"),
        Reasoning("", signature="S2", dialect="gemini"),
        Reasoning("ant", signature="A", dialect="anthropic"),
        Opaque("anthropic", {"type": "server_tool_use"}),
        Text("a"),
    )
    encoded = WIRE.encode_call(openai(user(Text("q")), Message(role="assistant", parts=thoughts)), NEWER)
    assert encoded.dropped == ("messages.reasoning", "messages.opaque")
    assert msgspec.json.decode(encoded.body)["contents"][1]["parts"] == [
        {"text": "hm", "thought": True, "thoughtSignature": "S1"},
        {"text": "", "thoughtSignature": "S2"},
        {"text": "a"},
    ]


@pytest.mark.parametrize(
    ("model_id", "signature"),
    [
        (NEWER, "skip_thought_signature_validator"),
        ("gemini-flash-latest", "skip_thought_signature_validator"),
        (OLDER, None),
    ],
)
def test_a_lost_signature_does_not_end_the_conversation(model_id: str, signature: str | None) -> None:
    turn = Message(role="assistant", parts=(ToolUse("a", "f", "{}"), ToolUse("b", "f", "{}")))
    parts = said(openai(user(Text("q")), turn), model_id)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [signature, None]


def test_results_carry_the_name_of_their_call_and_come_first() -> None:
    picture = Image(data="aGk=", media_type="image/png")
    call = openai(
        user(Text("q")),
        Message(role="assistant", parts=(ToolUse("a", "f", '{"x":1}'), ToolUse("b", "g", ""))),
        user(
            Text("and"),
            ToolResult("a", (Text("one"), picture)),
            ToolResult("b", (Text("no"),), is_error=True),
        ),
    )
    inline = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    first = {"id": "a", "name": "f", "response": {"output": "one"}}
    second = {"functionResponse": {"id": "b", "name": "g", "response": {"error": "no"}}}
    newer = said(call)["contents"]
    assert newer[1]["parts"][1]["functionCall"] == {"id": "b", "name": "g", "args": {}}
    assert newer[2]["parts"] == [{"functionResponse": first | {"parts": [inline]}}, second, {"text": "and"}]
    older = said(call, OLDER)["contents"][2]["parts"]
    assert older == [{"functionResponse": first}, second, {"text": "and"}, inline]


def test_parts_of_no_other_dialect_are_opaque() -> None:
    part = {"executableCode": {"language": "PYTHON", "code": "1"}}
    assert OpaqueBlock(dialect="gemini", value=part) in decoded(response(candidate(part)))


# Log-probabilities and choices.


def test_log_probabilities_take_openais_form() -> None:
    chosen = [{"token": "é", "tokenId": 7, "logProbability": -0.5}]
    result = {"chosenCandidates": chosen, "topCandidates": [{"candidates": chosen}]}
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    pieces = decoded(response(candidate({"text": "é"}, logprobsResult=result)))
    assert TextDelta(text="", logprobs=[token | {"top_logprobs": [token]}]) in pieces


def test_candidates_are_choices() -> None:
    pieces = decoded(
        response(candidate({"text": "a"}), candidate({"text": "b"}, finish="MAX_TOKENS") | {"index": 1})
    )
    assert TextDelta(text="b", choice=1) in pieces
    assert pieces[-2:] == [
        Finish(reason="stop", raw="STOP"),
        Finish(reason="length", raw="MAX_TOKENS", choice=1),
    ]


# Requests.


def test_every_setting_has_its_google_name() -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    call = openai(
        max_tokens=9,
        temperature=1.5,
        top_p=0.5,
        top_k=3,
        stop=("x",),
        seed=2**40 + 5,
        n=2,
        logprobs=True,
        top_logprobs=4,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        response_format=ResponseFormat(kind="json_schema", name="n", schema=schema),
    )
    assert said(call)["generationConfig"] == {
        "maxOutputTokens": 9,
        "temperature": 1.5,
        "topP": 0.5,
        "topK": 3,
        "stopSequences": ["x"],
        "seed": 5,
        "candidateCount": 2,
        "responseLogprobs": True,
        "logprobs": 4,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }


@pytest.mark.parametrize(
    ("thinking", "model_id", "config"),
    [
        (Thinking(enabled=True, effort="high"), NEWER, {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        (
            Thinking(enabled=True, effort="minimal"),
            NEWER,
            {"includeThoughts": True, "thinkingLevel": "MINIMAL"},
        ),
        (
            Thinking(enabled=True, effort="minimal"),
            "gemini-3-pro",
            {"includeThoughts": True, "thinkingLevel": "LOW"},
        ),
        (Thinking(enabled=True, effort="medium"), OLDER, {"includeThoughts": True, "thinkingBudget": 8192}),
        (Thinking(enabled=True, budget=2000), NEWER, {"includeThoughts": True, "thinkingBudget": 2000}),
        (Thinking(enabled=True), NEWER, {"includeThoughts": True}),
        (Thinking(enabled=False, effort="none"), OLDER, {"thinkingBudget": 0}),
        (Thinking(enabled=False), "gemini-2.5-pro", {"thinkingBudget": 128}),
        (Thinking(effort="none"), NEWER, {"thinkingLevel": "MINIMAL"}),
    ],
)
def test_thinking_is_said_in_the_words_of_the_model(
    thinking: Thinking, model_id: str, config: dict[str, Any]
) -> None:
    assert said(openai(thinking=thinking), model_id)["generationConfig"]["thinkingConfig"] == config


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (ToolChoice(mode="auto"), {"mode": "AUTO"}),
        (ToolChoice(mode="none"), {"mode": "NONE"}),
        (ToolChoice(mode="required"), {"mode": "ANY"}),
        (ToolChoice(mode="tool", name="f"), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_tools_and_the_choice_among_them(choice: ToolChoice, calling: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"x": {"type": ["string", "null"]}}}
    tools = (
        Tool(name="f", description="d", parameters={"$schema": "s"} | schema),
        Tool(name="g", parameters={"type": "object", "properties": {}}),
    )
    body = said(openai(tools=tools, tool_choice=choice))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "d", "parametersJsonSchema": schema},
                {"name": "g"},
            ]
        }
    ]
    assert body["toolConfig"] == {"functionCallingConfig": calling}


@pytest.mark.parametrize(
    ("part", "wire"),
    [
        (Image(url="data:image/png;base64,aGk="), {"inlineData": {"mimeType": "image/png", "data": "aGk="}}),
        (
            Image(url="https://e.org/a.JPG?w=1"),
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://e.org/a.JPG?w=1"}},
        ),
        (Image(url="gs://b/c"), {"fileData": {"fileUri": "gs://b/c"}}),
        (Document(data="aGk="), {"inlineData": {"mimeType": "application/pdf", "data": "aGk="}}),
        (Document(text="words"), {"text": "words"}),
        (Audio("aGk=", "wav"), {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}}),
    ],
)
def test_media_go_inline_or_by_address(part: Any, wire: dict[str, Any]) -> None:
    assert said(openai(user(part)))["contents"][0]["parts"] == [wire]


def test_system_messages_become_the_instruction() -> None:
    body = said(
        openai(
            Message(role="system", parts=(Text("one"),)),
            user(Text("q")),
            Message(role="developer", parts=(Text("two"),)),
        )
    )
    assert body["systemInstruction"] == {"parts": [{"text": "one"}, {"text": "two"}]}
    alone = said(openai(Message(role="system", parts=(Text("one"),))))
    assert alone == {"contents": [{"role": "user", "parts": [{"text": "one"}]}]}


def test_hints_are_dropped_and_told() -> None:
    call = openai(
        user="u", metadata={"a": "b"}, logit_bias={"1": 2.0}, parallel_tool_calls=False, extra={"store": True}
    )
    assert WIRE.encode_call(call, NEWER).dropped == (
        "logit_bias",
        "user",
        "metadata",
        "parallel_tool_calls",
        "store",
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": (Tool(name="web", opaque=Opaque("anthropic", {})),)}, "tools[0]"),
        ({"messages": (user(Document(file_id="file-1")),)}, "messages[0].content[0]"),
        ({"messages": (user(Text("a"), Image(url="nowhere")),)}, "messages[0].content[1]"),
    ],
)
def test_what_would_change_the_answer_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        said(msgspec.structs.replace(openai(), **fields))
    assert caught.value.fault is Fault.UNSUPPORTED
    assert caught.value.param == param


# Errors.


@pytest.mark.parametrize(
    ("status", "word", "message", "fault"),
    [
        (400, "INVALID_ARGUMENT", "Request contains an invalid argument.", Fault.INVALID_REQUEST),
        (
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            Fault.UPSTREAM_AUTHENTICATION,
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            Fault.CONTEXT_TOO_LONG,
        ),
        (404, "NOT_FOUND", "models/x is not found for API version v1beta.", Fault.UPSTREAM_NOT_FOUND),
        (500, "INTERNAL", "An internal error has occurred.", Fault.UPSTREAM_ERROR),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", Fault.OVERLOADED),
    ],
)
def test_googles_errors_are_classed(status: int, word: str, message: str, fault: Fault) -> None:
    body = json.dumps({"error": {"code": status, "message": message, "status": word}}).encode()
    assert WIRE.decode_error(status, {}, body).fault is fault
    # Without alt=sse Google wraps the error of a stream in an array.
    assert WIRE.decode_error(status, {}, b"[" + body + b"]").fault is fault


def test_an_error_inside_a_stream_keeps_what_came_before() -> None:
    decoder = WIRE.stream_decoder()
    first = json.dumps(response(candidate({"text": "a"}, finish=None))).encode()
    error = b'{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}'
    with pytest.raises(IsthmusError) as caught:
        decoder.feed(b"data: " + first + b"\n\ndata: " + error + b"\n\n")
    assert caught.value.fault is Fault.OVERLOADED
    assert decoder.salvage[-1] == TextDelta(text="a")


def test_an_array_instead_of_a_stream_is_no_stream() -> None:
    decoder = WIRE.stream_decoder()
    decoder.feed(b'[{"candidates": []}]')
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.MALFORMED_ANSWER
