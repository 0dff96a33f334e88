"""Measured points: lines of a CSV file that anyone can write, as settings and what was measured in them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from isthmus.catalog.architectures import Precision, architectures
from isthmus.catalog.hardware import gpus
from isthmus.economics.sizing.calibrate import Point
from isthmus.economics.sizing.estimate import kin, throughput_of
from isthmus.economics.sizing.roofline import Engine, Setting

Line = Mapping[str, str]

DATA = Path(__file__).parents[3] / "shared/data/economics"
"""Where the measured points and the engines' accounts of their memory are kept, beside the repository."""

_NVIDIAS_OWN = re.compile(r"id=(qwen_qwen3_32b|qwen3_32b|nvidia_|openai_)")
_DRAWN = 0.9
"""InferenceX draws each length between 0.8 and 1 times what it says (`--random-range-ratio 0.8`)."""
_COUNTED = re.compile(r"_tp(\d+)(?:_0)?_ep(\d+)")


class Row(NamedTuple):
    """What was measured in one line: the point, its output tokens a second, and who published it."""

    source: str
    point: Point
    tokens_per_s: float


class Read(NamedTuple):
    """The usable points of a file, and why the others are not used."""

    rows: list[Row]
    left_out: Counter[str]


def read(path: Path) -> Read:
    """The rows of the file, each measurement once."""
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    seen = set()
    with path.open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            why = _unusable(line)
            if why is None:
                row = _row(line)
                same = identity(row.point)
                why = _implausible(row) or ("the same measurement again" if same in seen else None)
                seen.add(same)
            if why is None:
                rows.append(row)
            else:
                left_out[why] += 1
    return Read(rows, left_out)


def _unusable(line: Line) -> str | None:
    if line["model"] not in architectures() or line["gpu"] not in gpus():
        return "unknown model or GPU"
    if not all(line[name] for name in ("isl", "osl", "concurrency", "ttft_ms", "tpot_ms")):
        return "no concurrency, or no latencies"
    if "spec-decode" in line["notes"]:
        return "speculative decoding"
    if line["source"] == "inferencex_experimental":
        return "called wrong by its authors"
    if line["mode"] == "burst_all_at_once":
        return "one burst, no steady load"
    if not line["n_gpus"] or ("UNCERTAIN" in line["notes"] and not _COUNTED.search(line["source_ref"])):
        return "number of GPUs uncertain"
    return None


def _row(line: Line) -> Row:
    count, groups = _gpus(line)
    drawn = _DRAWN if _of_inference_x(line) else 1.0
    setting = Setting(
        model=architectures()[line["model"]],
        gpu=gpus()[line["gpu"]],
        gpus=count,
        groups=groups,
        engine=_engine(line["engine"]),
        precision=_precision(line["precision"]),
        input=float(line["isl"]) * drawn,
        output=float(line["osl"]) * drawn,
        concurrency=float(line["concurrency"]),
        lockstep="qwen_qwen3_32b_" in line["source_ref"],
    )
    if _of_inference_x(line):
        setting = msgspec.structs.replace(setting, gathering=_gathering(setting))
    ttft_s, tpot_s = float(line["ttft_ms"]) / 1000, float(line["tpot_ms"]) / 1000
    rate = 0.0 if "derived" in line["notes"] else float(line["output_tps_total"] or 0)
    point = Point(setting, ttft_s, tpot_s)
    return Row(line["source"], point, rate or throughput_of(setting, ttft_s, tpot_s))


def _of_inference_x(line: Line) -> bool:
    return line["source"] == "aic_silicon_sample" and not _NVIDIAS_OWN.search(line["source_ref"])


def _gpus(line: Line) -> tuple[int, int]:
    """How many GPUs and groups. Where the reference names both kinds of parallelism, both are of the same."""
    count = int(float(line["n_gpus"]))
    if named := _COUNTED.search(line["source_ref"]):
        count = int(named[1])
    elif count > gpus()[line["gpu"]].per_node and line.get("ep"):
        # These runs are of one server: its GPUs were counted once for each of both kinds.
        count //= int(float(line["ep"]))
    groups = min(int(float(line["dp"] or 1)), count)
    return (count, groups) if count % groups == 0 else (count, 1)


def _gathering(setting: Setting) -> int:
    """For how many steps requests were held back: what InferenceX starts engines with.

    See benchmarks/ of github.com/SemiAnalysisAI/InferenceX: `--scheduler-recv-interval` in dsr1_fp8_b200.sh,
    dsr1_fp4_b200.sh and single_node/qwen3.5_fp8_b200.sh, `batch_wait_timeout_iters` in
    70b_fp4_b200_trt_slurm.sh and dsr1_fp8_b200_trt.sh, `timeout_iters` of parallel attention in the latter.
    """
    deepseek = setting.model.model.startswith("deepseek-ai/")
    blackwell = setting.gpu.generation == "blackwell"
    even = setting.input == setting.output < 1024
    if setting.engine == "sglang" and blackwell:
        return 30 if setting.concurrency >= 16 else 10
    if setting.engine != "trtllm":
        return 0
    if setting.groups > 1:
        return 60 if deepseek else 50
    if even and setting.model.model.startswith("meta-llama/") and setting.gpus < 8:
        return 20
    if even and deepseek and blackwell and setting.precision == "fp8" and 64 <= setting.concurrency < 256:
        return 40
    return 0


def _engine(name: str) -> Engine:
    lower = name.lower()
    if "sglang" in lower:
        return "sglang"
    return "trtllm" if "trt" in lower or "tensorrt" in lower else "vllm"


def _precision(name: str) -> Precision:
    known: dict[str, Precision] = {
        "fp8": "fp8",
        "fp4": "fp4",
        "int4": "int4",
        "int8": "int8",
        "mxfp4": "mxfp4",
    }
    return known.get(name, "bf16")


def _implausible(row: Row) -> str | None:
    point, setting = row.point, row.point.setting
    running = row.tokens_per_s * (point.ttft_s / setting.output + point.tpot_s)
    if not 0.6 < running / setting.concurrency < 1.6:
        return "contradicts Little's law"
    return None


def identity(point: Point) -> tuple[object, ...]:
    """What makes two lines the same measurement: model, GPU, load, and what came out to three digits."""
    setting = point.setting
    load = (setting.input, setting.output, setting.concurrency)
    return (kin(setting.model), setting.gpu.gpu, *load, f"{point.ttft_s:.3g}", f"{point.tpot_s:.3g}")


def memory(path: Path) -> Iterator[Line]:
    """The engines' accounts of their memory, a line each."""
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)
