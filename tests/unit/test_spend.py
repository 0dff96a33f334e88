"""What a report says of known traffic: sums, savings, other models, what is to come, what is unusual."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.catalog.prices import UNKNOWN, Price, PriceBook
from isthmus.core.portfolio import Model, PriceOverride
from isthmus.core.traffic import Hour, Spent
from isthmus.core.usage import Usage
from isthmus.economics.spend.forecast import anomalies, forecast
from isthmus.economics.spend.report import spend_report
from isthmus.economics.spend.sums import Ledger, Spend, spend
from isthmus.reports.markdown import markdown

TODAY = dt.date(2026, 11, 20)
DAY_US = 86_400_000_000
BOOK = PriceBook()


def price(input_usd: int, output_usd: int, cache_read: str | None = None, **days: dt.date) -> PriceOverride:
    return PriceOverride(
        input=Decimal(input_usd),
        output=Decimal(output_usd),
        cache_read=None if cache_read is None else Decimal(cache_read),
        **days,
    )


PRICES = {
    "large": BOOK.price(None, "large", (price(2, 10, "0.2"),)),
    "small": BOOK.price(None, "small", (price(1, 1),)),
    "riddle": UNKNOWN,
}
MODELS = {
    "large": Model(name="large", provider="one", id="large", kind="closed"),
    "small": Model(name="small", provider="two", id="small", kind="open"),
    "riddle": Model(name="riddle", provider="two", id="riddle", kind="open"),
}


def hour(
    days_ago: int, *, model: str | None = "large", route: str = "r", usd: float = 1.0, unpriced: int = 0
) -> Hour:
    return Hour(
        at_us=((TODAY - dt.date(1970, 1, 1)).days - days_ago) * DAY_US,
        route=route,
        model=model,
        requests=10,
        usage=Usage(input=500_000, cache_read=500_000, output=100_000),
        nanousd=round(usd * 1e9),
        unpriced=unpriced,
    )


def report(
    hours: list[Hour], since: dt.date = dt.date(2026, 1, 1), prices: dict[str, Price] | None = None
) -> Spend:
    ledger = Ledger(
        hours=hours, keys=(), teams={}, models=MODELS, prices=prices or PRICES, since=since, today=TODAY
    )
    return spend(ledger, random.Random(0).random)


hours = st.builds(
    hour,
    st.integers(0, 60),
    model=st.sampled_from([None, "large", "small", "gone"]),
    route=st.sampled_from(["r", "s", ""]),
    usd=st.floats(0, 100),
    unpriced=st.integers(0, 10),
)


@given(st.lists(hours, max_size=30))
def test_every_way_to_part_the_sum_adds_up_to_it(given_hours: list[Hour]) -> None:
    found = report(given_hours)
    for parts in (found.by_day, found.by_route, found.by_model, found.by_provider, found.by_kind):
        for count in ("requests", "nanousd", "unpriced"):
            assert sum(getattr(it, count) for it in parts) == getattr(found.total, count)


def test_days_before_the_report_are_in_no_sum() -> None:
    found = report([hour(1), hour(40)], since=dt.date(2026, 11, 1))
    assert found.total.requests == 10
    assert [it.name for it in found.by_day] == ["2026-11-19"]


def test_what_is_not_in_the_config_any_more_is_told() -> None:
    found = report([hour(1, model="gone"), hour(1, model=None)])
    assert {it.name for it in found.by_kind} == {"not in the config", "no model"}


def test_a_cache_saves_what_reading_costs_less() -> None:
    assert report([hour(1)]).cache_saved_usd == pytest.approx(0.5 * (2 - 0.2))
    assert report([hour(1, model="small")]).cache_saved_usd == 0


def test_the_same_traffic_is_priced_on_every_model_and_unknown_is_not_nothing() -> None:
    large, small, riddle = (
        next(it for it in report([hour(1)]).elsewhere if it.model == name) for name in MODELS
    )
    assert large.usd == pytest.approx(0.5 * 2 + 0.5 * 0.2 + 0.1 * 10)
    assert small.usd == pytest.approx(1.1)
    assert (riddle.usd, riddle.unpriced) == (0, 10)
    assert [it.model for it in report([hour(1)]).elsewhere] == ["small", "large", "riddle"]


def test_a_month_of_equal_days_is_forecast_exactly() -> None:
    found = report([hour(days) for days in range(1, 40)]).forecast
    assert found is not None
    assert found.so_far_usd == pytest.approx(19)
    assert (found.p10_usd, found.p50_usd, found.p90_usd) == pytest.approx((30, 30, 30))
    assert (found.month, found.days) == ("2026-11", 28)


def test_a_forecast_has_a_price_that_is_announced() -> None:
    doubled = BOOK.price(
        None,
        "large",
        (price(2, 10, valid_until=dt.date(2026, 11, 26)), price(4, 20, valid_from=dt.date(2026, 11, 26))),
    )
    found = report([hour(days) for days in range(1, 40)], prices={**PRICES, "large": doubled}).forecast
    assert found is not None
    # Nineteen days are spent, six more come at the price of today, five at twice that.
    assert found.p50_usd == pytest.approx(19 + 6 + 10)


def test_days_of_different_cost_give_an_interval() -> None:
    draw = random.Random(1).random
    spent = {TODAY - dt.timedelta(days=days): float(days % 5) for days in range(1, 40)}
    found = forecast(spent, TODAY, lambda _: 1.0, draw)
    assert found is not None
    assert found.so_far_usd < found.p10_usd < found.p50_usd < found.p90_usd


def test_less_than_a_week_is_no_forecast() -> None:
    assert report([hour(days) for days in range(1, 7)]).forecast is None


def test_what_today_has_cost_already_is_the_least_that_it_costs() -> None:
    spent = {TODAY - dt.timedelta(days=days): 1.0 for days in range(1, 30)} | {TODAY: 50.0}
    found = forecast(spent, TODAY, lambda _: 1.0, random.Random(1).random)
    assert found is not None
    assert found.p10_usd == pytest.approx(19 + 50 + 10)


def test_a_day_unlike_the_others_is_told_and_its_neighbours_are_not() -> None:
    spent = {TODAY - dt.timedelta(days=days): 10.0 + days % 3 for days in range(1, 40)}
    spent[dt.date(2026, 11, 10)] = 40.0
    assert [(it.day, it.usd) for it in anomalies("all", spent, TODAY)] == [(dt.date(2026, 11, 10), 40.0)]


def test_a_day_without_traffic_is_unusual_where_there_always_was_some() -> None:
    found = report([hour(days) for days in range(1, 40) if days != 5])
    assert {(it.day, it.name) for it in found.anomalies} == {
        (TODAY - dt.timedelta(days=5), "all"),
        (TODAY - dt.timedelta(days=5), "route r"),
    }


def test_a_day_that_is_not_over_is_never_unusual() -> None:
    spent = {TODAY - dt.timedelta(days=days): 10.0 for days in range(1, 40)} | {TODAY: 0.5}
    assert anomalies("all", spent, TODAY) == []


def test_the_report_in_words() -> None:
    text = markdown(spend_report(report([hour(days, unpriced=days == 3) for days in range(1, 40)])))
    assert "390 requests cost 39.00 USD. Requests of unknown price, which are in no sum: 1." in text
    assert "2026-11 has cost 19.00 USD so far" in text
    assert "| large  | closed |" in text


def test_nothing_spent_is_a_report_all_the_same() -> None:
    found = report([])
    assert found.total == Spent(name="all", requests=0, nanousd=0, unpriced=0)
    assert "0 requests cost 0.0000 USD" in markdown(spend_report(found))
