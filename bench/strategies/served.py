"""`make bench-cascade`: is what a calibration promises what a gateway then serves, with real weights?

    python -m bench.strategies.served [--labels 220] [--held-out 100] [--max-risk 0.1] [--output FILE]

The two packaged models compare numbers, of which the small one gets half wrong. `isthmus calibrate` asks both
the labelled questions, fits a confidence to the small one's log-probabilities and tests a threshold; a
gateway then serves the cascade by it, and is asked questions that nobody has seen, over HTTP. The loss of an
answer is 1 where the strong model alone is right and the cascade is not. stdout gets, as its last line, one
JSON object; raw results go to bench/results/cascade-DATE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp

from bench.gateway.peers import BENCH
from bench.gateway.run import commit
from isthmus.bootstrap import open_house
from isthmus.config.load import parse
from isthmus.gateway.server import BOUNDS, listening
from isthmus.statistics.intervals import proportion
from isthmus.store.runs import SqliteRuns

SMALL, STRONG = "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"
DELTA = 0.1
SEED = 7


class Question(NamedTuple):
    """Which of two numbers is greater, and what is right to say."""

    text: str
    answer: str


class Said(NamedTuple):
    """What a route answered, and which model it was."""

    right: bool
    model: str


def main() -> None:
    """Calibrate, serve, measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--labels", type=int, default=220)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--max-risk", type=float, default=0.1)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--answers", type=Path, help="write what was said to the labelled questions here, too"
    )
    arguments = parser.parse_args()
    began = datetime.now(UTC)
    asked = questions(arguments.labels + arguments.held_out)
    labelled, held_out = asked[: arguments.labels], asked[arguments.labels :]
    with tempfile.TemporaryDirectory(prefix="isthmus-cascade-") as name:
        folder = Path(name)
        trial = calibrate(folder, labelled, arguments.max_risk)
        if arguments.answers is not None:
            arguments.answers.write_text("".join(answers(folder)), "utf-8")
        said = served(folder, held_out) if trial["verdict"] == "cascade" else None
    line = {
        "verdict": trial["verdict"],
        "max_risk": arguments.max_risk,
        "tested_risk": trial["promise"]["observed"] if trial["promise"] else None,
        **(measured(said) if said is not None else {}),
    }
    raw = {
        "began_at": began.isoformat(timespec="seconds"),
        "took_s": round((datetime.now(UTC) - began).total_seconds()),
        "commit": commit(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "labels": len(labelled),
        "held_out": len(held_out),
        "trial": trial,
        "answers": said,
        "headline": line,
    }
    output = arguments.output or BENCH / f"results/cascade-{began:%Y-%m-%d}.json"
    output.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(json.dumps(line))


def questions(count: int) -> list[Question]:
    """So many questions, no two alike."""
    rng = Random(SEED)
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < count:
        one, other = rng.sample(range(10, 100), 2)
        pairs[one, other] = None
    return [
        Question(
            f"Answer with one word, yes or no. Is {one} greater than {other}?", "yes" if one > other else "no"
        )
        for one, other in pairs
    ]


def config(calibration: str | None) -> str:
    """The portfolio, with a cascade that goes by this calibration, and each model by itself."""
    first: dict[str, Any] = {"model": "small"}
    if calibration is not None:
        first["accept"] = {"calibration": calibration}
    return json.dumps(
        {
            "providers": {"builtin": {"engine": "builtin", "context": 512, "parallel": 2}},
            "models": {
                "small": {"provider": "builtin", "weights": SMALL},
                "strong": {"provider": "builtin", "weights": STRONG},
            },
            "routes": {"cascade": {"cascade": [first, {"model": "strong"}]}, "strong": "strong"},
        }
    )


def calibrate(folder: Path, labelled: Sequence[Question], max_risk: float) -> dict[str, Any]:
    """What `isthmus calibrate --json` says of the cascade; its file is `cascade.json` in the folder."""
    lines = [
        json.dumps({"id": f"{number:04}", "input": it.text, "target": it.answer})
        for number, it in enumerate(labelled)
    ]
    (folder / "work.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "isthmus.yaml").write_text(config(None), "utf-8")
    command = [
        *(Path(sys.executable).with_name("isthmus"), "calibrate", "cascade", "--dataset", "work.jsonl"),
        *("--scorer", "normalised", "--max-tokens", "4", "--max-usd", "1", "-o", "cascade.json", "--json"),
        *("--max-risk", str(max_risk), "--delta", str(DELTA)),
    ]
    # Status 1 is a verdict: a cascade does not pay, or nothing can be promised.
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=False)
    trial: dict[str, Any] = json.loads(done.stdout)
    return trial


def answers(folder: Path) -> Iterator[str]:
    """What the models said to the labelled questions, a line each; tests go on from there."""
    runs = SqliteRuns(folder / ".isthmus/ledger.db")
    run = runs.find("")
    asked = {it.id: it for it in runs.samples(run)}
    for place, kept in sorted(runs.answers(run.id).items()):
        sample, said = asked[place.sample], kept.answered
        line = {
            "model": place.model,
            "input": sample.request["messages"][-1]["content"],
            "target": sample.target,
            "text": said.text,
            "finish": said.finish,
            "logprobs": said.logprobs,
        }
        yield json.dumps(line) + "\n"


def served(folder: Path, held_out: Sequence[Question]) -> dict[str, list[Said]]:
    """What the gateway answers to each question, on the cascade's route and on the strong model's."""
    (folder / "isthmus.yaml").write_text(config("cascade.json"), "utf-8")
    return asyncio.run(_served(folder, held_out))


async def _served(folder: Path, held_out: Sequence[Question]) -> dict[str, list[Said]]:
    place = folder / "isthmus.yaml"
    found, faults = parse(place.read_text("utf-8"), str(place))
    assert found is not None, faults
    async with (
        open_house(found, place) as house,
        listening(house.gateway, "127.0.0.1", 0, BOUNDS) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(600)) as session,
    ):
        for engine in house.workshop.engines().values():
            await engine.ready()
        return {
            route: [await _said(session, route, it) for it in held_out] for route in ("cascade", "strong")
        }


async def _said(session: aiohttp.ClientSession, route: str, question: Question) -> Said:
    turns = [{"role": "user", "content": question.text}]
    body = {"model": route, "messages": turns, "max_tokens": 4}
    async with session.post("/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        text = (await answer.json())["choices"][0]["message"]["content"]
        return Said(text.strip(" .").lower() == question.answer, answer.headers["x-isthmus-model"])


def measured(said: Mapping[str, Sequence[Said]]) -> dict[str, Any]:
    """What the held-out questions say of the promise, with intervals of 95 %."""
    count = len(said["strong"])
    kept = sum(it.model == "small" for it in said["cascade"])
    pairs = zip(said["cascade"], said["strong"], strict=True)
    lost = sum(strong.right and not ours.right for ours, strong in pairs)
    risk = proportion(lost, count)
    return {
        "measured_risk": round(lost / count, 4),
        "measured_risk_low": round(risk.low, 4),
        "measured_risk_high": round(risk.high, 4),
        "accepted": round(kept / count, 4),
        "cascade_accuracy": round(sum(it.right for it in said["cascade"]) / count, 4),
        "strong_accuracy": round(sum(it.right for it in said["strong"]) / count, 4),
    }


if __name__ == "__main__":
    main()
