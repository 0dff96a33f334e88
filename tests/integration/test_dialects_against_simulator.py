"""The Anthropic and Gemini dialects, as endpoints speak them, against a simulator that shares no code."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.laws.calls import Folded, folded

from isthmus.core.call import (
    Call,
    Image,
    Message,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import EndpointWire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import (
    Piece,
    ReasoningDelta,
    ReasoningSeal,
    TextDelta,
    TokenCount,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.counting import AnthropicCountTokens, GeminiCountTokens
from isthmus.dialects.gemini import GeminiGenerateContent
from isthmus.testing import Fault as Misfortune
from isthmus.testing import Script, Simulator, SimulatorThread, ToolCall
from isthmus.testing import Usage as ToldUsage

CLIENT = AnthropicMessages()
WEATHER = Tool(
    name="get_weather",
    description="The weather of a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
MODELS = {"anthropic": "claude-sim", "gemini": "gemini-2.5-sim"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    chunks: list[bytes]


@pytest.fixture
def sim() -> Iterator[SimulatorThread]:
    with Simulator.thread() as simulator:
        yield simulator


@pytest.fixture(params=[AnthropicMessages(), GeminiGenerateContent()], ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Any:
    return request.param


def post(sim: SimulatorThread, wire: EndpointWire, body: bytes, model_id: str, stream: bool) -> Reply:
    """Sends a request as a provider does, and takes the answer in the pieces in which it comes."""
    base = "/v1beta" if wire.name.startswith("gemini") else "/v1"
    connection = http.client.HTTPConnection(urlsplit(sim.url).netloc, timeout=30)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    connection.request("POST", base + wire.target(model_id, stream), body, headers)
    response = connection.getresponse()
    chunks: list[bytes] = []
    try:
        while chunk := response.read1(4096):
            chunks.append(chunk)
    except (http.client.IncompleteRead, ConnectionError):
        pass
    finally:
        connection.close()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, chunks)


def ask(sim: SimulatorThread, wire: EndpointWire, call: Call, model_id: str | None = None) -> list[Piece]:
    """The pieces of the answer; raises what the dialect makes of a failure."""
    model_id = model_id or MODELS[wire.name.removesuffix("-count")]
    encoded = wire.encode_call(call, model_id)
    reply = post(sim, wire, encoded.body, model_id, call.stream)
    if reply.status != 200:
        raise wire.decode_error(reply.status, reply.headers, b"".join(reply.chunks))
    if not call.stream:
        return wire.decode_answer(b"".join(reply.chunks))
    decoder = wire.stream_decoder()
    return [piece for chunk in reply.chunks for piece in decoder.feed(chunk)] + decoder.close()


def openai(*parts: Part, **fields: Any) -> Call:
    said = parts or (Text("How are you?"),)
    turns = (Message(role="system", parts=(Text("Be brief."),)), Message(role="user", parts=said))
    return Call(**{"dialect": "openai", "operation": "chat", "model": "route", "messages": turns} | fields)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))


def arguments_of(answer: Folded) -> list[Any]:
    return [msgspec.json.decode(arguments) for _, _, arguments in answer.calls.values()]


RICH = Script(
    reasoning=("Let ", "me see."),
    text=("Grüße", " aus", " Köln 🌍"),
    tools=(ToolCall("get_weather", '{"city":"Köln"}'), ToolCall("get_weather", '{"city":"Bonn"}')),
    usage=ToldUsage(uncached=11, cache_read=7, output=20, reasoning=5),
)


def test_a_rich_answer_is_the_same_streamed_or_whole(sim: SimulatorThread, wire: EndpointWire) -> None:
    sim.simulator.script = RICH
    call = openai(tools=(WEATHER,), thinking=Thinking(enabled=True, effort="low"), max_tokens=4000)
    whole = folded(ask(sim, wire, call))
    stream = folded(ask(sim, wire, msgspec.structs.replace(call, stream=True)))
    assert stream.text == whole.text == {0: "Grüße aus Köln 🌍"}
    assert stream.reasoning == whole.reasoning == {0: "Let me see."}
    assert arguments_of(stream) == arguments_of(whole) == [{"city": "Köln"}, {"city": "Bonn"}]
    assert stream.finish == whole.finish == {0: "tool_calls"}
    assert stream.usage == whole.usage == Usage(input=11, cache_read=7, output=25, reasoning=5)


@pytest.mark.parametrize(
    "misfortune",
    [
        Misfortune(write_size=1),
        Misfortune(newline="\r\n", write_size=5),
        Misfortune(newline="\n", tight_fields=True),
        Misfortune(spaced_json=True, heartbeats=True, write_size=7),
        Misfortune(strange_events=True),
        Misfortune(usage="every-chunk"),
    ],
)
def test_how_a_stream_is_written_changes_nothing(
    sim: SimulatorThread, wire: EndpointWire, misfortune: Misfortune
) -> None:
    call = openai(tools=(WEATHER,), stream=True)
    sim.simulator.script = RICH
    plain = folded(ask(sim, wire, call))
    sim.simulator.script = msgspec.structs.replace(RICH, fault=misfortune)
    odd = folded(ask(sim, wire, call))
    assert arguments_of(odd) == arguments_of(plain)
    assert (odd.text, odd.reasoning, odd.finish, odd.usage) == (
        plain.text,
        plain.reasoning,
        plain.finish,
        plain.usage,
    )


def test_missing_usage_is_unknown(sim: SimulatorThread, wire: EndpointWire) -> None:
    sim.simulator.script = Script(text=("a",), fault=Misfortune(usage="missing"))
    for stream in (False, True):
        assert not any(isinstance(piece, UsageReport) for piece in ask(sim, wire, openai(stream=stream)))


@pytest.mark.parametrize(
    ("misfortune", "fault"),
    [
        (Misfortune(cut_after=1), Fault.BROKEN_STREAM),
        (Misfortune(truncate_after=1), Fault.BROKEN_STREAM),
        (Misfortune(error_after=1), Fault.OVERLOADED),
        (Misfortune(bad_json=True), Fault.MALFORMED_ANSWER),
        (Misfortune(bad_utf8=True), Fault.MALFORMED_ANSWER),
    ],
)
def test_a_stream_that_fails_says_how(
    sim: SimulatorThread, wire: EndpointWire, misfortune: Misfortune, fault: Fault
) -> None:
    sim.simulator.script = Script(text=("one", " two", " three"), fault=misfortune)
    with pytest.raises(IsthmusError) as caught:
        ask(sim, wire, openai(stream=True))
    assert caught.value.fault is fault


def test_tools_schemas_and_pictures_are_what_the_endpoint_accepts(
    sim: SimulatorThread, wire: EndpointWire
) -> None:
    picture = Image(data="aGk=", media_type="image/png")
    form = ResponseFormat(kind="json_schema", name="n", schema=WEATHER.parameters, strict=True)
    ask(sim, wire, openai(Text("look"), picture, response_format=form))
    forced = openai(tools=(WEATHER,), tool_choice=ToolChoice(mode="tool", name="get_weather"))
    calls = folded(ask(sim, wire, forced, "sim-tools")).calls
    assert [name for _, name, _ in calls.values()] == ["get_weather"]


def test_a_round_of_parallel_tools_is_accepted_back(sim: SimulatorThread, wire: EndpointWire) -> None:
    call = openai(tools=(WEATHER,))
    first = ask(sim, wire, call, "sim-parallel-tools")
    uses, results = [], []
    for identity, name, arguments in folded(first).calls.values():
        uses.append(ToolUse(identity, name, arguments))
        results.append(ToolResult(identity, (Text(f"sunny {identity}"),)))
    turns = (Message(role="assistant", parts=tuple(uses)), Message(role="user", parts=tuple(results)))
    again = msgspec.structs.replace(call, messages=call.messages + turns)
    assert "sunny" in text_of(ask(sim, wire, again))


def test_signed_thoughts_survive_an_anthropic_client(sim: SimulatorThread, wire: EndpointWire) -> None:
    """The simulator refuses a signature that was edited, moved, or dropped where it is wanted."""
    sim.simulator.script = RICH
    model_id = {"anthropic": "claude-sim", "gemini": "sim-signed"}[wire.name]
    request: dict[str, Any] = {
        "model": "route",
        "max_tokens": 4000,
        "tools": [{"name": "get_weather", "input_schema": WEATHER.parameters}],
        "messages": [{"role": "user", "content": "How is the weather?"}],
    }
    call = CLIENT.decode_call(CLIENT.peek(msgspec.json.encode(request)))
    answer = msgspec.json.decode(CLIENT.encode_answer(ask(sim, wire, call, model_id), call, "req_1", 0))
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "sunny"}
        for block in answer["content"]
        if block["type"] == "tool_use"
    ]
    request["messages"] += [
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": results},
    ]
    sim.simulator.script = None
    call = CLIENT.decode_call(CLIENT.peek(msgspec.json.encode(request)))
    assert text_of(ask(sim, wire, call, model_id)).startswith("sunny")


def test_redacted_thinking_returns_byte_for_byte(sim: SimulatorThread) -> None:
    wire = AnthropicMessages()
    pieces = ask(sim, wire, openai(), "sim-redacted")
    thought = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningDelta))
    seals = [piece for piece in pieces if isinstance(piece, ReasoningSeal)]
    parts = (
        Reasoning(thought, signature=seals[0].signature, dialect="anthropic"),
        Reasoning(encrypted=seals[1].encrypted, dialect="anthropic"),
        Text("so"),
    )
    call = openai()
    turns = (Message(role="assistant", parts=parts), Message(role="user", parts=(Text("go on"),)))
    assert text_of(ask(sim, wire, msgspec.structs.replace(call, messages=call.messages + turns))) == "go on"


@pytest.mark.parametrize(
    ("model_id", "fault"),
    [
        ("sim-400-context", Fault.CONTEXT_TOO_LONG),
        ("sim-400", Fault.INVALID_REQUEST),
        ("sim-401", Fault.UPSTREAM_AUTHENTICATION),
        ("sim-404", Fault.UPSTREAM_NOT_FOUND),
        ("sim-429", Fault.RATE_LIMITED),
        ("sim-500", Fault.UPSTREAM_ERROR),
        ("sim-503", Fault.OVERLOADED),
    ],
)
def test_refusals_are_classed(sim: SimulatorThread, wire: EndpointWire, model_id: str, fault: Fault) -> None:
    with pytest.raises(IsthmusError) as caught:
        ask(sim, wire, openai(), model_id)
    # Google says "exceeded your current quota" for both; then the account may be empty.
    allowed = {fault, Fault.UNAVAILABLE} if fault is Fault.RATE_LIMITED else {fault}
    assert caught.value.fault in allowed


def test_log_probabilities_and_choices_of_gemini(sim: SimulatorThread) -> None:
    sim.simulator.script = Script(text=("a", " b"), choices=(("c",),), logprobs=(-0.5, -0.25))
    wire = GeminiGenerateContent()
    pieces = ask(sim, wire, openai(n=2, logprobs=True, top_logprobs=2))
    assert folded(pieces).text == {0: "a b", 1: "c"}
    told = [piece.logprobs for piece in pieces if isinstance(piece, TextDelta) and piece.logprobs]
    assert [one["logprob"] for one in told[0]] == [-0.5, -0.25]


def test_giant_arguments_arrive_whole(sim: SimulatorThread, wire: EndpointWire) -> None:
    call = openai(tools=(WEATHER,), stream=True)
    (said,) = folded(ask(sim, wire, call, "sim-giant-tool-args")).calls.values()
    assert len(said[2]) > 1_000_000
    msgspec.json.decode(said[2])
    start, arguments = ToolCallStart(index=0, id="a", name="f"), ToolArgumentsDelta(index=0, text=said[2])
    body = CLIENT.encode_answer([start, arguments], openai(), "req_1", 0)
    assert msgspec.json.decode(body)["content"][0]["input"] == msgspec.json.decode(said[2])


@pytest.mark.parametrize("counter", [AnthropicCountTokens(), GeminiCountTokens()], ids=lambda wire: wire.name)
def test_tokens_are_counted_by_the_endpoint(sim: SimulatorThread, counter: EndpointWire) -> None:
    counted = ask(sim, counter, openai(Text("one two three"), operation="count_tokens", tools=(WEATHER,)))
    assert isinstance(counted[0], TokenCount)
    # "Be brief." and three words, and those of the tool.
    assert counted[0].tokens > 5
    assert not counted[0].estimated


def test_a_passed_through_stream_arrives_byte_for_byte(sim: SimulatorThread) -> None:
    sim.simulator.script = msgspec.structs.replace(RICH, fault=Misfortune(write_size=11, heartbeats=True))
    request = {
        "model": "route",
        "max_tokens": 4000,
        "stream": True,
        "metadata": {"user_id": "u"},
        "tools": [{"name": "get_weather", "input_schema": WEATHER.parameters}],
        "messages": [{"role": "user", "content": "How is the weather?"}],
    }
    body = CLIENT.patch(CLIENT.peek(msgspec.json.encode(request)), "claude-sim")
    reply = post(sim, CLIENT, body, "claude-sim", True)
    watch = CLIENT.watch(strip_usage=True)
    forwarded = b"".join(watch.feed(chunk) for chunk in reply.chunks) + watch.close()
    assert forwarded == b"".join(reply.chunks)
    assert watch.reading.ended
    assert watch.reading.finish == "tool_calls"
    assert watch.reading.usage == Usage(input=11, cache_read=7, output=25, reasoning=5)
