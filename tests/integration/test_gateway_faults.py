"""What the gateway makes of upstreams that refuse, fail, break off and babble, in all pairs of dialects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from isthmus.testing import MODELS, Asked, Fault, Refusal, Script, Simulator, echo, words
from isthmus.testing.behaviours import GIANT_ARGUMENTS

from .gateway import (
    ANTHROPIC,
    DIALECTS,
    OPENAI,
    PROMPT,
    RESPONSES,
    Answer,
    Dialect,
    Served,
    failure,
    simulated,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPSTREAMS = ("openai", "anthropic", "responses", "gemini")
PAIRS = [
    pytest.param(OPENAI, "openai", id="openai"),
    pytest.param(ANTHROPIC, "anthropic", id="anthropic"),
    pytest.param(RESPONSES, "responses", id="responses"),
    pytest.param(OPENAI, "anthropic", id="openai-to-anthropic"),
    pytest.param(ANTHROPIC, "openai", id="anthropic-to-openai"),
    pytest.param(RESPONSES, "anthropic", id="responses-to-anthropic"),
    pytest.param(OPENAI, "gemini", id="openai-to-gemini"),
]
"""The client's dialect and the upstream's: three that pass bytes through, four that translate."""

STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])

REFUSALS = {
    "sim-400-context": (400, "context_length_exceeded"),
    "sim-402": (503, "insufficient_quota"),
    "sim-401": (502, "upstream_authentication"),
    "sim-403": (502, "upstream_authentication"),
    "sim-404": (502, "upstream_not_found"),
    "sim-408": (504, "timeout"),
    "sim-413": (413, "too_large"),
    "sim-429": (429, "rate_limited"),
    "sim-500": (502, "upstream_error"),
    "sim-503": (503, "overloaded"),
    "sim-504": (502, "upstream_error"),
    "sim-529": (503, "overloaded"),
    "sim-html-502": (502, "upstream_error"),
    "sim-redirect": (502, "upstream_error"),
    "sim-disconnect": (502, "connection_lost"),
    "sim-cut-before-first": (502, "connection_lost"),
}
"""What fails before it says anything, and what the caller is told, were there nobody else to ask."""

BREAKS = {
    "sim-cut": "connection_lost",
    "sim-reset": "connection_lost",
    "sim-truncated": "broken_stream",
    "sim-error-mid-stream": None,
    "sim-not-json": "malformed_answer",
    "sim-stall": "idle_timeout",
}
"""What breaks after its first words, and the code; the vendors' own errors differ in theirs."""

ODDITIES = (
    "sim-crlf",
    "sim-one-byte-writes",
    "sim-heartbeats",
    "sim-strange-events",
    "sim-spaced-json",
    "sim-tight-fields",
    "sim-usage-every-chunk",
    "sim-close",
)
"""What is unusual, and no fault."""


def _routes() -> dict[str, Any]:
    names = (*REFUSALS, *BREAKS, *ODDITIES, "sim-400", "sim-bad-utf8", "sim-wrong-content-type", "sim-echo")
    names = (
        *names,
        "sim-missing-usage",
        "sim-giant-tool-args",
        "sim-429-date",
        "sim-no-done",
        "sim-empty-body",
        "sim-unknown-finish",
        "interrupted",
    )
    routes: dict[str, Any] = {}
    for upstream in UPSTREAMS:
        for name in names:
            model = f"{upstream}/{name}"
            routes[f"only/{model}"] = {"model": model, "retries": 0}
            routes[f"else/{model}"] = {"fallback": [{"model": model, "retries": 0}, f"{upstream}/second"]}
        for name in ("once", "busy-once", "cut-once", "interrupted-once"):
            routes[f"again/{upstream}/{name}"] = {
                "model": f"{upstream}/{name}",
                "retries": 1,
                "patience": 0.01,
            }
        routes[f"again/{upstream}/late-once"] = {"model": f"{upstream}/late-once", "retries": 1}
    return routes


