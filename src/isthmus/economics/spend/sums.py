"""What was spent, for what, what caches saved, and what the same traffic would have cost elsewhere."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from isthmus.accounting.charge import charge_together
from isthmus.catalog.prices import Price
from isthmus.core.money import NANO_PER_USD
from isthmus.core.portfolio import Model
from isthmus.core.traffic import Hour, Spent
from isthmus.core.usage import Usage
from isthmus.economics.spend.forecast import LOOK_BACK, Anomaly, Forecast, anomalies, forecast

_DAY_US = 86_400_000_000
_EPOCH = dt.date(1970, 1, 1)
_NOBODY = "no model"
_NO_TEAM = "no team"

_Part = TypeVar("_Part", Hour, Spent)


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """What all of the traffic would have cost on one model: `usd` for what has a price, at the prices of its
    own hours. Tokens are taken as they were counted; `unpriced` requests have no price there."""

    model: str
    kind: str
    usd: float
    unpriced: int


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """The report. `cache_saved_usd` is what reading from caches saved, less what writing to them cost."""

    since: dt.date
    until: dt.date
    total: Spent
    cache_saved_usd: float
    by_day: tuple[Spent, ...]
    by_key: tuple[Spent, ...]
    by_team: tuple[Spent, ...]
    by_route: tuple[Spent, ...]
    by_model: tuple[Spent, ...]
    by_provider: tuple[Spent, ...]
    by_kind: tuple[Spent, ...]
    elsewhere: tuple[Elsewhere, ...]
    forecast: Forecast | None
    anomalies: tuple[Anomaly, ...]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What the report is made of: the traffic by hours, the keys, and the portfolio with its prices.

    `teams` are those of the keys that have one, by the keys' ids. `hours` may begin before `since`, so that
    the forecast has days to rest on; the report does not.
    """

    hours: Sequence[Hour]
    keys: Sequence[Spent]
    teams: Mapping[str, str]
    models: Mapping[str, Model]
    prices: Mapping[str, Price]
    since: dt.date
    today: dt.date


def spend(ledger: Ledger, draw: Callable[[], float]) -> Spend:
    """The report; `draw` gives numbers in [0, 1) to the forecast."""
    hours = [it for it in ledger.hours if _day(it) >= ledger.since]
    by_route = {it.route for it in hours}
    return Spend(
        since=ledger.since,
        until=ledger.today,
        total=_sum("all", hours),
        cache_saved_usd=sum(_saved_nanousd(ledger, it) for it in hours) / NANO_PER_USD,
        by_day=_by(hours, lambda it: _day(it).isoformat(), by_size=False),
        by_key=tuple(sorted(ledger.keys, key=_most_first)),
        by_team=_by(ledger.keys, lambda it: ledger.teams.get(it.name, _NO_TEAM)),
        by_route=_by(hours, lambda it: it.route or "no route"),
        by_model=_by(hours, lambda it: it.model or _NOBODY),
        by_provider=_by(hours, lambda it: _of(ledger, it, "provider")),
        by_kind=_by(hours, lambda it: _of(ledger, it, "kind")),
        elsewhere=tuple(_elsewhere(ledger, hours)),
        forecast=forecast(_daily(ledger.hours), ledger.today, _dearer(ledger), draw),
        anomalies=(
            *anomalies("all", _daily(ledger.hours), ledger.today),
            *(
                found
                for route in sorted(by_route)
                for found in anomalies(
                    f"route {route}", _daily(it for it in ledger.hours if it.route == route), ledger.today
                )
            ),
        ),
    )


