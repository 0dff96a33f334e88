"""Costs grow with volume and price, and a break-even is where both cost the same: for any case."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.economics.tco.answer import answer
from isthmus.economics.tco.assumed import Assumed, assume, stated
from isthmus.economics.tco.break_even import break_even
from isthmus.economics.tco.case import (
    Api,
    Case,
    OnDemand,
    Owned,
    People,
    Quality,
    Reserved,
    Spot,
    Stack,
    Workload,
)
from isthmus.economics.tco.options import Fleet, fleets, options, request_usd
from isthmus.economics.tco.uncertainty import outlook, quantile

CLOSE = 1e-6
ROUNDING = 1e-9


def amounts(low: float, high: float) -> st.SearchStrategy[Assumed]:
    return st.floats(low, high).map(lambda value: Assumed(value=value))


weeks = (
    st.none()
    | st.sampled_from(["flat", "office"])
    | st.lists(st.integers(0, 9), min_size=168, max_size=168)
    .filter(any)
    .map(lambda hours: tuple(map(float, hours)))
)


@st.composite
def cases(draw: Callable[..., object]) -> Case:
    week = draw(weeks)
    work = Workload(
        requests_per_month=draw(amounts(1e3, 1e8)),
        input_tokens=draw(amounts(0, 1e4)),
        output_tokens=draw(amounts(1, 4e3)),
        cache_share=draw(amounts(0, 1)),
        week=week,
    )
    rent = st.builds(Reserved, usd_per_gpu_hour=amounts(0.1, 20))
    stack = Stack(
        tokens_per_s=draw(amounts(50, 20_000)),
        gpus=draw(st.integers(1, 16)),
        spare=draw(st.integers(0, 2)),
        on_demand=OnDemand(usd_per_gpu_hour=draw(amounts(0.1, 20)), follows_load=week is not None),
        reserved=draw(rent),
        spot=Spot(usd_per_gpu_hour=draw(amounts(0.1, 20)), lost=draw(amounts(0, 0.5))),
        owned=Owned(usd_per_gpu=draw(amounts(0, 60_000)), kw_per_gpu=draw(amounts(0, 3))),
    )
    return Case(
        workload=work,
        quality=Quality(escalated=draw(amounts(0, 1)), retried=draw(amounts(0, 1))),
        apis={
            "api": Api(input=draw(amounts(0, 20)), output=draw(amounts(0.01, 100))),
            "other": Api(input=draw(amounts(0, 20)), output=draw(amounts(0.01, 100))),
        },
        stacks={"stack": stack},
        people=People(fte=draw(amounts(0, 3))),
    )


def met(case: Case) -> list[tuple[Fleet, float, float | None, float | None]]:
    """Each fleet and each API of a case with its break-evens."""
    found = []
    for fleet in fleets(case):
        for api in case.apis.values():
            usd = request_usd(api, case.work)
            it = break_even(fleet, "api", usd, case.work.requests_per_month.value)
            found.append((fleet, usd, it.first_requests, it.lasting_requests))
    return found


@given(cases())
def test_at_a_break_even_both_cost_the_same(case: Case) -> None:
    for fleet, api_usd, first, last in met(case):
        for volume in (first, last):
            if volume is not None:
                assert fleet.usd(volume * (1 - ROUNDING)) == pytest.approx(volume * api_usd, rel=CLOSE)


@given(cases(), st.floats(0.001, 1000))
def test_a_fleet_is_dearer_below_the_first_and_cheaper_from_the_last_on(case: Case, factor: float) -> None:
    for fleet, api_usd, first, last in met(case):
        if first is None or last is None:
            continue
        below, beyond = first * min(factor, 1 / factor), last * max(factor, 1 / factor)
        assert fleet.usd(below) >= below * api_usd * (1 - CLOSE)
        assert fleet.usd(beyond) <= beyond * api_usd * (1 + CLOSE)


@given(cases(), st.floats(1, 1e9))
def test_a_fleet_without_break_even_is_never_much_cheaper(case: Case, volume: float) -> None:
    for fleet, api_usd, first, _ in met(case):
        if first is None:
            saved = api_usd - fleet.escalated * fleet.escalation_usd
            assert fleet.fixed_usd(volume) >= volume * saved * (1 - 2e-3) - CLOSE


@given(cases(), st.floats(1, 1e9), st.floats(1, 10))
def test_costs_grow_with_the_volume(case: Case, volume: float, factor: float) -> None:
    for fleet in fleets(case):
        assert fleet.usd(volume) <= fleet.usd(volume * factor)
        assert fleet.replicas(volume) >= fleet.spare + 1 - 1e-9


@given(cases(), st.floats(1, 10))
def test_costs_grow_with_every_price(case: Case, factor: float) -> None:
    before = {it.name: it.usd_per_month for it in options(case)}
    for it in stated(case):
        if "usd" in it.name or it.name.startswith("apis."):
            after = options(assume(case, {it.name: it.value * factor}))
            assert all(row.usd_per_month >= before[row.name] * (1 - CLOSE) for row in after), it.name


@given(cases())
def test_the_parts_add_up(case: Case) -> None:
    for row in options(case):
        assert sum(row.parts.values()) == pytest.approx(row.usd_per_month)


@given(cases())
def test_no_fleet_is_busier_than_it_can_be(case: Case) -> None:
    for row in options(case):
        assert row.utilisation is None or 0 < row.utilisation <= 1


@given(cases(), st.data())
def test_an_assumption_is_changed_alone(case: Case, data: st.DataObject) -> None:
    it = data.draw(st.sampled_from(stated(case)))
    changed = {each.name: each.value for each in stated(assume(case, {it.name: it.value + 1}))}
    assert changed == {each.name: each.value + (each.name == it.name) for each in stated(case)}


@given(cases(), st.integers(0, 2**32))
def test_the_outlook_is_ordered_and_follows_from_its_seed(case: Case, seed: int) -> None:
    found = outlook(case, random.Random(seed).random, draws=20)
    assert found == outlook(case, random.Random(seed).random, draws=20)
    assert all(it.p10_usd <= it.p50_usd <= it.p90_usd for it in found)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_among_its_values(values: list[float], share: float) -> None:
    ordered = sorted(values)
    assert ordered[0] - CLOSE <= quantile(ordered, share) <= ordered[-1] + CLOSE


@given(cases())
def test_what_flips_the_answer_does(case: Case) -> None:
    found = answer(case, random.Random(0).random, seed=0, draws=10)
    api = found.first_api
    now = {it.name: it.usd_per_month for it in found.options}
    fleet = min((it for it in found.options if it.how != "api"), key=lambda it: it.usd_per_month).name
    for swing in found.tornado:
        if swing.flips_at is None:
            continue
        then = {it.name: it.usd_per_month for it in options(assume(case, {swing.assumption: swing.flips_at}))}
        assert (then[api] > then[fleet]) != (now[api] > now[fleet])


@given(cases())
def test_a_case_survives_being_written(case: Case) -> None:
    assert msgspec.convert(msgspec.to_builtins(case), Case) == case
