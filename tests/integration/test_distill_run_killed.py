"""`isthmus distill run` is killed in every step and goes on, to the same end; nothing is paid for twice."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.distill.laboratory import ANSWERS, PYTHON, make_models, needs_training

from isthmus.artefacts import keys
from isthmus.distill.gate_report import GateRecord
from isthmus.store.rollouts import SqliteRollouts
from isthmus.store.runs import SqliteRuns
from isthmus.testing import Script, Simulator

pytestmark = needs_training

TAUGHT, HELD = 12, 12
BEFORE = 5
"""So many answers of the teacher come before a kill; the others of that time never do."""

RECIPE: dict[str, Any] = {
    "name": "colours",
    "student": "../qwen2.gguf",
    "model": "small",
    "collect": {
        "ask": {"teacher": "teacher", "inputs": "inputs.jsonl", "max_tokens": 8},
        "held_out": "held-out.jsonl",
        "split": {"train": 1, "dev": 0, "test": 0},
    },
    "train": {"learning_rate": 5e-3, "epochs": 20, "batch": 4, "checkpoint_every": 10},
    "gate": {"keeps": 0.2, "retention": None, "safety": "reported"},
    "against": {
        "teacher": "teacher",
        "base": "base",
        "scorer": "regex:(?s).",
        "held_out": "held-out.jsonl",
        "max_tokens": 4,
    },
    "sign": "release",
    "promote": {"stage": "full"},
}


class Teacher:
    """The simulated teacher of one folder: what it has answered, and whether it answers no more for now."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.left: int | None = None

    def __call__(self, asked: Any) -> Script:
        if self.left is not None and self.left <= 0:
            return Script(text=("too late",), first_delay_s=600)
        if self.left is not None:
            self.left -= 1
        self.answered[asked.text] += 1
        return Script(text=(ANSWERS[sum(map(ord, asked.text)) % 3],))


class Place:
    """A folder with a config, a recipe and a ledger of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.made = folder, folder / "students" / "colours"
        self.ledger = folder / "ledger.db"
        folder.mkdir()
        _write(folder / "inputs.jsonl", range(TAUGHT))
        _write(folder / "held-out.jsonl", range(500, 500 + HELD))
        (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
        private, public = keys.generate("ed25519")
        (folder / "release").touch(mode=0o600)
        (folder / "release").write_text(private)
        (folder / "release.pub").write_text(public)
        gguf = str(folder.parent / "qwen2.gguf")
        weights = {"provider": "builtin", "weights": gguf}
        document = {
            "providers": {
                "builtin": {"engine": "builtin", "context": 256, "parallel": 1, "threads": 1},
                "far": {
                    "dialect": "openai",
                    "base_url": f"{url}/v1",
                    "kind": "closed",
                    "terms": "deepseek/api",
                },
            },
            "models": {
                "small": {**weights, "base": gguf, "signers": ["release.pub"]},
                "base": weights,
                "teacher": {"provider": "far", "id": folder.name, "price": {"input": 1, "output": 1}},
            },
            "routes": {"r": "small"},
            "ledger": {"path": str(self.ledger)},
        }
        (folder / "isthmus.yaml").write_text(json.dumps(document))

    def isthmus(self, *words: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "ISTHMUS_HOME": str(self.folder.parent / "home")}
        with (self.folder / "said").open("ab") as said:
            command = [sys.executable, "-P", "-m", "isthmus", *words]
            return subprocess.Popen(command, cwd=self.folder, env=environ, stderr=said, stdout=said)

    def run(self) -> subprocess.Popen[bytes]:
        return self.isthmus(
            "distill", "run", "recipe.yaml", "--python", str(PYTHON), "--threads", "1", "--max-usd", "5"
        )

    def run_to_its_end(self) -> None:
        assert self.run().wait() == 0, self.said

    def run_killed_when(self, reached: Callable[[], bool]) -> None:
        """Begin or go on, and end by SIGKILL as soon as that is so; back when nobody works there any more."""
        with self.run() as running:
            while not reached() and running.poll() is None:
                time.sleep(0.005)
            running.kill()
        assert reached(), self.said
        for lock in (self.made / ".lock", self.made / "training" / ".lock"):
            if lock.exists():
                with lock.open("ab") as held:
                    fcntl.flock(held, fcntl.LOCK_EX)

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def steps(self) -> int:
        with suppress(FileNotFoundError):
            return (self.made / "training" / "steps.jsonl").read_bytes().count(b"\n")
        return 0

    def kept(self, runs: int) -> int:
        """How many answers of the teacher are kept, in the newest of so many runs."""
        with suppress(Exception):
            store = SqliteRuns(self.ledger)
            found = store.list()
            if len(found) >= runs:
                newest = max(found, key=lambda it: it.at_us)
                return sum(place.model == "teacher" for place in store.answers(newest.id))
        return 0

    def turns(self) -> list[tuple[str, str]]:
        with suppress(Exception):
            return [(it.model, it.stage) for it in SqliteRollouts(self.ledger).history()]
        return []


def _write(path: Path, numbers: range) -> None:
    def word(n: int) -> str:
        return "".join(chr(97 + (n // 26**at) % 26) for at in range(3))

    rows = [{"id": f"{n:03}", "input": f"{word(n)} {word(7 * n)}", "target": ANSWERS[n % 3]} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models are."""
    folder = tmp_path_factory.mktemp("killed")
    make_models(folder)
    return folder


