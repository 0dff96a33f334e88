"""A model's shape from the config.json that its makers publish: field names differ, the facts do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isthmus.catalog.architectures import Architecture, Precision
from isthmus.core.errors import Fault, IsthmusError

Config = Mapping[str, Any]

_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
_QUANTIZED: dict[str, Precision] = {
    "fp8": "fp8",
    "mxfp4": "mxfp4",
    "awq": "int4",
    "gptq": "int4",
    "modelopt": "fp4",
}


def architecture_of(config: Config, model: str) -> Architecture:
    """The shape that a config.json describes; raises IsthmusError where a fact is missing that all have."""
    text: Config = config.get("text_config") or config
    layers, hidden, heads = (
        _whole(text, "num_hidden_layers"),
        _whole(text, "hidden_size"),
        _whole(text, "num_attention_heads"),
    )
    latent = text["kv_lora_rank"] + text.get("qk_rope_head_dim", 0) if text.get("kv_lora_rank") else 0
    head_dim = text.get("head_dim") or text.get("qk_nope_head_dim", 0) + text.get("qk_rope_head_dim", 0)
    head_dim = head_dim or hidden // heads
    kv_heads = heads if latent else text.get("num_key_value_heads") or heads
    kinds = _kinds(text, layers)
    windowed = kinds.count("sliding_attention") + kinds.count("chunked_attention")
    recurrent = kinds.count("linear_attention")
    vocabulary = _whole(text, "vocab_size")
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    experts = next((text[name] for name in _EXPERTS if text.get(name)), 0)
    each = text.get("num_experts_per_tok") or text.get("moe_topk") or 0
    routed, others = _parameters(text, layers, hidden, heads, kv_heads, head_dim, experts)
    total = routed + others + vocabulary * hidden * (1 if tied else 2)
    return Architecture(
        model=model,
        total_b=total / 1e9,
        active_b=(total - routed * (1 - each / experts if experts else 0)) / 1e9,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        full_layers=layers - windowed - recurrent,
        window_layers=windowed,
        window=(text.get("sliding_window") or text.get("attention_chunk_size") or 0) if windowed else 0,
        window_kv_heads=kv_heads if windowed else 0,
        latent=latent,
        sparse_reads=text.get("index_topk") or 0,
        state_mib=recurrent * _state_bytes(text) / 2**20,
        experts=experts,
        experts_per_token=each,
        routed_b=routed / 1e9,
        vocabulary=vocabulary,
        tied=tied,
        multimodal="vision_config" in config,
        context=text.get("max_position_embeddings") or 0,
        native=_native(config),
    )


def _whole(config: Config, name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value <= 0:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The model's config has no `{name}`, which every decoder's config.json states.",
            code="not_a_decoder",
        )
    return value


def _kinds(text: Config, layers: int) -> list[str]:
    """What each layer attends to, where the config says so: in a list, or as an interval."""
    if text.get("layer_types"):
        return list(text["layer_types"])
    every = text.get("full_attention_interval")
    if every:
        return [
            "full_attention" if (layer + 1) % every == 0 else "linear_attention" for layer in range(layers)
        ]
    every = text.get("sliding_window_pattern")
    if every and text.get("sliding_window"):
        return [
            "full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)
        ]
    return []


def _parameters(
    text: Config, layers: int, hidden: int, heads: int, kv_heads: int, head_dim: int, experts: int
) -> tuple[float, float]:
    """The parameters of routed experts, and of everything else but the embeddings."""
    if text.get("kv_lora_rank"):
        attention = _latent_attention(text, hidden, heads)
    else:
        attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    dense_width = text.get("intermediate_size") or 4 * hidden
    if not experts:
        return 0.0, layers * (attention + 3 * hidden * dense_width)
    width = text.get("moe_intermediate_size") or text.get("intermediate_size") or 0
    step = text.get("interleave_moe_layer_step") or text.get("decoder_sparse_step") or 1
    sparse = (layers - (text.get("first_k_dense_replace") or 0)) // step
    routed = sparse * experts * 3 * hidden * width
    always = (text.get("n_shared_experts") or 0) * width + (text.get("shared_expert_intermediate_size") or 0)
    dense = (layers - sparse) * 3 * hidden * (text.get("intermediate_size_mlp") or dense_width)
    return routed, layers * attention + dense + sparse * (3 * hidden * always + hidden * experts)


def _latent_attention(text: Config, hidden: int, heads: int) -> float:
    nope, rope = _whole(text, "qk_nope_head_dim"), _whole(text, "qk_rope_head_dim")
    value, rank = int(text.get("v_head_dim") or nope), _whole(text, "kv_lora_rank")
    squeezed = int(text.get("q_lora_rank") or 0)
    queries = heads * (nope + rope)
    query = squeezed * (hidden + queries) if squeezed else hidden * queries
    return query + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden


def _state_bytes(text: Config) -> float:
    """The state that one recurrent layer keeps of a sequence, in 32-bit numbers."""
    heads = text.get("linear_num_value_heads") or 0
    return 4.0 * heads * (text.get("linear_key_head_dim") or 0) * (text.get("linear_value_head_dim") or 0)


def _native(config: Config) -> Precision:
    quantization = config.get("quantization_config") or {}
    method = str(quantization.get("quant_method", ""))
    if method == "compressed-tensors":
        return "int4" if "int" in str(quantization.get("format", "")) and "4" in str(quantization) else "fp8"
    return _QUANTIZED.get(method, "bf16")
