"""Single steps of the arithmetic of costs, by example."""

from __future__ import annotations

import datetime as dt
import random

import msgspec
import pytest

from isthmus.catalog.prices import Price, PriceBook
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import PriceOverride
from isthmus.core.traffic import HourOfWeek
from isthmus.economics.tco.answer import answer
from isthmus.economics.tco.assumed import Assumed, assume, stated
from isthmus.economics.tco.break_even import break_even
from isthmus.economics.tco.case import (
    Api,
    Case,
    Expected,
    OnDemand,
    Owned,
    People,
    Quality,
    Reserved,
    Spot,
    Stack,
    Workload,
    check,
)
from isthmus.economics.tco.figures import figure, verdicts
from isthmus.economics.tco.listed import priced
from isthmus.economics.tco.measured import WEEK_S, measured_workload
from isthmus.economics.tco.options import fleets, options, request_usd
from isthmus.economics.tco.report import tco_report
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown

DAY = dt.date(2026, 11, 27)


def number(value: float) -> Assumed:
    return Assumed(value=value)


WORK = Workload(requests_per_month=number(1e6), input_tokens=number(1000), output_tokens=number(200))
STACK = Stack(tokens_per_s=number(1000), reserved=Reserved(usd_per_gpu_hour=number(2)))
CASE = Case(
    workload=WORK,
    quality=Quality(escalated=number(0.1), retried=number(0)),
    apis={"api": Api(input=number(2), output=number(10))},
    stacks={"h100": STACK},
)


def with_stack(**changes: object) -> Case:
    return msgspec.structs.replace(CASE, stacks={"h100": msgspec.structs.replace(STACK, **changes)})


def with_work(**changes: object) -> Case:
    return msgspec.structs.replace(CASE, workload=msgspec.structs.replace(WORK, **changes))


def test_an_api_takes_less_for_what_it_reads_from_a_cache() -> None:
    api = Api(input=number(2), output=number(10), cache_read=number(0.2))
    half = msgspec.structs.replace(WORK, cache_share=number(0.5))
    assert request_usd(api, WORK) == pytest.approx(0.004)
    assert request_usd(api, half) == pytest.approx((500 * 2 + 500 * 0.2 + 200 * 10) / 1e6)


def test_a_fleet_carries_the_peak_with_one_replica_to_spare() -> None:
    # 1e6 x 200 tokens a month are 76.1 a second; a quarter of the peak; 304 of 1,000 x 0.8.
    row = options(CASE)[1]
    assert row.replicas == 2
    assert row.utilisation == pytest.approx(200e6 / (730 * 3600) / 2000)
    assert row.parts == {
        "machines": pytest.approx(2 * 2 * 730),
        "people": pytest.approx(7500),
        "escalated": pytest.approx(0.1 * 1e6 * 0.004),
    }


def test_answers_that_are_given_twice_take_twice_the_room() -> None:
    twice = msgspec.structs.replace(CASE, quality=Quality(escalated=number(0.1), retried=number(1)))
    assert fleets(twice)[0].carries == pytest.approx(fleets(CASE)[0].carries / 2)


def test_an_owned_gpu_costs_its_annuity_and_what_it_takes_to_run() -> None:
    owned = Owned(
        usd_per_gpu=number(30_000),
        kw_per_gpu=number(1),
        years=number(4),
        rate=number(0.08),
        residual=number(0.1),
        network=number(0),
        pue=number(1.5),
        usd_per_kwh=number(0.2),
        colocation_usd_per_kw_month=number(100),
        maintenance=number(0.04),
    )
    fleet = fleets(with_stack(reserved=None, owned=owned))[0]
    annuity = 0.08 / (1 - 1.08**-4)
    left = 3000 / 1.08**4
    capital = (30_000 - left) * annuity / 12
    running = 1.5 * 0.2 * 730 + 100 + 100
    assert fleet.usd_per_replica_month == pytest.approx(capital + running)
    assert fleet.running_usd == pytest.approx(running)


