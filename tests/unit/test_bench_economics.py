"""What the economics benchmark takes for a measurement, and that its fit finds what made the points."""

from __future__ import annotations

import csv
from math import exp
from pathlib import Path

import numpy as np
import pytest
from bench.economics.fit import Fitter
from bench.economics.points import read

from isthmus.catalog.architectures import architectures
from isthmus.catalog.hardware import gpus
from isthmus.economics.sizing.calibrate import Point
from isthmus.economics.sizing.roofline import Setting, duration, tpot_terms, ttft_terms

LINE = {
    "source": "made_up",
    "source_ref": "",
    "notes": "",
    "mode": "closed_loop",
    "model": "Qwen/Qwen3-32B",
    "gpu": "H100-80GB-SXM",
    "precision": "fp8",
    "engine": "vLLM 0.30",
    "n_gpus": "2",
    "dp": "1.0",
    "ep": "",
    "isl": "1000",
    "osl": "500",
    "concurrency": "10",
    "ttft_ms": "100",
    "tpot_ms": "20",
    "output_tps_total": "",
}


def written(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "points.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, LINE)
        writer.writeheader()
        writer.writerows(LINE | line for line in lines)
    return path


def test_a_line_is_a_point_and_its_throughput_follows_where_it_is_not_given(tmp_path: Path) -> None:
    (row,) = read(written(tmp_path, {})).rows
    assert row.point.setting.engine == "vllm"
    assert (row.point.ttft_s, row.point.tpot_s) == (0.1, 0.02)
    assert row.tokens_per_s == pytest.approx(10 * 500 / (0.1 + 500 * 0.02))


def test_two_kinds_of_parallelism_in_a_reference_are_of_the_same_gpus(tmp_path: Path) -> None:
    (row,) = read(written(tmp_path, {"n_gpus": "64", "source_ref": "run_tp8_ep8_1"})).rows
    assert row.point.setting.gpus == 8


def test_gpus_that_were_counted_for_both_kinds_of_parallelism_are_counted_once(tmp_path: Path) -> None:
    (row,) = read(written(tmp_path, {"n_gpus": "64", "ep": "8.0"})).rows
    assert row.point.setting.gpus == 8
    (row,) = read(written(tmp_path, {"n_gpus": "64", "ep": "8.0", "gpu": "GB200-NVL72"})).rows
    assert row.point.setting.gpus == 64, "a rack holds 72"


def test_lengths_that_a_load_generator_draws_are_their_mean(tmp_path: Path) -> None:
    sample = {"source": "aic_silicon_sample", "output_tps_total": "498", "notes": "output_tps derived"}
    (row,) = read(written(tmp_path, sample)).rows
    assert (row.point.setting.input, row.point.setting.output) == (900, 450)
    assert row.tokens_per_s == pytest.approx(10 * 450 / (0.1 + 450 * 0.02))
    (row,) = read(written(tmp_path, sample | {"source_ref": "id=qwen3_32b_x"})).rows
    assert row.point.setting.input == 1000


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        ({"engine": "sglang 0.5.9", "gpu": "B200-180GB-SXM"}, 10),
        ({"engine": "sglang 0.5.9", "gpu": "B200-180GB-SXM", "concurrency": "16"}, 30),
        ({"engine": "sglang 0.5.9"}, 0),
        ({"engine": "trtllm", "model": "meta-llama/Llama-3.3-70B", "isl": "1024", "osl": "1024"}, 20),
        ({"engine": "trtllm", "model": "meta-llama/Llama-3.3-70B", "isl": "8192", "osl": "1024"}, 0),
        ({"engine": "vllm"}, 0),
    ],
)
def test_requests_were_held_back_for_as_many_steps_as_their_scripts_say(
    tmp_path: Path, line: dict[str, str], steps: int
) -> None:
    (row,) = read(written(tmp_path, {"source": "aic_silicon_sample", **line})).rows
    assert row.point.setting.gathering == steps


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"model": "nobody/nothing"}, "unknown model or GPU"),
        ({"tpot_ms": ""}, "no concurrency, or no latencies"),
        ({"notes": "spec-decode; mtp"}, "speculative decoding"),
        ({"mode": "burst_all_at_once"}, "one burst, no steady load"),
        ({"notes": "GPU-COUNT-UNCERTAIN"}, "number of GPUs uncertain"),
        ({"output_tps_total": "9000"}, "contradicts Little's law"),
    ],
)
def test_what_is_no_measurement_is_left_out_and_counted(
    tmp_path: Path, line: dict[str, str], why: str
) -> None:
    found = read(written(tmp_path, line))
    assert not found.rows
    assert found.left_out == {why: 1}


def test_one_measurement_counts_once_under_whatever_name_of_its_model(tmp_path: Path) -> None:
    names = ({"model": "deepseek-ai/DeepSeek-V3"}, {"model": "deepseek-ai/DeepSeek-R1"})
    found = read(written(tmp_path, *names))
    assert len(found.rows) == 1
    assert found.left_out == {"the same measurement again": 1}


def test_the_fit_finds_durations_of_a_model_that_it_did_not_see() -> None:
    truth = {"bandwidth": 0.3, "overhead": 1.0, "compute": 0.6, "prefill": 0.7, "hops": 1.2, "link": 0.8}
    names = ("Qwen/Qwen3-32B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.3-70B")
    points = [
        Point(it, duration(ttft_terms(it), truth), duration(tpot_terms(it), truth))
        for it in (
            Setting(
                model=architectures()[name],
                gpu=gpus()[gpu],
                gpus=count,
                precision="fp8",
                input=size,
                output=500,
                concurrency=running,
            )
            for name in names
            for gpu in ("H100-80GB-SXM", "H200-141GB-SXM")
            for count in (2, 4, 8)
            for size in (500, 4000)
            for running in (1, 8, 32)
        )
    ]
    seen = np.array([point.setting.model.model != names[-1] for point in points])
    factors = Fitter(points).factors(seen)
    errors = [
        abs(duration(tpot_terms(point.setting), factors["tpot"]) / point.tpot_s - 1)
        for point, known in zip(points, seen, strict=True)
        if not known
    ]
    naive = [abs(duration(tpot_terms(point.setting), {}) / point.tpot_s - 1) for point in points]
    assert np.median(errors) < 0.1
    assert np.median(naive) > 0.3
    assert exp(factors["tpot"]["bandwidth"]) > 1
