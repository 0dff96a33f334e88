"""Each wait has its own bound, and a model that fails again and again is left alone for a while."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.accounting.breaker import Breaker
from isthmus.gateway.story import clock
from isthmus.testing import Asked, Fault, Refusal, Script, echo

from .gateway import ANTHROPIC, OPENAI, PROMPT, Served, config_text, eventually, failure, serving, simulated

LONG = {"connect": 60.0, "first_token": 60.0, "idle": 60.0, "total": 60.0}
SHORT_S = 0.05


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that accepts no connection and refuses none: its line is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = []
        for _ in range(4):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(address)
            waiting.append(caller)
        yield address[1]
        for caller in waiting:
            caller.close()


def _once(model: str) -> dict[str, Any]:
    return {"model": model, "retries": 0}


async def _code(served: Served, route: str, *, stream: bool) -> tuple[int, str]:
    answer = await served.ask(route, stream=stream)
    record = await served.record(answer)
    assert record.attempts[0].code == answer.error["code"]
    return answer.status, str(answer.error["code"])


@pytest.mark.parametrize("stream", [False, True])
async def test_connecting_is_bounded(tmp_path: Path, deaf_port: int, stream: bool) -> None:
    limits = {"timeouts": {**LONG, "connect": SHORT_S}}
    text = config_text(f"http://127.0.0.1:{deaf_port}", {"r": _once("openai/m")}, provider=limits)
    async with serving(text, tmp_path) as served:
        assert await _code(served, "r", stream=stream) == (502, "connect_timeout")


async def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Bound, and not listening: connections are refused, and nobody else can have the port.
        taken.bind(("127.0.0.1", 0))
        text = config_text(f"http://127.0.0.1:{taken.getsockname()[1]}", {"r": _once("openai/m")})
        async with serving(text, tmp_path) as served:
            assert await _code(served, "r", stream=False) == (502, "connect_failed")


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
async def test_the_first_token_has_a_bound_of_its_own(tmp_path: Path, upstream: str) -> None:
    limits = {"timeouts": {**LONG, "first_token": SHORT_S}}
    routes = {name: _once(f"{upstream}/sim-{name}") for name in ("stall-before-first", "slow-first-token")}
    async with simulated(routes, tmp_path, provider=limits) as (sim, served):
        for name in routes:
            assert await _code(served, name, stream=True) == (504, "first_byte_timeout")
        await sim.wait_aborted(2)


async def test_a_whole_answer_may_take_longer_than_the_first_token_of_a_stream(tmp_path: Path) -> None:
    limits = {"timeouts": {**LONG, "first_token": SHORT_S}}
    async with simulated({"r": _once("openai/slow")}, tmp_path, provider=limits) as (sim, served):
        sim.script = Script(text=("late",), first_delay_s=3 * SHORT_S)
        assert (await served.ask("r")).status == 200


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
async def test_silence_within_an_answer_is_bounded(tmp_path: Path, upstream: str) -> None:
    limits = {"timeouts": {**LONG, "idle": SHORT_S}}
    async with simulated({"r": _once(f"{upstream}/sim-stall")}, tmp_path, provider=limits) as (sim, served):
        answer = await served.ask("r", stream=True)
        error = failure(answer.events)
        assert error is not None
        assert error["code"] == "idle_timeout"
        assert OPENAI.text(answer) == "the"
        await sim.wait_aborted()


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_whole_attempt_is_bounded(tmp_path: Path, upstream: str, stream: bool) -> None:
    limits = {"timeouts": {**LONG, "total": 4 * SHORT_S}}
    async with simulated({"r": _once(f"{upstream}/slow")}, tmp_path, provider=limits) as (sim, served):
        # It is never silent for long, and never done.
        delay_s = SHORT_S if stream else 60.0
        sim.script = Script(text=("x",) * 500, first_delay_s=delay_s, piece_delay_s=delay_s)
        answer = await served.ask("r", stream=stream)
        error = failure(answer.events) if stream else answer.error
        assert error is not None
        assert error["code"] == "total_timeout"
        await sim.wait_aborted()


BREAKER = {"breaker": {"failures": 2, "cooldown": 60.0, "max_cooldown": 60.0}}
BRIEF = {"breaker": {"failures": 2, "cooldown": 0.05, "max_cooldown": 60.0}}
"""Open for so short a time that nothing may be said of it while it is."""


def _breaker(served: Served, model: str) -> Breaker:
    return served.house.workshop.breakers()[model]


def _ill_while(ill: list[bool]) -> Any:
    def says(asked: Asked) -> Script:
        return Script(fault=Fault(refuse=Refusal(status=500))) if ill[0] else echo(asked)

    return says


async def test_a_model_that_fails_again_and_again_is_left_alone(tmp_path: Path) -> None:
    routes = {"r": _once("openai/ill"), "other": "openai/well"}
    async with simulated(routes, tmp_path, provider=BREAKER) as (sim, served):
        sim.scripts["ill"] = _ill_while([True])
        for _ in range(2):
            assert (await served.ask("r")).status == 502
        for dialect, status in ((OPENAI, 503), (ANTHROPIC, 529)):
            answer = await served.ask("r", dialect)
            assert (answer.status, answer.error["code"]) == (status, "breaker_open")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert (await served.record(answer)).attempts[0].upstream_status is None
        assert len(sim.requests) == 2
        assert (await served.metrics())['isthmus_breaker_open{model="openai/ill"}'] == 1
        assert (await served.ask("other")).status == 200, "another model of the same provider is not touched"


async def test_a_model_that_was_left_alone_is_tried_again(tmp_path: Path) -> None:
    ill = [True]
    async with simulated({"r": _once("openai/ill")}, tmp_path, provider=BRIEF) as (sim, served):
        sim.scripts["ill"] = _ill_while(ill)
        for _ in range(2):
            assert (await served.ask("r")).status == 502
        breaker = _breaker(served, "openai/ill")
        await eventually(lambda: breaker.state(clock()) == "half-open")
        assert (await served.ask("r")).status == 502, "the probe fails, and it is left alone again"
        assert breaker.state(clock()) != "closed"

        ill[0] = False
        await eventually(lambda: breaker.state(clock()) == "half-open")
        assert OPENAI.text(await served.ask("r")) == PROMPT
        assert breaker.state(clock()) == "closed"
        assert (await served.metrics())['isthmus_breaker_open{model="openai/ill"}'] == 0


async def test_an_open_breaker_makes_way_for_the_fallback(tmp_path: Path) -> None:
    routes = {"r": {"fallback": [_once("openai/ill"), "anthropic/well"]}}
    async with simulated(routes, tmp_path, provider={"breaker": {"failures": 1, "cooldown": 60}}) as (
        sim,
        served,
    ):
        sim.scripts["ill"] = Script(fault=Fault(refuse=Refusal(status=500)))
        codes = []
        for _ in range(2):
            answer = await served.ask("r", stream=True)
            assert OPENAI.text(answer) == PROMPT
            codes.append((await served.record(answer)).attempts[0].code)
        assert codes == ["upstream_error", "breaker_open"]


@pytest.mark.parametrize("name", ["sim-400", "sim-400-context", "sim-429", "sim-404", "sim-413"])
async def test_what_is_not_the_models_illness_never_trips_its_breaker(tmp_path: Path, name: str) -> None:
    async with simulated({"r": _once(f"openai/{name}")}, tmp_path, provider=BREAKER) as (sim, served):
        for _ in range(4):
            await served.ask("r")
        assert len(sim.requests) == 4
        assert _breaker(served, f"openai/{name}").state(clock()) == "closed"


async def test_a_request_that_cannot_be_said_proves_nothing_about_the_model(tmp_path: Path) -> None:
    provider = {"breaker": {"failures": 1, "cooldown": 0.02, "max_cooldown": 60.0}}
    async with simulated({"r": _once("anthropic/ill")}, tmp_path, provider=provider) as (sim, served):
        sim.scripts["ill"] = Script(fault=Fault(refuse=Refusal(status=500)))
        assert (await served.ask("r")).status == 502
        breaker = _breaker(served, "anthropic/ill")
        await eventually(lambda: breaker.state(clock()) == "half-open")
        answer = await served.ask("r", n=2)
        assert (answer.status, answer.error["param"]) == (400, "n")
        assert breaker.state(clock()) == "half-open", (
            "nobody asked the model, so nobody knows that it is well"
        )
        assert breaker.permits(clock()), "and its probe is still to be had"
        assert len(sim.requests) == 1


async def test_breaks_within_streams_count_as_well(tmp_path: Path) -> None:
    async with simulated({"r": _once("openai/sim-cut")}, tmp_path, provider=BREAKER) as (_, served):
        for _ in range(2):
            assert failure((await served.ask("r", stream=True)).events)
        assert _breaker(served, "openai/sim-cut").state(clock()) == "open"
