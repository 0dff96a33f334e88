"""Signals to a probability, by weights that were fitted: data, and a few lines of arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, isfinite
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Target: TypeAlias = Literal["helps", "right"]


class Weighing(msgspec.Struct, frozen=True, kw_only=True):
    """What one signal does: less `centre`, over `spread`, times `weight`; `missing` is added where it is not
    there."""

    centre: float
    spread: Annotated[float, Meta(gt=0)]
    weight: float
    missing: float = 0.0


class Calibrator(msgspec.Struct, frozen=True, kw_only=True):
    """Says how likely something is of an answer with these signals.

    `target` is what: `helps`, that the stronger model would do better, or `right`, that the answer is good.
    `labels` is how many answers it was fitted to.
    """

    target: Target
    bias: float
    signals: dict[str, Weighing]
    labels: int

    def probability(self, signals: Mapping[str, float]) -> float:
        """How likely, in (0, 1). Signals that it does not know of change nothing."""
        return _logistic(
            self.bias + sum(_added(weighing, signals.get(name)) for name, weighing in self.signals.items())
        )

    def confidence(self, signals: Mapping[str, float]) -> float:
        """How sure it is that the answer will do, in (0, 1): it is right, or a stronger model would not
        help."""
        likely = self.probability(signals)
        return likely if self.target == "right" else 1 - likely


_FAR = 4.0


def _added(weighing: Weighing, value: float | None) -> float:
    if value is None or not isfinite(value):
        return weighing.missing
    # What lies far outside of what was fitted to is not extrapolated to.
    return weighing.weight * max(-_FAR, min(_FAR, (value - weighing.centre) / weighing.spread))


def _logistic(score: float) -> float:
    return 1 / (1 + exp(-score)) if score > -700 else 0.0
