"""A month of traffic under budgets: when routes turn thrifty, and what comes while nothing is left. Pure.

Traffic is a fluid: what comes in an hour of the day comes evenly within it, and each of thirty days is alike.
Between two moments at which a budget passes a share that matters, all rates are constant; so the month is
walked from one such moment to the next, and nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import NamedTuple

from isthmus.accounting.budgets import Budget, Caller, Span
from isthmus.core.money import NANO_PER_USD
from isthmus.routing.route import Route

DAYS = 30
HOURS = 24
_WINDOWS: Mapping[Span, int] = {
    "minute": 1,
    "hour": 1,
    "day": HOURS,
    "week": 7 * HOURS,
    "month": DAYS * HOURS,
}
_MINUTES = 60
_WHO = ("key", "team", "user", "model")


class Rate(NamedTuple):
    """What an hour of traffic takes; the price of `unpriced` of its requests is not known."""

    requests: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    unpriced: float = 0.0

    def plus(self, other: Rate, times: float = 1.0) -> Rate:
        """Both together, the other so many times."""
        return Rate(*(one + times * more for one, more in zip(self, other, strict=True)))


class Demand(NamedTuple):
    """What comes to a route in each hour of the day: as its plan serves it, and as its thrifty one would."""

    route: Route
    usual: list[Rate]
    thrifty: list[Rate]


class Spell(NamedTuple):
    """The requests of a route in a month that came while it was `thrifty`, and while a budget was `spent`."""

    thrifty: float = 0.0
    spent: float = 0.0

    def plus(self, other: Spell, times: float) -> Spell:
        """Both together, the other so many times."""
        return Spell(self.thrifty + times * other.thrifty, self.spent + times * other.spent)


class Month(NamedTuple):
    """What a month took, and how each route fared. What came while a budget was spent has cost nothing: it
    was refused, or answered by what is free."""

    taken: Rate
    spells: dict[str, Spell]


class _Account:
    """A budget's account of the routes that spend from it, in the window that runs."""

    def __init__(self, budget: Budget, routes: Iterable[Route]) -> None:
        self.routes = {route.name: route.thrift.at if route.thrift else inf for route in routes}
        self.hours = _WINDOWS[budget.per]
        self._unit = {"usd": 2, "tokens": 1, "requests": 0}[budget.unit]
        amount = budget.amount / (NANO_PER_USD if budget.unit == "usd" else 1)
        # All minutes of an hour are alike.
        self._amount = amount * (_MINUTES if budget.per == "minute" else 1)
        self.share = 0.0

    def is_spent(self, rate: Rate) -> bool:
        """True where nothing is left for what takes so much."""
        return self.share >= 1 and rate[self._unit] > 0

    def speed(self, rate: Rate) -> float:
        """By what share of it an hour at that rate uses it further."""
        return rate[self._unit] / self._amount if self._amount else inf if rate[self._unit] else 0.0

    def next_share(self) -> float:
        """The next share at which something changes."""
        return min((it for it in (*self.routes.values(), 1.0) if it > self.share), default=inf)


def simulated(budget: Budget) -> bool:
    """Whether the budget is of what traffic without its callers shows: of all of it, or of routes."""
    named = any(getattr(budget, who) is not None for who in ("key", "team", "model"))
    return budget.per in _WINDOWS and not named and budget.each not in _WHO


def month(demands: Sequence[Demand], budgets: Iterable[Budget]) -> Month:
    """A month of that traffic, under those of the budgets that can be simulated."""
    accounts = list(_accounts([it.route for it in demands], budgets))
    taken, spells = Rate(), {it.route.name: Spell() for it in demands}
    # Where no window is longer than a day, one day is as good as thirty.
    days = DAYS if any(account.hours > HOURS for account in accounts) else 1
    for hour in range(days * HOURS):
        for account in accounts:
            if hour % account.hours == 0:
                account.share = 0.0
        left = 1.0
        while left > 0:
            rates = {it.route.name: _rate(it, hour % HOURS, accounts) for it in demands}
            speeds = [account.speed(_sum(rates[name][0] for name in account.routes)) for account in accounts]
            step = _until_a_change(accounts, speeds, left)
            for account, speed in zip(accounts, speeds, strict=True):
                account.share = _moved(account, speed, step)
            for name, (rate, spell) in rates.items():
                taken = taken.plus(rate, step * DAYS / days)
                spells[name] = spells[name].plus(spell, step * DAYS / days)
            left -= step
    return Month(taken, spells)


def _accounts(routes: Sequence[Route], budgets: Iterable[Budget]) -> Iterator[_Account]:
    for budget in filter(simulated, budgets):
        subjects: dict[str, list[Route]] = {}
        for route in routes:
            subject = budget.subject(Caller(route=route.name))
            if subject is not None:
                subjects.setdefault(subject, []).append(route)
        for those in subjects.values():
            yield _Account(budget, those)


def _rate(demand: Demand, hour: int, accounts: Sequence[_Account]) -> tuple[Rate, Spell]:
    """What the route takes in an hour as the accounts stand, and what of its requests came in a shortage."""
    name = demand.route.name
    about = [it for it in accounts if name in it.routes]
    thrifty = any(it.share >= it.routes[name] for it in about)
    rate = (demand.thrifty if thrifty else demand.usual)[hour]
    if any(it.is_spent(rate) for it in about):
        return Rate(), Spell(spent=rate.requests)
    return rate, Spell(thrifty=rate.requests if thrifty else 0.0)


def _until_a_change(accounts: Sequence[_Account], speeds: Sequence[float], left: float) -> float:
    """How long all stays as it is, of what is left of the hour."""
    until = (
        (account.next_share() - account.share) / speed
        for account, speed in zip(accounts, speeds, strict=True)
        if speed > 0
    )
    return min(left, *until, left)


def _moved(account: _Account, speed: float, step: float) -> float:
    following = account.next_share()
    if speed == inf:
        return following
    share = account.share + speed * step
    # Where it was walked to just there, rounding may not leave it before.
    return following if share >= following * (1 - 1e-12) else share


def _sum(rates: Iterable[Rate]) -> Rate:
    total = Rate()
    for rate in rates:
        total = total.plus(rate)
    return total
