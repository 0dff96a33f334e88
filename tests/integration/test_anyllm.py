"""Calls through any-llm, which is an extra: a gateway whose provider is reached by its OpenAI client.

Where the package is not installed, only what must hold without it is proved, and the rest is skipped.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from isthmus.config.load import parse
from isthmus.core.errors import IsthmusError
from isthmus.providers.anyllm import AnyLlmTransport, require
from isthmus.providers.transport import (
    ConnectError,
    ConnectionLostError,
    FirstByteTimeoutError,
    HeaderBlock,
    IdleTimeoutError,
    Outgoing,
    PoolExhaustedError,
    Timeouts,
    TotalTimeoutError,
    TransportError,
    as_target,
    render_headers,
)
from isthmus.testing import Simulator

from .gateway import ANTHROPIC, OPENAI, PROMPT, Caller, eventually, failure, serving

KEY = "sk-anyllm-0123456789"
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}

needs_anyllm = pytest.mark.skipif(
    importlib.util.find_spec("any_llm") is None, reason="any-llm-sdk (the extra `anyllm`) is not installed"
)


def config_text(url: str | None, *models: str, **provider: Any) -> str:
    """A config in which each of these ids of any-llm is a model, and a route by the part after the colon."""
    at = {"base_url": url + "/v1"} if url else {}
    named = {model.rpartition(":")[2] + "-model": model for model in models}
    return msgspec.json.encode(
        {
            "providers": {"tail": {"preset": "anyllm", "kind": "closed", **at, **provider}},
            "models": {name: {"provider": "tail", "id": model} for name, model in named.items()},
            "routes": {name.removesuffix("-model"): {"call": name, "retries": 0} for name in named},
        }
    ).decode()


def faults_of(text: str) -> list[str]:
    return [f"{fault.code} {fault.path}: {fault.message}" for fault in parse(text, "isthmus.yaml").faults]


# Without the package


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "any_llm", None)
    with pytest.raises(IsthmusError) as refused:
        require("cohere:command-a")
    assert refused.value.code == "anyllm_missing"
    assert "pip install 'isthmus[anyllm]'" in refused.value.hint


def test_neither_key_nor_address_is_needed() -> None:
    parsed = parse(config_text(None, "cohere:command-a", "bedrock:amazon.nova-pro-v1:0"), "isthmus.yaml")
    assert parsed.config is not None, parsed.faults
    assert parsed.config.providers["tail"].client == "anyllm"
    assert parsed.config.providers["tail"].base_url is None


def test_a_model_names_its_provider() -> None:
    [fault] = faults_of(config_text(None, "command-a"))
    assert fault.startswith("C008 models.command-a-model.id: `command-a` does not say")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auth", "x-api-key"),
        ("headers", {"x-team": "blue"}),
        ("query", {"version": "1"}),
        ("forward_headers", ["x-team"]),
        ("client", "aiohttp"),
    ],
)
def test_what_any_llm_would_ignore_is_refused(key: str, value: Any) -> None:
    faults = faults_of(config_text(None, "cohere:command-a", **{key: value}))
    assert [fault.partition(":")[0] for fault in faults] == [f"C009 providers.tail.{key}"]


def test_one_vendors_key_is_never_sent_to_another() -> None:
    models = ("cohere:command-a", "groq:llama")
    assert faults_of(config_text(None, *models)) == []
    [fault] = faults_of(config_text(None, *models, key="env:PATH"))
    assert fault == (
        "C009 models.llama-model.id: `tail` has a key or base_url of cohere, and this is groq's model."
    )


# With it


@pytest_asyncio.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(key=KEY) as simulator:
        yield simulator


@pytest_asyncio.fixture
async def transport(sim: Simulator) -> AsyncIterator[AnyLlmTransport]:
    pytest.importorskip("any_llm", reason="any-llm-sdk (the extra `anyllm`) is not installed")
    transport = AnyLlmTransport(sim.url + "/v1", max_connections=2, max_waiting=0)
    yield transport
    await transport.aclose()


@pytest.fixture
def tail(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway in front of the simulator, through any-llm, with these models of it."""
    monkeypatch.setenv("TAIL_KEY", KEY)

    def serve(*models: str, **provider: Any) -> Any:
        named = [f"openai:{model}" for model in models]
        return serving(config_text(sim.url, *named, **{"key": "env:TAIL_KEY", **provider}), tmp_path)

    return serve


