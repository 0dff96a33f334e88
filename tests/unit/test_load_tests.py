"""The reports of three load generators say the same things in three ways."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.economics.sizing.load_tests import Load, loads

VLLM: dict[str, Any] = {
    "completed": 10,
    "max_concurrency": 8,
    "total_input_tokens": 10_240,
    "total_output_tokens": 2_560,
    "output_throughput": 700.0,
    "mean_ttft_ms": 100.0,
    "mean_tpot_ms": 11.0,
}
AIPERF: dict[str, Any] = {
    "input_config": {"loadgen": {"concurrency": 8}},
    "time_to_first_token": {"unit": "ms", "avg": 100.0},
    "inter_token_latency": {"unit": "ms", "avg": 11.0},
    "input_sequence_length": {"avg": 1024.0},
    "output_sequence_length": {"avg": 256.0},
    "request_throughput": {"avg": 2.7},
}


def _guidellm(name: str) -> dict[str, Any]:
    means = {
        "requests_per_second": 2.7,
        "request_concurrency": 8.0,
        "prompt_token_count": 1024.0,
        "output_token_count": 256.0,
        "time_to_first_token_ms": 100.0,
        name: 11.0,
    }
    return {
        "benchmarks": [{"metrics": {key: {"successful": {"mean": value}} for key, value in means.items()}}]
    }


@pytest.mark.parametrize(
    "report",
    [VLLM, AIPERF, _guidellm("inter_token_latency_ms"), _guidellm("time_per_output_token_ms"), [VLLM]],
    ids=["vllm", "aiperf", "guidellm", "guidellm-tpot", "list"],
)
def test_every_report_gives_the_same_load(report: object) -> None:
    assert loads(report) == [Load(8, 1024, 256, 0.1, 0.011)]


def test_without_a_bound_the_concurrency_follows_from_littles_law() -> None:
    (load,) = loads(VLLM | {"max_concurrency": None})
    assert load.concurrency == pytest.approx(700 * (0.1 / 256 + 0.011))


def test_a_load_that_nobody_answered_is_no_point() -> None:
    with pytest.raises(IsthmusError, match="no load"):
        loads(VLLM | {"completed": 0})


@pytest.mark.parametrize("report", [{}, [], "text", {"benchmarks": []}])
def test_what_is_no_report_is_refused(report: object) -> None:
    with pytest.raises(IsthmusError, match="no load"):
        loads(report)