def _day(hour: Hour) -> dt.date:
    return _EPOCH + dt.timedelta(days=hour.at_us // _DAY_US)


def _daily(hours: Iterable[Hour]) -> dict[dt.date, float]:
    """USD by day, from the first day on: a day without traffic cost nothing."""
    spent: dict[dt.date, float] = {}
    for hour in hours:
        day = _day(hour)
        spent[day] = spent.get(day, 0.0) + hour.nanousd / NANO_PER_USD
    if spent:
        first, last = min(spent), max(spent)
        for number in range((last - first).days):
            spent.setdefault(first + dt.timedelta(days=number), 0.0)
    return spent


def _sum(name: str, parts: Iterable[Hour | Spent]) -> Spent:
    requests = nanousd = unpriced = 0
    for part in parts:
        requests += part.requests
        nanousd += part.nanousd
        unpriced += part.unpriced
    return Spent(name=name, requests=requests, nanousd=nanousd, unpriced=unpriced)


def _by(parts: Iterable[_Part], name: Callable[[_Part], str], *, by_size: bool = True) -> tuple[Spent, ...]:
    groups: dict[str, list[_Part]] = {}
    for part in parts:
        groups.setdefault(name(part), []).append(part)
    found = [_sum(group, those) for group, those in groups.items()]
    return tuple(sorted(found, key=_most_first if by_size else lambda it: it.name))


def _most_first(it: Spent) -> tuple[int, str]:
    return -it.nanousd, it.name


def _of(ledger: Ledger, hour: Hour, fact: str) -> str:
    """A fact of the model that answered; what the config does not have any more is told so."""
    if hour.model is None:
        return _NOBODY
    model = ledger.models.get(hour.model)
    return "not in the config" if model is None else str(getattr(model, fact))


def _saved_nanousd(ledger: Ledger, hour: Hour) -> int:
    """What caches saved of the hour's charges, 0 where the model's price is not known."""
    price = ledger.prices.get(hour.model or "")
    if price is None or hour.usage.prompt == hour.usage.input:
        return 0
    uncached = msgspec.structs.replace(
        hour.usage, input=hour.usage.prompt, cache_read=0, cache_write_5m=0, cache_write_1h=0
    )
    without = charge_together(price, uncached, hour.requests, hour.at_us)
    with_it = charge_together(price, hour.usage, hour.requests, hour.at_us)
    return 0 if without is None or with_it is None else without - with_it


def _elsewhere(ledger: Ledger, hours: Sequence[Hour]) -> list[Elsewhere]:
    """The portfolio's models that chat, the cheapest first."""
    asked = [it for it in hours if it.usage.total > 0]
    found = []
    for name, model in ledger.models.items():
        if model.capabilities is not None and "chat" not in model.capabilities:
            continue
        nanousd = unpriced = 0
        for hour in asked:
            charge = charge_together(ledger.prices[name], hour.usage, hour.requests, hour.at_us)
            nanousd += charge or 0
            unpriced += hour.requests if charge is None else 0
        found.append(Elsewhere(model=name, kind=model.kind, usd=nanousd / NANO_PER_USD, unpriced=unpriced))
    return sorted(found, key=lambda it: (it.unpriced, it.usd))


def _dearer(ledger: Ledger) -> Callable[[dt.date], float]:
    """By how much more the traffic of the last four weeks would cost at the prices of a day to come."""
    first = ledger.today - dt.timedelta(days=LOOK_BACK)
    mixes: dict[tuple[str, int], tuple[Usage, int]] = {}
    for hour in ledger.hours:
        if hour.model in ledger.prices and first <= _day(hour) < ledger.today:
            key = (hour.model or "", hour.at_us % _DAY_US)
            usage, requests = mixes.get(key, (Usage(), 0))
            mixes[key] = (usage + hour.usage, requests + hour.requests)

    def cost(day: dt.date) -> int:
        midnight_us = (day - _EPOCH).days * _DAY_US
        return sum(
            charge_together(ledger.prices[model], usage, requests, midnight_us + time_us) or 0
            for (model, time_us), (usage, requests) in mixes.items()
        )

    now = cost(ledger.today)
    known = {ledger.today: 1.0}

    def dearer(day: dt.date) -> float:
        if day not in known:
            known[day] = cost(day) / now if now else 1.0
        return known[day]

    return dearer
