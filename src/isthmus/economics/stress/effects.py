"""What a shock does to a portfolio and its traffic: what breaks, what it costs, what answers instead.

What breaks is decided by routing's own `prune`, with the models of the shock refused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from isthmus.accounting.charge import charge_together
from isthmus.catalog.prices import Price
from isthmus.core.call import Operation
from isthmus.core.decision import Refused
from isthmus.core.label import Label
from isthmus.core.money import NANO_PER_USD
from isthmus.core.portfolio import Model
from isthmus.core.traffic import Flow
from isthmus.core.usage import Usage
from isthmus.economics.stress.shocks import Shock
from isthmus.routing.decide import Facts, Pruned, prune
from isthmus.routing.route import Route
from isthmus.strategies.plan import CallModel

_HOUR_US = 3_600_000_000
_HOURS = range(24)
_EPOCH = dt.date(1970, 1, 1)
_OPERATIONS: tuple[Operation, ...] = ("chat", "embeddings")
_NOTHING = Shock(name="", says="nothing happens")
# By this models are put in the order of their prices where no traffic says what a request looks like.
_SOME_REQUEST = Usage(input=1000, output=300)
_MOST_MENDS = 3
_ROUNDING = 1e-9


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """USD a month for what has a known price, and how many requests a month have none."""

    usd: float = 0.0
    unpriced: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(usd=self.usd + other.usd, unpriced=self.unpriced + other.unpriced)


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A route that has no model left for what is so labelled; `requests` a month go that way.

    `refusals` say why not, model by model. `mend` are models of the portfolio that could serve it, the
    cheapest first, and `change` is the change of the config in words.
    """

    route: str
    operation: Operation
    level: str
    zones: tuple[str, ...] | None
    requests: float
    refusals: tuple[Refused, ...]
    mend: tuple[str, ...]
    change: str


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic that another model of the same route answers: whether well enough is to be evaluated."""

    route: str
    lost: str
    instead: str
    requests: float
    before: Cost
    after: Cost


class Better(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic that the shock makes dearer, and that another permitted model would answer for less."""

    route: str
    model: str
    instead: str
    after: Cost
    by_instead: Cost


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """What a shock does in a month.

    `before` and `after` are the costs of all traffic that is answered before, and after.
    """

    shock: Shock
    breaks: tuple[Broken, ...]
    moves: tuple[Moved, ...]
    better: tuple[Better, ...]
    requests: float
    before: Cost
    after: Cost


class Portfolio(msgspec.Struct, frozen=True, kw_only=True):
    """What is put under stress.

    `floor` is the least level of any request. `flows` are the traffic of so many `months`; prices are those
    of `day`.
    """

    facts: Facts
    prices: Mapping[str, Price]
    floor: Label
    flows: Sequence[Flow]
    months: float
    day: dt.date


class _Matter(NamedTuple):
    """What decides where a request may go."""

    route: str
    operation: Operation
    label: Label
    pseudonymised: frozenset[str]


class _Fate(NamedTuple):
    """Which model answers a flow now, and which one then; None for none."""

    flow: Flow
    matter: _Matter
    now: str
    then: str | None


def stress(portfolio: Portfolio, shock: Shock) -> Impact:
    """What the shock does to the portfolio."""
    traffic = _traffic(portfolio)
    before = {matter: _pruned(portfolio, matter, _NOTHING) for matter in traffic}
    after = {matter: _pruned(portfolio, matter, shock) for matter in traffic}
    # What nothing may serve before is no work of the shock.
    served = {matter: flows for matter, flows in traffic.items() if before[matter].plan is not None}
    unserved = {matter: flows for matter, flows in served.items() if after[matter].plan is None}
    fates = [
        _Fate(flow, matter, now, _answering(flow, after[matter]))
        for matter, flows in served.items()
        for flow in flows
        if (now := _answering(flow, before[matter])) is not None
    ]
    return Impact(
        shock=shock,
        breaks=tuple(_breaks(portfolio, shock, unserved, after)),
        moves=_moves(portfolio, shock, fates),
        better=tuple(_better(portfolio, shock, fates)),
        requests=sum(it.flow.requests for it in fates) / portfolio.months,
        before=_total(_cost(portfolio, it.flow, it.now, _NOTHING) for it in fates),
        after=_total(_cost(portfolio, it.flow, it.then, shock) for it in fates if it.then is not None),
    )


