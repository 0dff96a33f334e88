"""Laws 5 and 6 end to end: what was used and what it costs, and what the headers say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from isthmus.core.record import Record
from isthmus.core.usage import Charge, Usage
from isthmus.testing import Fault, Script, Simulator, ToolCall, words
from isthmus.testing import Usage as Told

from .gateway import (
    ANTHROPIC,
    DIALECTS,
    OPENAI,
    PROMPT,
    RESPONSES,
    Dialect,
    Served,
    config_text,
    serving,
    simulated,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPSTREAMS = ("openai", "anthropic", "responses", "gemini")
PAIRS = [
    pytest.param(dialect, upstream, id=f"{dialect.name}-to-{upstream}")
    for dialect in DIALECTS
    for upstream in UPSTREAMS
]
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
CACHED = Told(uncached=10, cache_read=100, output=7, reasoning=3)


def _routes() -> dict[str, Any]:
    names = ("cut", "told", "sim-echo", "sim-500", "sim-cut", "sim-missing-usage")
    routes: dict[str, Any] = {
        f"{up}/{name}": {"model": f"{up}/{name}", "retries": 0} for up in UPSTREAMS for name in names
    }
    routes["unpriced"] = "openai/unpriced"
    routes["mixed"] = {"fallback": [{"model": "anthropic/sim-500", "retries": 0}, "openai/sim-echo"]}
    return routes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Simulator, Served]]:
    folder = tmp_path_factory.mktemp("money")
    async with Simulator() as sim:
        document = msgspec.json.decode(
            config_text(sim.url, _routes(), provider={"breaker": {"failures": 10**6}})
        )
        del document["models"]["openai/unpriced"]["price"]
        async with serving(msgspec.json.encode(document).decode(), folder) as served:
            yield sim, served


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_usage_and_charge_do_not_depend_on_how_a_stream_is_cut(
    market: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    sim, served = market
    found: set[tuple[str, Usage | None, Charge | None]] = set()
    for width in (1, 2, 3, 5, 7, 16, 61, 1024, None):
        for newline in ("\n", "\r\n"):
            sim.scripts["cut"] = Script(
                text=words("Füße — 足 — and more 🙂 text"),
                usage=CACHED,
                fault=Fault(write_size=width, newline=newline),  # type: ignore[arg-type]
            )
            answer = await served.ask(f"{upstream}/cut", dialect, stream=True)
            assert dialect.ended(answer.events)
            record = await served.record(answer)
            found.add((dialect.text(answer), record.usage, record.charge))
    sim.scripts["cut"] = Script(text=words("Füße — 足 — and more 🙂 text"), usage=CACHED)
    whole = await served.ask(f"{upstream}/cut", dialect)
    record = await served.record(whole)
    found.add((dialect.text(whole), record.usage, record.charge))
    ((text, usage, charge),) = found
    assert text == "Füße — 足 — and more 🙂 text"
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.output) == (10, 100, 10)
    assert charge is not None
    # 10 prompt tokens and 100 cached ones, whose price is not said apart, and 10 of the answer.
    assert charge.nanousd == 110 * 3_000 + 10 * 15_000
    assert not charge.estimated


@pytest.mark.parametrize("width", [1, 5, 64, None])
@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_tool_arguments_do_not_depend_on_it_either(
    market: tuple[Simulator, Served], upstream: str, width: int | None
) -> None:
    sim, served = market
    call = ToolCall("weigh", '{"what":"Ünïcode \\"quoted\\"","kilos":[1,2.5,-3e2],"deep":{"er":null}}')
    sim.scripts["cut"] = Script(tools=(call, call), fragment_bytes=3, fault=Fault(write_size=width))
    answer = await served.ask(f"{upstream}/cut", stream=True)
    arguments: Counter[int] = Counter()
    texts: dict[int, str] = {}
    for event in answer.events[:-1]:
        for choice in event.json.get("choices", ()):
            for delta in choice["delta"].get("tool_calls") or ():
                arguments[delta["index"]] += 1
                texts[delta["index"]] = texts.get(delta["index"], "") + delta["function"].get("arguments", "")
    assert [msgspec.json.decode(text) for text in texts.values()] == [msgspec.json.decode(call.arguments)] * 2


async def test_the_sum_of_the_charges_is_what_the_metrics_count(market: tuple[Simulator, Served]) -> None:
    _, served = market
    for route in _routes():
        for stream in (False, True):
            await served.ask(route, stream=stream)
    records = await served.records()
    metrics = await served.metrics()
    assert len(records) == sum(
        value for name, value in metrics.items() if name.startswith("isthmus_requests_total")
    )
    attempts = [attempt for record in records for attempt in record.attempts]
    for model in {attempt.model for attempt in attempts}:
        mine = [attempt for attempt in attempts if attempt.model == model]
        known = sum(a.charge.nanousd for a in mine if a.charge is not None and a.charge.nanousd is not None)
        shown = Decimal(str(metrics.get(f'isthmus_charge_usd_total{{model="{model}"}}', 0.0)))
        assert shown * 10**9 == known, "to the nano-dollar"
        unknown = sum(1 for a in mine if a.charge is not None and a.charge.nanousd is None)
        assert metrics.get(f'isthmus_charge_unknown_total{{model="{model}"}}', 0) == unknown
        for kind, of in (("input", lambda u: u.input), ("output", lambda u: u.output)):
            used = sum(of(a.usage) for a in mine if a.usage is not None)
            assert metrics.get(f'isthmus_tokens_total{{class="{kind}",model="{model}"}}', 0) == used
    for record in records:
        _check_sums(record)
    assert metrics['isthmus_charge_unknown_total{model="openai/unpriced"}'] == 2


def _check_sums(record: Record) -> None:
    """A record's charge is the sum over its attempts, and unknown as soon as one of them is."""
    parts = [attempt.charge for attempt in record.attempts if attempt.charge is not None]
    if not parts:
        assert record.charge is None
        return
    assert record.charge is not None
    amounts = [part.nanousd for part in parts]
    assert record.charge.nanousd == (None if None in amounts else sum(amount or 0 for amount in amounts))
    assert record.charge.estimated == any(part.estimated for part in parts)


