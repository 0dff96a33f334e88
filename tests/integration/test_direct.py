"""Models asked from within the process: by the way of live traffic, by its laws, and with a cap of money."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.bootstrap import open_ask
from isthmus.core.evaluation import Answered
from isthmus.core.label import Label
from isthmus.core.promises import Promises
from isthmus.core.record import Record
from isthmus.gateway.direct import Direct
from isthmus.store.records import SqliteRecords
from isthmus.testing import Script, Simulator, Usage

from .gateway import PRICE, PROMPT, config_of, config_text, serving

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16}
NAME = "run_1"


def text_of(sim: Simulator, models: list[str], **sections: Any) -> str:
    return config_text(sim.url, {f"r{number}": name for number, name in enumerate(models)}, **sections)


def records(folder: Path) -> list[Record]:
    return list(SqliteRecords(folder / ".isthmus" / "ledger.db").scan())


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "responses", "gemini"])
async def test_a_model_of_any_dialect_answers_and_is_recorded(tmp_path: Path, dialect: str) -> None:
    model = f"{dialect}/sim-echo"
    async with Simulator() as sim:
        config = config_of(text_of(sim, [model]))
        async with open_ask(config, tmp_path / "isthmus.yaml", [model], name=NAME) as ask:
            answered = await ask(model, REQUEST)
    assert answered.code is None
    assert answered.text == PROMPT
    assert answered.message["role"] == "assistant"
    assert answered.message["content"] == PROMPT
    assert answered.finish == "stop"
    assert answered.first_token_ms is not None
    assert 0 < answered.first_token_ms <= answered.total_ms
    (record,) = records(tmp_path)
    assert record.id == answered.record_id
    assert (record.route, record.key_id, record.model) == (f"pilot/{model}", NAME, model)
    assert record.charge == answered.charge
    assert answered.charge is not None
    assert answered.charge.nanousd == answered.usage.input * 3000 + answered.usage.output * 15000  # type: ignore[union-attr]


async def test_tool_calls_and_log_probabilities_come_along(tmp_path: Path) -> None:
    models = ["openai/sim-tools", "openai/sim-echo"]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    async with Simulator() as sim:
        config = config_of(text_of(sim, models))
        async with open_ask(config, tmp_path / "isthmus.yaml", models, name=NAME) as ask:
            called = await ask(models[0], {**REQUEST, "tools": [tool]})
            told = await ask(models[1], {**REQUEST, "logprobs": True})
    assert called.message["tool_calls"][0]["function"]["name"] == "look"
    assert called.finish == "tool_calls"
    assert told.logprobs is not None
    assert len(told.logprobs) == len(PROMPT.split())


async def test_detectors_may_take_longer_than_live_traffic_lets_them(tmp_path: Path) -> None:
    perimeter = {"labels": [{"when": "pii", "level": "restricted"}], "timeout": 0.000001}
    async with Simulator() as sim:
        config = config_of(text_of(sim, ["openai/m"], perimeter=perimeter))
        async with open_ask(config, tmp_path / "isthmus.yaml", ["openai/m"], name=NAME) as ask:
            assert (await ask("openai/m", REQUEST)).code is None


async def test_what_a_model_may_not_see_is_never_sent(tmp_path: Path) -> None:
    async with Simulator() as sim:
        config = config_of(
            text_of(sim, ["openai/m"], perimeter={"labels": [{"when": "pii", "level": "restricted"}]})
        )
        async with open_ask(config, tmp_path / "isthmus.yaml", ["openai/m"], name=NAME) as ask:
            labelled = await ask("openai/m", REQUEST, Label("confidential"))
            zoned = await ask("openai/m", REQUEST, Label(zones=frozenset({"eu"})))
            mail = {"messages": [{"role": "user", "content": "write to jane.roe@example.com"}]}
            found = await ask("openai/m", mail)
            assert not sim.requests
            allowed = await ask("openai/m", REQUEST)
    assert [labelled.code, zoned.code, found.code] == ["no_model_allowed"] * 3
    # An answer tells what was found of its request, though nobody had said so.
    assert [labelled.label.level, found.label.level, allowed.label.level] == [
        "confidential",
        "restricted",
        "internal",
    ]
    assert "confidential" in (labelled.error or "")
    assert allowed.code is None


@pytest.mark.parametrize(
    ("model", "code"),
    [("sim-500", "upstream_error"), ("sim-cut", "connection_lost"), ("sim-429", "rate_limited")],
)
async def test_a_failure_is_an_answer_with_a_code(tmp_path: Path, model: str, code: str) -> None:
    async with Simulator() as sim:
        config = config_of(text_of(sim, [f"openai/{model}"]))
        async with open_ask(
            config, tmp_path / "isthmus.yaml", [f"openai/{model}"], name=NAME, retries=0
        ) as ask:
            answered = await ask(f"openai/{model}", REQUEST)
    assert answered.code == code
    assert answered.error
    assert not answered.text


async def test_a_cap_is_never_passed_and_outlives_the_process(tmp_path: Path) -> None:
    cost_usd = (2_000 * PRICE["input"] + 10 * PRICE["output"]) / 1e6
    cap_nanousd = round(cost_usd * 1e9 * 12.5)
    request = {**REQUEST, "max_tokens": 10}
    async with Simulator() as sim:
        sim.script = Script(text=("a ",) * 10, usage=Usage(uncached=2_000, output=10))
        config, path = config_of(text_of(sim, ["openai/m"])), tmp_path / "isthmus.yaml"
        told: list[Answered] = []
        for _ in range(2):
            async with open_ask(config, path, ["openai/m"], name=NAME, cap_nanousd=cap_nanousd) as ask:
                told += await asyncio.gather(*(ask("openai/m", request) for _ in range(20)))
        spent = sum(it.charge.nanousd or 0 for it in told if it.charge)
        assert spent == len(sim.requests) * round(cost_usd * 1e9)
        assert spent <= cap_nanousd
        assert {it.code for it in told} == {None, "budget_spent"}
        assert "not filled again" in next(it.error or "" for it in told if it.code)
        # What was held for others has come back: calls went on until not even one more was sure to fit.
        most = (2_048 + 400) * PRICE["input"] * 1_000 + 16 * PRICE["output"] * 1_000
        assert spent + most > cap_nanousd
        async with open_ask(config, path, ["openai/m"], name="run_2", cap_nanousd=cap_nanousd) as ask:
            assert (await ask("openai/m", request)).code is None, "another run has a cap of its own"


async def test_it_works_beside_a_running_gateway(tmp_path: Path) -> None:
    async with Simulator() as sim:
        text = text_of(sim, ["openai/m"], budgets=[{"usd": 1, "per": "day"}])
        async with serving(text, tmp_path) as served:
            assert (await served.ask("r0", max_tokens=16)).status == 200
            async with open_ask(config_of(text), tmp_path / "isthmus.yaml", ["openai/m"], name=NAME) as ask:
                answers = await asyncio.gather(
                    *(ask("openai/m", REQUEST) for _ in range(10)),
                    *(served.ask("r0", max_tokens=16) for _ in range(10)),
                )
            assert len(await served.records()) == 21
            assert len(answers) == 20


async def test_a_model_that_is_left_alone_is_waited_for(tmp_path: Path) -> None:
    breaker = {"breaker": {"failures": 1, "cooldown": 0.02}}
    async with Simulator() as sim:
        config = config_of(text_of(sim, ["openai/sim-flaky"], provider=breaker))
        async with open_ask(
            config, tmp_path / "isthmus.yaml", ["openai/sim-flaky"], name=NAME, retries=0, concurrency=1
        ) as ask:
            first = await ask("openai/sim-flaky", REQUEST)
            second = await ask("openai/sim-flaky", REQUEST)
            third = await ask("openai/sim-flaky", REQUEST)
    assert [first.code, second.code, third.code] == ["overloaded", None, "overloaded"]


async def test_no_more_calls_run_at_once_than_may(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.script = Script(text=("a",), first_delay_s=60)
        config = config_of(text_of(sim, ["openai/a", "openai/b"]))
        async with open_ask(
            config, tmp_path / "isthmus.yaml", ["openai/a", "openai/b"], name=NAME, concurrency=3
        ) as ask:
            asking = asyncio.gather(*(ask(f"openai/{name}", REQUEST) for name in "ab" * 3))
            await sim.wait_held(3)
            assert (sim.held, len(sim.requests)) == (3, 3)
            sim.release()
            await sim.wait_held(3)
            sim.release()
            assert {it.code for it in await asking} == {None}


async def test_whoever_leaves_is_recorded(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.script = Script(text=("a", "b"), piece_delay_s=60)
        config = config_of(text_of(sim, ["openai/m"]))
        async with open_ask(config, tmp_path / "isthmus.yaml", ["openai/m"], name=NAME) as ask:
            asking = asyncio.create_task(_quietly(ask))
            while not sim.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    (record,) = records(tmp_path)
    assert record.outcome == "cancelled"


async def _quietly(ask: Direct) -> None:
    await ask("openai/m", REQUEST)


async def test_texts_are_embedded(tmp_path: Path) -> None:
    async with Simulator() as sim:
        config = config_of(text_of(sim, ["openai/sim-embed"]))
        async with open_ask(config, tmp_path / "isthmus.yaml", ["openai/sim-embed"], name=NAME) as ask:
            embedded = await ask.embed("openai/sim-embed", ["a", "b", "a"])
            refused = await ask.embed("openai/sim-embed", ["a"], Label("restricted"))
    one, other, again = embedded.vectors
    assert one == again != other
    assert refused.vectors == ()
    assert refused.code == "no_model_allowed"


LEVELS = st.sampled_from(["public", "internal", "confidential", "restricted"])
LABELS = st.builds(
    Label,
    LEVELS,
    zones=st.none() | st.frozensets(st.sampled_from(["eu", "us"])),
    needs=st.builds(Promises, no_training=st.booleans()),
)


@settings(max_examples=8)
@given(st.lists(LABELS, min_size=1, max_size=8))
def test_no_label_ever_reaches_a_model_outside_its_perimeter(labels: list[Label]) -> None:
    models = {
        "open": {"kind": "open", "zone": "eu"},
        "closed": {"kind": "closed", "zone": "us", "promises": {"no_training": True}},
        "local": {"kind": "local", "zone": "eu", "clearance": "confidential"},
    }

    async def ask_all(folder: Path) -> None:
        async with Simulator() as sim:
            text = msgspec.json.encode(
                {
                    "providers": {"p": {"dialect": "openai", "base_url": sim.url + "/v1"}},
                    "models": {name: {"provider": "p", "price": PRICE, **it} for name, it in models.items()},
                    "routes": {"r": "open"},
                    "perimeter": {"default": "public"},
                }
            ).decode()
            config = config_of(text)
            async with open_ask(config, folder / "isthmus.yaml", list(models), name=NAME) as ask:
                told = await asyncio.gather(*(ask(name, REQUEST, it) for it in labels for name in models))
            barred = [
                config.perimeter.refuses(config.models[name], it) is not None
                for it in labels
                for name in models
            ]
            assert [it.code == "no_model_allowed" for it in told] == barred
            assert len(sim.requests) == barred.count(False)

    with TemporaryDirectory() as folder:
        asyncio.run(ask_all(Path(folder)))
