"""`isthmus pilot` and `isthmus eval` as a person or a pipeline uses them, interrupted at will."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.store.records import SqliteRecords
from isthmus.store.runs import SqliteRuns
from isthmus.testing import Fault, Refusal, Script, Simulator, Usage
from isthmus.testing.simulator import SimulatorThread

from .gateway import PRICE, config_text

MODELS = ("openai/a", "openai/b")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def prepare(url: str, count: int = 6, **sections: Any) -> None:
    routes = {f"r{number}": name for number, name in enumerate(MODELS)}
    Path("isthmus.yaml").write_text(config_text(url, routes, **sections))
    lines = [json.dumps({"id": f"s{n}", "input": f"say {n}", "target": f"say {n}"}) for n in range(count)]
    Path("work.jsonl").write_text("\n".join(lines))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def pilot(*more: str) -> Result:
    return run("pilot", "work.jsonl", "--models", ",".join(MODELS), "--scorer", "exact", *CAP, *more)


CAP = ("--max-usd", "5", "--max-tokens", "16")


def texts(sim: SimulatorThread | Simulator) -> Counter[tuple[str, str]]:
    """How often each text was asked of each model."""
    bodies = [it.body or {} for it in sim.requests]
    return Counter((it["model"], it["messages"][-1]["content"]) for it in bodies)


def test_a_pilot_from_end_to_end(home: Path) -> None:
    with Simulator.thread() as sim:
        sim.simulator.scripts["b"] = lambda asked: Script(text=(asked.text.replace("0", "1"),))
        prepare(sim.url)
        first = pilot("--html", "out.html")
        assert first.exit_code == 0, first.output
        assert "openai/a" in first.stdout
        assert "cannot be told" in first.stdout
        assert "<svg" in Path("out.html").read_text()
        assert set(texts(sim).values()) == {1}
        assert len(texts(sim)) == 12
        again = pilot("--json")
        assert len(sim.requests) == 12, "what was answered is not asked again"
    found = json.loads(again.stdout)
    assert found["complete"]
    a, b = found["standings"]
    assert a["qualities"][0]["mean"] == 1.0
    assert b["qualities"][0]["mean"] == pytest.approx(5 / 6)
    assert a["usd_per_thousand"] == pytest.approx(
        (a["tokens_in"] * PRICE["input"] + 2 * PRICE["output"]) / 1000
    )
    records = list(SqliteRecords(home / "ledger.db").scan())
    assert {it.route for it in records} == {f"pilot/{name}" for name in MODELS}
    assert sum(it.charge.nanousd or 0 for it in records if it.charge) / 1e9 == pytest.approx(
        a["usd"] + b["usd"]
    )

    listed = [json.loads(line) for line in run("eval", "list", "--json").stdout.splitlines()]
    newest, oldest = (it["id"] for it in listed)
    assert {it["who"] for it in listed} != {""}
    assert "complete" in run("eval", "list").stdout
    assert run("eval", "show").stdout == run("eval", "show", newest).stdout
    assert json.loads(run("eval", "show", oldest, "--json").stdout)["standings"][0]["answered"] == 6
    same = run("eval", "compare", oldest, newest, "--fail-if-worse")
    assert same.exit_code == 0
    assert "cannot be told" in same.stdout
    scored = run("eval", "score", oldest, "--scorer", "contains")
    assert scored.exit_code == 0
    assert "contains" in scored.stdout
    assert len(list(SqliteRecords(home / "ledger.db").scan())) == 12, "no model was asked to score"
    assert run("eval", "delete", oldest).exit_code == 0
    assert len(run("eval", "list", "--json").stdout.splitlines()) == 1
    assert json.loads(run("eval", "show", newest, "--json").stdout)["standings"][0]["answered"] == 6


def test_gates_have_a_status(home: Path) -> None:
    with Simulator.thread() as sim:
        sim.simulator.scripts["b"] = Script(text=("no",))
        prepare(sim.url, 12)
        assert pilot("--fail-under", "0").exit_code == 0
        under = pilot("--fail-under", "0.9")
        assert under.exit_code == 1
        assert "openai/b is 0.000, below 0.9" in under.stderr
        below = pilot("--fail-below", "openai/a")
        assert below.exit_code == 1
        assert "openai/b is worse than openai/a" in below.stderr
        assert pilot("--fail-below", "openai/b").exit_code == 0
        assert run("eval", "show", "--fail-under", "0.9").exit_code == 1
        # Of another run other scorers know: a gate with nothing to compare does not pass.
        run("pilot", "work.jsonl", "--models", "openai/a", "--scorer", "contains", *CAP)
        last, first = (json.loads(it)["id"] for it in run("eval", "list", "--json").stdout.splitlines()[:2])
        incomparable = run("eval", "compare", first, last, "--fail-if-worse")
        assert incomparable.exit_code == 1
        assert "nothing to compare" in incomparable.stderr
        assert len(sim.requests) == 24


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--models", "openai/c", "--scorer", "exact"), "openai/a, openai/b"),
        (("--models", ",", "--scorer", "exact"), "at least one"),
        (("--models", "openai/a"), "--scorer"),
        (("--models", "openai/a", "--scorer", "exakt"), "exact"),
        (("--models", "openai/a", "--scorer", "exact"), "--max-usd"),
        (("--models", "openai/a", "--scorer", "exact", "--max-usd", "much"), "2.50"),
        (("--models", "openai/a", "--scorer", "exact", "--max-usd", "nan"), "2.50"),
        (("--models", "openai/a", "--scorer", "exact", "--max-usd", "0"), "2.50"),
        (("--models", "openai/a", "--scorer", "exact", *CAP, "--fail-below", "openai/b"), "openai/a"),
        (("--models", "openai/a", "--scorer", "exact", *CAP, "--split", "test"), "split"),
        (("--models", "openai/a", "--scorer", "exact", *CAP, "--fail-under", "nan"), "no number"),
        (("--models", "openai/a", "--scorer", "exact", *CAP, "--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_use_is_said_and_nothing_is_asked(arguments: tuple[str, ...], says: str) -> None:
    with Simulator.thread() as sim:
        prepare(sim.url)
        refused = run("pilot", "work.jsonl", *arguments)
        assert refused.exit_code == 2
        assert says in refused.stderr
        assert not sim.requests
    assert not run("eval", "list").stdout


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"input": 3}'])
def test_a_bad_dataset_is_refused_with_its_place(content: bytes) -> None:
    with Simulator.thread() as sim:
        prepare(sim.url)
        Path("work.jsonl").write_bytes(content)
        refused = pilot()
    assert refused.exit_code == 1
    assert "work.jsonl" in refused.stderr
    assert "Traceback" not in refused.output


def test_without_the_libraries_of_statistics_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [it for it in sys.modules if it.startswith(("isthmus.evals.outcome", "isthmus.statistics"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with Simulator.thread() as sim:
        prepare(sim.url)
        refused = pilot()
        assert not sim.requests
    assert refused.exit_code == 1
    assert "pip install 'isthmus[evals]'" in refused.stderr


def test_what_is_not_cleared_is_never_sent_and_said() -> None:
    with Simulator.thread() as sim:
        prepare(sim.url, 3, perimeter={"default": "public"})
        secret = {"id": "x", "input": "the plan", "target": "the plan", "label": "restricted"}
        with Path("work.jsonl").open("a") as file:
            file.write("\n" + json.dumps(secret))
        told = pilot()
        assert told.exit_code == 0, told.output
        assert "the plan" not in {text for _, text in texts(sim)}
    assert "Not permitted, and never sent: openai/a 1, openai/b 1" in told.stdout


def test_a_judge_is_paid_once_and_sees_nothing_that_it_may_not(home: Path) -> None:
    with Simulator.thread() as sim:
        sim.simulator.scripts["judge"] = lambda asked: Script(text=('{"reasons": "fine", ', '"grade": 5}'))
        routes = {"r0": "openai/a", "r1": "openai/judge"}
        config = json.loads(config_text(sim.url, routes, perimeter={"default": "public"}))
        config["models"]["openai/a"]["clearance"] = "confidential"
        Path("isthmus.yaml").write_text(json.dumps(config))
        open_one, shut = (
            {"id": "x", "input": "a word"},
            {"id": "y", "input": "the plan", "label": "confidential"},
        )
        Path("work.jsonl").write_text(json.dumps(open_one) + "\n" + json.dumps(shut))
        arguments = ("--models", "openai/a", "--scorer", "judge:model=openai/judge", *CAP)
        told = run("pilot", "work.jsonl", *arguments, "--json")
        assert told.exit_code == 0, told.output
        quality = json.loads(told.stdout)["standings"][0]["qualities"][0]
        assert (quality["mean"], quality["n"], quality["unscored"]) == (1.0, 1, 1)
        assert "Judges have cost USD" in told.stderr
        assert "no known price" not in told.stderr
        judged = [text for model, text in texts(sim) if model == "judge"]
        assert len(judged) == 1
        assert not any("the plan" in text for text in judged)
        before = len(sim.requests)
        again = run("eval", "score", "", "--scorer", "judge:model=openai/judge", "--max-usd", "5")
        assert again.exit_code == 0, again.output
        assert len(sim.requests) == before, "the judge has said it already"


def test_log_probabilities_are_kept_with_the_answers(home: Path) -> None:
    with Simulator.thread() as sim:
        prepare(sim.url, 2)
        assert pilot("--logprobs").exit_code == 0
        assert pilot().exit_code == 0
        assert len(sim.requests) == 8, "without them it is another question"
    store = SqliteRuns(home / "ledger.db")
    without, with_them = (
        [it.answered.logprobs for it in store.answers(run.id).values()] for run in store.list()
    )
    assert set(without) == {None}
    assert set(with_them) == {(-0.1, -0.1)}


def test_a_cap_ends_a_run_and_more_money_goes_on(home: Path) -> None:
    cost_usd = (2_000 * PRICE["input"] + 10 * PRICE["output"]) / 1e6
    with Simulator.thread() as sim:
        sim.simulator.script = Script(text=("a ",) * 10, usage=Usage(uncached=2_000, output=10))
        prepare(sim.url, 20)
        cap = ("--max-usd", f"{20.5 * cost_usd:.6f}")
        poor = pilot(*cap)
        assert poor.exit_code == 1
        assert "cap is reached" in poor.stderr
        assert "not complete" in poor.stderr
        assert 10 <= len(sim.requests) <= 20
        assert pilot(*cap).exit_code == 1
        assert len(sim.requests) * cost_usd <= 20.5 * cost_usd
        assert json.loads(run("eval", "list", "--json").stdout)["ended_us"] is None
        rich = pilot()
        assert rich.exit_code == 0, rich.stderr
        assert len(sim.requests) == 40
        assert set(texts(sim).values()) == {1}
    assert len(run("eval", "list", "--json").stdout.splitlines()) == 1


def test_failures_are_shown_and_asked_again_by_the_next_run() -> None:
    with Simulator.thread() as sim:
        prepare(sim.url, 4)
        sim.simulator.scripts["b"] = lambda asked: Script(fault=Fault(refuse=Refusal(status=404)))
        broken = pilot()
        assert broken.exit_code == 0
        assert "| openai/b | upstream_not_found | 0         |     4 |" in broken.stdout
        sim.simulator.scripts["b"] = lambda asked: Script(text=(asked.text,))
        assert "upstream_not_found" not in pilot().stdout
        assert set(texts(sim).values()) == {1, 2}, "only failures are asked again"


@asynccontextmanager
async def process(*more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = ["pilot", "work.jsonl", "--models", ",".join(MODELS), "--scorer", "exact", *CAP, *more]
    # Whoever runs the tests in the background of a shell has them, and their children, ignore Ctrl-C.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heeding}; from isthmus.cli import main; main()", *arguments]
    started = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ}
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_a_killed_pilot_asks_nothing_twice_and_loses_nothing(home: Path) -> None:
    concurrency = 4
    async with Simulator() as sim:
        sim.script = lambda asked: Script(text=(asked.text,), first_delay_s=0.01)
        prepare(sim.url, 20)
        async with process("--concurrency", str(concurrency)) as running:
            await sim.wait_requests(20, 120)
            running.kill()
            await running.wait()
        store = SqliteRuns(home / "ledger.db")
        kept = {(it.model.removeprefix("openai/"), it.sample) for it in store.answers(store.find("").id)}
        before = texts(sim)
        assert 20 - concurrency <= len(kept) <= before.total() < 40
        result = await asyncio.to_thread(pilot, "--json")
        after = texts(sim)
    assert result.exit_code == 0, result.stderr
    assert "Going on with run_" in result.stderr
    assert len(after) == 40, "none is lost"
    assert all(after[model, f"say {sample[1:]}"] == 1 for model, sample in kept), "none is asked twice"
    assert after.total() <= 40 + concurrency, "but what was on its way"
    assert [it["answered"] for it in json.loads(result.stdout)["standings"]] == [20, 20]


async def test_whoever_interrupts_a_pilot_is_told_how_to_go_on(home: Path) -> None:
    async with Simulator() as sim:
        sim.script = lambda asked: Script(text=(asked.text,), first_delay_s=0.0 if asked.serial < 6 else 60.0)
        prepare(sim.url, 10)
        async with process("--concurrency", "2") as running:
            await sim.wait_held(2, 120)
            async with process("--concurrency", "2") as other:
                _, refused = await other.communicate()
            assert other.returncode == 1
            assert b"carried out by another process" in refused
            running.send_signal(signal.SIGINT)
            _, err = await running.communicate()
        assert running.returncode == 130
        assert b"Interrupted." in err
        assert b"Run the same command again" in err
        assert b"Traceback" not in err
        sim.script = lambda asked: Script(text=(asked.text,))
        assert (await asyncio.to_thread(pilot)).exit_code == 0
    # Whoever gave up is recorded as such.
    assert Counter(it.outcome for it in SqliteRecords(home / "ledger.db").scan())["cancelled"] == 2
