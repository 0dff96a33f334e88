"""`isthmus calibrate`, from a pilot to a gateway that accepts and escalates as it was calibrated."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.confidence.artefact import load
from isthmus.confidence.signals.answer import of_answer
from isthmus.core.calibrator import Calibrator
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.datasets.samples import call_of
from isthmus.testing import Script, Simulator
from isthmus.testing.simulator import SimulatorThread
from isthmus.testing.wire import Asked

from .gateway import Served, config_text, eventually
from .learning import CHEAP, SMALL, STRONG, run, save, served, working_in, working_in_copy
from .test_drift import SINCE, SINCE_US, WATCH, Hook, fill, watchman
from .test_drift import changed as drifting

CASCADE: dict[str, Any] = {"cascade": [{"model": SMALL}, {"model": STRONG}]}
COUNT = 220


@pytest.fixture(scope="module")
def upstream() -> Iterator[SimulatorThread]:
    with Simulator.thread() as thread:
        yield thread


@pytest.fixture(scope="module")
def asked(upstream: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both models were asked all there is, by `calibrate --dataset`."""
    folder = tmp_path_factory.mktemp("asked")
    with working_in(folder):
        script(upstream)
        prepare(upstream.url)
        before = len(upstream.requests)
        command = ("calibrate", "support", "--dataset", "work.jsonl", "--scorer", "contains")
        found = run(*command, "--max-usd", "5", "--max-tokens", "16")
        assert found.exit_code == 0, found.output
        assert "Cascade: With a chance of at least 0.9" in found.stdout
        assert Path("calibrations/support.json").exists()
        bodies = [it.body or {} for it in upstream.requests[before:]]
        assert len(bodies) == 2 * COUNT
        assert all(it["logprobs"] for it in bodies)
        shutil.rmtree("calibrations")
    return folder


@pytest.fixture
def sim(upstream: SimulatorThread, asked: Path, tmp_path: Path) -> Iterator[SimulatorThread]:
    """The simulator, in a folder where the pilot has run."""
    with working_in_copy(asked, tmp_path):
        script(upstream)
        yield upstream


def script(sim: SimulatorThread) -> None:
    sim.simulator.scripts["small"] = _small
    sim.simulator.scripts["strong"] = lambda asked: Script(text=("good",))


def _small(asked: Asked) -> Script:
    """Right and sure on six of ten, wrong and unsure on the others."""
    number = int(asked.text.split()[-1])
    right = number % 10 < 6
    sure = -0.01 - number % 7 / 1000
    return Script(
        text=("good" if right else "bad", "."), logprobs=(sure if right else sure - 2.0, sure), finish="stop"
    )


def prepare(url: str, cheap: bool = True, plan: Any = CASCADE, count: int = COUNT, **models: Any) -> None:
    document = json.loads(config_text(url, {"support": plan}))
    if cheap:
        document["models"][SMALL]["price"] = CHEAP
    for name, more in models.items():
        document["models"][f"openai/{name}"] |= more
    save(document, ({"id": f"s{n}", "input": _input(n), "target": "good"} for n in range(count)))


def _input(number: int) -> str:
    """Some are longer than others, and cost more."""
    return "please " * (number % 4 * 20) + f"say {number}"


def pilot(*more: str) -> None:
    asked = run(
        *("pilot", "work.jsonl", "--models", f"{SMALL},{STRONG}", "--scorer", "contains"),
        *("--max-usd", "5", "--max-tokens", "16", *more),
    )
    assert asked.exit_code == 0, asked.output


def calibrated(accept: str = "calibrations/support.json", **more: Any) -> dict[str, Any]:
    first = {"model": SMALL, "retries": 0, "accept": {"calibration": accept}}
    return {"cascade": [first, {"model": STRONG, "retries": 0}], **more}


async def _ask(gateway: Served, number: int, before: str = "") -> Any:
    body = {"model": "support", "messages": [{"role": "user", "content": f"{before}say {number}"}]}
    answer = await gateway.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return answer


def test_answers_that_were_cut_short_are_told_of(sim: SimulatorThread) -> None:
    def short(asked: Asked) -> Script:
        return msgspec.structs.replace(_small(asked), finish="length" if asked.text.endswith("1") else "stop")

    prepare(sim.url)
    sim.simulator.scripts["small"] = short
    found = run(
        *("calibrate", "support", "--dataset", "work.jsonl", "--scorer", "contains", "--fresh"),
        *("--max-usd", "5", "--max-tokens", "17"),
    )
    assert "22 of 220 answers of openai/small were cut short" in found.stderr, found.output


