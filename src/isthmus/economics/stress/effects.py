"""What a shock does to a portfolio and its traffic: what breaks, what it costs, what answers instead.

What breaks is decided by routing's own `prune`, with the models of the shock refused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from isthmus.accounting.budgets import Budget
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
from isthmus.economics.stress.shortage import DAYS, HOURS, Demand, Month, Rate, month
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
    cheapest first, and `change` is the change of the config in words. `thrifty` is True where it is only the
    route's thrifty plan that breaks: then `requests` go that way only while a budget is nearly used.
    """

    route: str
    operation: Operation
    level: str
    zones: tuple[str, ...] | None
    requests: float
    refusals: tuple[Refused, ...]
    mend: tuple[str, ...]
    change: str
    thrifty: bool = False


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


class Short(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests a month come to a route while a budget is nearly used, so that it is thrifty, and
    while one is spent, so that only what is free may answer; before the shock, and after."""

    route: str
    thrifty_before: float
    thrifty_after: float
    spent_before: float
    spent_after: float


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """What a shock does in a month.

    `before` and `after` are the costs of all traffic that is answered before, and after. `short` are routes
    for which a budget runs short, whether before or after.
    """

    shock: Shock
    breaks: tuple[Broken, ...]
    moves: tuple[Moved, ...]
    better: tuple[Better, ...]
    short: tuple[Short, ...]
    requests: float
    before: Cost
    after: Cost


class Portfolio(msgspec.Struct, frozen=True, kw_only=True):
    """What is put under stress.

    `floor` is the least level of any request. `flows` are the traffic of so many `months`; prices are those
    of `day`. Under the `budgets` that can be simulated a month is walked through (see `shortage`).
    """

    facts: Facts
    prices: Mapping[str, Price]
    floor: Label
    flows: Sequence[Flow]
    months: float
    day: dt.date
    budgets: Sequence[Budget] = ()


class _Matter(NamedTuple):
    """What decides where a request may go."""

    route: str
    operation: Operation
    label: Label
    pseudonymised: frozenset[str]


class _Plans(NamedTuple):
    """What is left of a route's plan, and of the one for the time when money is short."""

    usual: Pruned
    thrifty: Pruned


class _Fate(NamedTuple):
    """Which model answers a flow now, and which one then; None for none."""

    flow: Flow
    matter: _Matter
    now: str
    then: str | None


def stress(portfolio: Portfolio, shock: Shock) -> Impact:
    """What the shock does to the portfolio."""
    traffic = _traffic(portfolio)
    before = {matter: _plans(portfolio, matter, _NOTHING) for matter in traffic}
    after = {matter: _plans(portfolio, matter, shock) for matter in traffic}
    # What nothing may serve before is no work of the shock.
    served = {matter: flows for matter, flows in traffic.items() if before[matter].usual.plan is not None}
    unserved = {matter: flows for matter, flows in served.items() if after[matter].usual.plan is None}
    unserved_thriftily = {
        matter: flows
        for matter, flows in served.items()
        if matter not in unserved
        and before[matter].thrifty.plan is not None
        and after[matter].thrifty.plan is None
    }
    fates = [
        _Fate(flow, matter, now, _answering(flow, after[matter].usual))
        for matter, flows in served.items()
        for flow in flows
        if (now := _answering(flow, before[matter].usual)) is not None
    ]
    usual = _month(portfolio, served, before, _NOTHING)
    shocked = _month(portfolio, served, after, shock)
    return Impact(
        shock=shock,
        breaks=(
            *_breaks(portfolio, shock, unserved, after),
            *_breaks(portfolio, shock, unserved_thriftily, after, thrifty=True),
        ),
        moves=_moves(portfolio, shock, fates),
        better=tuple(_better(portfolio, shock, fates)),
        requests=sum(it.flow.requests for it in fates) / portfolio.months,
        short=tuple(_short(usual, shocked)),
        before=Cost(usd=usual.taken.usd, unpriced=usual.taken.unpriced),
        after=Cost(usd=shocked.taken.usd, unpriced=shocked.taken.unpriced),
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


def _month(
    portfolio: Portfolio,
    served: Mapping[_Matter, Sequence[Flow]],
    plans: Mapping[_Matter, _Plans],
    shock: Shock,
) -> Month:
    """A month, after the shock, of all traffic that could be served before it."""
    demands: dict[str, Demand] = {}
    for matter, flows in served.items():
        route = portfolio.facts.routes[matter.route]
        demand = demands.setdefault(route.name, Demand(route, [Rate()] * HOURS, [Rate()] * HOURS))
        for hours, plan in zip((demand.usual, demand.thrifty), plans[matter], strict=True):
            for flow in flows:
                rate = _hourly(portfolio, flow, _answering(flow, plan), shock)
                hours[flow.hour] = hours[flow.hour].plus(rate)
    return month(list(demands.values()), portfolio.budgets)


def _hourly(portfolio: Portfolio, flow: Flow, model: str | None, shock: Shock) -> Rate:
    """What the flow takes in its hour of one day, by that model; nothing where none answers."""
    if model is None:
        return Rate()
    cost = _cost(portfolio, flow, model, shock)
    times = shock.volume / portfolio.months
    monthly = Rate(flow.requests * times, flow.usage.total * times, cost.usd, cost.unpriced)
    return Rate().plus(monthly, 1 / DAYS)


def _short(usual: Month, shocked: Month) -> Iterator[Short]:
    for route, after in shocked.spells.items():
        before = usual.spells[route]
        if any((*before, *after)):
            yield Short(
                route=route,
                thrifty_before=before.thrifty,
                thrifty_after=after.thrifty,
                spent_before=before.spent,
                spent_after=after.spent,
            )


def _plans(portfolio: Portfolio, matter: _Matter, shock: Shock) -> _Plans:
    usual = _pruned(portfolio, matter, shock)
    saves = portfolio.facts.routes[matter.route].thrift is not None
    return _Plans(usual, _pruned(portfolio, matter, shock, thrifty=True) if saves else usual)


def _pruned(
    portfolio: Portfolio, matter: _Matter, shock: Shock, route: Route | None = None, *, thrifty: bool = False
) -> Pruned:
    """What is left of the matter's route, or of another one, after the shock."""
    facts = portfolio.facts

    def outside(model: Model, label: Label) -> Refused | None:
        if model.name in shock.gone:
            return Refused(model.name, "shock", shock.says)
        return None if model.name in matter.pseudonymised else facts.outside(model, label)

    shocked = msgspec.structs.replace(facts, outside=outside)
    route = route or facts.routes[matter.route]
    return prune(route, matter.operation, matter.label, shocked, thrifty=thrifty)


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
    after: Mapping[_Matter, _Plans],
    *,
    thrifty: bool = False,
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
            refusals=(after[first].thrifty if thrifty else after[first].usual).refused,
            mend=tuple(mend),
            change=_change(first, mend, "thrifty plan of the route" if thrifty else "route"),
            thrifty=thrifty,
        )


def _change(matter: _Matter, mend: Sequence[str], what: str) -> str:
    if mend:
        return f"Add `{mend[0]}` to the {what} `{matter.route}`, as the last plan of a `fallback`."
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