def _traffic(portfolio: Portfolio) -> dict[_Matter, list[Flow]]:
    """The flows by what decides where they may go; what a route is for is there even if nothing came."""
    found: dict[_Matter, list[Flow]] = {}
    for route in portfolio.facts.routes.values():
        label = portfolio.floor.join(route.floor)
        matters = [_Matter(route.name, operation, label, frozenset()) for operation in _OPERATIONS]
        # Where nobody says what its models can do, a route could serve both; chat is what it is for then.
        meant = next((it for it in matters if _pruned(portfolio, it, _NOTHING).plan is not None), None)
        if meant is not None:
            found[meant] = []
    for flow in portfolio.flows:
        if flow.route in portfolio.facts.routes:
            matter = _Matter(flow.route, flow.operation, flow.label, flow.pseudonymised)
            found.setdefault(matter, []).append(flow)
    return found


def _pruned(portfolio: Portfolio, matter: _Matter, shock: Shock, route: Route | None = None) -> Pruned:
    """What is left of the matter's route, or of another one, after the shock."""
    facts = portfolio.facts

    def outside(model: Model, label: Label) -> Refused | None:
        if model.name in shock.gone:
            return Refused(model.name, "shock", shock.says)
        return None if model.name in matter.pseudonymised else facts.outside(model, label)

    shocked = msgspec.structs.replace(facts, outside=outside)
    return prune(route or facts.routes[matter.route], matter.operation, matter.label, shocked)


def _answering(flow: Flow, pruned: Pruned) -> str | None:
    """The model that answers the flow: the one that did, else the first of what is left, None for none."""
    if pruned.plan is None:
        return None
    return flow.model if flow.model in pruned.allowed else pruned.allowed[0]


def _permitted(portfolio: Portfolio, matters: Iterable[_Matter], shock: Shock) -> list[str]:
    """Every model of the portfolio that may serve all of the matters after the shock, in whatever route."""
    return [
        name
        for name in portfolio.facts.models
        if all(_serves(portfolio, name, matter, shock) for matter in matters)
    ]


def _serves(portfolio: Portfolio, name: str, matter: _Matter, shock: Shock) -> bool:
    alone = Route(name="", plan=CallModel(model=name))
    return _pruned(portfolio, matter, shock, alone).plan is not None


def _breaks(
    portfolio: Portfolio,
    shock: Shock,
    unserved: Mapping[_Matter, list[Flow]],
    after: Mapping[_Matter, Pruned],
) -> Iterator[Broken]:
    """The routes that break; labels that differ in what was found alone are told together."""
    alike: dict[tuple[object, ...], list[_Matter]] = {}
    for it in unserved:
        alike.setdefault((it.route, it.operation, it.label.level, it.label.zones), []).append(it)
    for matters in alike.values():
        first = matters[0]
        flows = [flow for matter in matters for flow in unserved[matter]]
        mend = _by_price(portfolio, shock, _permitted(portfolio, matters, shock), flows)[:_MOST_MENDS]
        yield Broken(
            route=first.route,
            operation=first.operation,
            level=first.label.level,
            zones=None if first.label.zones is None else tuple(sorted(first.label.zones)),
            requests=sum(flow.requests for flow in flows) / portfolio.months,
            refusals=after[first].refused,
            mend=tuple(mend),
            change=_change(first, mend),
        )


