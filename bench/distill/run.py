"""`make bench-distill`: how much a student learns, seen through the gateway's HTTP API.

    python -m bench.distill.run [--each 24] [--held-out 12] [--epochs 2] [--no-teacher] [--output FILE]

The built-in small model is taught to sort tickets (`isthmus distill train`), on labels that are right. Base,
student and a teacher of three times the size are then asked the same held-out tickets, whose sentences were
never taught, by the same request. stdout gets, as its last line, one JSON object; raw results go to
bench/results/distill-DATE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from bench.distill.tickets import HELD_OUT, TAUGHT, Ticket, tickets
from bench.gateway.peers import BENCH, ROOT
from bench.gateway.run import commit
from isthmus.bootstrap import open_house
from isthmus.catalog.weights import find_weights
from isthmus.config.load import parse
from isthmus.gateway.server import BOUNDS, listening
from isthmus.providers.engines.fetch import fetch, weights_folder

STUDENT, TEACHER = "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"
SEEDS = {"taught": 1, "held_out": 2}
ENGINE = Path(__file__).with_name("engine.py")
PYTHON = ROOT / ".venv-train" / "bin" / "python"


def main() -> None:
    """Trains, asks, prints the line of JSON, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--each", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--no-teacher", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began = datetime.now(UTC)
    taught = tickets(TAUGHT, arguments.each, SEEDS["taught"])
    held_out = tickets(HELD_OUT, arguments.held_out, SEEDS["held_out"])
    with tempfile.TemporaryDirectory(prefix="isthmus-distill-") as name:
        folder = Path(name)
        evidence, train_s = train(folder, taught, arguments.epochs)
        verify_s = verify(Path(evidence["student"]), evidence)
        models = [STUDENT] if arguments.no_teacher else [STUDENT, TEACHER]
        answers = ask(folder, Path(evidence["student"]) / "adapter.gguf", models, held_out)
    accuracy = {model: share_right(held_out, said) for model, said in answers.items()}
    line = {
        "base_accuracy": accuracy[STUDENT],
        "student_accuracy": accuracy["student"],
        "teacher_accuracy": accuracy.get(TEACHER),
        "train_seconds": round(train_s, 1),
        "verify_seconds": round(verify_s, 2),
    }
    raw = {
        "began_at": began.isoformat(timespec="seconds"),
        "took_s": round((datetime.now(UTC) - began).total_seconds()),
        "commit": commit(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "taught": len(taught),
        "held_out": len(held_out),
        "training": {name: it for name, it in evidence.items() if name != "student"},
        "answers": {
            model: [[ticket.queue, text] for ticket, text in zip(held_out, said, strict=True)]
            for model, said in answers.items()
        },
        "headline": line,
    }
    output = arguments.output or BENCH / f"results/distill-{began:%Y-%m-%d}.json"
    output.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(json.dumps(line))


def train(folder: Path, taught: Sequence[Ticket], epochs: int) -> tuple[dict[str, Any], float]:
    """What `isthmus distill train --json` says of the student, and the seconds that it took."""
    lines = [
        json.dumps({"id": f"{number:04}", "input": ticket.messages, "target": ticket.queue})
        for number, ticket in enumerate(taught)
    ]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    settings = {"learning_rate": 1e-3, "epochs": epochs, "batch": 8, "checkpoint_every": 12}
    recipe = {"name": "tickets", "student": STUDENT, "dataset": "train.jsonl", "train": settings}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    isthmus = Path(sys.executable).with_name("isthmus")
    command = [isthmus, "distill", "train", folder / "recipe.yaml", "--json", "--python", PYTHON]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    evidence: dict[str, Any] = json.loads(done.stdout)
    return evidence, time.monotonic() - began


def verify(student: Path, evidence: Mapping[str, Any]) -> float:
    """The seconds that it takes to hash the base and the student, and to find that they are what was said."""
    began = time.monotonic()
    files = {**evidence["files"], str(_weights(STUDENT)): evidence["base_sha256"]}
    for name, sha256 in files.items():
        with (student / name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == sha256, name
    return time.monotonic() - began


def ask(
    folder: Path, adapter: Path, models: Sequence[str], held_out: Sequence[Ticket]
) -> dict[str, list[str]]:
    """What each model says to each ticket, through a gateway; the adapter's route is `student`."""
    with ExitStack() as stack:
        address = stack.enter_context(adapted(_weights(STUDENT), adapter))
        config = {
            "providers": {
                "builtin": {"engine": "builtin", "context": 512, "parallel": 1},
                "adapted": {"dialect": "openai", "base_url": f"{address}/v1", "kind": "local"},
            },
            "models": {
                **{model: {"provider": "builtin", "weights": model} for model in models},
                "student": {"provider": "adapted"},
            },
            "routes": {name: name for name in (*models, "student")},
        }
        return asyncio.run(_ask_all(json.dumps(config), folder, [*models, "student"], held_out))


async def _ask_all(
    text: str, folder: Path, routes: Sequence[str], held_out: Sequence[Ticket]
) -> dict[str, list[str]]:
    config, faults = parse(text, "isthmus.yaml")
    assert config is not None, faults
    async with (
        open_house(config, folder / "isthmus.yaml") as house,
        listening(house.gateway, "127.0.0.1", 0, BOUNDS) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(600)) as session,
    ):
        for engine in house.workshop.engines().values():
            await engine.ready()
        return {route: [await _said(session, route, it) for it in held_out] for route in routes}


async def _said(session: aiohttp.ClientSession, route: str, ticket: Ticket) -> str:
    body = {"model": route, "messages": ticket.messages, "temperature": 0, "max_tokens": 8}
    async with session.post("/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        text = (await answer.json())["choices"][0]["message"]["content"]
        assert isinstance(text, str)
        return text


def share_right(held_out: Sequence[Ticket], said: Sequence[str]) -> float:
    """The share of answers that name the right queue and nothing else, but for case and marks around it."""
    right = sum(text.strip(" .\n\"'`*").lower() == it.queue for it, text in zip(held_out, said, strict=True))
    return round(right / len(held_out), 4)


@contextmanager
def adapted(weights: Path, adapter: Path | None) -> Iterator[str]:
    """The address of a llama.cpp that serves these weights, with this adapter, as long as the block lasts."""
    with subprocess.Popen(
        [sys.executable, ENGINE, weights, adapter or "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"OMP_WAIT_POLICY": "PASSIVE"},
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            address = process.stdout.readline().decode().strip()
            assert address, "the engine does not start"
            yield address
        finally:
            process.stdin.close()
            process.wait()


def _weights(name: str) -> Path:
    row = find_weights(name)
    assert row is not None
    return fetch(row, weights_folder(os.environ))


if __name__ == "__main__":
    main()