def asking(model: str, *, stream: bool = False, key: str = KEY, **more: Any) -> Outgoing:
    timeouts = more.pop("timeouts", Timeouts())
    body = {"model": f"openai:{model}", "messages": [{"role": "user", "content": PROMPT}], **more}
    return Outgoing(
        target=as_target("/v1/chat/completions"),
        body=msgspec.json.encode(body | ({"stream": True} if stream else {})),
        headers=render_headers([("authorization", f"Bearer {key}")]) if key else HeaderBlock(b""),
        timeouts=timeouts,
    )


@needs_anyllm
@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_comes_through(tail: Any, dialect: Any, stream: bool) -> None:
    async with tail("sim-echo") as served:
        answer = await served.ask("sim-echo", dialect, stream=stream)
        assert answer.status == 200, answer.body
        assert dialect.text(answer) == PROMPT
        [attempt] = (await served.record(answer)).attempts
        assert (attempt.outcome, attempt.model_id) == ("ok", "openai:sim-echo")
        assert attempt.usage is not None
        assert (attempt.usage.output, attempt.usage.estimated) == (len(PROMPT.split()), False)


@needs_anyllm
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_tools_are_called(tail: Any, stream: bool) -> None:
    async with tail("sim-parallel-tools") as served:
        answer = await served.ask("sim-parallel-tools", stream=stream, tools=[TOOL])
        calls: dict[int, str] = {}
        messages = (
            [choice["delta"] for event in answer.events[:-1] for choice in event.json["choices"]]
            if stream
            else [answer.json["choices"][0]["message"]]
        )
        for message in messages:
            for index, call in enumerate(message.get("tool_calls") or ()):
                place = call.get("index", index)
                calls[place] = calls.get(place, "") + (call["function"].get("arguments") or "")
        assert len(calls) == 3
        assert all(isinstance(msgspec.json.decode(arguments), dict) for arguments in calls.values())


@needs_anyllm
async def test_embeddings_come_through(tail: Any) -> None:
    async with tail("sim-embed") as served:
        answer = await served.post("/v1/embeddings", {"model": "sim-embed", "input": ["one", "two words"]})
        assert answer.status == 200, answer.body
        assert [len(row["embedding"]) for row in answer.json["data"]] == [64, 64]
        assert answer.json["usage"]["prompt_tokens"] == 3


@needs_anyllm
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("model", "status", "fault"),
    [
        ("sim-400", 400, "invalid_request"),
        ("sim-400-context", 400, "context_too_long"),
        ("sim-401", 502, "upstream_authentication"),
        ("sim-404", 502, "upstream_not_found"),
        ("sim-429", 429, "rate_limited"),
        ("sim-429-quota", 503, "unavailable"),
        ("sim-500", 502, "upstream_error"),
        ("sim-503", 503, "overloaded"),
        ("sim-disconnect", 502, "unreachable"),
    ],
)
async def test_a_refusal_is_classed(
    tail: Any, sim: Simulator, model: str, status: int, fault: str, stream: bool
) -> None:
    async with tail(model) as served:
        answer = await served.ask(model, stream=stream)
        assert answer.status == status, answer.body
        [attempt] = (await served.record(answer)).attempts
        assert attempt.fault == fault
        assert answer.headers.get("retry-after") == {"sim-429": "1", "sim-503": "2"}.get(model)
        assert len(sim.requests) == 1, "asking again is the strategy's business, not the SDK's"


