"""Loads from the files of GuideLLM, aiperf and `vllm bench serve`. Pure: takes parsed JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from isthmus.core.errors import Fault, IsthmusError

Json = Mapping[str, Any]


class Load(NamedTuple):
    """What a load generator did and saw, whatever the machine was: mean lengths, mean seconds."""

    concurrency: float
    input: float
    output: float
    ttft_s: float
    tpot_s: float


def loads(report: object) -> list[Load]:
    """Every load in a report; raises IsthmusError where it is of none of the three, or holds no latency."""
    found = list(_loads(report))
    if not found:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "The file holds no load with a time to first token and a time per output token.",
            code="not_a_report",
            hint="Give the JSON of GuideLLM, of aiperf, or of `vllm bench serve --save-result`.",
        )
    return found


def _loads(report: object) -> Iterator[Load]:
    if isinstance(report, list):
        for each in report:
            yield from _loads(each)
    elif isinstance(report, dict):
        if "benchmarks" in report:
            for each in report["benchmarks"]:
                yield from _guidellm(each)
        elif "mean_ttft_ms" in report and "mean_tpot_ms" in report:
            yield from _vllm(report)
        elif "time_to_first_token" in report and "inter_token_latency" in report:
            yield from _aiperf(report)


def _vllm(report: Json) -> Iterator[Load]:
    answered = report["completed"]
    if not answered:
        return
    output = report["total_output_tokens"] / answered
    ttft_s, tpot_s = report["mean_ttft_ms"] / 1000, report["mean_tpot_ms"] / 1000
    # Without a bound, the number that ran at once follows from what came out (Little's law).
    running = report.get("max_concurrency") or report["output_throughput"] * (ttft_s / output + tpot_s)
    yield Load(running, report["total_input_tokens"] / answered, output, ttft_s, tpot_s)


def _aiperf(report: Json) -> Iterator[Load]:
    ttft_s = _mean(report, "time_to_first_token") / 1000
    tpot_s = _mean(report, "inter_token_latency") / 1000
    output = _mean(report, "output_sequence_length")
    running = _at(report, ("input_config", "loadgen", "concurrency"))
    running = running or _mean(report, "request_throughput") * (ttft_s + output * tpot_s)
    yield Load(float(running), _mean(report, "input_sequence_length"), output, ttft_s, tpot_s)


def _guidellm(benchmark: Json) -> Iterator[Load]:
    metrics = benchmark["metrics"]

    def mean(*names: str) -> float:
        name = next(name for name in names if name in metrics)
        return float(metrics[name]["successful"]["mean"])

    if not _at(metrics, ("requests_per_second", "successful", "mean")):
        return
    yield Load(
        concurrency=mean("request_concurrency"),
        input=mean("prompt_token_count"),
        output=mean("output_token_count"),
        ttft_s=mean("time_to_first_token_ms") / 1000,
        tpot_s=mean("inter_token_latency_ms", "time_per_output_token_ms") / 1000,
    )


def _mean(report: Json, name: str) -> float:
    return float(report[name]["avg"])


def _at(report: Json, path: Sequence[str]) -> Any:
    value: Any = report
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