def _change(matter: _Matter, mend: Sequence[str]) -> str:
    if mend:
        return f"Add `{mend[0]}` to the route `{matter.route}`, as the last plan of a `fallback`."
    where = (
        "" if matter.label.zones is None else f" in {' or '.join(sorted(matter.label.zones)) or 'no zone'}"
    )
    return f"Add a model{where} that is cleared for {matter.label.level} and that the shock does not reach."


def _by_price(portfolio: Portfolio, shock: Shock, names: Sequence[str], flows: Sequence[Flow]) -> list[str]:
    """The models, the cheapest for this traffic first, those of unknown price last."""

    def price(name: str) -> tuple[float, float]:
        if flows:
            cost = _total(_cost(portfolio, flow, name, shock) for flow in flows)
            return cost.unpriced, cost.usd
        usd = _usd(portfolio, _SOME_REQUEST, 1, 0, name, shock)
        return (1.0, 0.0) if usd is None else (0.0, usd)

    return sorted(names, key=price)


def _moves(portfolio: Portfolio, shock: Shock, fates: Sequence[_Fate]) -> tuple[Moved, ...]:
    found: dict[tuple[str, str, str], Moved] = {}
    for flow, _, now, then in fates:
        if then is None or then == now:
            continue
        so_far = found.get((flow.route, now, then)) or Moved(
            route=flow.route, lost=now, instead=then, requests=0.0, before=Cost(), after=Cost()
        )
        found[flow.route, now, then] = msgspec.structs.replace(
            so_far,
            requests=so_far.requests + flow.requests / portfolio.months,
            before=so_far.before + _cost(portfolio, flow, now, _NOTHING),
            after=so_far.after + _cost(portfolio, flow, then, shock),
        )
    return tuple(found.values())


def _better(portfolio: Portfolio, shock: Shock, fates: Sequence[_Fate]) -> Iterator[Better]:
    """Where the shock makes a route's traffic dearer: the cheapest model to which all of it may go."""
    answered: dict[tuple[str, str], list[_Fate]] = {}
    for fate in fates:
        if fate.then is not None:
            answered.setdefault((fate.flow.route, fate.then), []).append(fate)
    for (route, model), those in answered.items():
        flows = [it.flow for it in those]
        before = _total(_cost(portfolio, it.flow, it.now, _NOTHING) for it in those)
        after = _total(_cost(portfolio, flow, model, shock) for flow in flows)
        if after.usd <= before.usd * shock.volume * (1 + _ROUNDING):
            continue
        permitted = _permitted(portfolio, {it.matter for it in those}, shock)
        instead = _by_price(portfolio, shock, permitted, flows)[0]
        by_instead = _total(_cost(portfolio, flow, instead, shock) for flow in flows)
        if by_instead.unpriced == 0 and by_instead.usd < after.usd:
            yield Better(route=route, model=model, instead=instead, after=after, by_instead=by_instead)


def _total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def _cost(portfolio: Portfolio, flow: Flow, model: str, shock: Shock) -> Cost:
    """What a month of the flow costs by that model after the shock."""
    usd = _usd(portfolio, flow.usage, flow.requests, flow.hour, model, shock)
    if usd is None:
        return Cost(unpriced=flow.requests * shock.volume / portfolio.months)
    return Cost(usd=usd * shock.volume / portfolio.months)


def _usd(
    portfolio: Portfolio, usage: Usage, requests: int, hour: int, model: str, shock: Shock
) -> float | None:
    price = portfolio.prices.get(model)
    if price is None:
        return None
    midnight_us = ((shock.since or portfolio.day) - _EPOCH).days * 24 * _HOUR_US
    charges = [
        charge_together(price, usage, requests, midnight_us + at * _HOUR_US)
        for at in (_HOURS if shock.peak else (hour,))
    ]
    known = [charge for charge in charges if charge is not None]
    if len(known) < len(charges):
        return None
    return max(known) / NANO_PER_USD * shock.dearer.get(model, 1.0)
