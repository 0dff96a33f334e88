"""The commands that start an option: each engine in its own words."""

from __future__ import annotations

import pytest

from isthmus.catalog.architectures import Precision
from isthmus.economics.sizing.estimate import Range
from isthmus.economics.sizing.roofline import Engine
from isthmus.economics.sizing.search import Option
from isthmus.economics.sizing.starting import command, rows

NOTHING = Range(0, 0, 0)


def option(engine: Engine, precision: Precision) -> Option:
    return Option(
        gpu="H100-80GB-SXM",
        gpus=2,
        precision=precision,
        engine=engine,
        replicas=1,
        spare=0,
        rate_per_replica=1.0,
        places=16,
        ttft_s=NOTHING,
        tpot_s=NOTHING,
        usd_per_hour=1.0,
        usd_per_month=730.0,
        usd_per_million=NOTHING,
        badge="Estimated",
    )


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("vllm", "bf16", "vllm serve o/m --tensor-parallel-size 2 --max-model-len 4096 --max-num-seqs 16"),
        ("vllm", "fp8", "--quantization fp8"),
        ("vllm", "int4", "# with weights that were quantized to int4"),
        ("sglang", "fp8", "--tp-size 2 --context-length 4096 --max-running-requests 16"),
        ("trtllm", "fp8", "# with weights that were quantized to fp8"),
        ("llamacpp", "int4", "llama-server -m MODEL.gguf -ngl 999 -np 16 -c 65536"),
    ],
)
def test_each_engine_is_started_in_its_own_words(engine: Engine, precision: Precision, said: str) -> None:
    assert said in command(option(engine, precision), "o/m", "bf16", 4096)


def test_a_model_as_published_needs_no_word_about_its_precision() -> None:
    written = command(option("vllm", "bf16"), "o/m", "bf16", 4096)
    assert "quantiz" not in written
    assert "#" not in written


def test_an_engine_without_a_preset_is_named_by_its_dialect() -> None:
    assert "dialect: openai" in rows(option("trtllm", "bf16"), "o/m")
    assert "preset: llama-cpp" in rows(option("llamacpp", "bf16"), "o/m")
