"""What a stress test says of a shock is what routing would decide after it: for any portfolio and traffic."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.catalog.prices import PriceBook
from isthmus.core.label import Label
from isthmus.core.portfolio import PriceOverride
from isthmus.core.traffic import Flow
from isthmus.core.usage import Usage
from isthmus.economics.stress.effects import Portfolio, stress
from isthmus.economics.stress.shocks import Shock, shock_of, standard_shocks
from isthmus.routing.decide import prune
from isthmus.routing.route import Route
from isthmus.strategies.plan import CallModel, Fallback
from tests.laws.plans import NAMES
from tests.laws.test_explain import ROUTES, facts
from tests.laws.test_perimeter import labels

DAY = dt.date(2026, 11, 27)

usages = st.builds(
    Usage, input=st.integers(0, 10**6), output=st.integers(0, 10**6), cache_read=st.integers(0, 10**6)
)
flows = st.builds(
    Flow,
    route=st.sampled_from(ROUTES),
    operation=st.sampled_from(["chat", "embeddings"]),
    label=labels,
    pseudonymised=st.frozensets(st.sampled_from(NAMES), max_size=2),
    model=st.sampled_from((*NAMES, "gone long ago")),
    hour=st.integers(0, 23),
    requests=st.integers(1, 1000),
    usage=usages,
    nanousd=st.just(0),
    unpriced=st.just(0),
)
money = st.integers(1, 100).map(Decimal)


@st.composite
def portfolios(draw: st.DrawFn) -> Portfolio:
    known = draw(facts())
    priced = draw(st.sets(st.sampled_from(NAMES)))
    book = PriceBook()
    return Portfolio(
        facts=known,
        prices={
            name: book.price(None, name, (PriceOverride(input=draw(money), output=draw(money)),))
            for name in priced
        },
        floor=draw(st.sampled_from([Label("public"), Label("internal")])),
        flows=draw(st.lists(flows, max_size=5)),
        months=draw(st.floats(0.1, 12)),
        day=DAY,
    )


@st.composite
def shocked(draw: st.DrawFn) -> tuple[Portfolio, Shock]:
    portfolio = draw(portfolios())
    return portfolio, draw(
        st.sampled_from(standard_shocks(portfolio.facts.models, portfolio.facts.providers))
    )


@given(portfolios())
def test_a_shock_that_changes_nothing_does_nothing(portfolio: Portfolio) -> None:
    impact = stress(portfolio, Shock(name="", says=""))
    assert (impact.breaks, impact.moves, impact.better) == ((), (), ())
    assert impact.before == impact.after


@given(shocked())
def test_nothing_that_is_gone_answers(case: tuple[Portfolio, Shock]) -> None:
    portfolio, shock = case
    impact = stress(portfolio, shock)
    assert not {it.instead for it in (*impact.moves, *impact.better)} & shock.gone
    assert not {name for it in impact.breaks for name in it.mend} & shock.gone
    if not shock.gone:
        assert (impact.breaks, impact.moves) == ((), ())


@given(shocked())
def test_a_mend_mends(case: tuple[Portfolio, Shock]) -> None:
    portfolio, shock = case
    for broken in stress(portfolio, shock).breaks:
        if not broken.mend:
            continue
        route = portfolio.facts.routes[broken.route]
        plan = Fallback(plans=(route.plan, *(CallModel(model=name) for name in broken.mend)))
        mended = msgspec.structs.replace(
            portfolio.facts, routes={**portfolio.facts.routes, route.name: Route(name=route.name, plan=plan)}
        )
        after = stress(msgspec.structs.replace(portfolio, facts=mended), shock)
        assert (broken.route, broken.operation, broken.level, broken.zones) not in [
            (it.route, it.operation, it.level, it.zones) for it in after.breaks
        ]


@given(shocked())
def test_what_breaks_is_what_routing_would_refuse(case: tuple[Portfolio, Shock]) -> None:
    portfolio, shock = case
    left = {name: model for name, model in portfolio.facts.models.items() if name not in shock.gone}
    broken = {it.route for it in stress(portfolio, shock).breaks}
    for flow in portfolio.flows:
        plan = portfolio.facts.routes[flow.route].plan
        before = prune(Route(name="", plan=plan), flow.operation, flow.label, portfolio.facts).plan
        after = None if before is None else before.prune(lambda name: name in left)
        if before is not None and after is None and not flow.pseudonymised:
            assert flow.route in broken


@given(portfolios(), st.floats(0.1, 100))
def test_volume_is_a_factor_of_all_costs(portfolio: Portfolio, factor: float) -> None:
    impact = stress(
        portfolio, shock_of(f"volume:{factor}", portfolio.facts.models, portfolio.facts.providers)
    )
    assert impact.after.usd == pytest.approx(impact.before.usd * factor)
    assert impact.after.unpriced == pytest.approx(impact.before.unpriced * factor)


@given(portfolios(), st.floats(1, 100))
def test_no_rise_of_prices_makes_anything_cheaper(portfolio: Portfolio, factor: float) -> None:
    for name in portfolio.facts.providers:
        shock = shock_of(f"price:{name}:{factor}", portfolio.facts.models, portfolio.facts.providers)
        impact = stress(portfolio, shock)
        assert impact.after.usd >= impact.before.usd * (1 - 1e-9)


@given(shocked())
def test_what_is_better_costs_less(case: tuple[Portfolio, Shock]) -> None:
    for it in stress(*case).better:
        assert it.by_instead.usd < it.after.usd
        assert it.by_instead.unpriced == 0
