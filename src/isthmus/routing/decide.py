"""The decision: which models may answer, by what plan, and why. `explain` and the live request call this same
function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from isthmus.core.call import Operation
from isthmus.core.decision import NEEDLESS, Decision, Previous, Refused
from isthmus.core.label import Label
from isthmus.core.portfolio import Model, Provider
from isthmus.dialects import operation_of
from isthmus.routing.route import Route
from isthmus.strategies.plan.node import Choice, Circumstances, Node

MOST_DECISIONS = 10_000
_ANY = Circumstances(draw=0.0)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What routing knows of the portfolio.

    `outside` says why a model may not receive what is so labelled, or None where it may; `perimeter` is the
    hash of the rules by which it does.
    """

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    routes: Mapping[str, Route]
    config_hash: str
    outside: Callable[[Model, Label], Refused | None]
    perimeter: str = ""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """A route's plan for one operation and label, without the models that cannot serve it or may not receive
    it; None where none is left. `pseudonymised` are those that may receive it only with pseudonyms, and
    `thrifty` says that the plan is the one for the time when money is short. `certain` tells that no
    circumstances of the request decide."""

    allowed: tuple[str, ...]
    pseudonymised: tuple[str, ...]
    refused: tuple[Refused, ...]
    plan: Node | None
    thrifty: bool
    certain: bool


class Router:
    """Decides by one config. Equal arguments give equal decisions; equal decisions are one object.

    Sharing the object is what lets thousands of requests carry their full reasons at no cost.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._pruned: dict[tuple[str, Operation, Label, Label | None, bool], Pruned] = {}
        self._decisions: dict[tuple[Any, ...], Decision] = {}
        self._settled: dict[tuple[str, Operation, Label, Label | None, bool], Decision | None] = {}

    def settled(
        self,
        route: str,
        operation: Operation,
        label: Label,
        hidden: Label | None = None,
        thrifty: bool = False,
    ) -> Decision | None:
        """What `decide` says whatever the draw, of a request that goes on with no conversation, and whose
        client takes nothing back; None where the route's plan depends on more. Raises KeyError as it does."""
        index = (route, operation, label, hidden, thrifty)
        if index in self._settled:
            return self._settled[index]
        certain = self._facts.routes[route].plan_for(thrifty).certain
        decision = self.decide(route, operation, label, _ANY, hidden, thrifty) if certain else None
        _bound(self._settled)
        self._settled[index] = decision
        return decision

    def decide(
        self,
        route: str,
        operation: Operation,
        label: Label,
        circumstances: Circumstances,
        hidden: Label | None = None,
        thrifty: bool = False,
    ) -> Decision:
        """The decision for one request.

        `hidden` is its label with pseudonyms, where it may go out so; `thrifty` is True while money is short
        (see `routing.route.Thrift`). Raises KeyError for a route that the config does not have.
        """
        pruned = self._pruned.get((route, operation, label, hidden, thrifty))
        if pruned is None:
            pruned = prune(self._facts.routes[route], operation, label, self._facts, hidden, thrifty)
            _bound(self._pruned)
            self._pruned[route, operation, label, hidden, thrifty] = pruned
        keeps = self._facts.routes[route].continuity and operation == "chat"
        previous = circumstances.previous if keeps else None
        revises, weights, foreseen = circumstances.revises, circumstances.weights, circumstances.foreseen
        silences = circumstances.silences
        if pruned.certain:
            # It went by none of them, whatever another plan of the route goes by.
            weights, foreseen, silences = (), (), ()
        choice = choose(pruned, circumstances, previous)
        facts = (previous, revises, weights, foreseen, silences)
        index = (route, operation, label, hidden, thrifty, choice, facts)
        decision = self._decisions.get(index)
        if decision is None:
            decision = msgspec.structs.replace(
                settle(route, operation, label, pruned, choice, self._facts, hidden, thrifty),
                previous=previous,
                revises=revises,
                weights=weights,
                foreseen=foreseen,
                silences=silences,
            )
            _bound(self._decisions)
            self._decisions[index] = decision
        return decision


def _bound(known: dict[Any, Any]) -> None:
    # Labels are made of what callers write: without a bound they could fill the memory.
    if len(known) >= MOST_DECISIONS:
        known.clear()


