"""How fast a replica is: the rooflines with the factors that were fitted, and an interval. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from math import exp
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from isthmus.catalog.architectures import Architecture, Precision
from isthmus.catalog.hardware import Gpu
from isthmus.economics.sizing.roofline import (
    Engine,
    Setting,
    duration,
    prefill_terms,
    step_terms,
    tpot_terms,
    ttft_terms,
)

Badge: TypeAlias = Literal["Measured", "Interpolated", "Estimated"]
Quantity: TypeAlias = Literal["tpot", "ttft", "throughput"]


class Range(NamedTuple):
    """A value, and the ends of the interval that holds the true one in four of five cases."""

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Range:
        """The range, scaled."""
        return Range(self.low * factor, self.middle * factor, self.high * factor)


class Estimate(NamedTuple):
    """What a replica does: tokens per second, seconds per further token, seconds to the first."""

    throughput: Range
    tpot_s: Range
    ttft_s: Range
    badge: Badge


class Spread(msgspec.Struct, frozen=True):
    """The ends of the interval around an estimate, as logarithms of their ratio to it."""

    low: float
    high: float

    def around(self, value: float) -> Range:
        """The interval around that value."""
        return Range(value * exp(self.low), value, value * exp(self.high))

    def narrowed(self, by: float) -> Spread:
        """The same, so many times as wide."""
        return Spread(self.low * by, self.high * by)


class Efficiencies(msgspec.Struct, frozen=True, kw_only=True):
    """What was fitted to measured points (bench/economics): when, how, and how well.

    `tpot` and `ttft` hold the logarithms of factors and, as `tpot:KIN` and `tpot:KIN|GPU|ENGINE|PRECISION`,
    the offsets of what was measured. Spreads are `unseen` for a model that no point was of, `seen` for the
    others, and `strange` on a generation of GPUs or with an engine that no point was of.
    """

    fitted_on: str
    how: str
    points: int
    errors: dict[str, float]
    tpot: dict[str, float]
    ttft: dict[str, float]
    unseen: dict[Quantity, Spread]
    seen: dict[Quantity, Spread]
    strange: dict[Quantity, Spread]


@cache
def fitted() -> Efficiencies:
    """The factors that this version ships."""
    return msgspec.json.decode((files(__package__) / "efficiencies.json").read_bytes(), type=Efficiencies)


def kin(model: Architecture) -> str:
    """What stands for the model's shape: two names of one architecture are no strangers to each other."""
    return f"{model.layers}/{model.hidden}/{model.heads}/{model.experts}/{model.routed_b:g}"


def group(setting: Setting) -> str:
    """A model on one kind of GPU, by one engine, in one precision: what is calibrated together."""
    return "|".join((kin(setting.model), setting.gpu.gpu, setting.engine, setting.precision))


def offset(quantity: Literal["tpot", "ttft"], setting: Setting, factors: Mapping[str, float]) -> float:
    """How far measured points of the same kin and group lay above the factors that all models share."""
    names = (f"{quantity}:{kin(setting.model)}", f"{quantity}:{group(setting)}")
    return sum(factors.get(name, 0.0) for name in names)


def tpot_of(setting: Setting, efficiencies: Efficiencies) -> float:
    """The seconds per output token after the first."""
    return duration(tpot_terms(setting), efficiencies.tpot) * exp(offset("tpot", setting, efficiencies.tpot))


def ttft_of(setting: Setting, efficiencies: Efficiencies) -> float:
    """The mean seconds to the first token."""
    return duration(ttft_terms(setting), efficiencies.ttft) * exp(offset("ttft", setting, efficiencies.ttft))


def step_share(setting: Setting, efficiencies: Efficiencies) -> float:
    """The share of the time per output token that is the step itself; in the rest others are prefilled."""
    return duration(step_terms(setting), efficiencies.tpot) / duration(tpot_terms(setting), efficiencies.tpot)


def prefill_share(setting: Setting, efficiencies: Efficiencies) -> float:
    """The share of the time to the first token in which the replica works on this request alone."""
    return duration(prefill_terms(setting), efficiencies.ttft) / duration(
        ttft_terms(setting), efficiencies.ttft
    )


def spreads_of(setting: Setting, efficiencies: Efficiencies) -> dict[Quantity, Spread]:
    """The spreads that hold for the setting's model and GPU."""
    needed = (f"bandwidth.{setting.gpu.generation}", f"overhead.{setting.engine}")
    if not all(name in efficiencies.tpot for name in needed):
        return efficiencies.strange
    known = f"tpot:{kin(setting.model)}" in efficiencies.tpot
    return efficiencies.seen if known else efficiencies.unseen


def throughput_of(setting: Setting, ttft_s: float, tpot_s: float) -> float:
    """The output tokens a second of a closed loop, by Little's law."""
    return setting.concurrency * setting.output / (ttft_s + setting.output * tpot_s)


def estimate(
    model: Architecture,
    gpu: Gpu,
    count: int,
    engine: Engine,
    precision: Precision,
    input_tokens: float,
    output_tokens: float,
    concurrency: float,
    *,
    groups: int = 1,
    efficiencies: Efficiencies | None = None,
) -> Estimate:
    """What one replica of `count` GPUs does while so many requests of that size run all the time."""
    setting = Setting(
        model=model,
        gpu=gpu,
        gpus=count,
        groups=groups,
        engine=engine,
        precision=precision,
        input=input_tokens,
        output=output_tokens,
        concurrency=concurrency,
    )
    return estimate_of(setting, efficiencies or fitted())


def estimate_of(setting: Setting, efficiencies: Efficiencies) -> Estimate:
    """The same, of a setting."""
    tpot_s, ttft_s = tpot_of(setting, efficiencies), ttft_of(setting, efficiencies)
    spreads = spreads_of(setting, efficiencies)
    return Estimate(
        throughput=spreads["throughput"].around(throughput_of(setting, ttft_s, tpot_s)),
        tpot_s=spreads["tpot"].around(tpot_s),
        ttft_s=spreads["ttft"].around(ttft_s),
        badge="Estimated",
    )
