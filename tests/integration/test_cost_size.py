"""`isthmus cost size`, as a stranger uses it: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isthmus.config.load import parse

COMMAND = (str(Path(sys.executable).with_name("isthmus")), "cost", "size")
MODEL = "meta-llama/Llama-3.3-70B"
TRAFFIC = ("--rate", "5", "--input", "2000", "--output", "300")
NARROW = (MODEL, *TRAFFIC, "--gpu", "H100-80GB-SXM", "--gpu", "H200-141GB-SXM")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, timeout=120)


def answer(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert isinstance(read, dict)
    return read


def write(folder: Path, name: str, value: object) -> str:
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_options_are_ranked_and_each_says_what_it_rests_on() -> None:
    read = answer(MODEL, *TRAFFIC)
    costs = [option["usd_per_hour"] for option in read["options"]]
    assert costs == sorted(costs)
    for option in read["options"]:
        low, middle, high = option["usd_per_million"]
        assert low < middle < high
        assert option["badge"] == "Estimated"
        assert option["ttft_s"][1] <= 1.0
        assert option["tpot_s"][1] <= 0.05


def test_the_same_seed_gives_the_same_answer() -> None:
    assert answer(*NARROW, "--seed", "3") == answer(*NARROW, "--seed", "3")


def test_a_tighter_target_is_never_cheaper() -> None:
    loose, tight = (answer(*NARROW, "--tpot", tpot)["options"][0] for tpot in ("60ms", "15ms"))
    assert tight["usd_per_hour"] >= loose["usd_per_hour"]


def test_the_start_command_and_the_rows_of_the_config_belong_to_the_first_option(tmp_path: Path) -> None:
    read = answer(MODEL, *TRAFFIC, "--gpu", "H100-80GB-SXM", "--precision", "fp8")
    first = read["options"][0]
    assert read["start"].startswith("vllm serve meta-llama/Llama-3.3-70B-Instruct ")
    assert f"--tensor-parallel-size {first['gpus']} " in read["start"]
    assert "--quantization fp8" in read["start"]
    written = read["config"] + "\nroutes: {chat: llama-3.3-70b-instruct}\n"
    config, faults = parse(written, str(tmp_path / "isthmus.yaml"))
    assert config is not None, faults


def test_a_person_reads_a_table_the_targets_and_the_dates() -> None:
    done = run(MODEL, *TRAFFIC, "--most", "2")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["USD/M", "TOKENS"]
    assert len([line for line in lines if line.endswith("Estimated")]) == 2
    assert "list prices of 20" in done.stdout
    assert "models:" in done.stdout


def test_a_load_test_of_the_same_machine_moves_the_estimate_and_changes_the_badge(tmp_path: Path) -> None:
    machine = (MODEL, *TRAFFIC, "--gpu", "H100-80GB-SXM", "--precision", "fp8", "--most", "20")
    slow = [_report(running, tpot_ms) for running, tpot_ms in ((4, 40.0), (32, 60.0))]
    file = write(tmp_path, "runs.json", slow)
    before = {option["gpus"]: option for option in answer(*machine, "--tpot", "90ms")["options"]}
    after = {
        option["gpus"]: option
        for option in answer(
            *machine, "--tpot", "90ms", "--calibrate", file, "--calibrated-on", "H100-80GB-SXM:2:fp8"
        )["options"]
    }
    assert after[2]["badge"] == "Interpolated"
    assert after[2]["tpot_s"][1] > before[2]["tpot_s"][1]
    assert after[2]["rate_per_replica"] < before[2]["rate_per_replica"]


def test_a_model_is_sized_by_its_config_and_a_gpu_by_a_row_of_ones_own(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "config.json",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 16,
            "num_hidden_layers": 16,
            "num_key_value_heads": 4,
            "vocab_size": 32000,
        },
    )
    gpu = {"gpu": "ours", "generation": "hopper", "memory_gb": 48, "bandwidth_gb_s": 2000}
    file = write(tmp_path, "gpus.yaml", [gpu | {"bf16_tflops": 400, "usd_per_hour": 0.5}])
    read = answer("us/small", *TRAFFIC, "--config", config, "--gpu-file", file)
    assert {option["gpu"] for option in read["options"]} == {"ours"}
    assert read["options"][0]["usd_per_hour"] % 0.5 == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*TRAFFIC, "--ttft", "soon"), "not a latency"),
        ((*TRAFFIC, "--gpu", "H100"), "did you mean H100-80GB"),
        ((*TRAFFIC, "--gpu", "T4", "--precision", "bf16"), "no price of T4"),
        ((*TRAFFIC, "--gpu", "L4", "--precision", "bf16"), "No option fits"),
        ((*TRAFFIC, "--calibrate", __file__), "--calibrated-on"),
        ((*TRAFFIC, "--calibrate", __file__, "--calibrated-on", "H100-80GB-SXM"), "is no JSON"),
        ((*TRAFFIC, "--calibrate", __file__, "--calibrated-on", "H100-80GB-SXM:two"), "no number"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    done = run(MODEL, *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_model_is_named_with_the_nearest_that_is_known() -> None:
    done = run("lama-3.3-70b", *TRAFFIC)
    assert done.returncode == 2
    assert "did you mean meta-llama/Llama-3.3-70B" in done.stderr.replace("\n", " ")


def test_a_model_is_known_without_its_maker_and_in_any_case() -> None:
    whole = run("Qwen/Qwen3-8B", *TRAFFIC, "--gpu", "L40S")
    assert whole.returncode == 0
    assert run("qwen3-8b", *TRAFFIC, "--gpu", "L40S").stdout == whole.stdout


def _report(running: int, tpot_ms: float) -> dict[str, Any]:
    return {
        "completed": 100,
        "max_concurrency": running,
        "total_input_tokens": 200_000,
        "total_output_tokens": 30_000,
        "output_throughput": 1000.0,
        "mean_ttft_ms": 200.0,
        "mean_tpot_ms": tpot_ms,
    }