@needs_anyllm
@pytest.mark.parametrize("model", ["sim-cut", "sim-truncated", "sim-error-mid-stream"])
async def test_a_broken_stream_is_told(tail: Any, model: str) -> None:
    async with tail(model) as served:
        answer = await served.ask(model, stream=True)
        assert answer.status == 200
        assert failure(answer.events) is not None
        [attempt] = (await served.record(answer)).attempts
        assert (attempt.outcome, attempt.committed) == ("error", True)


@needs_anyllm
async def test_a_caller_who_leaves_stops_the_upstream(tail: Any, sim: Simulator) -> None:
    async with tail("sim-stall") as served:
        caller = await Caller.ask(served, "sim-stall")
        await caller.until(b"the")
        await caller.leave()
        await sim.wait_aborted()


@needs_anyllm
@pytest.mark.parametrize("name", ["api_base", "extra_headers", "timeout", "client_args", "provider"])
async def test_a_caller_cannot_reach_the_sdks_own_options(tail: Any, sim: Simulator, name: str) -> None:
    async with tail("sim-echo") as served:
        answer = await served.ask("sim-echo", **{name: {"x": "y"}})
        assert answer.status == 400
        assert answer.error["param"] == name
        assert sim.requests == []


@needs_anyllm
async def test_a_value_of_the_wrong_type_is_the_callers_fault(tail: Any, sim: Simulator) -> None:
    async with tail("sim-echo") as served:
        answer = await served.ask("sim-echo", seed="not a seed")
        assert (answer.status, answer.error["param"]) == (400, "seed")
        assert "not a seed" not in answer.body.decode()
        assert sim.requests == []


