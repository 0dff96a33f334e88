"""Which GPUs for a model, a traffic and a latency target: what fits and keeps it, cheapest first. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from math import ceil
from typing import Literal, TypeAlias

import msgspec

from isthmus.catalog.architectures import Architecture, Precision
from isthmus.catalog.hardware import Gpu
from isthmus.economics.sizing.calibrate import Point, sharpened
from isthmus.economics.sizing.estimate import Efficiencies, Range, prefill_share, step_share
from isthmus.economics.sizing.memory import pool_bytes
from isthmus.economics.sizing.queueing import (
    Replica,
    Request,
    Served,
    bursty,
    interpolated,
    lengths,
    poisson,
    serve,
)
from isthmus.economics.sizing.roofline import Engine, Setting

Draws: TypeAlias = Callable[[], Iterator[float]]
"""Starts the same sequence of uniform draws from [0, 1) anew."""

Arrivals: TypeAlias = Literal["poisson", "bursty"]

REQUESTS = 600
_LARGEST_BATCH = 256
_HALVINGS = 6
_HOURS_A_MONTH = 730


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: requests a second, their mean lengths in tokens, and how they come."""

    rate: float
    input: float
    output: float
    arrivals: Arrivals = "poisson"


class Target(msgspec.Struct, frozen=True):
    """Seconds that so many percent of the requests must not exceed."""

    ttft_s: float
    tpot_s: float
    percentile: float


class Hardware(msgspec.Struct, frozen=True):
    """A GPU that can be had, and what an hour of it costs."""

    gpu: Gpu
    usd_per_hour: float


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve the traffic within the target.

    `rate_per_replica` is what one replica takes at most; `replicas` leave the asked derate free, and one
    more is kept where `spare` says so. Times are those of the simulation at the target's percentile. Costs
    are in USD; `usd_per_million` is of input and output tokens together, at the asked rate.
    """

    gpu: str
    gpus: int
    precision: Precision
    engine: Engine
    replicas: int
    spare: int
    rate_per_replica: float
    places: int
    ttft_s: Range
    tpot_s: Range
    usd_per_hour: float
    usd_per_month: float
    usd_per_million: Range
    badge: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """All that a sizing depends on. `derate` is the share of a replica's capacity that is planned with."""

    model: Architecture
    traffic: Traffic
    target: Target
    hardware: tuple[Hardware, ...]
    engine: Engine
    precisions: tuple[Precision, ...]
    points: tuple[Point, ...] = ()
    derate: float = 0.8
    spare: int = 1


def options(question: Question, efficiencies: Efficiencies, draws: Draws, most: int) -> list[Option]:
    """The cheapest options, at most so many.

    Nothing is simulated whose capacity without any queue is dearer already than the options found.
    """
    bounded = sorted(_bounded(question, efficiencies), key=lambda pair: pair[0])
    found: list[tuple[float, int, Option]] = []
    for nth, (bound, hardware, setting) in enumerate(bounded):
        if len(found) == most and bound >= -found[0][0]:
            break
        option = _option(question, efficiencies, draws, hardware, setting)
        if option is not None:
            heapq.heappush(found, (-option.usd_per_hour, -nth, option))
            if len(found) > most:
                heapq.heappop(found)
    return [option for _, _, option in sorted(found, key=lambda each: (-each[0], -each[1]))]


def fits(setting: Setting, longest: float) -> bool:
    """Whether weights, the engine's needs and one request of that many tokens find room."""
    alone = msgspec.structs.replace(setting, input=longest, output=1)
    return (
        alone.places >= 1
        and pool_bytes(setting.model, setting.gpu, setting.tensor_parallel, setting.groups, setting.precision)
        > 0
    )


def replicas_for(rate: float, rate_per_replica: float, derate: float) -> int:
    """How many replicas take the rate while each is planned with a share of what it can."""
    return ceil(rate / (rate_per_replica * derate))


def simulated(question: Question, replica: Replica, rate: float, draws: Draws) -> Served:
    """What requests meet at one replica that gets so many a second."""
    stream = draws()
    arrive = poisson if question.traffic.arrivals == "poisson" else bursty
    times = list(islice(arrive(rate, stream), REQUESTS))
    outputs = lengths(question.traffic.output, stream)
    return serve([Request(at, output) for at, output in zip(times, outputs, strict=False)], replica)


def replica_of(setting: Setting, question: Question, efficiencies: Efficiencies) -> Replica:
    """The replica of a setting as its queue sees it: prefills happen where the simulation puts them."""
    places = min(setting.places, _LARGEST_BATCH)
    loads = _loads(places)
    paces = []
    for load in loads:
        busy = msgspec.structs.replace(setting, concurrency=load)
        tpot_s = sharpened(busy, efficiencies, question.points).tpot_s.middle
        paces.append(tpot_s * step_share(busy, efficiencies))
    ttft_s = sharpened(setting, efficiencies, question.points).ttft_s.middle
    prefill_s = ttft_s * prefill_share(setting, efficiencies)
    return Replica(interpolated(loads, paces), prefill_s, ttft_s - prefill_s, places)


