"""The Responses API, for any call and any answer."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from isthmus.core.call import Call, Image, Message, Part, Reasoning, Text, Thinking, ToolUse
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import (
    Finish,
    Piece,
    ReasoningSeal,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from isthmus.core.usage import Usage
from isthmus.dialects import sse
from isthmus.dialects.responses import OpenAIResponses
from isthmus.dialects.responses.answer import Counts, Ending, read_usage, write_usage
from tests.laws.calls import (
    answers,
    arguments,
    calls,
    cuts,
    folded,
    ids,
    json_objects,
    names,
    response_formats,
    schemas,
    texts,
    usages,
)

WIRE = OpenAIResponses()
CLIENT = OpenAI(api_key="any", base_url="http://localhost", max_retries=0)
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PARAMS: TypeAdapter[Any] = TypeAdapter(ResponseCreateParamsNonStreaming)

strange = st.dictionaries(st.just("x_unheard_of"), json_objects, max_size=1)


@st.composite
def responses_calls(draw: st.DrawFn) -> Call:
    """Calls with what the Responses API can say beyond the shared subset."""
    call = draw(calls(dialect="responses"))
    thinking = [
        None,
        Thinking(summary="auto"),
        Thinking(enabled=True, effort="low", summary="detailed"),
        Thinking(enabled=False, effort="none"),
    ]
    logprobs = draw(st.sampled_from([None, True]))
    return msgspec.structs.replace(
        call,
        include_usage=True,
        stop=(),
        tool_choice=call.tool_choice if call.tools else None,
        logprobs=logprobs,
        top_logprobs=draw(st.none() | st.integers(0, 20)) if logprobs else None,
        response_format=draw(st.none() | response_formats),
        thinking=draw(st.sampled_from(thinking)),
        user=draw(st.none() | names),
        metadata=draw(st.none() | st.dictionaries(names, texts, max_size=2)),
        parallel_tool_calls=draw(st.sampled_from([None, True, False])) if call.tools else None,
        messages=(Message(role="developer", parts=(Text("Be brief."),)), *call.messages),
        extra=draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "text": st.just({"verbosity": "low"}),
                    "include": st.just(["reasoning.encrypted_content"]),
                    "reasoning": st.just({"mode": "pro"}),
                    "truncation": st.just("auto"),
                    "x_unheard_of": json_objects,
                },
            )
        ),
    )


def decoded(body: Any) -> Call:
    return WIRE.decode_call(WIRE.peek(json.dumps(body).encode()))


def again(call: Call) -> Call:
    return WIRE.decode_call(WIRE.peek(WIRE.encode_call(call, call.model).body))


@given(responses_calls())
def test_decoding_undoes_encoding(call: Call) -> None:
    assert again(call) == call


@settings(deadline=None)
@given(calls(dialect="openai"))
def test_a_call_of_another_dialect_keeps_its_meaning_and_has_the_official_form(call: Call) -> None:
    call = msgspec.structs.replace(call, stop=(), max_tokens=max(16, call.max_tokens or 0))
    encoded = WIRE.encode_call(call, call.model)
    assert encoded.dropped == ()
    body = json.loads(encoded.body)
    assert body["store"] is False
    PARAMS.validate_python(body | {"stream": False})
    said = decoded(body)
    assert [tuple(map(without_detail, turn.parts)) for turn in said.messages] == [
        turn.parts for turn in call.messages
    ]
    assert [turn.role for turn in said.messages] == [turn.role for turn in call.messages]
    assert [(tool.name, tool.parameters, tool.strict) for tool in said.tools] == [
        (tool.name, tool.parameters, False) for tool in call.tools
    ]


def without_detail(part: Part) -> Part:
    """Responses demands a detail of every picture."""
    return msgspec.structs.replace(part, detail=None) if isinstance(part, Image) else part


# Requests as clients send them.


def part(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda known, unknown: known | unknown,
        st.fixed_dictionaries({"type": st.just(kind), **fields}),
        strange,
    )


input_parts = st.one_of(
    part("input_text", text=texts),
    part("input_image", image_url=st.just("data:image/png;base64,aGk="), detail=st.just("low")),
    part("input_image", image_url=st.just("https://example.org/a.png")),
    part("input_image", file_id=st.just("file-1"), detail=st.just("auto")),
    part("input_file", file_data=st.just("data:application/pdf;base64,aGk="), filename=st.just("a.pdf")),
    part("input_file", file_url=st.just("https://example.org/a.pdf")),
    part("input_file", file_id=st.just("file-2")),
    part("input_audio", input_audio=st.just({"data": "aGk=", "format": "wav"})),
    part("input_hologram", url=texts),
)
output_parts = part("output_text", text=texts) | part("refusal", refusal=texts)
sources = st.just([{"type": "url_citation", "url": "https://example.org"}])
cited_parts = part("output_text", text=texts, annotations=sources)
phases = st.sampled_from([{}, {"phase": "commentary"}, {"phase": "final_answer"}])
items = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.sampled_from(["user", "system", "developer"]),
            "content": texts | st.lists(input_parts, min_size=1, max_size=3),
        }
    ),
    st.builds(
        lambda message, phase: message | phase,
        st.fixed_dictionaries(
            {
                "type": st.just("message"),
                "role": st.just("assistant"),
                "content": st.lists(output_parts | cited_parts, min_size=1, max_size=2),
            }
        ),
        phases,
    ),
    part("function_call", call_id=ids, name=names, arguments=arguments),
    part(
        "function_call_output",
        call_id=ids,
        output=texts | st.lists(input_parts, min_size=1, max_size=2),
    ),
    part(
        "reasoning",
        id=st.just("rs_1"),
        summary=st.lists(st.fixed_dictionaries({"type": st.just("summary_text"), "text": texts}), max_size=2),
        encrypted_content=ids,
    ),
    part("custom_tool_call", call_id=ids, name=names, input=texts),
    part("custom_tool_call_output", call_id=ids, output=texts),
    part("web_search_call", id=st.just("ws_1"), status=st.just("completed")),
)
tools = st.one_of(
    st.builds(
        lambda tool, unknown: tool | unknown,
        st.fixed_dictionaries(
            {"type": st.just("function"), "name": names, "parameters": schemas, "strict": st.booleans()}
        ),
        strange,
    ),
    st.just({"type": "web_search", "search_context_size": "low"}),
    st.just({"type": "custom", "name": "patch", "format": {"type": "grammar"}}),
)
choices = st.sampled_from(
    [
        "auto",
        "none",
        "required",
        {"type": "function", "name": "f"},
        {"type": "web_search"},
        {"type": "mcp", "server_label": "m", "name": "n"},
    ]
)
requests = st.builds(
    lambda known, offered: known | offered,
    st.fixed_dictionaries(
        {"model": names, "input": st.lists(items, min_size=1, max_size=6)},
        optional={
            "instructions": texts,
            "stream": st.just(True),
            "max_output_tokens": st.integers(1, 9_999),
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0, 1),
            "user": names,
            "metadata": st.dictionaries(names, texts, max_size=2),
            "include": st.lists(
                st.sampled_from(["message.output_text.logprobs", "reasoning.encrypted_content"]),
                min_size=1,
                unique=True,
            ),
            "top_logprobs": st.integers(0, 20),
            "reasoning": st.sampled_from(
                [{"effort": "high"}, {"summary": "auto"}, {"effort": "none", "mode": "pro"}]
            ),
            "text": st.sampled_from(
                [
                    {"verbosity": "low"},
                    {"format": {"type": "json_object"}},
                    {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
                ]
            ),
            "prompt_cache_key": names,
            "truncation": st.just("auto"),
            "x_unheard_of": json_objects,
        },
    ),
    st.fixed_dictionaries(
        {"tools": st.lists(tools, min_size=1, max_size=3)}, optional={"tool_choice": choices}
    )
    | st.just({}),
)


def said_by(body: dict[str, Any]) -> dict[str, Any]:
    """The request in its longer spelling: instructions and contents as lists, one message for each phase."""
    body = {**body, "store": False}
    if "instructions" in body:
        first = {"type": "message", "role": "system", "content": body.pop("instructions")}
        body["input"] = [first, *body["input"]]
    items: list[dict[str, Any]] = []
    for item in body["input"]:
        item = dict(item)
        for name in ("content", "output"):
            if isinstance(item.get(name), str) and item["type"] != "custom_tool_call_output":
                kind = "output_text" if item.get("role") == "assistant" else "input_text"
                item[name] = [{"type": kind, "text": item[name]}]
        before = items[-1] if items else {}
        if item.get("role") == before.get("role") == "assistant" and "phase" not in item:
            items[-1] = before | {"content": before["content"] + item["content"]}
        else:
            items.append(item)
    body["input"] = items
    body["include"] = sorted(body.get("include", []))
    return body


@given(requests)
def test_every_field_that_a_client_sent_is_said_again(body: dict[str, Any]) -> None:
    encoded = WIRE.encode_call(decoded(body), body["model"])
    assert encoded.dropped == ()
    assert said_by(json.loads(encoded.body)) == said_by(body)


@given(requests)
def test_a_request_survives_decoding_and_encoding(body: dict[str, Any]) -> None:
    call = decoded(body)
    assert again(call) == call


@given(requests, names)
def test_a_patch_changes_the_model_and_nothing_else(body: dict[str, Any], model: str) -> None:
    body |= {"store": True, "previous_response_id": "resp_1"}
    patched = json.loads(WIRE.patch(WIRE.peek(json.dumps(body).encode()), model))
    assert patched == body | {"model": model}


@given(requests, st.data())
def test_state_is_refused_where_it_must_be_translated(body: dict[str, Any], data: st.DataObject) -> None:
    state = data.draw(
        st.sampled_from(
            [
                {"store": True},
                {"background": True},
                {"previous_response_id": "resp_1"},
                {"conversation": {"id": "conv_1"}},
                {"prompt": {"id": "pmpt_1"}},
                {"input": [{"type": "item_reference", "id": "msg_1"}]},
                {"input": [{"id": "msg_1"}]},
            ]
        )
    )
    with pytest.raises(IsthmusError) as caught:
        decoded(body | state)
    assert caught.value.fault is Fault.UNSUPPORTED
    assert (caught.value.param or "").startswith(next(iter(state)))
    assert "input" in caught.value.hint


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


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


@given(
    requests.flatmap(lambda body: st.tuples(st.just(body), st.sampled_from(places(body)[1:]))),
    st.sampled_from([None, True, 7, 1.5, "secret", [], {}, ["secret"], [{}]]),
)
def test_a_wrong_type_anywhere_is_named_and_never_quoted(
    told: tuple[dict[str, Any], tuple[Any, ...]], value: Any
) -> None:
    request, path = json.loads(json.dumps(told[0])), told[1]
    inner = request
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    error = refusal_of(json.dumps(request).encode())
    if error is not None:
        assert error.fault in (Fault.INVALID_REQUEST, Fault.UNSUPPORTED)
        assert error.param is not None
        assert error.param.split(".")[0].split("[")[0] == path[0]
        assert "secret" not in error.text


# Answers.


def own(pieces: list[Piece]) -> list[Piece]:
    """The pieces under an id of the dialect."""
    return [
        msgspec.structs.replace(piece, id="resp_1") if isinstance(piece, Start) else piece for piece in pieces
    ]


@st.composite
def any_answers(draw: st.DrawFn) -> list[Piece]:
    """Answers with a refusal or a seal now and then, and with parallel tool calls that grow in turns."""
    pieces = own(draw(answers(with_reasoning=draw(st.booleans()))))
    seal = st.builds(ReasoningSeal, dialect=st.sampled_from(["responses", "anthropic"]), encrypted=ids)
    extras = draw(st.lists(seal | st.builds(RefusalDelta, text=texts), max_size=2))
    at = next(
        (at for at, piece in enumerate(pieces) if isinstance(piece, ToolCallStart | Finish)), len(pieces)
    )
    content, ending = pieces[at:-2], pieces[-2:]
    if draw(st.booleans()):
        content.sort(key=lambda piece: isinstance(piece, ToolArgumentsDelta))
    return [*pieces[:at], *extras, *content, *ending]


def body_of(pieces: list[Piece], call: Call) -> bytes:
    return WIRE.encode_answer(pieces, call, "req_1", 1700000000)


def stream_bytes(pieces: list[Piece], call: Call) -> bytes:
    encoder = WIRE.stream_encoder(call, "req_1", 1700000000)
    return b"".join(encoder.feed([piece]) for piece in pieces) + encoder.close()


@settings(deadline=None)
@given(responses_calls(), any_answers())
def test_a_whole_answer_is_read_back_and_is_what_the_official_client_takes(
    call: Call, pieces: list[Piece]
) -> None:
    body = body_of(pieces, call)
    Response.model_validate_json(body, strict=True)
    assert folded(WIRE.decode_answer(body)) == folded(pieces)


@given(responses_calls(), any_answers())
def test_a_stream_ends_with_the_very_answer_that_is_told_whole(call: Call, pieces: list[Piece]) -> None:
    last = sse.Splitter().feed(stream_bytes(pieces, call))[-1]
    assert json.loads(last.data)["response"] == json.loads(body_of(pieces, call))


@settings(deadline=None)
@given(st.data(), responses_calls(), any_answers())
def test_a_stream_in_any_cut_says_what_the_whole_answer_says(
    data: st.DataObject, call: Call, pieces: list[Piece]
) -> None:
    decoder = WIRE.stream_decoder()
    chunks = data.draw(cuts(stream_bytes(pieces, call)))
    read = [piece for chunk in chunks for piece in decoder.feed(chunk)] + decoder.close()
    assert folded(read) == folded(pieces)
    seals = [piece.encrypted for piece in read if isinstance(piece, ReasoningSeal)]
    whole = WIRE.decode_answer(body_of(pieces, call))
    assert seals == [piece.encrypted for piece in whole if isinstance(piece, ReasoningSeal)]


@settings(max_examples=40, deadline=None)
@given(responses_calls(), any_answers())
def test_events_are_what_the_official_client_takes_in_the_order_that_it_demands(
    call: Call, pieces: list[Piece]
) -> None:
    stream = stream_bytes(pieces, call)
    parsed = sse.Splitter().feed(stream)
    events = [EVENTS.validate_json(event.data, strict=True) for event in parsed]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events] == [event.event for event in parsed]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    told, final = accumulated(stream)
    assert told == [event.type for event in events]
    if told[-1] == "response.completed":
        assert final == json.loads(body_of(pieces, call))["output"]


def accumulated(stream: bytes) -> tuple[list[str], Any]:
    """The types of the events that the official client hands out, and the output that it gathers from
    them."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = CLIENT.with_options(http_client=transport)
    with client.responses.stream(model="m", input="i") as events:
        told = [event.type for event in events]
        final = events.get_final_response() if told[-1] == "response.completed" else None
    output = None if final is None else [item.to_dict(mode="json") for item in final.output]
    return told, unparsed(output)


