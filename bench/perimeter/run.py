"""The perimeter benchmark: every detector of personal data beside Presidio, on the same prompts, interleaved.

    python -m bench.perimeter.run [--quick] [--output FILE]

The prompts are read from the folder `shared/data/pii` beside the repository. stdout gets a table and, as its
last line, one JSON object; a full run writes its raw results to bench/results/perimeter-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.gateway.run import BENCH, commit, machine
from bench.perimeter import scoring
from bench.perimeter.peers import LEAST_SCORE, PINS, WEIGHTS, Found, PresidioHost, weights
from bench.perimeter.scoring import DIRECT_STRUCTURED, STRUCTURED, Sample, Score, Span
from bench.perimeter.structured import DATA, MEGABYTE, SETS, fast_tiers, grown, measure_time
from isthmus.catalog.pipelines import ENGLISH
from isthmus.perimeter.detectors.ner import Ner
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.perimeter.detectors.people import DIRECT, SUSPECTED, People, settle
from isthmus.perimeter.views import findings

PLACES = {
    "STREET_ADDRESS": "pii.location",
    "ADDRESS": "pii.location",
    "GPE": "pii.location",
    "LOCATION": "pii.location",
}
MARKED = {**STRUCTURED, **PLACES, "PERSON": "pii.name", "NRP": "pii.group", "DATE_TIME": "pii.date"}
"""The types of the sets that are scored. Titles, ages, bare postcodes and organisations are not."""

ADDRESSED = {"STREET_ADDRESS": "pii.location", "ADDRESS": "pii.location"}
IDENTIFYING = {"PERSON": "pii.name", **ADDRESSED, **STRUCTURED}
GOLD_DIRECT = frozenset({"pii.name", "pii.location"}) | DIRECT_STRUCTURED
OUR_DIRECT = DIRECT | DIRECT_STRUCTURED
ITS_DIRECT = frozenset({"pii.name", "pii.location"}) | DIRECT_STRUCTURED

LENGTHS = (84, 1_000, 20_000)
OURS, WITH_NER, PRESIDIO = "isthmus", "isthmus+ner", "presidio"
NAMES = (OURS, WITH_NER, PRESIDIO)
FAST = "structured and secrets"
"""The tiers that look at everything, as the gateway joins them."""

Finder = Callable[[str], tuple[list[Found], float]]


@dataclass
class Measured:
    """What one target found in each prompt of a set, and the milliseconds that it took, round by round."""

    found: list[list[Found]] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)

    def took_ms(self) -> list[float]:
        """The median time of each prompt over the rounds."""
        return [median(times) for times in zip(*self.rounds, strict=True)]


def main() -> None:
    """Measures, writes the raw results, and prints the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="one round on every tenth prompt, nothing written"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began, shape = datetime.now(UTC), machine()
    with PresidioHost() as presidio:
        finders = {**_our_finders(), PRESIDIO: presidio.find}
        sets = {name: _measure_set(name, finders, arguments.quick) for name in SETS}
        rounds = 1 if arguments.quick else 5
        fast = _fast_finder()
        lengths = _measure_lengths({**finders, FAST: fast}, rounds)
        times = {**measure_time(fast_tiers()), **_measure_prompts(fast, rounds)}
    line = _headline(sets[SETS[0]], times)
    results = {
        "began_at": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": shape,
        "versions": {"presidio": [*PINS, WEIGHTS]},
        "suspected_from": SUSPECTED,
        "sets": sets,
        "lengths": lengths,
        "fast": times,
        "headline": line,
    }
    output = arguments.output or (
        None if arguments.quick else BENCH / f"results/perimeter-{began:%Y-%m-%d}.json"
    )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(_table(sets, lengths), json.dumps(line), sep="\n\n")


def _our_finders() -> dict[str, Finder]:
    witness = Ner(weights(), clock=time.monotonic, sha256=ENGLISH.sha256)
    return {OURS: _finder(People()), WITH_NER: _finder(People(witness))}


