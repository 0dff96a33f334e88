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


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """What asking the stronger model costs, in multiples of what it costs on the mean: `base`, and
    `per_token` for each token of the request, up to the `longest` that was known."""

    base: Annotated[float, Meta(ge=0)]
    per_token: Annotated[float, Meta(ge=0)]
    longest: Annotated[int, Meta(ge=0)]

    def cost(self, tokens: int) -> float:
        """What it costs for a request of about so many tokens; never nothing."""
        # A longer one would be kept by less than was ever tested.
        return max(self.base + self.per_token * min(tokens, self.longest), _LEAST_COST)


class Calibrator(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Says how likely something is of an answer with these signals.

    `target` is what: `helps`, that the stronger model would do better, or `right`, that the answer is good.
    `labels` is how many answers it was fitted to. With an `escalation`, an answer is kept by what escalating
    gains for what it costs.
    """

    target: Target
    bias: float
    signals: dict[str, Weighing]
    labels: int
    escalation: Escalation | None = None

    def probability(self, signals: Mapping[str, float]) -> float:
        """How likely, in (0, 1). Signals that it does not know of change nothing."""
        return _logistic(
            self.bias + sum(_added(weighing, signals.get(name)) for name, weighing in self.signals.items())
        )

    def sureness(self, signals: Mapping[str, float]) -> float:
        """How sure it is that the answer will do, in (0, 1): it is right, or a stronger model would not
        help."""
        likely = self.probability(signals)
        return likely if self.target == "right" else 1 - likely

    def confidence(self, signals: Mapping[str, float], tokens: int) -> float:
        """How sure it is that the answer is to be kept, in [0, 1]; the request has about so many tokens.

        That the answer will do; with an `escalation`, one less what escalating is expected to gain for each
        time its mean cost. Of all ways to escalate for the same money, taking those first that gain most for
        theirs gains most (G. Dantzig, Operations Research 5 (1957) 266: the knapsack that may be cut).
        """
        sure = self.sureness(signals)
        if self.escalation is None:
            return sure
        return max(0.0, 1 - (1 - sure) / self.escalation.cost(tokens))


_FAR = 4.0
_LEAST_COST = 0.01


def _added(weighing: Weighing, value: float | None) -> float:
    if value is None or not isfinite(value):
        return weighing.missing
    # What lies far outside of what was fitted to is not extrapolated to.
    return weighing.weight * max(-_FAR, min(_FAR, (value - weighing.centre) / weighing.spread))


def _logistic(score: float) -> float:
    return 1 / (1 + exp(-score)) if score > -700 else 0.0
