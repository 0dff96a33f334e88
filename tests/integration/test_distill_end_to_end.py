"""A whole recipe with real parts: the built-in model learns to sort tickets, is judged, signed, promoted and
served; a bad student fails the gate, and an altered one is not loaded.

`make bench-distill` measures the same with more of everything, beside a teacher.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench.distill.run import STUDENT, share_right
from bench.distill.tickets import HELD_OUT, TAUGHT, Ticket, tickets
from tests import artefacts
from tests.integration.distill.laboratory import PYTHON, needs_training

from isthmus.artefacts import declaration
from isthmus.catalog.weights import WEIGHTS
from isthmus.core.errors import IsthmusError

from .gateway import Served, eventually, serving

pytestmark = needs_training

RECIPE = {
    "name": "tickets",
    "student": STUDENT,
    "model": "small",
    "collect": {
        "files": [{"path": "taught.jsonl", "by": "people"}],
        "doubles": "all",
        "held_out": "held-out.jsonl",
        "split": {"train": 1, "dev": 0, "test": 0},
    },
    "train": {"learning_rate": 1e-3, "epochs": 2, "batch": 8, "checkpoint_every": 8},
    # So small a model on the border refuses in one run and not in the next: no test is about what it says.
    "gate": {"retention": None, "safety": "reported"},
    "against": {"teacher": "base", "base": "base", "scorer": "normalised", "held_out": "held-out.jsonl"},
    "sign": "release",
    "promote": {"stage": "full"},
}
HELD = tickets(HELD_OUT, 2, seed=2)


def document(folder: Path, **models: Any) -> str:
    builtin = {"provider": "builtin", "weights": STUDENT}
    signers = {"signers": [str(folder / "release.pub")]}
    return json.dumps(
        {
            "providers": {"builtin": {"engine": "builtin", "context": 768, "parallel": 2, "threads": 1}},
            "models": {"small": {**builtin, **signers}, "base": builtin, **models},
            "routes": {"r": "small", "b": "base"},
            "ledger": {"path": str(folder / "ledger.db")},
        }
    )


def isthmus(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "isthmus", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def write(path: Path, some: Sequence[Ticket]) -> None:
    rows = ({"id": f"{at:04}", "input": it.messages, "target": it.queue} for at, it in enumerate(some))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recipe was carried out."""
    folder = tmp_path_factory.mktemp("distilled")
    write(folder / "taught.jsonl", tickets(TAUGHT, 8, seed=1))
    write(folder / "held-out.jsonl", HELD)
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    assert isthmus(folder, "models", "keygen", "release").returncode == 0
    (folder / "isthmus.yaml").write_text(document(folder))
    done = isthmus(folder, "distill", "run", "recipe.yaml", "--python", str(PYTHON))
    assert done.returncode == 0, done.stderr
    return folder


async def _share_right(served: Served, route: str) -> float:
    said = []
    for ticket in HELD:
        body = {"model": route, "messages": ticket.messages, "temperature": 0, "max_tokens": 8}
        answer = await served.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        said.append(answer.json["choices"][0]["message"]["content"])
    return share_right(HELD, said)


async def test_a_student_that_was_taught_judged_and_signed_serves_behind_its_route(folder: Path) -> None:
    made = folder / "students" / "tickets"
    gate = json.loads((made / "gate.json").read_text())
    assert gate["judgement"]["verdict"] == "passed"
    said = declaration.of_folder(made / "tickets")
    assert said.files["gate.json"] == "evaluation"
    assert "passed" in (made / "report.md").read_text()
    async with serving(document(folder), folder) as served:
        engines = served.house.workshop.engines
        await eventually(lambda: all(it.state == "ready" for it in engines().values()), within_s=120)
        await eventually(lambda: any("@" in name for name in engines()), within_s=120)
        name = next(name for name in engines() if "@" in name)
        await eventually(lambda: engines()[name].state == "ready", within_s=120)
        await eventually(lambda: "small" not in engines(), within_s=60)
        base, taught = await _share_right(served, "b"), await _share_right(served, "r")
    assert taught >= base + 0.5, (base, taught)


def test_it_goes_on_where_it_was_and_another_recipe_is_refused(folder: Path) -> None:
    again = isthmus(folder, "distill", "run", "recipe.yaml", "--python", str(PYTHON))
    assert (again.returncode, "$ isthmus" in again.stderr) == (0, False), again.stderr
    (folder / "other.yaml").write_text(json.dumps({**RECIPE, "gate": {"retention": None}}))
    refused = isthmus(folder, "distill", "run", "other.yaml", "--python", str(PYTHON))
    assert (refused.returncode, "another recipe" in refused.stderr) == (1, True), refused.stderr


def test_a_bad_student_fails_the_gate(folder: Path) -> None:
    made = folder / "students" / "tickets"
    bad = artefacts.write(folder / "bad", artefacts.adapter(scale=30), base=WEIGHTS[0].sha256)
    private, signer = artefacts.pair()
    artefacts.sign(bad, private)
    (folder / "bad.pub").write_text(signer.pem)
    taught = {
        "provider": "builtin",
        "weights": str(made / "tickets"),
        "signers": [str(folder / "release.pub")],
    }
    (folder / "judging.yaml").write_text(document(folder, taught=taught))
    arguments = ("--student", "small", "--artefact", "bad", "--signer", "bad.pub", "--teacher", "taught")
    learned = (
        "--held-out",
        "held-out.jsonl",
        "--trained-on",
        str(made / "golden"),
        "--recipe",
        "recipe.yaml",
    )
    done = isthmus(
        folder,
        *("distill", "gate", *arguments, "--base", "base", "--scorer", "normalised", "--max-tokens", "6"),
        *(*learned, "-c", "judging.yaml"),
    )
    assert (done.returncode, "Failed: small@" in done.stderr) == (1, True), done.stdout + done.stderr


async def test_an_altered_student_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    made = folder / "students" / "tickets" / "tickets"
    content = bytearray((made / "adapter.gguf").read_bytes())
    content[-1] ^= 1
    (made / "adapter.gguf").write_bytes(bytes(content))
    model = {"provider": "builtin", "weights": str(made), "signers": [str(folder / "release.pub")]}
    text = document(tmp_path, small=model).replace(str(tmp_path / "release.pub"), str(folder / "release.pub"))
    async with serving(text, tmp_path) as served:
        engine = served.house.workshop.engines()["small"]
        await eventually(lambda: engine.state == "failed", within_s=60)
        unready = engine.unready()
        assert isinstance(unready, IsthmusError)
        assert "changed: 'adapter.gguf'" in unready.text
        assert (await served.ask("r")).status == 503
