"""A month under budgets: reckoned by hand."""

from __future__ import annotations

import pytest

from isthmus.accounting.budgets import Budget
from isthmus.core.money import NANO_PER_USD
from isthmus.economics.stress.shortage import DAYS, Demand, Rate, Spell, month, simulated
from isthmus.routing.route import Route, Thrift
from isthmus.strategies.plan import CallModel

DEAR, CHEAP = CallModel(model="dear"), CallModel(model="cheap")


def usd(amount: float, per: str = "month", **more: str) -> Budget:
    return Budget(amount=int(amount * NANO_PER_USD), unit="usd", per=per, **more)  # type: ignore[arg-type]


def demand(name: str = "r", at: float | None = 0.5, thrifty_usd: float = 0.1) -> Demand:
    """Ten requests in each hour, for one USD together or, while the route is thrifty, for less."""
    thrift = Thrift(plan=CHEAP, at=at) if at is not None else None
    usual = [Rate(10, 100, 1)] * 24
    return Demand(
        Route(name=name, plan=DEAR, thrift=thrift),
        usual,
        usual if at is None else [Rate(10, 100, thrifty_usd)] * 24,
    )


def test_without_a_budget_a_month_is_thirty_days() -> None:
    told = month([demand()], [])
    assert told.taken == pytest.approx(Rate(7200, 72_000, 720))
    assert told.spells == {"r": Spell()}


def test_a_route_is_thrifty_from_its_share_on_until_the_window_ends() -> None:
    told = month([demand()], [usd(400)])
    # 200 hours to the half, then 520 at a tenth.
    assert told.taken.usd == pytest.approx(200 + 52)
    assert told.spells["r"].thrifty == pytest.approx(5200)
    assert told.spells["r"].spent == 0
    told = month([demand()], [usd(12, "day")])
    assert told.taken.usd == pytest.approx(DAYS * (6 + 1.8))
    assert told.spells["r"].thrifty == pytest.approx(DAYS * 180)


def test_what_comes_when_all_is_spent_costs_nothing() -> None:
    told = month([demand(at=None)], [usd(100)])
    assert told.taken.usd == pytest.approx(100)
    assert told.spells["r"].spent == pytest.approx(6200)


def test_a_free_model_answers_when_all_is_spent() -> None:
    told = month([demand(at=1.0, thrifty_usd=0)], [usd(100)])
    assert told.taken.requests == pytest.approx(7200)
    assert told.spells["r"] == pytest.approx(Spell(thrifty=6200))


def test_routes_share_a_budget_or_have_one_each() -> None:
    both = [demand("a", at=None), demand("b", at=None)]
    assert month(both, [usd(100)]).taken.usd == pytest.approx(100)
    assert month(both, [usd(100, each="route")]).taken.usd == pytest.approx(200)
    only = month(both, [usd(100, route="a")])
    assert only.spells["a"].spent == pytest.approx(6200)
    assert only.spells["b"].spent == 0


def test_the_first_budget_that_is_short_decides() -> None:
    told = month([demand()], [usd(400), Budget(amount=40, unit="requests", per="day")])
    assert told.spells["r"].thrifty == pytest.approx(DAYS * 20)
    assert told.taken.requests == pytest.approx(DAYS * 40)


def test_minutes_are_parts_of_their_hour() -> None:
    told = month([demand(at=None)], [Budget(amount=1, unit="tokens", per="minute")])
    assert told.taken.tokens == pytest.approx(720 * 60)


def test_a_budget_of_nothing_lets_nothing_through() -> None:
    assert month([demand(at=None)], [usd(0)]).taken.requests == 0


@pytest.mark.parametrize(
    ("about", "can"),
    [
        ({}, True),
        ({"route": "a*"}, True),
        ({"each": "route"}, True),
        ({"key": "a"}, False),
        ({"team": "*"}, False),
        ({"each": "user"}, False),
        ({"model": "dear"}, False),
    ],
)
def test_budgets_of_whom_traffic_does_not_show_are_left_out(about: dict[str, str], can: bool) -> None:
    assert simulated(usd(1, **about)) is can
    if not can:
        assert month([demand()], [usd(1, **about)]).taken.usd == pytest.approx(720)