def _finder(people: People) -> Finder:
    patterns = Patterns()

    def find(text: str) -> tuple[list[Found], float]:
        began = time.perf_counter()
        findings = settle([*patterns.find(text), *people.find(text)])
        took_ms = (time.perf_counter() - began) * 1000
        return [Found(one.kind, one.start, one.end, one.score) for one in findings], took_ms

    return find


def _fast_finder() -> Finder:
    tiers = fast_tiers()

    def find(text: str) -> tuple[list[Found], float]:
        began = time.perf_counter()
        found = findings(text, tiers)
        took_ms = (time.perf_counter() - began) * 1000
        return [Found(one.kind, one.start, one.end, one.score) for one in found], took_ms

    return find


def _measure_set(name: str, finders: dict[str, Finder], quick: bool) -> dict[str, Any]:
    path = DATA / f"{name}.json"
    step, rounds = (10, 1) if quick else (1, 3)
    texts = [sample.text for sample in scoring.load(path, MARKED)][::step]
    measured = {target: Measured() for target in finders}
    for number in range(rounds):
        print(f"bench: {name}, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        _measure_round(texts, finders, measured)
    scores = {target: _scores(path, step, target, one.found) for target, one in measured.items()}
    for target, one in measured.items():
        scores[target]["time"] = _times(one, measured[PRESIDIO])
    return scores


def _measure_round(texts: Sequence[str], finders: dict[str, Finder], measured: dict[str, Measured]) -> None:
    for one in measured.values():
        one.found = []
        one.rounds.append([])
    turns = list(finders.items())
    for text in texts:
        # Who comes second finds the caches warm or cold by what the first one did, so all take turns at it.
        turns.append(turns.pop(0))
        for target, find in turns:
            found, took_ms = find(text)
            measured[target].found.append(found)
            measured[target].rounds[-1].append(took_ms)


def _scores(path: Path, step: int, target: str, found: Sequence[Sequence[Found]]) -> dict[str, Any]:
    least = LEAST_SCORE if target == PRESIDIO else SUSPECTED
    sure = [[one for one in spans if one.score >= least] for spans in found]
    samples = scoring.load(path, MARKED)[::step]
    by_kind = scoring.by_kind(samples, _spans(sure), frozenset(MARKED.values()))
    structured = {kind: score for kind, score in by_kind.items() if kind in STRUCTURED.values()}
    addressed = _only(scoring.load(path, ADDRESSED)[::step], sure, frozenset({"pii.address", "pii.location"}))
    identifying = scoring.load(path, IDENTIFYING)[::step]
    per_prompt = scoring.by_prompt(
        identifying,
        [[Span(one.kind, one.start, one.end) for one in spans] for spans in sure],
        GOLD_DIRECT,
        ITS_DIRECT if target == PRESIDIO else OUR_DIRECT,
    )
    return {
        "all": _shares(scoring.total(by_kind)),
        "structured": _shares(scoring.total(structured)),
        "kinds": {kind: _shares(score) for kind, score in by_kind.items()},
        "address_recall": round(addressed, 4),
        "masked": round(scoring.masked_share(identifying, _spans(sure), GOLD_DIRECT), 4),
        "prompt_recall": round(per_prompt.recall, 4),
        "prompt_fpr": round(per_prompt.false_positive_rate, 4),
    }


def _only(samples: Sequence[Sample], found: Sequence[Sequence[Found]], kinds: frozenset[str]) -> float:
    """The recall of street addresses by findings of `kinds`."""
    spans = _spans([[one for one in some if one.kind in kinds] for some in found])
    return scoring.by_kind(samples, spans, {"pii.location"})["pii.location"].recall


def _spans(found: Sequence[Iterable[Found]]) -> list[list[Span]]:
    """The findings as spans; an address counts as a location, as it does in Presidio."""
    return [
        [Span("pii.location" if one.kind == "pii.address" else one.kind, one.start, one.end) for one in some]
        for some in found
    ]


def _times(one: Measured, presidio: Measured) -> dict[str, float]:
    ours = one.took_ms()
    ratios = [mine / its for mine, its in zip(ours, presidio.took_ms(), strict=True)]
    return {
        "mean_ms": round(sum(ours) / len(ours), 4),
        "median_ms": round(median(ours), 4),
        "p95_ms": round(sorted(ours)[int(0.95 * len(ours))], 4),
        "median_ratio": round(median(ratios), 4),
        "ratio_of_means": round(sum(ours) / sum(presidio.took_ms()), 4),
    }


def _measure_lengths(finders: dict[str, Finder], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds for texts of each length, taken in turns, a warm-up before."""
    whole = _whole()
    took: dict[str, dict[str, float]] = {target: {} for target in finders}
    for length in LENGTHS:
        pieces = [whole[at * length : (at + 1) * length] for at in range(rounds)]
        times: dict[str, list[float]] = {target: [] for target in finders}
        for piece in pieces:
            for target, find in finders.items():
                find(piece)
                times[target].append(find(piece)[1])
        for target, some in times.items():
            took[target][str(length)] = round(median(some), 3)
    return took


def _measure_prompts(fast: Finder, rounds: int) -> dict[str, float]:
    """Median milliseconds of the fast tiers for prompts that are full of personal data: for 1,000 characters,
    one piece after the other, and for a megabyte."""
    whole = _whole()
    pieces = [whole[at : at + 1000] for at in range(0, len(whole) - 1000, 1000)]
    took = [fast(piece)[1] for _ in range(2) for piece in pieces][len(pieces) :]
    megabyte = median(fast(grown(whole))[1] for _ in range(rounds))
    return {
        "prompts_ms_per_1000_chars": round(median(took), 4),
        "prompts_ms_per_megabyte": round(megabyte, 1),
    }


def _whole() -> str:
    return "\n".join(sample.text for sample in scoring.load(DATA / f"{SETS[0]}.json", {}))


def _headline(scores: dict[str, Any], times: dict[str, float]) -> dict[str, float]:
    ours, its = scores[OURS], scores[PRESIDIO]
    return {
        "f2": ours["all"]["f2"],
        "structured_f2": ours["structured"]["f2"],
        "prompt_recall": ours["prompt_recall"],
        "prompt_fpr": ours["prompt_fpr"],
        "address_recall": ours["address_recall"],
        "presidio_f2": its["all"]["f2"],
        "time_vs_presidio": ours["time"]["median_ratio"],
        "fast_ms_per_1000_chars": times["prose_ms_per_1000_chars"],
        "fast_ms_per_1000_chars_of_a_megabyte": round(times["prose_ms_per_megabyte"] * 1000 / MEGABYTE, 4),
        "fast_ms_per_1000_chars_of_prompts": times["prompts_ms_per_1000_chars"],
        "ner_f2": scores[WITH_NER]["all"]["f2"],
        "ner_time_vs_presidio": scores[WITH_NER]["time"]["median_ratio"],
    }


def _shares(score: Score) -> dict[str, float]:
    return {
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
        "f2": round(score.f2, 4),
    }


def _table(sets: dict[str, Any], lengths: dict[str, dict[str, float]]) -> str:
    columns = (
        "P",
        "R",
        "F2",
        "structured F2",
        "address R",
        "masked",
        "prompt R",
        "prompt FPR",
        "ms",
        "x Presidio",
    )
    rows = []
    for name, scores in sets.items():
        rows.append(f"{name:<28}" + "".join(f"{column:>14}" for column in columns))
        for target in NAMES:
            rows.append(f"{target:<28}" + "".join(f"{value:>14.3f}" for value in _row(scores[target])))
    rows.append("")
    rows.append(f"{'ms for a text of':<28}" + "".join(f"{length:>14,}" for length in LENGTHS))
    for target, times in lengths.items():
        rows.append(f"{target:<28}" + "".join(f"{value:>14.3f}" for value in times.values()))
    return "\n".join(rows)


def _row(score: dict[str, Any]) -> tuple[float, ...]:
    shares, times = score["all"], score["time"]
    return (
        shares["precision"],
        shares["recall"],
        shares["f2"],
        score["structured"]["f2"],
        score["address_recall"],
        score["masked"],
        score["prompt_recall"],
        score["prompt_fpr"],
        times["median_ms"],
        times["median_ratio"],
    )


if __name__ == "__main__":
    main()
