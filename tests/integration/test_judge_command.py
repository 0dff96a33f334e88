"""`isthmus judge check` from end to end, by the way of live traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.store.records import SqliteRecords
from isthmus.testing import Script, Simulator
from isthmus.testing.simulator import SimulatorThread
from isthmus.testing.wire import Asked

from .gateway import config_text

PERIMETER = {"clearance": {"closed": "internal"}, "labels": []}
CHECK = ("judge", "check", "marks.jsonl", "--judge", "openai/wise", "--max-usd", "5")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def sim() -> Iterator[SimulatorThread]:
    with Simulator.thread() as sim:
        sim.simulator.scripts["wise"] = judging
        Path("isthmus.yaml").write_text(config_text(sim.url, {"r": "openai/wise"}, perimeter=PERIMETER))
        yield sim


def judging(asked: Asked) -> Script:
    """A judge that likes what is polite, and of two answers the second where neither is."""
    if "Answer B:" not in asked.text:
        return Script(text=(json.dumps({"reasons": "So.", "grade": 5 if "please" in asked.text else 1}),))
    first, _ = asked.text.split("Answer B:")
    return Script(text=(json.dumps({"reasons": "So.", "better": "A" if "please" in first else "B"}),))


def marks(*lines: dict[str, Any]) -> None:
    Path("marks.jsonl").write_text("\n".join(map(json.dumps, lines)))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_judge_is_checked_and_nothing_is_asked_twice(home: Path, sim: SimulatorThread) -> None:
    marks(
        *(
            {"input": f"q{n}", "answer": "please" if n % 2 else "no", "mark": 5 if n % 2 else 1}
            for n in range(8)
        ),
        {"input": "q", "answer": "please", "other": "no", "better": "answer"},
        {"input": "q", "answer": "no", "other": "never", "better": "tie"},
        {"input": "q", "answer": "secret", "mark": 3, "label": "restricted"},
    )
    told = run(*CHECK, "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["graded"]["agreement"]["kappa"] == 1.0
    assert found["graded"]["confusion"] == {"1": {"1": 4}, "5": {"5": 4}}
    assert found["compared"]["consistent"] == 1
    assert found["graded"]["unscored"] == 1
    assert "no_model_allowed" in found["graded"]["because"][0]
    assert not any("secret" in json.dumps(it.body) for it in sim.requests)
    asked = len(sim.requests)
    assert asked == 8 + 4

    told = run(*CHECK, "--fail-under", "0.99")
    assert len(sim.requests) == asked
    assert told.exit_code == 1
    assert "The judge openai/wise" in told.stdout
    assert "of one mind when places change" in told.stdout
    assert "NOT JUDGED: 1" in told.stdout
    assert "Failed: 1 were not judged" in told.stderr
    marks({"input": "q1", "answer": "please", "mark": 5}, {"input": "q2", "answer": "no", "mark": 1})
    told = run(*CHECK, "--fail-under", "0.99")
    assert told.exit_code == 1
    assert "Failed: kappa may be as low as" in told.stderr
    routes = {it.route for it in SqliteRecords(home / "ledger.db").scan()}
    assert routes == {"pilot/openai/wise"}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("nowhere.jsonl", "--judge", "openai/wise"), 2, "does not exist"),
        (("marks.jsonl", "--judge", "openai/wize"), 2, "'openai/wize'"),
        (("marks.jsonl", "--judge", "openai/wise"), 2, "--max-usd"),
        (("marks.jsonl", "--judge", "openai/wise", "--max-usd", "1", "--scale", "2"), 1, "marks.jsonl:1"),
        (("marks.jsonl", "--judge", "openai/wise", "--max-usd", "1", "--rubric", "empty"), 1, "is empty"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    sim: SimulatorThread, arguments: tuple[str, ...], status: int, says: str
) -> None:
    marks({"input": "q", "answer": "please", "mark": 5})
    Path("empty").touch()
    told = run("judge", "check", *arguments)
    assert told.exit_code == status, told.output
    assert says in told.output
    assert not sim.requests
