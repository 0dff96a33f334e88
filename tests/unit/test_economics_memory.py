"""What a model takes of a GPU's memory, by the arithmetic of its published shape."""

from __future__ import annotations

import pytest

from isthmus.catalog.architectures import Precision, architectures
from isthmus.catalog.hardware import gpus, rents
from isthmus.economics.sizing.memory import GIB, cache_bytes, cache_copies, places, weights_bytes


@pytest.mark.parametrize(
    ("model", "bytes_a_token"),
    [
        ("meta-llama/Llama-2-7b", 2 * 32 * 32 * 128 * 2),
        ("meta-llama/Llama-3.3-70B", 2 * 80 * 8 * 128 * 2),
        ("deepseek-ai/DeepSeek-V3", 61 * 576 * 2),
        ("Qwen/Qwen3.5-397B-A17B", 2 * 15 * 2 * 256 * 2),
    ],
)
def test_a_tokens_cache_counts_heads_latents_or_the_attending_layers_alone(
    model: str, bytes_a_token: int
) -> None:
    shape = architectures()[model]
    assert cache_bytes(shape, 1001) - cache_bytes(shape, 1000) == bytes_a_token


def test_layers_with_a_window_stop_growing_at_it() -> None:
    shape = architectures()["openai/gpt-oss-120b"]
    full = 2 * 18 * 8 * 64 * 2
    assert cache_bytes(shape, 129) - cache_bytes(shape, 128) == full
    assert cache_bytes(shape, 128) - cache_bytes(shape, 127) == 2 * full


def test_a_compressed_cache_is_whole_on_every_gpu_and_heads_are_split_until_each_has_one() -> None:
    assert cache_copies(architectures()["deepseek-ai/DeepSeek-V3"], 8) == 8
    assert cache_copies(architectures()["Qwen/Qwen3-235B-A22B"], 8) == 2
    assert cache_copies(architectures()["Qwen/Qwen3-235B-A22B"], 4) == 1


@pytest.mark.parametrize(
    ("model", "precision", "gib"),
    [
        ("meta-llama/Llama-3.1-8B", "bf16", 14.96),
        ("Qwen/Qwen3-32B", "bf16", 61.0),
        ("openai/gpt-oss-20b", "mxfp4", 13.4),
    ],
)
def test_weights_are_the_checkpoints(model: str, precision: Precision, gib: float) -> None:
    assert weights_bytes(architectures()[model], precision) / GIB == pytest.approx(gib, rel=0.01)


def test_weights_are_never_stored_wider_than_they_were_published() -> None:
    shape = architectures()["openai/gpt-oss-120b"]
    assert weights_bytes(shape, "bf16") == weights_bytes(shape, "mxfp4")


def test_seventy_billion_parameters_in_sixteen_bits_do_not_fit_one_gpu_of_eighty_gigabytes() -> None:
    shape, gpu = architectures()["meta-llama/Llama-3.3-70B"], gpus()["H100-80GB-SXM"]
    assert places(shape, gpu, 1, 1, "bf16", 1000) == 0
    assert places(shape, gpu, 4, 1, "bf16", 1000) > 0


def test_every_row_of_the_catalog_has_a_public_source_and_a_rent_has_its_gpu() -> None:
    sources = [row.source for row in (*gpus().values(), *rents(), *architectures().values())]
    assert all(source.startswith("https://") for source in sources)
    assert {rent.gpu for rent in rents()} <= set(gpus())


def test_routed_experts_leave_room_for_the_rest() -> None:
    for shape in architectures().values():
        assert 0 <= shape.routed_b < shape.total_b
        assert shape.active_b - shape.routed_b * shape.touched_share > 0 or not shape.experts
        assert shape.full_layers + shape.window_layers <= shape.layers
