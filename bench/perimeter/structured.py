"""How well the structured kinds are found, and what the fast tiers cost.

`python -m bench.perimeter.structured`. The sets are read from the folder `shared/data/pii`
beside the repository; stdout ends in one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.perimeter import scoring
from isthmus.core.label import Finding
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.perimeter.detectors.secrets import credentials
from isthmus.perimeter.views import findings

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "pii"
SETS = ("presidio_synth_dataset_v2", "presidio_generated_large")
ROUNDS = 7
MEGABYTE = 1_000_000


def main() -> None:
    """Prints the scores of every set, the time on prose and code, and the time for a megabyte of each."""
    report: dict[str, Any] = {name: measure_quality(DATA / f"{name}.json") for name in SETS}
    report["time"] = measure_time(fast_tiers())
    for name in SETS:
        _print_scores(name, report[name])
    for key, value in report["time"].items():
        print(f"{key}: {value}", file=sys.stderr)
    print(json.dumps(report))


def fast_tiers() -> list[Detector]:
    """The detectors whose time counts as the fast tiers'."""
    return [Patterns(), credentials()]


def measure_quality(path: Path) -> dict[str, Any]:
    """Precision, recall and F2 of each structured kind and of all, and the score per prompt."""
    samples = scoring.load(path, scoring.STRUCTURED)
    patterns = Patterns()
    predictions = [spans(patterns.find(sample.text)) for sample in samples]
    kinds = frozenset(scoring.STRUCTURED.values())
    scores = scoring.by_kind(samples, predictions, kinds)
    per_prompt = scoring.by_prompt(samples, predictions, scoring.DIRECT_STRUCTURED, scoring.DIRECT_STRUCTURED)
    return {
        "all": _shares(scoring.total(scores)),
        "kinds": {kind: _shares(score) for kind, score in scores.items()},
        "masked": round(scoring.masked_share(samples, predictions, scoring.DIRECT_STRUCTURED), 4),
        "prompt_recall": round(per_prompt.recall, 4),
        "prompt_fpr": round(per_prompt.false_positive_rate, 4),
    }


def measure_time(detectors: Sequence[Detector]) -> dict[str, float]:
    """Milliseconds per 1,000 characters of prose and code, and for a megabyte, of hostile texts too."""
    prose = (ROOT / "README.md").read_text("utf-8")
    code = (ROOT / "src/isthmus/dialects/sse.py").read_text("utf-8")
    ordinary = {"prose": prose, "code": code, "lines": _log_lines()}
    per_1000 = {
        f"{name}_ms_per_1000_chars": round(_best_ms(detectors, text) * 1000 / len(text), 4)
        for name, text in ordinary.items()
    }
    whole = {
        f"{name}_ms_per_megabyte": round(_best_ms(detectors, grown(text), rounds=1), 1)
        for name, text in {**ordinary, **HOSTILE}.items()
    }
    return {**per_1000, **whole}


HOSTILE = {
    "letter": "a",
    "digit": "1",
    "spaced_digits": "4 ",
    "groups": "4111 ",
    "at": "@",
    "addresses": "a@a.a",
    "brackets": "([{",
    "colons": "a:",
    "dots": "1.",
    "labels": "phone card passport id number 1 ",
    "assignments": "key='a",
    "zero_width": "\u200b",
    "full_width": "\uff14",
}
"""What a megabyte is made of that should be slow to search."""


def spans(findings: Sequence[Finding]) -> list[scoring.Span]:
    """The findings as spans that can be scored."""
    return [scoring.Span(finding.kind, finding.start, finding.end) for finding in findings]


def _best_ms(detectors: Sequence[Detector], text: str, rounds: int = ROUNDS) -> float:
    return min(_seconds(lambda: findings(text, detectors)) for _ in range(rounds)) * 1000


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def grown(text: str) -> str:
    """The text again and again, until it is a megabyte."""
    return (text * (MEGABYTE // len(text) + 1))[:MEGABYTE]


def _log_lines() -> str:
    return "".join(
        f"2026-11-24T10:{minute:02}:07.123Z INFO worker-{minute} handled "
        f"GET /v1/items/{minute * 7919} in 12.5 ms\n"
        for minute in range(60)
    )


def _shares(score: scoring.Score) -> dict[str, float]:
    return {
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
        "f2": round(score.f2, 4),
    }


def _print_scores(name: str, quality: dict[str, Any]) -> None:
    for kind, shares in {**quality["kinds"], "all": quality["all"]}.items():
        print(f"{name} {kind:12} {shares}", file=sys.stderr)


if __name__ == "__main__":
    main()
