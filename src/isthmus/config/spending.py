"""Which calls a budget of money bounds: those need a price, or nobody can tell what they may cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from isthmus.accounting.bounds import dearest
from isthmus.accounting.budgets import Budget
from isthmus.catalog.prices import Price
from isthmus.config.config import Config
from isthmus.core.portfolio import Model
from isthmus.routing.route import Route


def bounded_in_usd(config: Config) -> dict[str, Budget]:
    """The models whose calls are bounded in USD, each with the first budget that does it, whoever calls."""
    found: dict[str, Budget] = {}
    for budget in (it for it in config.budgets if it.unit == "usd"):
        for route in config.routes.values():
            for name in _called(config, route) if _is_about(budget.route, route.name) else ():
                if _is_about(budget.model, config.models[name].family):
                    found.setdefault(name, budget)
    return found


def _called(config: Config, route: Route) -> Iterator[str]:
    """The models that requests of a route may call, with those that judge new weights of theirs."""
    called = route.models()
    yield from called
    yield from (it.judge for it in config.rollouts if it.judge is not None and it.model in called)


def is_priced(model: Model, price: Price, at_us: int) -> bool:
    """True where the most that a call costs at that time can be told from the price."""
    said = 0 if model.capabilities == frozenset({"embeddings"}) else 1
    return dearest(price, 1, said, at_us) is not None


def _is_about(pattern: str | None, name: str) -> bool:
    return pattern is None or fnmatchcase(name, pattern)
