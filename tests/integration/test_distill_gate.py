"""`isthmus distill gate` as a pipeline uses it: passed, failed, undecided, and refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.distill.gate_report import GateRecord
from isthmus.testing import Script, Simulator

from .gateway import config_text

ROLES = {name: f"openai/{name}" for name in ("student", "teacher", "base", "incumbent")}
COUNT = 14


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path / "state"))


def word(n: int) -> str:
    """A word of its own for each number: no two samples are near-duplicates."""
    return "".join(chr(97 + (n // 26**at) % 26) for at in range(3))


def sample(name: str, n: int) -> dict[str, Any]:
    asked = f"{word(n)} {word(7 * n)}"
    return {"id": f"{name}{n}", "input": asked, "target": word(n), "metadata": {"half": "ab"[n % 2]}}


def prepare(url: str, count: int = COUNT) -> None:
    Path("isthmus.yaml").write_text(config_text(url, ROLES))
    for name, ids in (("held", range(count)), ("kept", range(1000, 1014)), ("learned", range(2000, 2010))):
        lines = [sample(name, n) for n in ids]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("recipe.yaml").write_text("gate: {keeps: 0.6, no_worse_than_incumbent: 0.3, retention: 0.3}\n")


def right(asked: Any) -> Script:
    return Script(text=(asked.text.split()[0],))


def wrong(asked: Any) -> Script:
    return Script(text=("no",))


def gate(*more: str, incumbent: bool = True) -> Result:
    roles = [
        it for name, model in ROLES.items() if incumbent or name != "incumbent" for it in (f"--{name}", model)
    ]
    files = ("--held-out", "held.jsonl", "--retention", "kept.jsonl", "--trained-on", "learned.jsonl")
    rest = ("--scorer", "exact", "--recipe", "recipe.yaml", "--max-usd", "5", "--max-tokens", "8")
    return CliRunner().invoke(main, ["distill", "gate", *roles, *files, *rest, *more])


def test_a_student_that_keeps_everything_passes_and_is_paid_for_once() -> None:
    with Simulator.thread() as sim:
        sim.simulator.script = right
        prepare(sim.url)
        first = gate("-o", "gate.json", "--html", "gate.html")
        assert first.exit_code == 0, first.output
        asked = Counter(
            (it.body["model"], it.body["messages"][-1]["content"]) for it in sim.requests if it.body
        )
        assert set(asked.values()) == {1}
        again = gate("--json")
        assert again.exit_code == 0
        assert len(sim.requests) == asked.total(), "what is known is not asked again"
    record = json.loads(Path("gate.json").read_text())
    assert (
        msgspec.json.decode(Path("gate.json").read_bytes(), type=GateRecord).judgement.share_interval.low
        > 0.6
    )
    assert record["judgement"]["verdict"] == "passed"
    assert record["judgement"]["share"] == 1.0
    assert [it["role"] for it in record["models"]] == ["student", "teacher", "base", "incumbent"]
    assert set(record["runs"]) == {"held-out", "retention", "probes"}
    assert json.loads(again.stdout)["judgement"] == record["judgement"]
    assert "PASSED: openai/student" in first.stdout
    assert "<table" in Path("gate.html").read_text()


def test_a_student_that_has_learned_nothing_fails() -> None:
    with Simulator.thread() as sim:
        sim.simulator.script = right
        sim.simulator.scripts["student"] = wrong
        prepare(sim.url)
        failed = gate("--by", "half")
    assert failed.exit_code == 1
    assert "FAILED: openai/student" in failed.stdout
    assert "Failed: keeps its teacher's quality" in failed.stdout
    assert "mix rows of that kind into the training" in failed.stdout


def test_too_few_samples_are_no_pass() -> None:
    with Simulator.thread() as sim:
        sim.simulator.script = right
        prepare(sim.url, 5)
        undecided = gate(incumbent=False)
    assert undecided.exit_code == 3
    assert "UNDECIDED" in undecided.stdout
    assert "more samples would show it" in undecided.stdout


def test_a_sample_that_is_there_ten_times_proves_no_more_than_once() -> None:
    with Simulator.thread() as sim:
        sim.simulator.script = right
        prepare(sim.url, count=3)
        lines = [sample("held", n) | {"id": f"held{n}-{nth}"} for n in range(3) for nth in range(10)]
        Path("held.jsonl").write_text("\n".join(map(json.dumps, lines)))
        done = gate("--json")
    assert done.exit_code == 3, done.output
    record = msgspec.json.decode(done.stdout, type=GateRecord)
    assert {it.n for it in record.judgement.checks if it.name == "keeps"} == {3}
    assert any("27 samples of held.jsonl repeat others" in note for note in record.notes)


def test_what_was_learned_is_no_test() -> None:
    with Simulator.thread() as sim:
        prepare(sim.url, 12)
        for name in ("held.jsonl", "kept.jsonl"):
            touched = gate("--trained-on", name)
            assert touched.exit_code == 1
            assert "comes from" in touched.stderr
        lines = Path("held.jsonl").read_text().splitlines()
        near = json.loads(lines[3]) | {"id": "other", "target": "what else"}
        Path("mixed.jsonl").write_text(json.dumps(near))
        again = gate("--trained-on", "mixed.jsonl")
        assert again.exit_code == 1
        assert "same 1" in again.stderr
        assert "proves nothing" in again.stderr
        assert not sim.requests


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--student", "nobody"), "is none of"),
        (("--base", "openai/student"), "not judged by itself"),
        (("--base", "alias"), "are the same model"),
        (("--scorer", "exakt"), "exact"),
        (("--trained-on", "."), "is no golden set"),
        (("--max-usd", "0"), "is no amount"),
        (("--recipe", "empty.yaml"), "does not say `gate`"),
        (("--recipe", "wrong.yaml"), "Did you mean `keeps`"),
    ],
)
def test_a_wrong_use_is_told_in_words(more: tuple[str, ...], says: str) -> None:
    prepare("http://127.0.0.1:9", 2)
    config = json.loads(Path("isthmus.yaml").read_text())
    config["models"]["alias"] = config["models"][ROLES["student"]]
    config["routes"]["alias"] = "alias"
    Path("isthmus.yaml").write_text(json.dumps(config))
    Path("empty.yaml").write_text("collect: {}\n")
    Path("wrong.yaml").write_text("gate: {keepz: 0.9}\n")
    done = gate(*more)
    assert done.exit_code in (1, 2)
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.output