def prune(
    route: Route,
    operation: Operation,
    label: Label,
    facts: Facts,
    hidden: Label | None = None,
    thrifty: bool = False,
) -> Pruned:
    """What is left of the route's plan for this operation and these labels; it depends on the config
    alone."""
    strategy = route.plan_for(thrifty)
    names = strategy.models()
    refused = _refused(names, operation, label, facts)
    pseudonymised: tuple[str, ...] = ()
    if hidden is not None and refused:
        still = _refused(tuple(refused), operation, hidden, facts)
        pseudonymised = tuple(name for name in refused if name not in still)
        refused = {name: why for name, why in refused.items() if name in still}
    plan = strategy.prune(lambda name: name not in refused)
    if plan is not None and operation != "chat":
        plan = plan.plain()
    allowed = plan.models() if plan is not None else ()
    needless = [_needless(name, operation) for name in names if name not in refused and name not in allowed]
    return Pruned(
        allowed=tuple(name for name in names if name in allowed),
        pseudonymised=tuple(name for name in pseudonymised if name in allowed),
        refused=(*refused.values(), *needless),
        plan=plan,
        thrifty=thrifty and route.thrift is not None,
        certain=strategy.certain,
    )


def choose(pruned: Pruned, circumstances: Circumstances, previous: Previous | None) -> Choice | None:
    """What is drawn of the plan, None where nothing is left of it; a conversation stays with who answered it
    `previous`ly, or it is said why not."""
    plan = pruned.plan
    if plan is None:
        return None
    if previous is None:
        return plan.choose(circumstances)
    staying = plan.staying(previous)
    choice = (staying or plan).choose(circumstances)
    if staying is None:
        said = f"the conversation leaves {previous.model}: {_why_left(previous.model, pruned)}"
    else:
        said = f"the conversation stays with {previous.model}, which has answered it"
    return msgspec.structs.replace(choice, reasons=(said, *choice.reasons))


def _why_left(model: str, pruned: Pruned) -> str:
    refused = next((it.reason for it in pruned.refused if it.model == model), None)
    if refused is not None:
        return refused
    return "the thrifty plan does not ask it" if pruned.thrifty else "the route does not ask it any more"


def settle(
    route: str,
    operation: Operation,
    label: Label,
    pruned: Pruned,
    choice: Choice | None,
    facts: Facts,
    hidden: Label | None = None,
    thrifty: bool = False,
) -> Decision:
    """The decision as a value, its reasons in words; its plan is None where no model is allowed."""
    if choice is None:
        summary = f"no model of route {route} can serve {operation}"
    else:
        summary = f"route {route} plans {choice.node.words()}"
    saving = ("a budget is nearly used, so the route is thrifty",) if pruned.thrifty else ()
    hiding = (f"{', '.join(pruned.pseudonymised)} would see pseudonyms",) if pruned.pseudonymised else ()
    return Decision(
        route=route,
        operation=operation,
        allowed=pruned.allowed,
        refused=pruned.refused,
        plan=choice.node if choice else None,
        reasons=(summary, *saving, *(choice.reasons if choice else ()), *hiding),
        propensity=choice.propensity if choice else 1.0,
        arms=choice.arms if choice else (),
        config_hash=facts.config_hash,
        label=label,
        perimeter=facts.perimeter,
        pseudonymised=pruned.pseudonymised,
        hidden_label=hidden,
        thrifty=thrifty,
    )


def _refused(names: tuple[str, ...], operation: Operation, label: Label, facts: Facts) -> dict[str, Refused]:
    """Those of the models that may not, or cannot, with the reason for each."""
    refusals = ((name, _refuse(name, operation, label, facts)) for name in names)
    return {name: refusal for name, refusal in refusals if refusal is not None}


def _needless(name: str, operation: Operation) -> Refused:
    """Why a model that may serve the operation is not asked."""
    why = "without the models that are refused" if operation == "chat" else f"for {operation}"
    return Refused(name, NEEDLESS, f"{name} has nothing to do in this route {why}")


def _refuse(name: str, operation: Operation, label: Label, facts: Facts) -> Refused | None:
    """Why this model cannot serve the operation or may not receive the request, or None where it may."""
    model = facts.models[name]
    outside = facts.outside(model, label)
    if outside is not None:
        return outside
    provider = facts.providers[model.provider]
    # Tokens of a chat model can always be estimated, so counting needs no wire of its own.
    needed = "embeddings" if operation == "embeddings" else "chat"
    if model.capabilities is not None and needed not in model.capabilities:
        return Refused(name, "capability", f"{name} is not declared capable of {needed}")
    if not any(operation_of(wire) == needed for wire in provider.wires):
        return Refused(name, "wire", f"provider {provider.name} has no {needed} endpoint")
    return None
