"""What every store of evaluation runs promises."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.label import Label
from isthmus.core.usage import Charge, Usage
from isthmus.store.memory import MemoryRuns
from isthmus.store.runs import Candidate, Kept, Place, Run, Runs, SqliteRuns


@pytest.fixture(params=["memory", "sqlite"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    return MemoryRuns() if request.param == "memory" else SqliteRuns(tmp_path / "new" / "ledger.db")


SAMPLES = tuple(
    Sample(
        id=name,
        request={"messages": [{"role": "user", "content": f"{name}? ü"}]},
        target=("yes", "no"),
        label=Label("internal", zones=frozenset({"eu"})),
        metadata={"task": "t"},
    )
    for name in ("b", "a")
)


def run(name: str = "run_1", at_us: int = 1, **more: Any) -> Run:
    said: dict[str, Any] = {
        "id": name,
        "identity": "same",
        "at_us": at_us,
        "dataset": "d.jsonl",
        "dataset_hash": "h1",
        "sample_ids": ("b", "a"),
        "models": (Candidate(name="m", id="m-1", provider="p", kind="closed"),),
        "scorers": ("exact",),
        "config_hash": "c",
    }
    return Run(**{**said, **more})


def kept(name: str, key: str | None = "k", at_us: int = 5, text: str = "yes", run: str = "run_1") -> Kept:
    answered = Answered(
        model="m",
        text=text,
        usage=Usage(input=3, output=2),
        charge=Charge(nanousd=2**60, basis="config", snapshot="s"),
        first_token_ms=1.5,
        logprobs=(-0.1, -2.0),
    )
    return Kept(id=name, key=key, at_us=at_us, run=run, answered=answered)


def test_a_run_is_found_again_with_its_samples_in_order(runs: Runs) -> None:
    runs.begin(run(), SAMPLES)
    assert runs.find("run_1") == runs.find("") == runs.unfinished("same") == run()
    assert runs.samples(run()) == SAMPLES
    runs.end("run_1", 9)
    assert runs.unfinished("same") is None
    assert runs.find("run").ended_us == 9


def test_runs_are_listed_newest_first_and_named_by_what_they_begin_with(runs: Runs) -> None:
    for number in (1, 3, 2):
        runs.begin(run(f"run_{number}", at_us=number), SAMPLES)
    assert [it.id for it in runs.list()] == ["run_3", "run_2", "run_1"]
    assert [it.id for it in runs.list(1)] == ["run_3"]
    assert runs.find("").id == "run_3"
    unfinished = runs.unfinished("same")
    assert unfinished is not None
    assert unfinished.id == "run_3"
    for prefix, code in (("run_", "ambiguous_run"), ("other", "unknown_run")):
        with pytest.raises(IsthmusError) as refused:
            runs.find(prefix)
        assert refused.value.code == code


def test_there_may_be_no_run(runs: Runs) -> None:
    assert runs.list() == ()
    with pytest.raises(IsthmusError) as refused:
        runs.find("")
    assert refused.value.code == "unknown_run"


def test_an_answer_is_found_by_its_key_the_newest_first(runs: Runs) -> None:
    runs.keep(kept("old", at_us=5))
    runs.keep(kept("new", at_us=7, text="no"))
    runs.keep(kept("failed", key=None, at_us=9))
    assert runs.recall("k") == kept("new", at_us=7, text="no")
    assert runs.recall("k", since_us=8) is None
    assert runs.recall("other") is None


def test_an_answer_stands_at_its_place_until_another_does(runs: Runs) -> None:
    runs.begin(run(), SAMPLES)
    here, there = Place("m", "a"), Place("m", "a", 1)
    runs.keep(kept("one"), here)
    runs.keep(kept("two", key=None), there)
    assert runs.answers("run_1") == {here: kept("one"), there: kept("two", key=None)}
    runs.take("run_1", there, "one")
    assert runs.answers("run_1") == {here: kept("one"), there: kept("one")}
    assert runs.answers("other") == {}


def test_marks_are_of_the_answers_that_were_marked(runs: Runs) -> None:
    runs.begin(run(), SAMPLES)
    here, there = Place("m", "a"), Place("m", "b")
    runs.keep(kept("one"), here)
    runs.keep(kept("two"), there)
    good, bad = Score(value=1.0, said="yes"), Score(value=None, why="nobody knows")
    runs.mark("run_1", "exact", {here: ("one", bad), there: ("two", bad)})
    runs.mark("run_1", "exact", {here: ("one", good)})
    runs.mark("run_1", "rouge", {})
    assert runs.scores("run_1") == {"exact": {here: good, there: bad}}
    runs.keep(kept("three"), there)
    assert runs.scores("run_1") == {"exact": {here: good}}
    runs.keep(kept("four"), here)
    assert runs.scores("run_1") == {}


def test_a_run_is_forgotten_without_what_others_have(runs: Runs) -> None:
    runs.begin(run("run_1"), SAMPLES)
    runs.begin(run("run_2", at_us=2), SAMPLES)
    runs.keep(kept("mine", key="k1"), Place("m", "a"))
    runs.keep(kept("both", key="k2"), Place("m", "b"))
    runs.keep(kept("judge", key="k3"))
    runs.keep(kept("other judge", key="k4", run="run_2"))
    runs.take("run_2", Place("m", "b"), "both")
    runs.mark("run_1", "exact", {Place("m", "a"): ("mine", Score(value=1.0))})
    runs.delete("run_1")
    runs.delete("run_1")
    assert [it.id for it in runs.list()] == ["run_2"]
    assert runs.scores("run_1") == {}
    assert runs.answers("run_1") == {}
    assert [runs.recall(key) is None for key in ("k1", "k2", "k3", "k4")] == [True, False, True, False]
    assert runs.samples(run("run_2")) == SAMPLES
    runs.delete("run_2")
    assert [runs.recall(key) for key in ("k2", "k4")] == [None, None]
    runs.begin(run("run_3"), [msgspec.structs.replace(it, target=("new",)) for it in SAMPLES])
    assert runs.samples(run("run_3"))[0].target == ("new",)


def test_a_store_that_is_broken_says_so(tmp_path: Path) -> None:
    runs = SqliteRuns(tmp_path / "ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP TABLE runs")
    with pytest.raises(IsthmusError) as failed:
        runs.list()
    assert failed.value.code == "ledger_unavailable"