async def test_an_unknown_price_is_called_unknown_and_never_nothing(market: tuple[Simulator, Served]) -> None:
    _, served = market
    answer = await served.ask("unpriced")
    assert answer.headers["x-isthmus-cost-usd"] == "unknown"
    record = await served.record(answer)
    assert record.charge is not None
    assert (record.charge.nanousd, record.charge.basis) == (None, "unknown")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("upstream", "dialect", "asked", "beyond", "known"),
    [
        ("openai", OPENAI, {"service_tier": "flex"}, ("tier.flex",), True),
        ("openai", OPENAI, {"service_tier": "auto"}, (), True),
        ("responses", RESPONSES, {"service_tier": "priority"}, ("tier.priority",), True),
        ("responses", OPENAI, {"service_tier": "flex"}, ("tier.flex",), True),
        ("anthropic", ANTHROPIC, {"speed": "fast"}, ("speed.fast",), True),
        ("anthropic", ANTHROPIC, {"tools": [SEARCH]}, ("tool.web_search",), False),
    ],
)
async def test_what_is_billed_beside_tokens_is_never_shown_as_exact(
    market: tuple[Simulator, Served],
    upstream: str,
    dialect: Dialect,
    asked: dict[str, Any],
    beyond: tuple[str, ...],
    known: bool,
    stream: bool,
) -> None:
    _, served = market
    answer = await served.ask(
        f"{upstream}/sim-echo", dialect, stream=stream, headers={"x-isthmus-receipt": "1"}, **asked
    )
    assert dialect.text(answer) == PROMPT
    record = await served.record(answer)
    assert record.usage is not None
    assert record.charge is not None
    assert record.usage.beyond == record.attempts[0].usage.beyond == beyond
    assert not record.usage.estimated
    assert (record.charge.nanousd is not None) == known
    assert record.charge.estimated == bool(beyond)
    if stream:
        receipt = msgspec.json.decode(answer.body.rpartition(b"\n\n: isthmus ")[2])
        cost, estimated = receipt["cost_usd"], receipt["cost_estimated"]
    else:
        cost = answer.headers["x-isthmus-cost-usd"]
        estimated = answer.headers.get("x-isthmus-cost-estimated") == "true"
    assert (cost != "unknown") == known
    assert estimated == bool(beyond)


# -- what the headers say


