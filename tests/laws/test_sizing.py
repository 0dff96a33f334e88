"""What holds of every size, however wrong the factors are: physics has an order."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isthmus.catalog.architectures import Precision, architectures
from isthmus.catalog.hardware import Gpu, gpus
from isthmus.economics.sizing.calibrate import Point, sharpened
from isthmus.economics.sizing.estimate import estimate_of, fitted, tpot_of, ttft_of
from isthmus.economics.sizing.memory import BITS, places, weights_bytes
from isthmus.economics.sizing.queueing import Replica, Request, serve
from isthmus.economics.sizing.roofline import Setting
from isthmus.economics.sizing.search import Hardware, Question, Target, Traffic, options

MODELS = st.sampled_from(sorted(architectures())).map(architectures().__getitem__)
GPUS = st.sampled_from(sorted(gpus())).map(gpus().__getitem__)
PRECISIONS: st.SearchStrategy[Precision] = st.sampled_from(["bf16", "fp8", "int8", "fp4", "int4", "mxfp4"])
COUNTS = st.sampled_from([1, 2, 4, 8])
TOKENS = st.integers(16, 32_000)
SETTINGS = st.builds(
    Setting,
    model=MODELS,
    gpu=GPUS,
    gpus=COUNTS,
    engine=st.sampled_from(["vllm", "sglang", "trtllm", "llamacpp"]),
    precision=PRECISIONS,
    input=TOKENS,
    output=TOKENS,
    concurrency=st.integers(1, 512),
).filter(lambda setting: setting.gpus <= setting.gpu.per_node)


def _changed(setting: Setting, **facts: object) -> Setting:
    return msgspec.structs.replace(setting, **facts)


def _room(setting: Setting, gpu: Gpu, tokens: float) -> int:
    return places(setting.model, gpu, setting.gpus, 1, setting.precision, tokens)


@given(SETTINGS, st.floats(1, 4))
def test_more_memory_never_holds_less(setting: Setting, times: float) -> None:
    larger = msgspec.structs.replace(setting.gpu, memory_gb=setting.gpu.memory_gb * times)
    assert _room(setting, larger, setting.input) >= _room(setting, setting.gpu, setting.input)


@given(SETTINGS, st.floats(1, 8))
def test_longer_requests_never_find_more_places(setting: Setting, times: float) -> None:
    short, long = (_room(setting, setting.gpu, setting.input * by) for by in (1, times))
    assert long <= short


@given(MODELS, PRECISIONS, PRECISIONS)
def test_fewer_bits_never_weigh_more(model, one: Precision, other: Precision) -> None:  # type: ignore[no-untyped-def]
    # What stays in sixteen bits where the makers published four does so in every precision.
    assume(BITS[model.native] >= 8)
    fewer, more = sorted((one, other), key=lambda precision: BITS[precision])
    assert weights_bytes(model, fewer) <= weights_bytes(model, more)


@given(SETTINGS, st.integers(2, 8))
def test_more_load_never_lowers_a_latency(setting: Setting, times: int) -> None:
    assume(setting.places > 0)
    heavier = _changed(setting, concurrency=setting.concurrency * times)
    assert tpot_of(heavier, fitted()) >= tpot_of(setting, fitted())
    assert ttft_of(heavier, fitted()) >= ttft_of(setting, fitted())


@given(SETTINGS, st.floats(1, 4))
def test_a_faster_gpu_is_never_slower(setting: Setting, times: float) -> None:
    gpu = setting.gpu
    faster = msgspec.structs.replace(
        gpu,
        **{
            fact: getattr(gpu, fact) * times
            for fact in ("bandwidth_gb_s", "bf16_tflops", "fp8_tflops", "fp4_tflops", "link_gb_s")
        },
    )
    assert tpot_of(_changed(setting, gpu=faster), fitted()) <= tpot_of(setting, fitted()) * (1 + 1e-9)


@given(SETTINGS)
def test_an_interval_lies_around_its_value(setting: Setting) -> None:
    it = estimate_of(setting, fitted())
    for span in (it.throughput, it.tpot_s, it.ttft_s):
        assert 0 < span.low < span.middle < span.high


@given(SETTINGS, st.floats(0.3, 3), st.floats(0.3, 3))
def test_where_a_point_was_measured_the_estimate_is_near_it_and_its_interval_narrower(
    setting: Setting, slower: float, later: float
) -> None:
    before = estimate_of(setting, fitted())
    point = Point(setting, before.ttft_s.middle * later, before.tpot_s.middle * slower)
    after = sharpened(setting, fitted(), [point])
    assert after.badge == "Measured"
    assert after.tpot_s.middle == pytest.approx(point.tpot_s, rel=0.05)
    assert after.tpot_s.high / after.tpot_s.low < before.tpot_s.high / before.tpot_s.low


@given(SETTINGS, SETTINGS, st.floats(0.3, 3))
def test_a_point_of_another_kin_says_nothing(setting: Setting, other: Setting, slower: float) -> None:
    assume(other.model.layers != setting.model.layers)
    point = Point(other, ttft_of(other, fitted()) * slower, tpot_of(other, fitted()) * slower)
    assert sharpened(setting, fitted(), [point]) == estimate_of(setting, fitted())


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 500)), min_size=1, max_size=60),
    st.integers(1, 16),
    st.floats(0.001, 0.1),
    st.floats(0, 1),
)
def test_every_request_is_served_once_and_none_faster_than_alone(
    asked: list[tuple[float, int]], room: int, pace: float, prefill: float
) -> None:
    replica = Replica(step_s=lambda running: pace * running**0.5, prefill_s=prefill, first_s=0.0, places=room)
    requests = [Request(at, output) for at, output in sorted(asked)]
    served = serve(requests, replica)
    counted = len(requests) - len(requests) // 10
    assert len(served.ttft_s) == len(served.tpot_s) == counted
    assert served.ttft_s[0] >= prefill - 1e-6
    assert served.tpot_s[0] >= pace * (1 - 1e-6)


def _draws() -> Iterator[float]:
    return iter(random.Random(7).random, None)


@settings(max_examples=15, deadline=None)
@given(
    MODELS,
    st.lists(GPUS, min_size=1, max_size=3, unique=True),
    st.floats(0.1, 20),
    st.integers(64, 8000),
    st.integers(16, 1000),
)
def test_no_option_breaks_its_target_or_overflows_the_memory(
    model,  # type: ignore[no-untyped-def]
    chosen: list[Gpu],
    rate: float,
    input_: int,
    output: int,
) -> None:
    question = Question(
        model=model,
        traffic=Traffic(rate=rate, input=input_, output=output),
        target=Target(2.0, 0.1, 95),
        hardware=tuple(Hardware(gpu, 1.0) for gpu in chosen),
        engine="vllm",
        precisions=(model.native,),
    )
    found = options(question, fitted(), _draws, most=4)
    assert found == sorted(found, key=lambda option: option.usd_per_hour)
    for option in found:
        longest = input_ + 1.5 * output
        assert places(model, gpus()[option.gpu], option.gpus, 1, option.precision, longest) >= 1
        assert option.ttft_s.middle <= 2.0
        assert option.tpot_s.middle <= 0.1
        assert option.replicas * option.rate_per_replica >= rate
