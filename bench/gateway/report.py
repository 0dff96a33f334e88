"""Raw results → medians, ratios, a table, the goals' verdicts and the one line of JSON. Pure.

Every ratio and every difference is taken within a round, between runs that lie seconds apart, and the median
over the rounds is reported: a machine that is shared changes its speed from minute to minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.gateway.measures import BURST, FIRST_TOKEN, INFLIGHT, INFLIGHT_IDEAL_RPS, LOW_RATE, SATURATION

Results = dict[str, Any]
Row = dict[str, Any]
Reading = Callable[[Row], float | None]

NAMES = ("direct", "nginx", "isthmus", "tensorzero", "litellm")


def rps(row: Row) -> float | None:
    """Good answers per second."""
    return row["rps"] or None


def chunks_per_s(row: Row) -> float | None:
    """Content chunks per second."""
    return row["chunks_per_s"] or None


def cpu_us_per_request(row: Row) -> float | None:
    """Processor time per good answer, warm-up included in both, in µs. None for the direct way."""
    return row["cpu_s"] * 1e6 / row["completed"] if row["completed"] and row["cpu_s"] else None


def cpu_us_per_chunk(row: Row) -> float | None:
    """Processor time per relayed chunk, in µs."""
    return row["cpu_s"] * 1e6 / row["chunks"] if row["chunks"] and row["cpu_s"] else None


def quantile(series: str, mark: str) -> Reading:
    """A reading of one quantile, in ms; None when nothing was measured."""
    return lambda row: row[series][mark] if row[series] else None


def middle(values: list[float]) -> float | None:
    """The median, or None of nothing."""
    return median(values) if values else None


def find(
    results: Results, target: str, measure: str, round_number: int, rate: float | None = None
) -> Row | None:
    """The row of a target, a measure and a round; where a rate is given, the one at that rate."""
    for row in results["rows"]:
        if (row["target"], row["measure"], row["round"]) == (target, measure, round_number) and rate in (
            None,
            row["rate"],
        ):
            found: Row = row
            return found
    return None


def pairs(
    results: Results, target: str, other: str, measure: str, read: Reading
) -> list[tuple[float, float]]:
    """The readings of two targets at the same rate, round by round, where both have one."""
    found = []
    for round_number in range(1, results["rounds"] + 1):
        row = find(results, target, measure, round_number)
        base = find(results, other, measure, round_number, row["rate"]) if row else None
        if row and base and (value := read(row)) is not None and (against := read(base)) is not None:
            found.append((value, against))
    return found


def value(results: Results, target: str, measure: str, read: Reading) -> float | None:
    """The median of a reading over the rounds."""
    rows = [find(results, target, measure, n) for n in range(1, results["rounds"] + 1)]
    return middle([v for row in rows if row and (v := read(row)) is not None])


def ratio(results: Results, target: str, other: str, measure: str, read: Reading) -> float | None:
    """The median over the rounds of target ÷ other."""
    return middle([a / b for a, b in pairs(results, target, other, measure, read) if b])


def added(results: Results, target: str, measure: str, read: Reading) -> float | None:
    """The median over the rounds of target − direct."""
    return middle([a - b for a, b in pairs(results, target, "direct", measure, read)])


def added_ratio(results: Results, target: str, other: str, measure: str, read: Reading) -> float | None:
    """What the target adds ÷ what the other adds, each against the direct way."""
    mine, theirs = added(results, target, measure, read), added(results, other, measure, read)
    return mine / theirs if mine is not None and theirs else None


def share_in_flight(results: Results, target: str) -> float | None:
    """Answers per second with 500 slow requests in flight, as a share of the ideal."""
    reached = value(results, target, INFLIGHT.name, lambda row: row["rps"])
    return None if reached is None else reached / INFLIGHT_IDEAL_RPS


def at_start(results: Results, target: str, field: str) -> float | None:
    """The median over the rounds of what was seen at the start."""
    return middle([start[field] for start in results["starts"] if start["target"] == target])


def rss_loaded(results: Results, target: str) -> float | None:
    """The highest resident memory after any measure, in MiB: the median over the rounds."""
    by_round: dict[int, float] = {}
    for row in results["rows"]:
        if row["target"] == target and "rss_mb" in row:
            by_round[row["round"]] = max(by_round.get(row["round"], 0.0), row["rss_mb"])
    return middle(list(by_round.values()))


def errors(results: Results, target: str) -> int | None:
    """All wrong answers of a target, over all measures and rounds, warm-up included."""
    rows = [row["errors"] for row in results["rows"] if row["target"] == target]
    return sum(rows) if rows else None


LATENCY_P50, LATENCY_P99 = quantile("latency_ms", "p50"), quantile("latency_ms", "p99")
FIRST_P50, FIRST_P99 = quantile("first_chunk_ms", "p50"), quantile("first_chunk_ms", "p99")


def headline(results: Results) -> dict[str, float | int | None]:
    """The last line of the run: what Isthmus reached. A null could not be measured."""
    us = "isthmus"
    line = {
        "rps_vs_nginx": ratio(results, us, "nginx", SATURATION.name, rps),
        "rps_vs_litellm": ratio(results, us, "litellm", SATURATION.name, rps),
        "rps_vs_tensorzero": ratio(results, us, "tensorzero", SATURATION.name, rps),
        "inflight500_share": share_in_flight(results, us),
        "overhead_p50_ms": added(results, us, LOW_RATE.name, LATENCY_P50),
        "overhead_p99_ms": added(results, us, LOW_RATE.name, LATENCY_P99),
        "chunks_vs_direct": ratio(results, us, "direct", BURST.name, chunks_per_s),
        "ttft_added_p50_ms": added(results, us, FIRST_TOKEN.name, FIRST_P50),
        "rss_mb": rss_loaded(results, us),
        "cold_start_s": at_start(results, us, "cold_start_s"),
    }
    return {key: None if v is None else round(v, 3) for key, v in line.items()} | {
        "errors": errors(results, us)
    }


# ---------------------------------------------------------------- the table


def table(results: Results) -> str:
    """Every target's medians, for people."""
    head = (
        "",
        "req/s",
        "µs CPU",
        "added ms",
        "chunks/s",
        "µs CPU",
        "first token",
        "500 in",
        "RSS MiB",
        "cold",
        "errors",
    )
    more = (
        "",
        "64 conns",
        "/req",
        "p50 / p99",
        "burst",
        "/chunk",
        "+p50 / +p99",
        "flight",
        "idle / load",
        "s",
        "",
    )
    lines = [head, more] + [_line(results, name) for name in NAMES]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text.insert(2, "-" * len(text[0]))
    text += [f"{name}: not measured: {why}" for name, why in results["missing"].items()]
    text += [f"{name}: FAILED: {why}" for name, why in results["failures"].items()]
    foreign = middle([row["foreign_share"] for row in results["rows"]]) or 0.0
    text.append(
        f"rounds {results['rounds']}, {results['took_s']:.0f} s; "
        f"others used {foreign:.0%} of the gateway's core (median)"
    )
    return "\n".join(text)