@pytest.mark.parametrize(("dialect", "upstream"), PAIRS)
async def test_a_whole_answer_tells_its_model_its_cost_and_our_share(
    market: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    _, served = market
    answer = await served.ask(f"{upstream}/sim-echo", dialect)
    record = await served.record(answer)
    assert answer.headers["x-request-id"] == record.id
    assert answer.headers["x-isthmus-model"] == record.model == f"{upstream}/sim-echo"
    assert record.charge is not None
    assert record.usage is not None
    assert record.charge.nanousd == record.usage.input * 3_000 + 7 * 15_000
    assert Decimal(answer.headers["x-isthmus-cost-usd"]) * 10**9 == record.charge.nanousd
    overhead_ms = float(answer.headers["x-isthmus-overhead-ms"])
    assert 0 < overhead_ms <= record.timings.total_ms
    assert "x-isthmus-dropped" not in answer.headers
    (attempt,) = record.attempts
    assert attempt.passthrough == (dialect.name == upstream)
    assert attempt.upstream_status == 200


async def test_waiting_for_the_model_is_not_our_share(market: tuple[Simulator, Served]) -> None:
    sim, served = market
    for stream in (False, True):
        for upstream in ("openai", "anthropic"):
            sim.scripts["told"] = Script(text=("late",), first_delay_s=0.2)
            answer = await served.ask(f"{upstream}/told", stream=stream)
            record = await served.record(answer)
            assert record.timings.total_ms >= 200
            assert record.timings.total_ms - record.timings.overhead_ms >= 190
            assert float(answer.headers["x-isthmus-overhead-ms"]) <= record.timings.total_ms - 190
            assert record.timings.first_token_ms is not None
            assert record.timings.first_token_ms >= 190


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
async def test_a_stream_ends_with_its_receipt_where_one_is_wanted(
    market: tuple[Simulator, Served], dialect: Dialect, upstream: str
) -> None:
    _, served = market
    route = f"{upstream}/sim-echo"
    assert b": isthmus" not in (await served.ask(route, dialect, stream=True)).body
    answer = await served.ask(route, dialect, stream=True, headers={"x-isthmus-receipt": "1"})
    assert dialect.text(answer) == PROMPT
    _, _, receipt = answer.body.rpartition(b"\n\n: isthmus ")
    told = msgspec.json.decode(receipt)
    record = await served.record(answer)
    assert record.charge is not None
    assert record.charge.nanousd is not None
    assert Decimal(told.pop("cost_usd")) * 10**9 == record.charge.nanousd
    assert record.usage is not None
    timings = record.timings
    assert told == {
        "request_id": answer.headers["x-request-id"],
        "model": route,
        "cost_estimated": False,
        "prompt_tokens": record.usage.prompt,
        "output_tokens": 7,
        "overhead_ms": timings.overhead_ms,
        "total_ms": timings.total_ms,
    }


async def test_a_broken_stream_has_a_receipt_as_well(market: tuple[Simulator, Served]) -> None:
    _, served = market
    answer = await served.ask("openai/sim-cut", stream=True, headers={"x-isthmus-receipt": "1"})
    assert answer.status == 200
    told = msgspec.json.decode(answer.body.rpartition(b"\n\n: isthmus ")[2])
    assert told["model"] is None
    assert told["prompt_tokens"] > 0
    assert told["output_tokens"] > 0


async def test_hints_that_the_models_dialect_cannot_say_are_named(market: tuple[Simulator, Served]) -> None:
    _, served = market
    hints = {"seed": 7, "frequency_penalty": 0.5}
    for stream in (False, True):
        answer = await served.ask("anthropic/sim-echo", stream=stream, **hints)
        assert answer.status == 200
        assert set(answer.headers["x-isthmus-dropped"].split(",")) == set(hints)
        assert set((await served.record(answer)).attempts[0].dropped) == set(hints)
        same = await served.ask("openai/sim-echo", stream=stream, **hints)
        assert "x-isthmus-dropped" not in same.headers


async def test_what_cannot_be_dropped_is_refused_and_asked_elsewhere(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    routes = {"only": "anthropic/m", "else": {"fallback": ["anthropic/m", "openai/m"]}}
    async with simulated(routes, tmp_path_factory.mktemp("unsupported")) as (sim, served):
        answer = await served.ask("only", n=2)
        assert (answer.status, answer.error["param"]) == (400, "n")
        answer = await served.ask("else", n=2)
        assert len(answer.json["choices"]) == 2
        assert [attempt.fault for attempt in (await served.record(answer)).attempts] == ["unsupported", None]
        assert len(sim.requests) == 1