def test_a_recipe_that_is_killed_in_every_step_comes_to_the_same(folder: Path) -> None:
    broken, unbroken = Teacher(), Teacher()
    with Simulator.thread() as sim:
        sim.simulator.scripts |= {"broken": broken, "unbroken": unbroken}
        killed, other = Place(folder / "broken", sim.url), Place(folder / "unbroken", sim.url)
        made = killed.made
        # While the teacher is asked: what has not come is not paid for.
        broken.left = BEFORE
        killed.run_killed_when(lambda: killed.kept(1) == BEFORE)
        assert not (made / "golden").exists()
        broken.left = None
        # Between two checkpoints of the training.
        killed.run_killed_when(lambda: killed.steps() >= 12)
        assert not (made / "training" / "student").exists()
        # While the student is judged.
        broken.left = BEFORE
        killed.run_killed_when(lambda: killed.kept(2) == BEFORE)
        assert not (made / "gate.json").exists()
        broken.left = None
        # While it is packed and signed, and while it is promoted.
        killed.run_killed_when(lambda: (made / "gate.json").exists())
        killed.run_killed_when(lambda: bool(killed.turns()))
        killed.run_to_its_end()
        # As if killed between the turn and the note of it.
        (made / "promoted").unlink()
        killed.run_to_its_end()
        other.made.mkdir(parents=True)
        with (other.made / ".lock").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert other.run().wait() == 1
        assert "Another process is on the way of a recipe in" in other.said
        other.run_to_its_end()
    assert broken.answered == unbroken.answered
    assert set(broken.answered.values()) == {1}, "nothing is paid for twice"
    assert broken.answered.total() == TAUGHT + HELD
    assert killed.said.count("$ isthmus distill train") == 2
    assert "Going on behind step 10 of 60" in killed.said
    assert _result(killed) == _result(other)
    assert killed.turns() == other.turns() == [("small", "full")]


def _result(place: Place) -> dict[str, Any]:
    """What came out, without what tells of time and of the runs' names."""
    artefact = place.made / "colours"
    files = {
        it.name: it.read_bytes()
        for it in artefact.iterdir()
        if it.suffix in (".safetensors", ".gguf", ".jinja") or it.name == "adapter_config.json"
    }
    assert len(files) == 4
    training = json.loads((artefact / "training.json").read_bytes())
    golden = [json.loads(line) for line in (place.made / "golden" / "train.jsonl").read_bytes().splitlines()]
    record = msgspec.json.decode((artefact / "gate.json").read_bytes(), type=GateRecord)
    return {
        "files": files,
        "all": sorted(it.name for it in artefact.iterdir()),
        "losses": training["losses"],
        "golden": [(row["id"], row["input"], row["target"]) for row in golden],
        "judgement": record.judgement,
        "scores": [(it.role, it.quality) for it in record.models],
        "left": sorted(it.name for it in place.made.iterdir()),
    }