@needs_anyllm
async def test_without_a_key_the_sdk_looks_for_its_own(
    tail: Any, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with tail("sim-echo", key=None) as served:
        assert (await served.ask("sim-echo")).status == 200
    monkeypatch.delenv("OPENAI_API_KEY")
    async with tail("sim-echo", key=None) as served:
        answer = await served.ask("sim-echo")
        assert answer.status == 502
        assert (await served.record(answer)).attempts[0].fault == "upstream_authentication"
    assert len(sim.requests) == 1


@needs_anyllm
@pytest.mark.parametrize(
    ("model", "code"), [("nobody:model", "unknown_provider"), ("cohere:command-a", "sdk_missing")]
)
async def test_a_model_that_cannot_be_called_is_refused_at_the_start(
    model: str, code: str, tmp_path: Path
) -> None:
    if code == "sdk_missing" and importlib.util.find_spec("cohere") is not None:
        pytest.skip("cohere's SDK is installed")
    with pytest.raises(IsthmusError) as refused:
        async with serving(config_text(None, model), tmp_path):
            pass
    assert refused.value.code == code


@needs_anyllm
async def test_nothing_of_prompt_or_key_is_logged(tail: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with tail("sim-400", "sim-echo") as served:
            await served.ask("sim-400")
            await served.ask("sim-echo", stream=True)
    assert PROMPT not in caplog.text
    assert KEY not in caplog.text


# The seam itself


@pytest.mark.parametrize(
    ("model", "timeouts", "late"),
    [
        ("sim-stall", Timeouts(idle_s=0.2), IdleTimeoutError),
        ("sim-stall", Timeouts(total_s=0.4), TotalTimeoutError),
    ],
)
async def test_a_stream_is_given_up_in_time(
    transport: AnyLlmTransport, sim: Simulator, model: str, timeouts: Timeouts, late: type[TransportError]
) -> None:
    async def listen() -> None:
        stream = await transport.stream(asking(model, stream=True, timeouts=timeouts))
        await stream.read(1 << 20)

    with pytest.raises(late):
        await listen()
    await sim.wait_aborted()


async def test_a_stream_that_never_begins_is_given_up_in_time() -> None:
    pytest.importorskip("any_llm", reason="any-llm-sdk (the extra `anyllm`) is not installed")
    left = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        transport = AnyLlmTransport(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        with pytest.raises(FirstByteTimeoutError):
            await transport.stream(asking("sim-echo", stream=True, timeouts=Timeouts(first_byte_s=0.3)))
        await left.wait()
        await transport.aclose()


async def test_a_whole_answer_is_given_up_in_time(transport: AnyLlmTransport, sim: Simulator) -> None:
    with pytest.raises(TotalTimeoutError, match=r"openai \(through any-llm\)"):
        await transport.send(asking("sim-stall", timeouts=Timeouts(total_s=0.2)))
    await sim.wait_aborted()


async def test_cancelling_ends_the_call(transport: AnyLlmTransport, sim: Simulator) -> None:
    call = asyncio.create_task(transport.send(asking("sim-stall")))
    await sim.wait_held()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await sim.wait_aborted()


async def test_calls_beyond_the_limit_are_refused(transport: AnyLlmTransport, sim: Simulator) -> None:
    calls = [asyncio.create_task(transport.send(asking("sim-stall"))) for _ in range(2)]
    await sim.wait_held(2)
    with pytest.raises(PoolExhaustedError):
        await transport.send(asking("sim-echo"))
    sim.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [200, 200]
    assert (await transport.send(asking("sim-echo"))).status == 200


async def test_each_key_has_its_own_client(transport: AnyLlmTransport, sim: Simulator) -> None:
    assert (await transport.send(asking("sim-echo", key="sk-wrong"))).status == 401
    assert (await transport.send(asking("sim-echo"))).status == 200
    assert [each.headers["authorization"] for each in sim.requests] == ["Bearer sk-wrong", f"Bearer {KEY}"]


async def test_an_unknown_provider_is_a_404(transport: AnyLlmTransport) -> None:
    outgoing = asking("sim-echo")
    body = outgoing.body.replace(b"openai:", b"nobody:")
    assert (await transport.send(msgspec.structs.replace(outgoing, body=body))).status == 404


async def test_nobody_there_is_a_connection_that_never_was(unused_tcp_port: int) -> None:
    pytest.importorskip("any_llm", reason="any-llm-sdk (the extra `anyllm`) is not installed")
    transport = AnyLlmTransport(f"http://127.0.0.1:{unused_tcp_port}/v1")
    with pytest.raises(ConnectError):
        await transport.send(asking("sim-echo"))
    await transport.aclose()


def _annexes() -> int:
    return sum(thread.name == "isthmus-anyllm" for thread in threading.enumerate())


async def test_a_retired_transport_finishes_in_peace(transport: AnyLlmTransport, sim: Simulator) -> None:
    before = _annexes()
    call = asyncio.create_task(transport.send(asking("sim-stall")))
    await sim.wait_held()
    transport.retire()
    sim.release()
    assert (await call).status == 200
    await eventually(lambda: _annexes() == before)
    assert (await transport.send(asking("sim-echo"))).status == 200
    await eventually(lambda: _annexes() == before)


async def test_a_closed_transport_fails_what_is_in_flight(transport: AnyLlmTransport, sim: Simulator) -> None:
    call = asyncio.create_task(transport.send(asking("sim-stall")))
    await sim.wait_held()
    await transport.aclose()
    with pytest.raises(ConnectionLostError):
        await call
    with pytest.raises(ConnectError):
        await transport.send(asking("sim-echo"))
    await sim.wait_aborted()


async def test_a_provider_that_blocks_its_loop_does_not_block_ours(
    transport: AnyLlmTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bedrock's streams do so; here OpenAI's client is made to, until our own loop lets it go on."""
    from any_llm.providers.openai import OpenaiProvider

    blocked = threading.Event()

    async def blocks(*_: Any, **__: Any) -> Any:
        assert blocked.wait(10), "the gateway's loop was blocked as well"
        raise NotImplementedError

    monkeypatch.setattr(OpenaiProvider, "_acompletion", blocks)
    call = asyncio.create_task(transport.send(asking("sim-echo")))
    await eventually(lambda: _annexes() > 0)
    blocked.set()
    assert (await call).status == 400
