"""`make bench-evals`: statistics against known truth.

    python -m bench.evals.run [--scale 0.1] [--output FILE]

Intervals: how often they hold the truth. Tests that are looked at after every value: how often they raise a
false alarm, and how soon a true one. Off-policy estimates: how far they are from the truth. stdout gets a
table and, as its last line, one JSON object; raw results go to bench/results/evals-DATE.json. `--scale` makes
fewer draws, for a first look.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bench.evals import alarms, bandits, coverage
from bench.evals.alarms import Alarms, Delay
from bench.evals.bandits import Found
from bench.evals.coverage import Cell
from bench.gateway.peers import BENCH
from bench.gateway.run import commit

SEED = 20261127
SIZES = (20, 50, 100, 200, 500, 1000, 2000)


class Results(NamedTuple):
    """All that was measured."""

    cells: list[Cell]
    alarms: list[Alarms]
    delays: list[Delay]
    found: list[Found]


def main() -> None:
    """Measures, prints the table and the line of JSON, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began = datetime.now(UTC)
    results = measure(arguments.scale)
    line = headline(results)
    line["replay_records_per_s"] = _replayed()
    raw = {
        "began_at": began.isoformat(timespec="seconds"),
        "took_s": round((datetime.now(UTC) - began).total_seconds()),
        "commit": commit(),
        "scale": arguments.scale,
        "confidence": coverage.CONFIDENCE,
        "alpha": alarms.ALPHA,
        "intervals": [cell._asdict() for cell in results.cells],
        "false_alarms": [it._asdict() for it in results.alarms],
        "delays": [it._asdict() for it in results.delays],
        "off_policy": [it._asdict() for it in results.found],
        "headline": line,
    }
    output = arguments.output or BENCH / f"results/evals-{began:%Y-%m-%d}.json"
    output.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(table(results), json.dumps(line), sep="\n\n")


def measure(scale: float = 1.0) -> Results:
    """Everything but replay, on all cores."""

    def some(draws: int) -> int:
        return max(10, round(draws * scale))

    asked: dict[str, list[tuple[Callable[..., Any], tuple[Any, ...]]]] = {
        "shares": [(coverage.exact_shares, (n,)) for n in SIZES],
        "cells": [(coverage.simulated, (*it, SEED)) for it in coverage.plan(scale)],
        "alarms": [
            *(
                (alarms.false_change, (stream, baseline, 1000, some(400), SEED))
                for stream in alarms.STREAMS
                for baseline in (30, 300)
            ),
            *((alarms.false_mean, (mean, 1000, some(400), SEED)) for mean in (0.5, 0.9, 0.98)),
            *((alarms.false_duel, (success, 500, some(200), SEED)) for success in (0.5, 0.95)),
        ],
        "delays": [(alarms.delay, (*it, some(60), SEED)) for it in alarms.CHANGES],
        "found": [(bandits.run, (place, 1000, some(200), SEED)) for place in range(len(bandits.CASES))],
    }
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        waiting = {part: [pool.submit(do, *of) for do, of in tasks] for part, tasks in asked.items()}
        total = sum(map(len, waiting.values()))
        for count, _ in enumerate(as_completed(chain.from_iterable(waiting.values())), 1):
            if count % 10 == 0 or count == total:
                print(f"bench: {count} of {total} measured", file=sys.stderr, flush=True)
    done = {part: [future.result() for future in futures] for part, futures in waiting.items()}
    return Results(
        cells=[cell for cells in done["shares"] for cell in cells] + done["cells"],
        alarms=done["alarms"],
        delays=done["delays"],
        found=[it for found in done["found"] for it in found],
    )


def headline(results: Results) -> dict[str, float | None]:
    """The line of JSON: the worst of each, of all that was measured."""
    covered = [
        *((cell.coverage, cell.error) for cell in results.cells),
        *((it.coverage, it.coverage_error) for it in results.found),
    ]
    short = [(coverage.CONFIDENCE - held) / error for held, error in covered if error]
    lowest, its_error = min(covered)
    return {
        "interval_coverage_min": round(lowest, 4),
        "interval_coverage_min_error": round(its_error, 4),
        "interval_shortfall_max_errors": round(max(short), 2),
        "false_alarm": round(max(it.share for it in results.alarms), 4),
        "off_policy_bias": round(max(abs(it.bias) for it in results.found), 4),
    }


def table(results: Results) -> str:
    """What was measured, for people: of the intervals, the worst of each kind and size."""
    lines = [f"{'interval, of 95 %':<24}{'n':>6}{'lowest':>9}{'mean':>9}{'error':>9}  where it is lowest"]
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in results.cells:
        groups.setdefault((cell.kind, cell.n), []).append(cell)
    for (kind, n), cells in groups.items():
        worst = min(cells, key=lambda cell: cell.coverage)
        mean = sum(cell.coverage for cell in cells) / len(cells)
        lines.append(f"{kind:<24}{n:>6}{worst.coverage:>9.3f}{mean:>9.3f}{worst.error:>9.3f}  {worst.world}")
    lines += ["", f"{'false alarms, of 5 % at most':<48}{'share':>9}{'error':>9}"]
    lines += [f"{f'{it.test}: {it.stream}':<48}{it.share:>9.3f}{it.error:>9.3f}" for it in results.alarms]
    lines += ["", f"{'changes, at alpha 0.005':<48}{'seen':>9}{'median':>9}"]
    for change in results.delays:
        median = "-" if change.median is None else f"{change.median:,.0f}"
        lines.append(f"{change.change:<48}{change.seen:>9.2f}{median:>9}")
    lines += ["", f"{'off-policy, logs of 1,000':<58}{'bias':>9}{'error':>9}{'coverage':>10}"]
    for it in results.found:
        name = f"{it.method}: {it.case}"
        lines.append(f"{name:<58}{it.bias:>+9.4f}{it.error:>9.4f}{it.coverage:>10.3f}")
    return "\n".join(lines)


def _replayed() -> float | None:
    """Records replayed in a second, where this tree can replay."""
    if importlib.util.find_spec("bench.evals.replay") is None:
        return None
    rate: float = importlib.import_module("bench.evals.replay").measure()
    return round(rate)


if __name__ == "__main__":
    main()
