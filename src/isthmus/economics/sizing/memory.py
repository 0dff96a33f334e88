"""What a model takes of a GPU's memory: weights, cache, and what the engine needs to work. Pure.

Checked against the engine's own account of eight models (vLLM 0.11): see docs/design/0016-sizing.md.
"""

from __future__ import annotations

from isthmus.catalog.architectures import Architecture, Precision
from isthmus.catalog.hardware import Gpu

GIB = 2**30
BITS: dict[Precision, float] = {"bf16": 16, "fp8": 8, "int8": 8, "fp4": 4.5, "int4": 4.5, "mxfp4": 4.25}
"""Bits of a parameter, with the scales of its group."""

USED_SHARE = 0.9
"""The share of the memory that engines take for themselves by default."""

_VISIBLE_SHARE = 0.9898
_LOGIT_BYTES = 39_600
_VISION_GIB = 2.12
_CONTEXT_GIB, _COLLECTIVES_GIB = 0.13, 0.42
_PADDED_TO = 256


def stored_as(model: Architecture, precision: Precision) -> Precision:
    """The precision in which the weights lie in memory: never wider than they were published."""
    return min(precision, model.native, key=lambda each: BITS[each])


def shared_bytes(model: Architecture, precision: Precision) -> float:
    """The weights that every token reads, of all layers. Embeddings are never quantized."""
    embedded = model.vocabulary * model.hidden * (1 if model.tied else 2)
    others = (model.total_b - model.routed_b) * 1e9 - embedded
    stored = stored_as(model, precision)
    # Makers who publish four bits quantize the routed experts alone.
    kept = "bf16" if stored == model.native and BITS[stored] < 8 and model.experts else stored
    return embedded * 2 + others * BITS[kept] / 8


def routed_bytes(model: Architecture, precision: Precision) -> float:
    """The weights of all routed experts; 0 in a dense model."""
    stored = stored_as(model, precision)
    padding = 1.0
    if stored == "mxfp4":
        # The kernels for MXFP4 want the experts' width as a multiple of 256.
        padding = -(-model.hidden // _PADDED_TO) * _PADDED_TO / model.hidden
    return model.routed_b * 1e9 * padding * BITS[stored] / 8


def weights_bytes(model: Architecture, precision: Precision) -> float:
    """All weights as they lie in memory."""
    return shared_bytes(model, precision) + routed_bytes(model, precision)


def cache_bytes(model: Architecture, tokens: float, width: float = 2) -> float:
    """The cache of one sequence of so many tokens, over all layers, `width` bytes a value."""
    if model.latent:
        return model.full_layers * model.latent * tokens * width + model.state_mib * 2**20
    values = model.full_layers * model.kv_heads * tokens
    values += model.window_layers * model.window_kv_heads * min(tokens, model.window)
    return 2 * model.head_dim * values * width + model.state_mib * 2**20


def cache_copies(model: Architecture, tensor_parallel: int) -> float:
    """How many GPUs of a tensor-parallel group hold the same part of the cache.

    A compressed cache is whole on each; heads are split until each GPU has one.
    """
    return tensor_parallel if model.latent else max(1.0, tensor_parallel / model.kv_heads)


def working_bytes(model: Architecture, tensor_parallel: int) -> float:
    """What the engine needs on each GPU beside weights and cache.

    The peak is the sampler's: a thousand sequences' logits, sorted. Multimodal models are profiled by their
    encoder.
    """
    peak = _VISION_GIB * GIB if model.multimodal else model.vocabulary * _LOGIT_BYTES
    return peak + (_CONTEXT_GIB + (_COLLECTIVES_GIB if tensor_parallel > 1 else 0)) * GIB


def pool_bytes(
    model: Architecture,
    gpu: Gpu,
    tensor_parallel: int,
    groups: int,
    precision: Precision,
    used: float = USED_SHARE,
) -> float:
    """What is left for the cache on each GPU; not positive where the model does not fit.

    `groups` replicate what is shared and split the routed experts among all their GPUs.
    """
    weights = shared_bytes(model, precision) / tensor_parallel
    weights += routed_bytes(model, precision) / (tensor_parallel * groups)
    return used * gpu.memory_gb * _VISIBLE_SHARE * GIB - weights - working_bytes(model, tensor_parallel)


def places(
    model: Architecture,
    gpu: Gpu,
    tensor_parallel: int,
    groups: int,
    precision: Precision,
    tokens: float,
    used: float = USED_SHARE,
) -> int:
    """How many sequences of so many tokens a replica holds at once; 0 where the model does not fit."""
    pool = pool_bytes(model, gpu, tensor_parallel, groups, precision, used)
    if pool <= 0:
        return 0
    each = cache_bytes(model, tokens) * cache_copies(model, tensor_parallel) / tensor_parallel
    return int(pool / each) * groups