def _once(**fault: Any) -> Any:
    """Fails every first time of two."""

    def says(asked: Asked) -> Script:
        return Script(text=echo(asked).text, fault=Fault(**fault) if asked.nth % 2 == 0 else Fault())

    return says


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crossing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Simulator, Served]]:
    provider = {"breaker": {"failures": 1_000_000}, "timeouts": {"idle": 0.5}}
    async with simulated(_routes(), tmp_path_factory.mktemp("faults"), provider=provider) as (sim, served):
        sim.scripts |= {
            "once": _once(refuse=Refusal(status=500)),
            "busy-once": _once(refuse=Refusal(status=429, retry_after_s=0)),
            "late-once": _once(refuse=Refusal(status=429, retry_after_s=1)),
            "cut-once": _once(cut_after=0),
        }
        yield sim, served


def _asked(sim: Simulator, since: int) -> list[str]:
    """The models that were asked, in order; Gemini has them in its paths."""
    received = sim.requests[since:]
    return [
        str((one.body or {}).get("model") or one.path.rpartition("/")[2].partition(":")[0])
        for one in received
    ]


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_refusal_reaches_the_caller_in_their_own_dialect(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    _, served = crossing
    for name, (status, code) in REFUSALS.items():
        answer = await served.ask(f"only/{upstream}/{name}", dialect, stream=stream)
        if dialect is ANTHROPIC and answer.error["type"] == "overloaded_error":
            # Anthropic has a status of its own for that.
            status = 529 if status == 503 else status
        assert (answer.status, answer.error["code"]) == (status, code), name
        assert answer.error["message"]
        assert (answer.json.get("type") == "error") == (dialect is ANTHROPIC)
        record = await served.record(answer)
        assert (record.outcome, record.status, record.code, record.model) == ("error", status, code, None)
        (attempt,) = record.attempts
        assert (attempt.outcome, attempt.code, attempt.committed) == ("error", code, False)
        # Anthropic tells the prompt's tokens before its first word.
        assert attempt.usage is None or attempt.usage.estimated


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_another_model_is_asked_where_one_fails_before_it_says_anything(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    _, served = crossing
    for name, (_, code) in REFUSALS.items():
        answer = await served.ask(f"else/{upstream}/{name}", dialect, stream=stream)
        assert (answer.status, dialect.text(answer)) == (200, PROMPT), name
        assert answer.headers["x-isthmus-model"] == f"{upstream}/second"
        record = await served.record(answer)
        assert [attempt.code for attempt in record.attempts] == [code, None]
        assert (record.outcome, record.model) == ("ok", f"{upstream}/second")


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_wrong_request_is_never_tried_elsewhere(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    sim, served = crossing
    since = len(sim.requests)
    answer = await served.ask(f"else/{upstream}/sim-400", dialect, stream=stream)
    assert answer.status == 400
    assert _asked(sim, since) == ["sim-400"]


@STREAM
@pytest.mark.parametrize("name", ["once", "busy-once", "cut-once"])
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_passing_failure_is_tried_again(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool, name: str
) -> None:
    sim, served = crossing
    since = len(sim.requests)
    answer = await served.ask(f"again/{upstream}/{name}", dialect, stream=stream)
    assert (answer.status, dialect.text(answer)) == (200, PROMPT)
    assert _asked(sim, since) == [name, name]
    record = await served.record(answer)
    assert [attempt.outcome for attempt in record.attempts] == ["error", "ok"]
    first, second = record.attempts
    assert second.usage is not None
    assert (second.usage.total, second.usage.estimated) == (15, False)
    assert first.usage is None or first.usage.estimated, "Anthropic tells the prompt's tokens before it fails"


async def test_retry_after_is_waited_for_within_patience(crossing: tuple[Simulator, Served]) -> None:
    _, served = crossing
    answer = await served.ask("again/openai/late-once")
    record = await served.record(answer)
    first, second = record.attempts
    assert second.started_ms - first.started_ms >= 1000
    assert record.timings.overhead_ms < 500, "waiting as the provider asked is not the gateway's own time"


@STREAM
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_retry_after_is_passed_on_where_it_asks_for_too_much_patience(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    sim, served = crossing
    for name, seconds in (("sim-429", {1}), ("sim-503", {2}), ("sim-429-date", {29, 30, 31})):
        since = len(sim.requests)
        answer = await served.ask(f"only/{upstream}/{name}", dialect, stream=stream)
        assert int(answer.headers["retry-after"]) in seconds, name
        assert _asked(sim, since) == [name]


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_stream_that_breaks_ends_in_an_error_and_never_in_an_end(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    sim, served = crossing
    for name, code in BREAKS.items():
        if name == "sim-not-json" and dialect.name == upstream:
            continue  # what passes through is not parsed
        since = len(sim.requests)
        answer = await _break_after_the_first_word(sim, served, f"else/{upstream}/{name}", dialect)
        error = failure(answer.events)
        assert error is not None, name
        assert code in (None, error["code"]), name
        assert not dialect.ended(answer.events), name
        text = dialect.text(answer)
        assert text, name
        assert PROMPT.startswith(text), name
        assert _asked(sim, since) == [name], "after the first content nobody else is asked"
        record = await served.record(answer)
        (attempt,) = record.attempts
        assert (record.outcome, record.status, record.model) == ("error", 200, None)
        assert (attempt.outcome, attempt.committed) == ("error", True)
        assert attempt.usage is not None, name
        assert attempt.usage.estimated, name
        assert attempt.usage.input > 0, name
        assert attempt.usage.output >= 1, name
        assert attempt.charge is not None
        assert attempt.charge.estimated
        assert attempt.charge.nanousd is not None
        assert attempt.charge.nanousd > 0


async def _break_after_the_first_word(sim: Simulator, served: Served, route: str, dialect: Dialect) -> Answer:
    """The stream of a model that goes on to its break only when the client has its first word."""
    name = route.rpartition("/")[2]
    pause_s = 0.0 if name == "sim-stall" else 60.0
    says = MODELS[name].says if name in MODELS else sim.scripts[name]
    assert callable(says)
    sim.scripts[name] = lambda asked: replace(says(asked), piece_delay_s=pause_s)
    url = served.url + dialect.path
    async with served.session.post(url, data=msgspec.json.encode(dialect.body(route, True))) as response:
        assert response.status == 200, name
        body = await response.content.readuntil(b'"the"')
        releasing = asyncio.create_task(_release(sim, pause_s))
        body += await response.content.read()
        releasing.cancel()
        return Answer(response.status, {key.lower(): value for key, value in response.headers.items()}, body)


async def _release(sim: Simulator, pause_s: float) -> None:
    """Let every answer go on that pauses; one that has no pauses stalls, and is to go on stalling."""
    while pause_s:
        await sim.wait_held(timeout_s=60)
        sim.release()
        await asyncio.sleep(0)


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_stream_that_breaks_with_its_first_words_has_not_ended_either(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    sim, served = crossing
    for name in ("sim-cut", "sim-truncated", "sim-error-mid-stream"):
        sim.scripts.pop(name, None)
        answer = await served.ask(f"only/{upstream}/{name}", dialect, stream=True)
        if answer.status == 200:
            assert failure(answer.events), name
            assert not dialect.ended(answer.events), name
        else:
            assert answer.status in (502, 503), name
            assert answer.error["message"]


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_an_unusual_answer_is_whole_all_the_same(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    _, served = crossing
    for name in ODDITIES:
        answer = await served.ask(f"only/{upstream}/{name}", dialect, stream=stream)
        assert answer.status == 200, name
        assert dialect.text(answer) == PROMPT, name
        assert not stream or dialect.ended(answer.events), name
        record = await served.record(answer)
        assert record.usage is not None, name
        assert (record.usage.input, record.usage.output, record.usage.estimated) == (8, 7, False), name


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_usage_that_is_not_told_is_estimated(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    _, served = crossing
    answer = await served.ask(f"only/{upstream}/sim-missing-usage", dialect, stream=stream)
    assert dialect.text(answer) == PROMPT
    record = await served.record(answer)
    assert record.usage is not None
    assert record.usage.estimated
    assert 5 <= record.usage.input <= 30
    assert 5 <= record.usage.output <= 30


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_bytes_that_are_no_text_break_a_translation_and_pass_through_untouched(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    sim, served = crossing
    answer = await _break_after_the_first_word(sim, served, f"only/{upstream}/sim-bad-utf8", dialect)
    if dialect.name == upstream and b"malformed_answer" not in answer.body:
        assert b"\xff\xfe" in answer.body
        assert dialect.ended(answer.events[-1:])
    else:
        error = failure(answer.events)
        assert error is not None
        assert error["code"] == "malformed_answer"
        assert PROMPT.startswith(dialect.text(answer))


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_stream_that_is_called_something_else_is_refused_before_it_begins(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    _, served = crossing
    answer = await served.ask(f"only/{upstream}/sim-wrong-content-type", dialect, stream=True)
    assert (answer.status, answer.error["code"]) == (502, "wrong_content_type")


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
@pytest.mark.parametrize("name", ["sim-not-json", "sim-empty-body"])
async def test_a_body_that_is_no_answer_is_refused(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, name: str
) -> None:
    _, served = crossing
    answer = await served.ask(f"only/{upstream}/{name}", dialect)
    assert (answer.status, answer.error["code"]) == (502, "malformed_answer")
    assert (await served.ask(f"else/{upstream}/{name}", dialect)).headers[
        "x-isthmus-model"
    ] == f"{upstream}/second"


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_giant_tool_arguments_arrive_whole(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    _, served = crossing
    answer = await served.ask(f"only/{upstream}/sim-giant-tool-args", dialect, stream=stream)
    assert answer.status == 200
    assert answer.body.count(b"x") >= GIANT_ARGUMENTS
    assert not stream or dialect.ended(answer.events)


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_missing_last_event_is_no_fault_where_the_answer_said_why_it_ended(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    _, served = crossing
    answer = await served.ask(f"only/{upstream}/sim-no-done", dialect, stream=True)
    record = await served.record(answer)
    if upstream == "openai":
        assert (dialect.text(answer), record.outcome) == (PROMPT, "ok")
        assert failure(answer.events) is None
    else:
        assert (record.outcome == "ok") == (failure(answer.events) is None)


INTERRUPTIONS = {"openai": "insufficient_system_resource", "gemini": "MALFORMED_FUNCTION_CALL"}
INTERRUPTED = pytest.mark.parametrize(
    ("dialect", "upstream"),
    [
        pytest.param(dialect, upstream, id=f"{dialect.name}-to-{upstream}")
        for dialect in DIALECTS
        for upstream in INTERRUPTIONS
    ],
)
"""By which words which providers say that they have not brought an answer to its end."""


@pytest.mark.parametrize(
    ("said", "stream"),
    [("", False), ("", True), (PROMPT, False)],
    ids=["nothing", "nothing-streamed", "something"],
)
@INTERRUPTED
async def test_an_answer_that_the_provider_broke_off_is_none_while_nobody_has_seen_any_of_it(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, said: str, stream: bool
) -> None:
    sim, served = crossing
    sim.scripts["interrupted"] = Script(text=words(said), finish=INTERRUPTIONS[upstream])
    answer = await served.ask(f"only/{upstream}/interrupted", dialect, stream=stream)
    assert (answer.status, answer.error["code"]) == (502, "answer_interrupted")
    assert INTERRUPTIONS[upstream] in answer.error["message"]
    record = await served.record(answer)
    (attempt,) = record.attempts
    assert (record.outcome, record.code) == ("error", "answer_interrupted")
    assert record.message is not None
    assert INTERRUPTIONS[upstream] in record.message
    assert (attempt.fault, attempt.finish, attempt.committed) == ("broken_stream", "interrupted", False)
    assert attempt.usage is not None
    assert attempt.charge is not None
    assert (attempt.usage.estimated, attempt.charge.estimated) == (False, False), "the provider told it"
    assert attempt.usage.input > 0

    answer = await served.ask(f"else/{upstream}/interrupted", dialect, stream=stream)
    assert (answer.status, dialect.text(answer)) == (200, PROMPT)
    assert answer.headers["x-isthmus-model"] == f"{upstream}/second"


@INTERRUPTED
async def test_an_answer_that_the_provider_broke_off_is_asked_for_again(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    sim, served = crossing
    sim.scripts["interrupted-once"] = lambda asked: replace(
        echo(asked), finish=INTERRUPTIONS[upstream] if asked.nth % 2 == 0 else None
    )
    answer = await served.ask(f"again/{upstream}/interrupted-once", dialect)
    assert (answer.status, dialect.text(answer)) == (200, PROMPT)
    assert [it.outcome for it in (await served.record(answer)).attempts] == ["error", "ok"]


async def test_no_breaker_counts_what_a_prompt_may_have_led_to(tmp_path: Path) -> None:
    route = {"m": {"model": "openai/interrupted", "retries": 0}}
    async with simulated(route, tmp_path, provider={"breaker": {"failures": 1}}) as (sim, served):
        sim.scripts["interrupted"] = Script(finish=INTERRUPTIONS["openai"])
        for stream in (False, True, False):
            assert (await served.ask("m", stream=stream)).error["code"] == "answer_interrupted"


@INTERRUPTED
async def test_a_stream_that_the_provider_broke_off_never_looks_whole(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    sim, served = crossing
    script = Script(text=words(PROMPT), finish=INTERRUPTIONS[upstream])
    sim.scripts["interrupted"] = lambda asked: script
    answer = await _break_after_the_first_word(sim, served, f"else/{upstream}/interrupted", dialect)
    record = await served.record(answer)
    (attempt,) = record.attempts
    assert (record.outcome, record.code, record.status) == ("error", "answer_interrupted", 200)
    assert (attempt.outcome, attempt.finish, attempt.committed) == ("error", "interrupted", True)
    assert dialect.text(answer) == PROMPT
    if attempt.passthrough:
        # They are the provider's own bytes, and tell it in its own word.
        finishes = [choice["finish_reason"] for it in answer.events[:-1] for choice in it.json["choices"]]
        assert finishes[-1] == INTERRUPTIONS[upstream]
        assert (answer.events[-1].data, failure(answer.events)) == (b"[DONE]", None)
    else:
        error = failure(answer.events)
        assert error is not None
        assert error["code"] == "answer_interrupted"
        assert not dialect.ended(answer.events)


@STREAM
@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_an_end_for_an_unknown_reason_is_no_plain_end(
    crossing: tuple[Simulator, Served], dialect: Dialect, upstream: str, stream: bool
) -> None:
    _, served = crossing
    answer = await served.ask(f"only/{upstream}/sim-unknown-finish", dialect, stream=stream)
    if upstream == "responses":
        # That wire has a status, and no reasons but for what is incomplete.
        assert dialect.text(answer) == PROMPT
        return
    last = [it.json for it in answer.events if it.data != b"[DONE]"] if stream else [answer.json]
    said = msgspec.json.encode(last)
    told = {
        "openai": b'"finish_reason":"because"',
        "anthropic": b'"stop_reason":"because"',
        "responses": b'"incomplete_details":{"reason":"because"}',
    }
    assert told[dialect.name] in said
    if dialect is RESPONSES:
        assert b'"status":"completed"' not in said
    record = await served.record(answer)
    assert (record.outcome, record.attempts[0].finish) == ("ok", "because")