def unparsed(value: Any) -> Any:
    """The client's JSON without what it adds for its own users."""
    if isinstance(value, list):
        return [unparsed(item) for item in value]
    if isinstance(value, dict):
        return {name: unparsed(item) for name, item in value.items() if not name.startswith("parsed")}
    return value


@given(st.data(), responses_calls(), any_answers(), st.booleans())
def test_a_watch_forwards_every_byte(
    data: st.DataObject, call: Call, pieces: list[Piece], carriage_returns: bool
) -> None:
    stream = stream_bytes(pieces, call)
    if carriage_returns:
        stream = stream.replace(b"\n", b"\r\n")
    watch = WIRE.watch(strip_usage=True)
    sent = b""
    for chunk in data.draw(cuts(stream)):
        sent += watch.feed(chunk)
        assert sse.whole_events(sent) == len(sent), "only whole events are forwarded"
    assert sent + watch.close() == stream
    whole = folded(pieces)
    assert watch.reading.ended
    assert watch.reading.error is None
    assert watch.reading.usage == whole.usage
    assert watch.reading.finish == whole.finish[0]
    reading = WIRE.read_answer(body_of(pieces, call))
    assert (reading.usage, reading.finish, reading.ended) == (whole.usage, whole.finish[0], True)


@given(st.data(), responses_calls(), any_answers())
def test_a_cut_stream_is_never_taken_for_a_whole_one(
    data: st.DataObject, call: Call, pieces: list[Piece]
) -> None:
    stream = stream_bytes(pieces, call)
    cut = stream[: data.draw(st.integers(0, stream.rindex(b'"type":"response.')))]
    decoder, watch = WIRE.stream_decoder(), WIRE.watch(strip_usage=True)
    decoder.feed(cut)
    with pytest.raises(IsthmusError) as caught:
        decoder.close()
    assert caught.value.fault is Fault.BROKEN_STREAM
    sent = watch.feed(cut) + watch.close()
    assert not watch.reading.ended
    assert watch.reading.error is None
    assert sse.whole_events(sent) == len(sent)
    assert stream.startswith(sent)