def _line(results: Results, name: str) -> tuple[str, ...]:
    def two(a: float | None, b: float | None, digits: int) -> str:
        return f"{_number(a, digits)} / {_number(b, digits)}"

    direct = name == "direct"
    saturation, burst = SATURATION.name, BURST.name
    low, first = LOW_RATE.name, FIRST_TOKEN.name
    read = value if direct else added
    return (
        f"{name} {results['versions'].get(name, '')}".strip(),
        _number(value(results, name, saturation, rps), 0),
        _number(value(results, name, saturation, cpu_us_per_request), 0),
        ("= " if direct else "")
        + two(read(results, name, low, LATENCY_P50), read(results, name, low, LATENCY_P99), 2),
        _number(value(results, name, burst, chunks_per_s), 0),
        _number(value(results, name, burst, cpu_us_per_chunk), 2),
        ("= " if direct else "")
        + two(read(results, name, first, FIRST_P50), read(results, name, first, FIRST_P99), 2),
        _number(share_in_flight(results, name), 2),
        two(at_start(results, name, "rss_idle_mb"), rss_loaded(results, name), 0),
        _number(at_start(results, name, "cold_start_s"), 2),
        str(errors(results, name) if errors(results, name) is not None else "–"),
    )


def _number(number: float | None, digits: int) -> str:
    return "–" if number is None else f"{number:,.{digits}f}"


