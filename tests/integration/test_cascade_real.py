"""A cascade of real weights: calibrated by `isthmus calibrate`, served over HTTP, and its promise measured.

Most labelled questions were answered before, by the same weights (`make bench-cascade`, which asks all
anew, writes them); the others are asked here, as are those by which the promise is measured. So few of
them contradict a gross breach alone; what has teeth is that both models answer some, as they did when it was
calibrated. The bench measures the risk by a hundred.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from isthmus.bootstrap import open_runs
from isthmus.confidence import thresholds
from isthmus.config.load import load
from isthmus.core.evaluation import Answered, Sample
from isthmus.evals.answers import basis_of, candidate_of, key_of
from isthmus.evals.datasets import open_dataset
from isthmus.evals.pilot import request_of
from isthmus.store.runs import Kept

from .gateway import Served
from .learning import run, save, served

ANSWERED = Path(__file__).parents[1] / "golden" / "evals" / "greater.jsonl"
ASKED_HERE, HELD_OUT = 3, 16
MAX_RISK = 0.1


class Said(NamedTuple):
    """What was said to a question, and which model said it."""

    right: bool
    model: str


def test_what_is_promised_of_real_weights_is_what_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = [json.loads(line) for line in ANSWERED.read_text().splitlines()]
    known = {it["input"]: it["target"] for it in before}
    fresh = _questions(ASKED_HERE + HELD_OUT, known)
    labelled, held_out = fresh[:ASKED_HERE], fresh[ASKED_HERE:]
    save(_config(None), _samples([*((text, right[0]) for text, right in known.items()), *labelled]))
    _remember(before)
    found = run(
        *("calibrate", "cascade", "--dataset", "work.jsonl", "--scorer", "normalised", "--max-usd", "1"),
        *("--max-tokens", "4", "--max-risk", str(MAX_RISK), "-o", "cascade.json", "--json"),
    )
    assert found.exit_code == 0, found.output
    assert f"Asked {2 * ASKED_HERE} of " in found.stderr, found.stderr
    trial = json.loads(found.stdout)
    assert trial["verdict"] == "cascade"
    assert trial["labels"] == len(known) + ASKED_HERE
    assert 0.1 < trial["promise"]["coverage"] < 0.9
    save(_config("cascade.json"), ())
    served(lambda gateway: _measure(gateway, held_out))


async def _measure(gateway: Served, held_out: list[tuple[str, str]]) -> None:
    for engine in gateway.house.workshop.engines().values():
        await engine.ready()
    ours = [await _said(gateway, "cascade", it) for it in held_out]
    # Both happen: a confidence that is another one live than it was in calibration accepts all, or nothing.
    assert {it.model for it in ours} == {"small", "strong"}, ours
    losses = [await _loss(gateway, question, said) for question, said in zip(held_out, ours, strict=True)]
    assert not thresholds.contradicted(losses, MAX_RISK, alarm=0.001), losses


async def _loss(gateway: Served, question: tuple[str, str], said: Said) -> float:
    """What the strong model would have scored more, where it was not asked."""
    if said.model == "strong" or said.right:
        return 0.0
    return float((await _said(gateway, "strong", question)).right)


async def _said(gateway: Served, route: str, question: tuple[str, str]) -> Said:
    text, right = question
    # As the labels were drawn, at the engine's own temperature, and the same each time.
    drawn = {"max_tokens": 4, "seed": sum(text.encode())}
    body = {"model": route, "messages": [{"role": "user", "content": text}], **drawn}
    answer = await gateway.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    said = answer.json["choices"][0]["message"]["content"]
    return Said(said.strip(" .").lower() == right, answer.headers["x-isthmus-model"])


def _config(calibration: str | None) -> dict[str, Any]:
    first: dict[str, Any] = {"model": "small"}
    if calibration is not None:
        first["accept"] = {"calibration": calibration}
    return {
        "providers": {"builtin": {"engine": "builtin", "context": 512, "parallel": 2}},
        "models": {
            "small": {"provider": "builtin", "weights": "qwen2.5-coder-0.5b-instruct"},
            "strong": {"provider": "builtin", "weights": "qwen2.5-coder-1.5b-instruct"},
        },
        "routes": {"cascade": {"cascade": [first, {"model": "strong"}]}, "strong": "strong"},
    }


def _questions(count: int, known: Iterable[str]) -> list[tuple[str, str]]:
    """So many of the kind that was asked before, and not asked before; and what is right to say."""
    rng, found = Random(11), dict.fromkeys(known, "")
    first = len(found)
    while len(found) < first + count:
        one, other = rng.sample(range(10, 100), 2)
        text = f"Answer with one word, yes or no. Is {one} greater than {other}?"
        found.setdefault(text, "yes" if one > other else "no")
    return list(found.items())[first:]


def _samples(questions: Iterable[tuple[str, str]]) -> Iterable[dict[str, Any]]:
    return ({"id": f"{at:04}", "input": text, "target": right} for at, (text, right) in enumerate(questions))


def _remember(before: Iterable[dict[str, Any]]) -> None:
    """These answers stand in the store, as if they had been asked for here."""
    path = Path("isthmus.yaml")
    config = load(path)
    runs = open_runs(config, path)
    samples: dict[str, Sample] = {
        it.request["messages"][-1]["content"]: it for it in open_dataset(Path("work.jsonl")).samples
    }
    bases = {name: basis_of(config, candidate_of(config, name)) for name in ("small", "strong")}
    for number, line in enumerate(before):
        sample = samples[line["input"]]
        request = request_of(sample, {"max_tokens": 4, "logprobs": True})
        said = Answered(
            model=line["model"], text=line["text"], finish=line["finish"], logprobs=tuple(line["logprobs"])
        )
        key = key_of(bases[line["model"]], request, sample.label, 0)
        runs.keep(Kept(id=f"before-{number}", key=key, at_us=1, run="before", answered=said))