@settings(max_examples=40, deadline=None)
@given(responses_calls(), any_answers(), st.integers(0, 9))
def test_an_error_ends_a_stream_in_a_form_that_the_official_client_takes(
    call: Call, pieces: list[Piece], told: int
) -> None:
    encoder = WIRE.stream_encoder(call, "req_1", 1700000000)
    error = IsthmusError(Fault.BROKEN_STREAM, "The stream ended too early.", hint="Ask again.")
    stream = encoder.feed(pieces[:told]) + encoder.error(error)
    events = [EVENTS.validate_json(event.data, strict=True) for event in sse.Splitter().feed(stream)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    watch = WIRE.watch(strip_usage=True)
    watch.feed(stream)
    assert watch.reading.error is not None
    assert not watch.reading.ended
    with pytest.raises(IsthmusError) as caught:
        WIRE.stream_decoder().feed(stream)
    assert caught.value.fault is Fault.UPSTREAM_ERROR
    with pytest.raises(APIError, match="The stream ended too early"):
        accumulated(stream)


@given(texts, st.builds(ToolUse, ids, names, arguments, signature=ids))
def test_what_other_dialects_sealed_comes_back_to_them_byte_for_byte(thought: str, use: ToolUse) -> None:
    call = Call(dialect="responses", operation="chat", model="route")
    seal = ReasoningSeal(dialect="anthropic", signature=thought)
    start = ToolCallStart(index=0, id=use.id, name=use.name, signature=use.signature)
    told = [seal, start, ToolArgumentsDelta(index=0, text=use.arguments), Finish(reason="tool_calls")]
    output = json.loads(body_of(told, call))["output"]
    body = {"model": "route", "input": [{"role": "user", "content": "u"}, *output]}
    parts = decoded(body).messages[1].parts
    assert parts == (Reasoning(signature=thought, dialect="anthropic"), use)
    patched = json.loads(WIRE.patch(WIRE.peek(json.dumps(body).encode()), "m"))
    assert [item.get("type") for item in patched["input"]] == [None, "function_call"]


@given(usages)
def test_usage_is_partitioned_and_read_back(usage: Usage) -> None:
    assert read_usage(Ending(usage=msgspec.convert(write_usage(usage), Counts))) == usage


counts = st.none() | st.integers(-9, 99) | st.floats(-9, 99)


@given(counts, counts, counts, counts, counts)
def test_any_reported_usage_becomes_a_partition(
    prompt: float | None,
    output: float | None,
    read: float | None,
    written: float | None,
    thought: float | None,
) -> None:
    into = {"cached_tokens": read, "cache_write_tokens": written}
    reported = {
        "input_tokens": prompt,
        "input_tokens_details": into,
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": thought},
    }
    usage = read_usage(Ending(usage=msgspec.convert(reported, Counts)))
    assert usage is not None
    assert min(usage.input, usage.cache_read, usage.cache_write_5m, usage.output, usage.reasoning) >= 0
    assert usage.prompt == max(0, int(prompt or 0))
    assert usage.reasoning <= usage.output


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.floats(-9, 0)), min_size=1, max_size=4))
def test_log_probabilities_of_chat_completions_are_completed(tokens: list[tuple[str, float]]) -> None:
    call = Call(dialect="responses", operation="chat", model="route", logprobs=True, top_logprobs=1)
    entries = [
        {
            "token": token,
            "logprob": value,
            "bytes": None,
            "top_logprobs": [{"token": token, "logprob": value}],
        }
        for token, value in tokens
    ]
    pieces: list[Piece] = [TextDelta(text=entry["token"], logprobs=[entry]) for entry in entries]
    pieces.append(Finish(reason="stop"))
    response = Response.model_validate_json(body_of(pieces, call), strict=True)
    part: Any = response.output[0].content[0]  # type: ignore[union-attr, index]
    assert [(one.token, one.logprob, bytes(one.bytes)) for one in part.logprobs] == [
        (token, value, token.encode()) for token, value in tokens
    ]
    for event in sse.Splitter().feed(stream_bytes(pieces, call)):
        EVENTS.validate_json(event.data, strict=True)
