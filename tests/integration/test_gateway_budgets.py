"""Budgets on real sockets: never overdrawn, refused with what is left, and settled to what was charged."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.accounting.budgets import window
from isthmus.core.record import Record
from isthmus.store.counters import SqliteCounters
from isthmus.store.keys import SqliteKeys
from isthmus.store.schema import unavailable
from isthmus.testing import Fault, Refusal, Script, Simulator

from .gateway import ANTHROPIC, OPENAI, RESPONSES, Dialect, Served, config_text, serving

NANO = 1_000_000_000
ROUTES = {
    "r": "openai/m",
    "either": {"fallback": [{"model": "openai/m", "retries": 0}, "openai/cheap"]},
    "thrifty": {"model": "openai/m", "thrift": {"model": "openai/cheap", "at": 0.5}},
}
FREE = {"provider": "openai", "id": "cheap", "price": {"input": 0, "output": 0}, "max_output": 100}


@asynccontextmanager
async def budgeted(
    tmp_path: Path, *budgets: dict[str, Any], routes: Any = ROUTES, **more: Any
) -> AsyncIterator[tuple[Served, Simulator]]:
    async with Simulator() as simulator:
        text = config_text(simulator.url, routes, budgets=list(budgets), **more)
        document = msgspec.json.decode(text)
        document["models"]["openai/cheap"] = FREE
        document["providers"].setdefault("openai", {"dialect": "openai", "base_url": simulator.url + "/v1"})[
            "breaker"
        ] = {"failures": 1000}
        async with serving(msgspec.json.encode(document).decode(), tmp_path) as served:
            yield served, simulator


async def _counter(served: Served) -> tuple[int, int]:
    """What is drawn and spent, as it is written down."""
    await served.house.gateway.treasury.tell()
    ((_, count),) = SqliteCounters(served.house.ledger_path).list(time.time_ns() // 1000)
    return count.drawn, count.spent


def _charged(records: list[Record]) -> int:
    charges = [it.charge.nanousd for record in records for it in record.attempts if it.charge is not None]
    return sum(it for it in charges if it is not None)


async def test_a_budget_is_settled_to_what_was_charged(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"usd": 1, "per": "month"}) as (served, simulator):
        for fault in (Fault(), Fault(refuse=Refusal(status=500)), Fault(cut_after=2), Fault(usage="missing")):
            simulator.script = Script(text=("one", " two", " three"), fault=fault)
            for stream in (False, True):
                if stream or fault.cut_after is None:
                    await served.ask("r", stream=stream, max_tokens=50)
        drawn, spent = await _counter(served)
        assert spent == _charged(await served.records()) > 0
        assert spent <= drawn <= NANO


@pytest.mark.parametrize(
    ("fault", "provider"),
    [
        (Fault(cut_after=0), {}),
        (Fault(stall_after=0), {"timeouts": {"total": 0.3}}),
        (Fault(bad_json=True), {}),
    ],
    ids=["cut", "too late", "not understood"],
)
async def test_what_an_endpoint_did_in_vain_counts_as_its_record_says(
    tmp_path: Path, fault: Fault, provider: Any
) -> None:
    routes = {"r": {"model": "openai/m", "retries": 0}}
    budget = {"usd": 1, "per": "month"}
    async with budgeted(tmp_path, budget, routes=routes, provider=provider) as (served, simulator):
        simulator.script = Script(text=("one", " two"), fault=fault)
        answer = await served.ask("r", max_tokens=50)
        assert answer.status >= 500
        assert len(simulator.requests) == 1
        (record,) = await served.records()
        assert record.charge is not None
        assert record.charge.estimated
        assert record.usage is not None
        assert record.usage.output == 50, "nobody knows how far it was, and all of it may be billed"
        _, spent = await _counter(served)
        assert spent == record.charge.nanousd
        assert spent > 0


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda it: it.name)
async def test_who_has_spent_it_is_told_what_is_left_and_when_it_is_full_again(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with budgeted(tmp_path, {"usd": 0.0112, "per": "day"}) as (served, simulator):
        key = "max_output_tokens" if dialect is RESPONSES else "max_tokens"
        answers = [await served.ask("r", dialect, **{key: 300}) for _ in range(12)]
        refused = [answer for answer in answers if answer.status == 429]
        assert answers[0].status == 200
        assert refused
        error = refused[-1].error
        assert "USD 0.0" in error["message"]
        assert "left of USD 0.0112" in error["message"]
        assert "00:00:00Z" in error["message"]
        assert refused[-1].headers["x-should-retry"] == "false"
        assert 0 < int(refused[-1].headers["retry-after"]) <= 86_400
        assert len(simulator.requests) == len(answers) - len(refused)
        (record, *_) = [it for it in await served.records() if it.status == 429]
        assert record.code == "budget_spent"


async def test_two_hundred_at_the_edge_overdraw_nothing(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"usd": 0.2, "per": "day"}) as (served, simulator):
        simulator.script = lambda asked: Script(text=("word ",) * 40, first_delay_s=0.2)
        answers = await asyncio.gather(
            *(served.ask("r", stream=bool(at % 2), max_tokens=40) for at in range(200))
        )
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 429}
        drawn, spent = await _counter(served)
        assert spent == _charged(await served.records())
        assert spent <= drawn <= 0.2 * NANO


@pytest.mark.parametrize("unit", ["requests", "tokens"])
async def test_requests_and_tokens_are_bounded_too(tmp_path: Path, unit: str) -> None:
    budget = {"requests": 5, "per": "hour"} if unit == "requests" else {"tokens": 12_000, "per": "hour"}
    async with budgeted(tmp_path, budget) as (served, simulator):
        answers = await asyncio.gather(*(served.ask("r", max_tokens=10) for _ in range(20)))
        served_well = [answer for answer in answers if answer.status == 200]
        assert len(simulator.requests) == len(served_well)
        assert len(served_well) == 5, "of tokens, about 2,200 are held for each"
        assert unit in next(answer for answer in answers if answer.status == 429).error["message"]


async def test_where_one_model_is_too_dear_the_next_is_asked(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"usd": 0.0001, "per": "week"}) as (served, simulator):
        answer = await served.ask("either", max_tokens=100)
        assert answer.status == 200
        assert answer.headers["x-isthmus-model"] == "openai/cheap"
        record = await served.record(answer)
        assert [attempt.code for attempt in record.attempts] == ["budget_spent", None]
        assert len(simulator.requests) == 1


async def test_a_thrifty_route_changes_its_strategy_and_says_why(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"requests": 4, "per": "day", "warn_at": 0.5}) as (served, _):
        answers = [await served.ask("thrifty", max_tokens=100) for _ in range(5)]
        assert [answer.headers.get("x-isthmus-model") for answer in answers] == [
            "openai/m",
            "openai/cheap",
            "openai/cheap",
            "openai/cheap",
            None,
        ]
        assert "x-isthmus-warning" not in answers[0].headers
        assert answers[1].headers["x-isthmus-warning"] == "requests per day is used to 50%"
        record = await served.record(answers[1])
        assert any("thrifty" in reason for reason in record.decision.reasons)


async def test_each_has_a_budget_of_its_own(tmp_path: Path) -> None:
    budgets = [{"requests": 2, "per": "day", "each": "user"}, {"requests": 5, "per": "day", "route": "r"}]
    async with budgeted(tmp_path, *budgets) as (served, _):
        told = [
            (await served.ask("r", user=user, max_tokens=9)).status
            for user in ("ada", "ada", "ada", "grace", "grace", "grace", "hedy", "hedy")
        ]
        assert told == [200, 200, 429, 200, 200, 429, 200, 429], "the route's own budget holds for all"
        assert (await served.ask("either", user="mary", max_tokens=9)).status == 200


async def test_a_team_spends_together_and_a_key_by_itself(tmp_path: Path) -> None:
    budgets = [{"team": "red", "requests": 3, "per": "day"}, {"each": "key", "requests": 2, "per": "day"}]
    async with budgeted(tmp_path, *budgets) as (served, _):
        ring, keys = served.house.gateway.ring, SqliteKeys(served.house.ledger_path)
        made = {
            name: keys.create(name, (), 0, team=team)
            for name, team in (("a", "red"), ("b", "red"), ("c", None))
        }
        ring.refresh()

        async def ask(name: str) -> int:
            headers = {"authorization": f"Bearer {made[name].secret}"}
            return (await served.ask("r", headers=headers, max_tokens=9)).status

        assert [await ask(name) for name in "aaabbcc"] == [200, 200, 429, 200, 429, 200, 200]
        made["c"] = keys.rotate("c", 1, 0)
        ring.refresh()
        assert await ask("c") == 429, "the key's successor spends from the same account"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({}, "nothing bounds its answer"),
        ({"max_tokens": 9, "tools": [{"type": "web_search"}]}, "tools of the provider"),
        ({"max_tokens": 9, "n": 64, "seed": 1}, "left of"),
    ],
)
async def test_what_nobody_can_bound_is_refused(tmp_path: Path, asked: Any, why: str) -> None:
    async with budgeted(tmp_path, {"usd": 0.01, "per": "day"}) as (served, simulator):
        answer = await served.ask("r", **asked)
        assert answer.status == 429
        assert why in answer.error["message"]
        assert simulator.requests == []


async def test_what_only_the_endpoint_understands_is_refused_for_its_cost(tmp_path: Path) -> None:
    routes = {"r": "responses/m"}
    for budgets, status in (([], 200), ([{"usd": 0.01, "per": "day"}], 429)):
        async with budgeted(tmp_path, *budgets, routes=routes) as (served, _):
            answer = await served.ask("r", RESPONSES, previous_response_id="resp_1", max_output_tokens=20)
            assert answer.status == status
    assert "Nobody can tell what this call may cost" in answer.error["message"]


async def test_what_was_spent_counts_after_a_restart(tmp_path: Path) -> None:
    budget = {"usd": 0.05, "per": "month"}
    async with budgeted(tmp_path, budget) as (served, _):
        await served.ask("r", max_tokens=50)
        spent = _charged(await served.records())
    async with budgeted(tmp_path, budget) as (served, _):
        await served.ask("r", max_tokens=50)
        assert await _counter(served) == (pytest.approx(2 * spent, abs=NANO * 0.05), 2 * spent)


async def test_a_disk_that_fails_lets_nothing_be_spent(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"usd": 1, "per": "day"}) as (served, simulator):

        def fail(counts: Any) -> None:
            raise unavailable("disk full")

        served.house.gateway.treasury._counters.draw = fail  # type: ignore[method-assign]
        answer = await served.ask("r", max_tokens=50)
        assert answer.status == 503
        assert simulator.requests == []


async def test_nothing_is_held_of_a_client_that_left(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"usd": 1, "per": "day"}) as (served, simulator):
        simulator.script = Script(text=("one", " two"), fault=Fault(stall_after=1))
        body = OPENAI.body("r", True) | {"max_tokens": 50}
        async with served.session.post(served.url + OPENAI.path, json=body) as response:
            await response.content.readany()
        async with asyncio.timeout(5):
            while not await served.records():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        _, spent = await _counter(served)
        assert spent == _charged(await served.records()) > 0
        accounts = served.house.gateway.treasury._accounts.values()
        assert [account.held for account in accounts] == [0]


async def test_who_leaves_before_the_model_is_asked_is_charged_nothing(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"usd": 1, "per": "day"}) as (served, simulator):
        counters = served.house.gateway.treasury._counters
        begun, left, draw = threading.Event(), threading.Event(), counters.draw

        def slow(counts: Any) -> None:
            begun.set()
            left.wait(10)
            draw(counts)

        counters.draw = slow  # type: ignore[method-assign]
        asking = asyncio.create_task(served.ask("r", stream=True, max_tokens=50))
        await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        async with asyncio.timeout(5):
            while not (records := await served.records()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        left.set()
        assert simulator.requests == []
        assert [(record.outcome, record.charge) for record in records] == [("cancelled", None)]
        assert (await _counter(served))[1] == 0


async def test_a_budget_of_each_model_is_of_models_alone(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"requests": 2, "per": "day", "each": "model"}) as (served, _):
        answers = [await served.ask("r", max_tokens=9) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert "max_tokens" not in answers[2].error["message"]
        await served.house.gateway.treasury.tell()
        kept = SqliteCounters(served.house.ledger_path).list(time.time_ns() // 1000)
        assert [name.subject for name, _ in kept] == ["openai/m"]


async def test_a_long_name_of_a_user_is_cut(tmp_path: Path) -> None:
    async with budgeted(tmp_path, {"requests": 2, "per": "day", "each": "user"}) as (served, _):
        await served.ask("r", max_tokens=9, user="x" * 100_000)
        await served.house.gateway.treasury.tell()
        ((name, _),) = SqliteCounters(served.house.ledger_path).list(time.time_ns() // 1000)
        assert name.subject == "x" * 256


def test_windows_are_of_the_calendar() -> None:
    def at(text: str) -> int:
        return int(dt.datetime.fromisoformat(text + "+00:00").timestamp()) * 1_000_000

    now = at("2026-12-31T23:59:59")
    assert window("month", now).end_us == at("2027-01-01T00:00:00")
    assert window("week", now).start_us == at("2026-12-28T00:00:00"), "a Monday"
    assert window("day", now).start_us == at("2026-12-31T00:00:00")
    assert window("minute", now).start_us == at("2026-12-31T23:59:00")