def test_capital_without_interest_is_the_price_by_months() -> None:
    free = {name: number(0) for name in ("rate", "residual", "network", "maintenance")}
    fleet = fleets(
        with_stack(reserved=None, owned=Owned(usd_per_gpu=number(4800), kw_per_gpu=number(0), **free))
    )[0]
    assert fleet.usd_per_replica_month == pytest.approx(100)


def test_machines_that_follow_the_load_are_given_back_at_night() -> None:
    rent = OnDemand(usd_per_gpu_hour=number(2), follows_load=True)
    office = {"week": "office", "requests_per_month": number(2e7)}
    follows, always = (
        msgspec.structs.replace(with_work(**office), stacks={"h100": Stack(tokens_per_s=number(1000), **how)})
        for how in ({"on_demand": rent}, {"reserved": STACK.reserved})
    )
    assert fleets(follows)[0].replicas(2e7) < fleets(always)[0].replicas(2e7)


def test_spot_machines_that_are_lost_half_of_the_time_carry_half() -> None:
    spot = Spot(usd_per_gpu_hour=number(1), lost=number(0.5))
    whole, half = fleets(with_stack(spot=spot))
    assert half.carries == pytest.approx(whole.carries / 2)


def test_a_staircase_may_meet_the_line_more_than_once() -> None:
    found = break_even(fleets(CASE)[0], "api", 0.0041, 1e6)
    assert found.first_requests is not None
    assert found.lasting_requests is not None
    cheap = break_even(fleets(with_stack(spare=0))[0], "api", 0.0015, 1e6)
    assert cheap.first_requests is not None
    assert cheap.lasting_requests is not None
    assert cheap.first_requests < cheap.lasting_requests


def test_a_fleet_that_costs_more_for_a_full_replica_than_the_api_never_breaks_even() -> None:
    found = break_even(fleets(CASE)[0], "api", 0.0001, 1e6)
    assert (found.first_requests, found.lasting_requests) == (None, None)
    assert all(step.break_even_requests is None for step in found.steps)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (msgspec.structs.replace(CASE, workload=None), "no `workload`"),
        (msgspec.structs.replace(CASE, apis={}), "no API"),
        (msgspec.structs.replace(CASE, apis={"api": Api(input=number(1))}), "`apis.api` has no price"),
        (with_stack(reserved=None), "names no machines"),
        (with_stack(tokens_per_s=number(0)), "writes no tokens"),
        (with_stack(on_demand=OnDemand(usd_per_gpu_hour=number(1), follows_load=True)), "has no `week`"),
        (with_work(week=(1.0,)), "has 1 hours"),
        (with_work(utilisation=number(1.5)), "at most 1"),
        (with_work(requests_per_month=number(0)), "`workload.requests_per_month` is 0"),
        (with_work(input_tokens=Assumed(value=5, low=6)), "not between its low 6"),
        (
            msgspec.structs.replace(CASE, expect=(Expected(figure="usd_per_month", option="h200"),)),
            "`h200` is none of its options",
        ),
        (
            msgspec.structs.replace(CASE, quality=msgspec.structs.replace(CASE.quality, to="gpt")),
            "`gpt`, which is none of the APIs",
        ),
    ],
)
def test_a_case_that_does_not_hold_together_is_refused_with_the_reason(case: Case, says: str) -> None:
    with pytest.raises(IsthmusError, match=says):
        check(case)


def test_a_figure_that_does_not_fit_its_options_is_refused() -> None:
    with pytest.raises(IsthmusError, match="`api` is an API"):
        figure(CASE, "break_even_requests", "api")


def test_an_expectation_that_is_not_met_is_told() -> None:
    wrong = Expected(figure="usd_per_month", option="api", value=1.0)
    right = Expected(figure="usd_per_month", option="api", value=4000.0)
    found = verdicts(msgspec.structs.replace(CASE, expect=(wrong, right)))
    assert [it.holds for it in found] == [False, True]


def test_every_assumption_of_a_case_has_a_source() -> None:
    assert all(it.source for it in stated(CASE))
    names = {it.name for it in stated(CASE)}
    assert {"workload.utilisation", "people.fte", "stacks.h100.derate"} <= names
    assert "workload.burst" not in names
    assert {it.name: it.value for it in stated(CASE)}["workload.utilisation"] == 0.25


