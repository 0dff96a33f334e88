"""How long a step takes, as a sum of physical times: bytes over bandwidth, operations over throughput. Pure.

Each time is what the datasheet promises. How far the real one lies above it is a factor with a name, and
the factors are fitted once, over all measured points (bench/economics): see docs/design/0016-sizing.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, log, log2
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from isthmus.catalog.architectures import Architecture, Precision
from isthmus.catalog.hardware import Gpu
from isthmus.economics.sizing.memory import (
    BITS,
    cache_bytes,
    cache_copies,
    places,
    routed_bytes,
    shared_bytes,
    stored_as,
)

Engine: TypeAlias = Literal["vllm", "sglang", "trtllm", "llamacpp"]

_LAUNCH_S = 1e-5
_STEP_S = 1e-3
_HOP_S = 1e-6
_DISTINCT_SHARE = 0.6
"""Tokens of one batch resemble each other: together they touch fewer experts than strangers would."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of a model, and what it has to do at once.

    `gpus` are split into `groups` that each hold the shared weights (data-parallel attention); within a
    group they are tensor-parallel. `concurrency` requests of `input` and `output` tokens run all the time.
    `lockstep` is a load generator's: all requests are equally long, so they start and end together.
    `gathering` is for how many steps the engine holds new requests back, to read their inputs together:
    SGLang's `--scheduler-recv-interval`, TensorRT-LLM's `batch_wait_timeout_iters` and `timeout_iters`.
    """

    model: Architecture
    gpu: Gpu
    gpus: int = 1
    groups: int = 1
    engine: Engine = "vllm"
    precision: Precision = "bf16"
    input: float
    output: float
    concurrency: float
    lockstep: bool = False
    gathering: int = 0

    @property
    def tensor_parallel(self) -> int:
        """The GPUs of one group."""
        return self.gpus // self.groups

    @property
    def places(self) -> int:
        """How many of these requests the cache holds at once; 0 if the model does not fit."""
        held = self.input + 0.6 * self.output
        return places(self.model, self.gpu, self.tensor_parallel, self.groups, self.precision, held)

    @property
    def running(self) -> float:
        """How many requests are worked on; the others wait for a place."""
        return min(self.concurrency, self.places or self.concurrency)


class Term(NamedTuple):
    """A time that physics gives, and the factors that stretch it, each with its exponent."""

    seconds: float
    factors: Mapping[str, float]

    def stretched(self, by: float, **factors: float) -> Term:
        """The time so many times over, with more factors on it."""
        return Term(self.seconds * by, {**self.factors, **factors})


def duration(terms: Iterable[Term], factors: Mapping[str, float]) -> float:
    """The sum of the terms, each stretched; `factors` holds logarithms, and an unknown factor is 1."""
    return sum(
        term.seconds * exp(sum(power * factors.get(name, 0.0) for name, power in term.factors.items()))
        for term in terms
    )


def step_terms(setting: Setting) -> list[Term]:
    """One decode step of all requests that run."""
    model, gpu, parallel = setting.model, setting.gpu, setting.tensor_parallel
    running, context = setting.running, setting.input + setting.output / 2
    read = min(context, model.sparse_reads) if model.sparse_reads else context
    cached = running / setting.groups * cache_bytes(model, read) * cache_copies(model, parallel) / parallel
    latent = {"cache.latent": 1.0} if model.latent else {}
    engine = {f"overhead.{setting.engine}": 1.0}
    return [
        *_pass_terms(setting, running, context, decoding=True),
        Term(cached / _bandwidth(gpu), {**_bandwidth_factors(gpu), "cache": 1, **latent}),
        Term(_STEP_S, {"step": 1, **engine}),
        Term(running * _LAUNCH_S, {"sequence": 1, **engine}),
    ]


def prefill_terms(setting: Setting) -> list[Term]:
    """Reading the whole input of one request."""
    return _pass_terms(setting, setting.input, setting.input / 2, decoding=False)


def tpot_terms(setting: Setting) -> list[Term]:
    """The time per output token: a step, and the prefills of others that come between."""
    others = max(0.0, setting.running - 1) / setting.output
    mixing = {"mixing": 1.0, f"mixing.{setting.engine}": 1.0, "mixing.output": log(setting.output / 1024)}
    if setting.lockstep:
        mixing["mixing.lockstep"] = 1.0
    between = [term.stretched(others, **mixing) for term in prefill_terms(setting)]
    return [*step_terms(setting), *between]


def ttft_terms(setting: Setting) -> list[Term]:
    """The time to the first token: the own prefill, a step's wait, others' prefills, a wait for a place."""
    running, prefill = setting.running, prefill_terms(setting)
    # A load generator starts with all requests at once, and reports the mean over ten such rounds.
    queue = {"queue": 1.0, f"queue.{setting.engine}": 1.0}
    if setting.lockstep:
        queue[f"queue.lockstep.{setting.engine}"] = 1.0
    wait = {"wait": 1.0, f"wait.{setting.engine}": 1.0}
    gathering = {"gathering": 1.0, f"gathering.{setting.engine}": 1.0}
    step = step_terms(setting)
    terms = [
        *prefill,
        *(term.stretched(1, **wait) for term in step),
        Term(10 * _STEP_S, {"first": 1, f"first.{setting.engine}": 1}),
    ]
    if setting.gathering:
        terms += [term.stretched(setting.gathering, **gathering) for term in step]
    if running > 1:
        terms += [term.stretched((running - 1) / 20, **queue) for term in prefill]
    if setting.concurrency > running:
        turns = (setting.concurrency - running) / running * setting.output
        terms += [term.stretched(turns, waiting=1) for term in tpot_terms(setting)]
    return terms


def _pass_terms(setting: Setting, tokens: float, context: float, *, decoding: bool) -> list[Term]:
    """One pass of so many new tokens through the model, each attending to `context` earlier ones."""
    model, gpu, gpus = setting.model, setting.gpu, setting.gpus
    engine, generation = setting.engine, gpu.generation
    stored = stored_as(model, setting.precision)
    bandwidth = _bandwidth(gpu)
    reads = _bandwidth_factors(gpu) | ({"bandwidth.4bit": 1.0} if BITS[stored] < 5 else {})
    phase = "" if decoding else "prefill."
    compute = {"compute": 1.0} if decoding else _prefill_factors(setting, stored)
    overhead = {f"{phase}overhead": 1.0, f"overhead.{engine}": 1.0}
    flops = _flops(gpu, setting.precision, stored)
    routed = model.routed_b * model.touched_share * 1e9
    shared = model.active_b * 1e9 - routed - (0 if decoding else model.vocabulary * model.hidden)
    terms = [
        Term(shared_bytes(model, setting.precision) / setting.tensor_parallel / bandwidth, reads),
        Term(2 * shared * tokens / gpus / flops, compute),
        Term(
            _attention(model, tokens, context, decoding) / gpus / (gpu.bf16_tflops * 1e12),
            {f"{phase}attention": 1},
        ),
        Term(20 * tokens * model.layers * model.hidden / bandwidth, {"activations": 1}),
        Term(model.layers * _LAUNCH_S, {**overhead, f"overhead.{generation}": 1}),
    ]
    if model.experts:
        touched = 1 - (1 - model.touched_share) ** max(1.0, _DISTINCT_SHARE * tokens)
        # Experts are small matrices; split over GPUs they are slivers, which fill no tile of the hardware.
        narrow = {} if decoding else {"prefill.experts.narrow": log(setting.tensor_parallel)}
        moved = 12 * tokens * model.layers * model.experts_per_token * model.hidden
        terms += [
            Term(
                routed_bytes(model, setting.precision) * touched / gpus / bandwidth, {**reads, "experts": 1}
            ),
            Term(2 * routed * tokens / gpus / flops, {**compute, f"{phase}experts.compute": 1, **narrow}),
            Term(moved / bandwidth, {"activations": 1, "activations.experts": 1}),
            Term(model.layers * _LAUNCH_S, {**overhead, f"{phase}overhead.experts": 1}),
        ]
    if model.latent:
        terms.append(Term(model.layers * _LAUNCH_S, {**overhead, f"{phase}overhead.latent": 1}))
    recurrent = model.layers - model.full_layers - model.window_layers
    if recurrent:
        terms.append(Term(recurrent * _LAUNCH_S, {**overhead, f"{phase}overhead.recurrent": 1}))
        if not decoding:
            terms.append(Term(recurrent * tokens * 1e-8, {"recurrence": 1}))
    return terms + _link_terms(setting, tokens)


def _link_terms(setting: Setting, tokens: float) -> list[Term]:
    """Two all-reduces a layer, where a replica has more than one GPU."""
    gpus, model = setting.gpus, setting.model
    if gpus == 1:
        return []
    beyond = {"network": 1.0} if gpus > setting.gpu.per_node else {}
    volume = 2 * 2 * model.layers * (gpus - 1) / gpus * tokens * model.hidden
    return [
        Term(2 * model.layers * log2(gpus) * _HOP_S, {"hops": 1, f"hops.{setting.engine}": 1, **beyond}),
        Term(volume / (setting.gpu.link_gb_s * 1e9), {"link": 1, **beyond}),
    ]


def _prefill_factors(setting: Setting, stored: Precision) -> dict[str, float]:
    factors = {"prefill": 1.0, f"prefill.{setting.engine}": 1.0, f"prefill.{setting.gpu.generation}": 1.0}
    if setting.precision in ("fp8", "int8"):
        factors["prefill.8bit"] = 1.0
    if BITS[stored] < 5:
        factors["prefill.4bit"] = 1.0
    return factors


def _attention(model: Architecture, tokens: float, context: float, decoding: bool) -> float:
    """The operations of all new tokens' attention. Out of a compressed cache they are three times as many."""
    full = min(context, model.sparse_reads) if model.sparse_reads else context
    seen = model.full_layers * full + model.window_layers * min(context, model.window)
    width = 3 if model.latent and decoding else 1
    return 4 * model.heads * model.head_dim * seen * tokens * width


def _bandwidth(gpu: Gpu) -> float:
    return gpu.bandwidth_gb_s * 1e9


def _bandwidth_factors(gpu: Gpu) -> dict[str, float]:
    return {"bandwidth": 1.0, f"bandwidth.{gpu.generation}": 1.0}


def _flops(gpu: Gpu, precision: Precision, stored: Precision) -> float:
    """The throughput that this precision reaches; weights of four bits alone are unpacked to sixteen."""
    rate = 0.0
    if stored == "mxfp4":
        rate = gpu.fp8_tflops if gpu.fp4_tflops else 0.0
    elif precision in ("fp8", "int8"):
        rate = gpu.fp8_tflops
    elif precision == "fp4" and stored == "fp4":
        rate = gpu.fp4_tflops
    return (rate or gpu.bf16_tflops) * 1e12
