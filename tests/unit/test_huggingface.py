"""A model's shape out of its config.json: other names for the same facts."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.catalog.architectures import architectures
from isthmus.catalog.huggingface import architecture_of
from isthmus.core.errors import IsthmusError

LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
DEEPSEEK: dict[str, Any] = {
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8"},
    "v_head_dim": 128,
    "vocab_size": 129280,
}


@pytest.mark.parametrize(
    ("config", "name"), [(LLAMA, "meta-llama/Llama-3.1-8B"), (DEEPSEEK, "deepseek-ai/DeepSeek-V3")]
)
def test_the_shape_is_that_of_the_catalog(config: dict[str, Any], name: str) -> None:
    read, known = architecture_of(config, name), architectures()[name]
    assert read.total_b == pytest.approx(known.total_b, rel=0.01)
    assert read.active_b == pytest.approx(known.active_b, rel=0.03)
    assert read.routed_b == pytest.approx(known.routed_b, rel=0.001)
    for fact in ("layers", "hidden", "heads", "kv_heads", "full_layers", "latent", "experts", "native"):
        assert getattr(read, fact) == getattr(known, fact), fact


def test_every_so_manieth_layer_attends_to_all_and_the_others_keep_a_state() -> None:
    config = LLAMA | {
        "full_attention_interval": 4,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    }
    read = architecture_of(config, "m")
    assert (read.full_layers, read.window_layers, read.state_mib) == (8, 0, 24 * 2.0)


def test_layers_that_slide_are_counted() -> None:
    kinds = ["sliding_attention", "full_attention"] * 16
    read = architecture_of(LLAMA | {"layer_types": kinds, "sliding_window": 128}, "m")
    assert (read.full_layers, read.window_layers, read.window) == (16, 16, 128)


def test_a_model_that_sees_nests_its_text() -> None:
    read = architecture_of({"text_config": LLAMA, "vision_config": {}}, "m")
    assert read.multimodal
    assert read.layers == 32


def test_what_is_no_decoder_is_refused_by_the_missing_fact() -> None:
    with pytest.raises(IsthmusError, match="num_hidden_layers"):
        architecture_of({"model_type": "resnet"}, "m")
