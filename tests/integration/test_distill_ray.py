"""Training by Ray Train with two workers: a lost one costs nothing, and one process alone learns the same.

Ray is large: these tests run where the Python that trains has it (`ISTHMUS_TRAIN_PYTHON` names another), and
say otherwise that they did not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.distill.laboratory import PYTHON, Laboratory, needs_training, open_laboratory, samples

from isthmus.distill.training.job import Workplace
from isthmus.distill.training.student import CONFIG, EVIDENCE, SAFETENSORS, Evidence

_HAS_RAY = (
    PYTHON.exists() and not subprocess.run([PYTHON, "-c", "import ray.train"], capture_output=True).returncode
)

pytestmark = [
    needs_training,
    pytest.mark.skipif(not _HAS_RAY, reason="the extra `ray` is not installed for the Python that trains"),
]

TRAIN = {"learning_rate": 5e-3, "epochs": 40, "batch": 4, "checkpoint_every": 20}
RAY = {"workers": 2, "address": "local", "storage": "kept"}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with open_laboratory(tmp_path_factory.mktemp("laboratory")) as opened:
        lines = [{"id": f"{number:03}", **sample} for number, sample in enumerate(samples(24))]
        (opened.folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
        yield opened


def _started(folder: Path, name: str, train: dict[str, Any]) -> subprocess.Popen[str]:
    recipe = {"name": name, "student": "qwen2", "dataset": "data.jsonl", "by": "people", "train": train}
    (folder / f"{name}.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-P", "-m", "isthmus", "distill", "train", f"{name}.yaml", "--threads", "1"]
    environ = {**os.environ, "ISTHMUS_HOME": str(folder / "home"), "ISTHMUS_TRAIN_PYTHON": str(PYTHON)}
    return subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True)


def _workers() -> list[int]:
    """The processes of Ray's workers on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"RayTrainWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_two_workers_of_which_one_is_lost_learn_what_one_process_learns(laboratory: Laboratory) -> None:
    folder = laboratory.folder
    before = set(_workers())
    with _started(folder, "two", {**TRAIN, "ray": RAY}) as training:
        assert training.stderr
        said = ""
        for line in training.stderr:
            said += line
            if line.startswith("Training: ") and int(line.split()[1]) > 30 and "lost" not in said:
                os.kill((set(_workers()) - before).pop(), signal.SIGKILL)
                said += "lost\n"
    assert training.returncode == 0, said
    assert "Going on behind step" in said
    with _started(folder, "one", TRAIN) as training:
        training.communicate()
    two, one = (Workplace(folder / "students" / name) for name in ("two", "one"))
    told = [it.read(it.student / EVIDENCE, Evidence) for it in (two, one)]
    assert told[0].losses == pytest.approx(told[1].losses, rel=1e-3)
    assert (told[0].steps, told[0].tokens) == (told[1].steps, told[1].tokens) == (240, told[1].tokens)
    assert told[0].files.keys() == told[1].files.keys()
    assert told[0].files[CONFIG] == told[1].files[CONFIG]
    numbers = [laboratory.numbers(it.student / SAFETENSORS) for it in (two, one)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-3 * max(map(abs, numbers[1])))
    steps = [json.loads(line)["step"] for line in two.steps.read_bytes().splitlines()]
    assert steps == list(range(1, 241)), "what was done again stands there once"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 1e38}, "no finite number"),
        ({"ray": {**RAY, "storage": "data.jsonl/kept"}}, "Checkpoints cannot be kept in"),
        ({"ray": {**RAY, "address": "127.0.0.1:9"}}, "No Ray cluster can be used at '127.0.0.1:9'"),
    ],
)
def test_what_cannot_work_is_told_once(laboratory: Laboratory, change: dict[str, Any], said: str) -> None:
    name = "-".join(["no", *change])
    with _started(laboratory.folder, name, {**TRAIN, "ray": RAY, **change}) as training:
        _, errors = training.communicate()
    assert (training.returncode, said in errors) == (1, True), errors
    assert errors.count("Training …") <= 1
    assert "Traceback" not in errors
