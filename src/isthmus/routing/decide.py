"""The decision: which models may answer, by what plan, and why. `explain` and the live request call this same
function.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.core.call import Operation
from isthmus.core.decision import Decision, Refused
from isthmus.core.portfolio import Model, Provider
from isthmus.dialects import operation_of
from isthmus.routing.route import Route
from isthmus.strategies.plan.node import Choice, Circumstances, Node


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What routing knows of the portfolio."""

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    routes: Mapping[str, Route]
    config_hash: str


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """A route's plan for one operation, without the models that cannot serve it; None where none can."""

    allowed: tuple[str, ...]
    refused: tuple[Refused, ...]
    plan: Node | None


class Router:
    """Decides by one config. Equal arguments give equal decisions; equal decisions are one object.

    Sharing the object is what lets thousands of requests carry their full reasons at no cost.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._pruned: dict[tuple[str, Operation], Pruned] = {}
        self._decisions: dict[tuple[str, Operation, Choice | None], Decision] = {}

    def decide(self, route: str, operation: Operation, circumstances: Circumstances) -> Decision:
        """The decision for one request. Raises KeyError for a route that the config does not have."""
        pruned = self._pruned.get((route, operation))
        if pruned is None:
            pruned = prune(self._facts.routes[route], operation, self._facts)
            self._pruned[route, operation] = pruned
        choice = pruned.plan.choose(circumstances) if pruned.plan is not None else None
        decision = self._decisions.get((route, operation, choice))
        if decision is None:
            decision = settle(route, operation, pruned, choice, self._facts.config_hash)
            self._decisions[route, operation, choice] = decision
        return decision


def prune(route: Route, operation: Operation, facts: Facts) -> Pruned:
    """What is left of the route's plan for this operation; it depends on the config alone."""
    names = route.plan.models()
    refused = tuple(refusal for name in names if (refusal := _refuse(name, operation, facts)) is not None)
    out = {refusal.model for refusal in refused}
    return Pruned(
        allowed=tuple(name for name in names if name not in out),
        refused=refused,
        plan=route.plan.prune(lambda name: name not in out),
    )


def settle(
    route: str, operation: Operation, pruned: Pruned, choice: Choice | None, config_hash: str
) -> Decision:
    """The decision as a value, its reasons in words; its plan is None where no model is allowed."""
    if choice is None:
        summary = f"no model of route {route} can serve {operation}"
    else:
        summary = f"route {route} plans {', then '.join(choice.node.models())}"
    return Decision(
        route=route,
        operation=operation,
        allowed=pruned.allowed,
        refused=pruned.refused,
        plan=choice.node if choice else None,
        reasons=(summary, *(choice.reasons if choice else ())),
        propensity=choice.propensity if choice else 1.0,
        config_hash=config_hash,
    )


def _refuse(name: str, operation: Operation, facts: Facts) -> Refused | None:
    """Why this model cannot serve the operation, or None where it can."""
    model = facts.models[name]
    provider = facts.providers[model.provider]
    # Tokens of a chat model can always be estimated, so counting needs no wire of its own.
    needed = "embeddings" if operation == "embeddings" else "chat"
    if model.capabilities is not None and needed not in model.capabilities:
        return Refused(name, "capability", f"{name} is not declared capable of {needed}")
    if not any(operation_of(wire) == needed for wire in provider.wires):
        return Refused(name, "wire", f"provider {provider.name} has no {needed} endpoint")
    return None