def test_shares_do_not_spread_beyond_one() -> None:
    wide = msgspec.structs.replace(CASE, quality=Quality(escalated=number(0.9), retried=number(0)))
    assert next(it for it in stated(wide) if it.name == "quality.escalated").high == 1


def prices(*, peak: bool = False) -> Price:
    book = PriceBook()
    if peak:
        return book.price("deepseek", "deepseek-v4-pro")
    cheap = PriceOverride(input=2, output=10, valid_until=dt.date(2027, 1, 1))  # type: ignore[arg-type]
    dear = PriceOverride(input=4, output=20, valid_from=dt.date(2027, 1, 1))  # type: ignore[arg-type]
    return book.price(
        None, "m", tuple(msgspec.convert(msgspec.to_builtins(it), PriceOverride) for it in (cheap, dear))
    )


def listed(work: Workload, day: dt.date, price: Price) -> Api:
    case = msgspec.structs.replace(CASE, workload=work, apis={"api": Api(listed="p/m")})
    return priced(case, lambda provider, model: price, day).apis["api"]


def test_a_price_that_is_announced_counts_from_its_day_on() -> None:
    for day, usd in ((dt.date(2026, 12, 15), 2), (dt.date(2027, 1, 12), 4)):
        found = listed(WORK, day, prices()).input
        assert found is not None
        assert found.value == usd
        assert found.date == day
        assert "p/m" in found.source


def test_peak_hours_count_as_much_as_work_comes_in_them() -> None:
    always = listed(WORK, DAY, prices(peak=True)).output
    hour_of_peak = tuple(1.0 if hour % 24 == 2 else 0.0 for hour in range(168))
    peak = listed(
        msgspec.structs.replace(WORK, week=hour_of_peak, utilisation=None), DAY, prices(peak=True)
    ).output
    assert always is not None
    assert peak is not None
    assert peak.value == pytest.approx(3.96)
    assert 1.98 < always.value < 3.96


def test_an_unknown_price_is_refused_and_never_zero() -> None:
    with pytest.raises(IsthmusError, match="does not know what a token of p/m costs"):
        listed(WORK, DAY, Price())


def hours(count: int) -> list[HourOfWeek]:
    return [HourOfWeek(hour=hour, requests=10, prompt=1000, cached=250, output=300) for hour in range(count)]


def test_a_week_of_a_ledger_becomes_a_workload() -> None:
    found = measured_workload(hours(168), WEEK_S, "the ledger", DAY)
    assert found.requests_per_month.value == pytest.approx(1680 * 730 / 168)
    assert (found.input_tokens.value, found.output_tokens.value, found.cache_share.value) == (100, 30, 0.25)
    assert found.week == (10.0,) * 168


def test_less_than_a_week_says_nothing_of_the_hours() -> None:
    assert measured_workload(hours(24), WEEK_S / 7, "the ledger", DAY).week is None


def test_an_empty_ledger_is_no_workload() -> None:
    with pytest.raises(IsthmusError, match="no answered chat"):
        measured_workload([], WEEK_S, "the ledger", DAY)


def test_the_report_tells_every_option_and_every_assumption() -> None:
    close = with_work(requests_per_month=number(3e6))
    found = answer(close, random.Random(1).random, seed=1, draws=50)
    text = markdown(tco_report(found))
    for it in found.options:
        assert f"| {it.name} " in text
    for name in (it.name for it in stated(CASE)):
        assert name in text
    assert "`people.fte` flips it" in text
    page = html(tco_report(found))
    assert page.count("<svg") == 2


def test_a_case_without_machines_is_an_answer_all_the_same() -> None:
    found = answer(msgspec.structs.replace(CASE, stacks={}), random.Random(1).random, seed=1, draws=10)
    assert (found.break_evens, found.tornado) == ((), ())
    assert "nothing to compare it with" in markdown(tco_report(found))


def test_people_can_be_free_only_if_the_case_says_so() -> None:
    free = msgspec.structs.replace(CASE, people=People(fte=number(0)))
    assert options(free)[1].parts["people"] == 0
    assert assume(free, {"people.fte": 1}).people.fte.value == 1