def _loads(places: int) -> list[float]:
    """Loads from one to full, each twice the one before."""
    return sorted({*(2.0**power for power in range(places.bit_length())), float(places)})


def _settings(question: Question) -> Iterator[tuple[Hardware, Setting]]:
    longest = question.traffic.input + 1.5 * question.traffic.output
    for hardware in question.hardware:
        for precision in question.precisions:
            for gpus in (1, 2, 4, 8):
                setting = Setting(
                    model=question.model,
                    gpu=hardware.gpu,
                    gpus=gpus,
                    engine=question.engine,
                    precision=precision,
                    input=question.traffic.input,
                    output=question.traffic.output,
                    concurrency=1,
                )
                if gpus <= hardware.gpu.per_node and fits(setting, longest):
                    yield hardware, setting


def _bounded(question: Question, efficiencies: Efficiencies) -> Iterator[tuple[float, Hardware, Setting]]:
    """What each setting costs an hour at the least: if a replica could be full without anyone waiting."""
    for hardware, setting in _settings(question):
        replica = replica_of(setting, question, efficiencies)
        if (
            replica.prefill_s + replica.first_s > question.target.ttft_s
            or replica.step_s(1) > question.target.tpot_s
        ):
            continue
        rate = _ceiling(question, replica)
        replicas = replicas_for(question.traffic.rate, rate, question.derate) + question.spare
        yield replicas * setting.gpus * hardware.usd_per_hour, hardware, setting


def _ceiling(question: Question, replica: Replica) -> float:
    """The rate beyond which the replica cannot keep up, whoever waits."""
    return max(
        running / (running * replica.prefill_s + question.traffic.output * replica.step_s(running))
        for running in _loads(replica.places)
    )


def _option(
    question: Question, efficiencies: Efficiencies, draws: Draws, hardware: Hardware, setting: Setting
) -> Option | None:
    replica = replica_of(setting, question, efficiencies)
    rate = _capacity(question, replica, draws)
    if rate is None:
        return None
    traffic = question.traffic
    replicas = replicas_for(traffic.rate, rate, question.derate)
    served = simulated(question, replica, traffic.rate / replicas, draws)
    running = _running(traffic, replica, traffic.rate / replicas)
    at_load = sharpened(msgspec.structs.replace(setting, concurrency=running), efficiencies, question.points)
    hourly = (replicas + question.spare) * setting.gpus * hardware.usd_per_hour
    per_million = hourly / (traffic.rate * (traffic.input + traffic.output) * 3600) * 1e6
    return Option(
        gpu=hardware.gpu.gpu,
        gpus=setting.gpus,
        precision=setting.precision,
        engine=setting.engine,
        replicas=replicas,
        spare=question.spare,
        rate_per_replica=rate,
        places=replica.places,
        ttft_s=_around(at_load.ttft_s, served.ttft_at(question.target.percentile)),
        tpot_s=_around(at_load.tpot_s, served.tpot_at(question.target.percentile)),
        usd_per_hour=hourly,
        usd_per_month=hourly * _HOURS_A_MONTH,
        usd_per_million=_priced(at_load.throughput, per_million),
        badge=at_load.badge,
    )


def _capacity(question: Question, replica: Replica, draws: Draws) -> float | None:
    """The highest rate at which one replica keeps the target, by halving; None where it never does."""
    low, high = 0.0, _ceiling(question, replica)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _kept(question.target, simulated(question, replica, middle, draws)):
            low = middle
        else:
            high = middle
    return low or None


def _kept(target: Target, served: Served) -> bool:
    return (
        served.ttft_at(target.percentile) <= target.ttft_s
        and served.tpot_at(target.percentile) <= target.tpot_s
    )


def _running(traffic: Traffic, replica: Replica, rate: float) -> float:
    """How many requests run at once on average, by Little's law; a few rounds settle it."""
    running = 1.0
    for _ in range(20):
        running = min(replica.places, max(1.0, rate * traffic.output * replica.step_s(running)))
    return running


def _around(estimate: Range, value: float) -> Range:
    """The value with the estimate's relative interval."""
    return estimate.times(value / estimate.middle)


def _priced(throughput: Range, usd: float) -> Range:
    """What a million tokens cost where the machine is as fast, or as slow, as the interval allows."""
    return Range(usd * throughput.middle / throughput.high, usd, usd * throughput.middle / throughput.low)