def test_a_cascade_is_calibrated_and_serves_so(sim: SimulatorThread) -> None:
    prepare(sim.url)
    found = run("calibrate", "support", "--run", "", "--html", "out.html", "--json")
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    assert (trial["labels"], trial["fitted"], trial["verdict"]) == (COUNT, COUNT // 2, "cascade")
    assert trial["promise"]["observed"] <= 0.05
    assert trial["promise"]["coverage"] == pytest.approx(0.6, abs=0.1)
    assert 0.3 < trial["saving"]["low"] <= trial["saving"]["high"] < 0.8
    assert "<svg" in Path("out.html").read_text()
    prepare(sim.url, plan=calibrated())
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "stale" not in checked.output

    async def as_calibrated(gateway: Served) -> None:
        for number in range(1000, 1010):
            answer = await _ask(gateway, number)
            right = number % 10 < 6
            assert answer.headers["x-isthmus-model"] == (SMALL if right else STRONG)
            assert b"logprob" not in answer.body.replace(b'"logprobs":null', b"")
            record = await gateway.record(answer)
            first = record.attempts[0]
            assert first.confidence is not None
            assert (first.verdict == "accepted") == right
            assert right or "its calibrated confidence for what escalating costs is" in (first.verdict or "")
        sim.simulator.scripts["small"] = lambda asked: Script(text=("good", "."), logprobs=(-3.0, -3.0))
        answer = await _ask(gateway, 1)
        assert answer.headers["x-isthmus-model"] == STRONG
        metrics = await gateway.metrics()
        assert metrics['isthmus_calibration_stale{route="support"}'] == 0

    served(as_calibrated)


def _confidence(calibrator: Calibrator, logprob: float, words: str) -> float:
    """How sure the calibrator is of the answer "good." to a request of these words."""
    tokens = estimate_tokens(call_of({"messages": [{"role": "user", "content": words}]})).tokens
    return calibrator.confidence(of_answer("good.", "stop", (logprob, -0.01)), tokens)


@pytest.mark.parametrize(("order", "model"), [("--costs", SMALL), ("--no-costs", STRONG)])
def test_an_unsure_answer_is_kept_where_escalating_costs_too_much(
    sim: SimulatorThread, order: str, model: str
) -> None:
    prepare(sim.url)
    found = run("calibrate", "support", "--run", "", "-o", "c.json", "--json", order)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["weighs_costs"] == (order == "--costs")
    calibration = load(Path("c.json").read_bytes())
    prepare(sim.url, plan=calibrated("c.json"))
    explained = run("explain", "support").output
    assert ("for what escalating costs" in explained) == (order == "--costs")
    sure = functools.partial(_confidence, calibration.calibrator)
    least, short, long = calibration.threshold or 0.0, "say 1", "please " * 60 + "say 1"
    told = next(it for it in (-0.01 * n for n in range(200)) if sure(it, short) < least)
    sim.simulator.scripts["small"] = lambda asked: Script(
        text=("good", "."), logprobs=(told, -0.01), finish="stop"
    )

    async def by_length(gateway: Served) -> None:
        for words, by in ((short, STRONG), (long, model)):
            answer = await _ask(gateway, 1, words.removesuffix("say 1"))
            assert answer.headers["x-isthmus-model"] == by
            first = (await gateway.record(answer)).attempts[0]
            assert first.confidence == pytest.approx(sure(told, words))
            assert (first.confidence >= least) == (first.verdict == "accepted")

    served(by_length)


@pytest.mark.parametrize(("on_stale", "model"), [("strong", STRONG), ("warn", SMALL)])
def test_another_model_makes_a_calibration_stale(sim: SimulatorThread, on_stale: str, model: str) -> None:
    prepare(sim.url)
    assert run("calibrate", "support", "--run", "", "-o", "c.json").exit_code == 0
    sim.simulator.scripts["smaller"] = _small
    prepare(sim.url, plan=calibrated("c.json", on_stale=on_stale), small={"id": "smaller"})
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "C103" in checked.output
    assert f"{SMALL} is another model than it was" in checked.output
    assert "stale" in run("explain", "support").output

    async def as_stale(gateway: Served) -> None:
        asked = len(sim.requests)
        answer = await _ask(gateway, 1)
        assert answer.headers["x-isthmus-model"] == model
        assert len(sim.requests) == asked + 1
        metrics = await gateway.metrics()
        assert metrics['isthmus_calibration_stale{route="support"}'] == 1

    served(as_stale)


def test_an_answer_without_log_probabilities_is_not_accepted(sim: SimulatorThread) -> None:
    assert run("calibrate", "support", "--run", "", "-o", "c.json").exit_code == 0
    plan = calibrated("c.json", on_stale="warn")
    plan["cascade"][0]["model"] = "anthropic/small"
    Path("isthmus.yaml").write_text(config_text(sim.url, {"support": plan}))

    async def rejected(gateway: Served) -> None:
        answer = await _ask(gateway, 1)
        assert answer.headers["x-isthmus-model"] == STRONG
        first = (await gateway.record(answer)).attempts[0]
        assert (first.model, first.verdict) == ("anthropic/small", "its model tells no log-probabilities")

    served(rejected)


def test_a_price_or_another_demand_makes_nothing_stale(sim: SimulatorThread) -> None:
    prepare(sim.url)
    assert run("calibrate", "support", "--run", "", "-o", "c.json").exit_code == 0
    plan = calibrated("c.json")
    plan["cascade"][0]["accept"]["refuses"] = True
    prepare(sim.url, cheap=False, plan=plan)
    assert "C103" not in run("check").output


def test_what_is_not_to_be_advised_writes_nothing(sim: SimulatorThread) -> None:
    prepare(sim.url, plan={"cascade": [STRONG, SMALL]})
    dear = run("calibrate", "support", "--run", "")
    assert dear.exit_code == 3
    assert "Do not cascade: no saving can be shown" in dear.stdout
    prepare(sim.url)
    strict = run("calibrate", "support", "--run", "", "--max-risk", "0.001", "--json")
    assert strict.exit_code == 3
    assert json.loads(strict.stdout)["verdict"] == "no guarantee"
    assert json.loads(strict.stdout)["needed"] > COUNT
    assert not Path("calibrations").exists()


@pytest.mark.parametrize("count", [1, 90])
def test_few_labels_promise_nothing(sim: SimulatorThread, count: int) -> None:
    prepare(sim.url)
    pilot("--logprobs", "--limit", str(count))
    found = run("calibrate", "support", "--run", "", "--json")
    assert found.exit_code == 3, found.output
    assert json.loads(found.stdout)["verdict"] == "no guarantee"
    assert run("calibrate", "support", "--run", "").exit_code == 3


def test_a_run_that_is_not_complete_is_used_as_far_as_it_goes(sim: SimulatorThread) -> None:
    command = ("calibrate", "support", "--dataset", "work.jsonl", "--scorer", "contains", "--max-usd", "1")
    found = run(*command)
    assert found.exit_code == 3, "without --max-tokens no cap can hold, so nothing is asked"
    assert "is not complete" in found.stderr
    assert "No guarantee" in found.stdout


def test_what_does_not_fit_is_told(sim: SimulatorThread) -> None:
    prepare(sim.url, count=3)
    pilot()
    told = {
        ("support",): "--run or --dataset",
        ("support", "--run", "", "--dataset", "work.jsonl"): "--run or --dataset",
        ("support", "--run", "", "--max-usd", "1"): "go with --dataset",
        ("support", "--dataset", "work.jsonl"): "Say --scorer",
        ("suport", "--run", ""): "Did you mean 'support'",
        ("support", "--run", "", "--scorer", "exact"): "has no scores by 'exact'",
        ("support", "--run", "nope"): "no run whose id begins with",
        ("support", "--run", ""): "has no log-probabilities",
        ("support", "--run", "", "--max-risk", "nan"): "is no number",
        ("support", "--run", "", "--delta", "0"): "not in the range",
    }
    for arguments, words in told.items():
        found = run("calibrate", *arguments)
        assert found.exit_code in (1, 2), (arguments, found.output)
        assert words in found.stderr, (arguments, found.stderr)
    prepare(sim.url, count=3, small={"id": "smaller"})
    assert "is another model now" in run("calibrate", "support", "--run", "").stderr
    prepare(sim.url, count=3, plan=SMALL)
    assert "has no cascade" in run("calibrate", "support", "--run", "").stderr


def test_a_calibration_that_is_none_is_refused(sim: SimulatorThread) -> None:
    prepare(sim.url)
    assert run("calibrate", "support", "--run", "", "-o", "c.json").exit_code == 0
    good = Path("c.json").read_bytes()
    prepare(sim.url, plan=calibrated("c.json"))
    calibration = json.loads(good)
    weighing = next(iter(calibration["calibrator"]["signals"].values()))
    weighing["spread"] = 0
    bad = {
        b"": "no calibration of Isthmus",
        b"\x00\xff": "no calibration of Isthmus",
        b"[" * 100_000: "no calibration of Isthmus",
        b" " * 1_000_001: "too long",
        msgspec.json.encode(calibration): "no calibration of Isthmus",
        msgspec.json.encode({**json.loads(good), "version": 9}): "version 9",
        msgspec.json.encode({**json.loads(good), "threshold": None}): "promises nothing",
        msgspec.json.encode({**json.loads(good), "threshold": 7}): "no calibration of Isthmus",
    }
    for content, words in bad.items():
        Path("c.json").write_bytes(content)
        checked = run("check")
        assert checked.exit_code == 1, content[:40]
        assert "C020" in checked.output
        assert words in checked.output
    Path("c.json").unlink()
    missing = run("check")
    assert missing.exit_code == 1
    assert "C013" in missing.output
    assert "isthmus calibrate" in missing.output


def _date(file: str, asked_at_us: int) -> None:
    """Let a calibration be of another time."""
    calibration = json.loads(Path(file).read_bytes())
    Path(file).write_bytes(msgspec.json.encode(calibration | {"asked_at_us": asked_at_us}))


def _watched(url: str, since: dt.date, **more: Any) -> None:
    prepare(url, plan=calibrated("c.json", **more))
    document = json.loads(Path("isthmus.yaml").read_text())
    watch = {"route": "support", "since": str(since), "days": 1, "per": "week"}
    Path("isthmus.yaml").write_text(json.dumps(document | {"drift": [watch]}))


def test_an_alarm_of_drift_makes_a_calibration_stale_until_it_is_settled(sim: SimulatorThread) -> None:
    prepare(sim.url)
    assert run("calibrate", "support", "--run", "", "-o", "c.json").exit_code == 0
    assert json.loads(Path("c.json").read_bytes())["asked_at_us"] > SINCE_US
    _date("c.json", SINCE_US)
    _watched(sim.url, SINCE)
    fill(Path("state/ledger.db"), 44, drifting)

    async def alarmed(gateway: Served) -> None:
        # The watch looks for the first time while the gateway serves already.
        await eventually(lambda: bool(gateway.house.gateway.snapshot.config.stale_calibrations["support",]))
        assert (await gateway.metrics())['isthmus_drift_alarm{quantity="label",route="support"}'] == 1
        await stale(gateway)

    async def stale(gateway: Served) -> None:
        metrics = await gateway.metrics()
        assert metrics['isthmus_calibration_stale{route="support"}'] == 1
        answer = await _ask(gateway, 1)
        assert answer.headers["x-isthmus-model"] == STRONG
        decision = (await gateway.record(answer)).decision
        assert decision is not None
        assert "drift of its label was alarmed on 2026-11-10" in " ".join(decision.reasons)
        told = json.loads(run("explain", "support", "say 1", "--json").stdout)
        assert told["reasons"] == list(decision.reasons)
        assert told["config_hash"] == decision.config_hash

    served(alarmed)
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "C103" in checked.output
    assert "drift of its label was alarmed on 2026-11-10" in checked.output
    assert json.loads(run("check", "--json").stdout)[0]["path"] == "routes.support"
    served(stale)

    async def trusted(gateway: Served) -> None:
        answer = await _ask(gateway, 1)
        assert answer.headers["x-isthmus-model"] == SMALL
        assert (await gateway.metrics())['isthmus_calibration_stale{route="support"}'] == 0

    anew = run("calibrate", "support", "--run", "", "-o", "anew.json")
    assert anew.exit_code == 0
    assert "stale from the start" not in anew.stderr
    Path("anew.json").replace("c.json")
    served(trusted)
    _date("c.json", SINCE_US)
    assert "C103" in run("check").output
    _watched(sim.url, SINCE + dt.timedelta(days=1))
    assert "C103" not in run("check").output, "whoever moves `since` has settled it"
    served(trusted)


def test_answers_from_before_an_alarm_calibrate_nothing_anew(sim: SimulatorThread) -> None:
    prepare(sim.url)
    assert run("calibrate", "support", "--run", "", "-o", "c.json").exit_code == 0
    _watched(sim.url, SINCE)
    fill(Path("state/ledger.db"), 44, drifting)
    asyncio.run(watchman(Path("state/ledger.db"), Hook(), 44, WATCH).look())
    with closing(sqlite3.connect("state/ledger.db")) as ledger, ledger:
        ledger.execute("update answers set at_us = ?", (SINCE_US,))
    document = json.loads(Path("isthmus.yaml").read_text())
    document["drift"][0]["per"] = "hour"
    Path("isthmus.yaml").write_text(json.dumps(document))
    old = run("calibrate", "support", "--run", "", "-o", "c.json")
    assert old.exit_code == 0, old.output
    assert "It is stale from the start, as drift of its label was alarmed on 2026-11-03" in old.stderr
    again = ("--dataset", "work.jsonl", "--scorer", "contains", "--max-usd", "5", "--max-tokens", "16")
    fresh = run("calibrate", "support", *again, "--fresh", "-o", "c.json")
    assert fresh.exit_code == 0, fresh.output
    assert "stale" not in fresh.stderr
    assert "C103" not in run("check").output