# ---------------------------------------------------------------- the goals


@dataclass(frozen=True)
class Goal:
    """A number to reach, and the better one that is hoped for."""

    what: str
    reached: float | None
    must: float
    hoped: float
    at_most: bool = False


def goals(results: Results) -> list[Goal]:
    """The goals of the project, on one core with keys, ledger and metrics on."""
    us, tz, saturation, low = "isthmus", "tensorzero", SATURATION.name, LOW_RATE.name
    idle, idle_tz = at_start(results, us, "rss_idle_mb"), at_start(results, tz, "rss_idle_mb")
    wrong = errors(results, us)
    return [
        Goal("req/s ÷ nginx", ratio(results, us, "nginx", saturation, rps), 0.20, 0.33),
        Goal("req/s ÷ TensorZero", ratio(results, us, tz, saturation, rps), 1.5, 2.5),
        Goal("req/s ÷ LiteLLM", ratio(results, us, "litellm", saturation, rps), 100, 125),
        Goal("added p50, ms", added(results, us, low, LATENCY_P50), 1.0, 1.0, at_most=True),
        Goal(
            "added p50 ÷ TensorZero", added_ratio(results, us, tz, low, LATENCY_P50), 0.9, 0.65, at_most=True
        ),
        Goal(
            "added p99 ÷ TensorZero", added_ratio(results, us, tz, low, LATENCY_P99), 1.2, 0.8, at_most=True
        ),
        Goal(
            "first token added ÷ TensorZero",
            added_ratio(results, us, tz, FIRST_TOKEN.name, FIRST_P50),
            0.8,
            0.5,
            at_most=True,
        ),
        Goal(
            "CPU per chunk ÷ nginx",
            ratio(results, us, "nginx", BURST.name, cpu_us_per_chunk),
            1.7,
            1.35,
            at_most=True,
        ),
        Goal("500 in flight, share of the ideal", share_in_flight(results, us), 0.9, 0.9),
        Goal("RSS idle ÷ TensorZero", idle / idle_tz if idle and idle_tz else None, 1.0, 0.7, at_most=True),
        Goal("RSS loaded, MiB", rss_loaded(results, us), 100, 100, at_most=True),
        Goal("cold start, s", at_start(results, us, "cold_start_s"), 1.0, 1.0, at_most=True),
        Goal("errors", None if wrong is None else float(wrong), 0, 0, at_most=True),
    ]


def verdicts(results: Results) -> str:
    """Each goal, what was reached, and whether that is enough."""
    lines = []
    for goal in goals(results):
        sign = "≤" if goal.at_most else "≥"
        asked = f"{sign} {goal.must:g}" + ("" if goal.hoped == goal.must else f", hoped {goal.hoped:g}")
        lines.append(f"{goal.what:<36} {_number(goal.reached, 3):>10}   ({asked})   {_verdict(goal)}")
    return "\n".join(lines)


def _verdict(goal: Goal) -> str:
    if goal.reached is None:
        return "not measured"

    def enough(limit: float) -> bool:
        assert goal.reached is not None
        return goal.reached <= limit if goal.at_most else goal.reached >= limit

    return "hoped" if enough(goal.hoped) else "reached" if enough(goal.must) else "MISSED"
