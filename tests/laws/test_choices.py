"""A choice keeps its rule, for any foresight: and the one that many requests are simulated by is the same."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isthmus.accounting.forecast import priced
from isthmus.catalog.prices import OWN_ENGINE, UNKNOWN, Period, Price, PriceList, Rates
from isthmus.core.call import Envelope
from isthmus.core.foresight import Foresight, Outlook, two_digits
from isthmus.dialects.asked import LONGEST, about_tokens, asked
from isthmus.routing.learned.choice import picks
from isthmus.strategies.plan import Choose
from isthmus.strategies.plan.node import Circumstances, Learned
from tests.laws.plans import NAMES, foresight_by, foresights, outlooks, routers

OVERALL = tuple((name, 0.5) for name in NAMES)
BY = Learned(file="r.router", sha256="one", overall=OVERALL)
whole = st.lists(outlooks, min_size=4, max_size=4, unique_by=lambda it: it.model)
floors = st.floats(0, 1)
prices = st.floats(1e-9, 1e-5)


def order(choose: Choose, *foreseen: Foresight) -> list[str]:
    """The models, in the order in which they are asked."""
    return list(choose.choose(Circumstances(draw=0.0, foreseen=foreseen)).node.models())


def foresight(them: list[Outlook], *, supported: bool = True) -> Foresight:
    return Foresight(by="one", supported=supported, why="so it is", input=10, outlooks=tuple(them))


@given(whole, floors)
def test_the_cheapest_that_is_good_enough_comes_first(them: list[Outlook], floor: float) -> None:
    asks = order(Choose(among=NAMES, by=BY, quality_at_least=floor), foresight(them))
    assert sorted(asks) == list(NAMES), "every model is asked at last"
    known = {it.model: it for it in them}
    enough = {it.model for it in them if it.quality >= floor}
    assert {*asks[: len(enough)]} == enough
    costs = [known[name].nanousd for name in asks[: len(enough)]]
    assert costs == sorted(costs, key=lambda cost: math.inf if cost is None else cost), "unknown is not cheap"
    others = [known[name].quality for name in asks[len(enough) :]]
    assert others == sorted(others, reverse=True)


@given(whole, prices, st.booleans())
def test_no_dearer_model_is_asked_while_one_is_cheap_enough(
    them: list[Outlook], price: float, supported: bool
) -> None:
    asks = order(Choose(among=NAMES, by=BY, cost_at_most=price), foresight(them, supported=supported))
    within = {it.model: it for it in them if it.nanousd is not None and it.nanousd <= round(price * 1e9)}
    if within:
        assert {*asks} == {*within}
        assert within[asks[0]].quality == max(it.quality for it in within.values())
    else:
        known = {it.model: it.nanousd for it in them if it.nanousd is not None}
        assert sorted(asks) == list(NAMES)
        assert not known or known.get(asks[0]) == min(known.values())


@given(whole, floors)
def test_what_is_like_nothing_goes_to_the_best_on_the_whole(them: list[Outlook], floor: float) -> None:
    asks = order(Choose(among=NAMES, by=BY, quality_at_least=floor), foresight(them, supported=False))
    qualities = {it.model: it.quality for it in them}
    assert [qualities[name] for name in asks] == sorted(qualities.values(), reverse=True)


@given(st.permutations([("a", 0.9), ("b", 0.8), ("c", 0.7)]), foresights, floors)
def test_a_stale_router_is_not_heeded_unless_it_is_to_be(
    known: list[tuple[str, float]], seen: tuple[Foresight, ...], floor: float
) -> None:
    stale = Learned(file="r.router", sha256="one", overall=tuple(known), stale=("b is another model",))
    choose = Choose(among=NAMES, by=stale, quality_at_least=floor)
    assert order(choose, *seen) == ["a", "b", "c", "d"], (
        "by what each scores on the whole, and strangers last"
    )
    heeding = msgspec.structs.replace(choose, on_stale="warn")
    fresh = msgspec.structs.replace(choose, by=msgspec.structs.replace(stale, stale=()))
    assert order(heeding, *seen) == order(fresh, *seen)
    reasons = heeding.choose(Circumstances(draw=0.0, foreseen=seen)).reasons
    assert reasons[0] == "r.router is stale, as b is another model; the route goes on with it"


@given(routers, foresights, st.none() | floors, st.none() | prices)
def test_what_is_recorded_decides_alike(
    by: Learned, seen: tuple[Foresight, ...], floor: float | None, price: float | None
) -> None:
    choose = Choose(among=NAMES, by=by, quality_at_least=floor, cost_at_most=price)
    again = msgspec.json.decode(msgspec.json.encode(seen), type=tuple[Foresight, ...])
    assert again == seen
    assert choose.choose(Circumstances(draw=0.1, foreseen=again)) == choose.choose(
        Circumstances(draw=0.9, foreseen=seen)
    )


# Where several are equal, either may be taken.
distinct = st.tuples(
    st.lists(floors, min_size=4, max_size=4, unique=True),
    st.lists(st.integers(0, 20_000), min_size=4, max_size=4, unique=True),
)


@given(distinct, floors, prices, st.booleans(), st.booleans())
def test_many_are_simulated_by_the_rule_that_serves(
    them: tuple[list[float], list[int]], floor: float, price: float, by_price: bool, supported: bool
) -> None:
    outlooks = [
        Outlook(name, it[0], 1, it[1]) for name, it in zip(NAMES, zip(*them, strict=True), strict=True)
    ]
    seen = foresight(outlooks, supported=supported)
    qualities, costs = np.array([them[0]]), np.array(them[1], float)
    limits = {"cost_at_most": round(price * 1e9)} if by_price else {"quality_at_least": floor}
    (picked,) = picks(qualities, np.array([seen.supported]), costs, **limits)
    choose = Choose(
        among=tuple(it.model for it in seen.outlooks),
        by=BY,
        **({"cost_at_most": price} if by_price else {"quality_at_least": floor}),
    )
    assert order(choose, seen)[0] == seen.outlooks[picked].model


RATES = st.builds(
    Rates,
    input=st.integers(0, 50_000),
    output=st.integers(0, 50_000),
    **dict.fromkeys(
        ("cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "output_audio", "reasoning"),
        st.just(1),
    ),
)
listed = RATES.map(
    lambda rates: Price((PriceList(basis="config", snapshot="", periods=(Period(base=rates),)),))
)


@given(foresight_by("one"), st.dictionaries(st.sampled_from(NAMES), st.just(UNKNOWN) | listed))
def test_a_cost_is_foreseen_only_where_price_and_length_are_known(
    seen: Foresight, known: dict[str, Price]
) -> None:
    told = priced(seen, known, 0)
    assert told == priced(told, known, 0), "to price again changes nothing"
    for outlook in told.outlooks:
        price = known.get(outlook.model, UNKNOWN)
        if price is UNKNOWN or outlook.output is None:
            assert outlook.nanousd is None
            continue
        rates = price.lists[0].periods[0].base
        output = outlook.output if seen.max_output is None else min(outlook.output, seen.max_output)
        exact = seen.input * (rates.input or 0) + output * (rates.output or 0)
        assert outlook.nanousd is not None
        assert abs(outlook.nanousd - exact) <= exact * 0.051
    free = priced(seen, dict.fromkeys(NAMES, OWN_ENGINE), 0)
    assert {it.nanousd for it in free.outlooks} <= {0, None}


@given(st.integers(0, 10**15))
def test_two_digits_are_left(amount: int) -> None:
    rounded = two_digits(amount)
    assert two_digits(rounded) == rounded
    assert abs(rounded - amount) <= amount * 0.051
    assert len(str(rounded).rstrip("0")) <= 2


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type", "user"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "system", "tools"]), junk, max_size=3))
def test_any_request_has_words_or_none(fields: dict[str, object]) -> None:
    envelope = _envelope(**fields)
    words = asked(envelope)
    assert words is None or words.strip()
    assert about_tokens(envelope) >= 0


def test_the_words_are_those_of_the_last_turn_by_a_user() -> None:
    turns = [
        {"role": "user", "content": "first"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "image_url"}, {"text": "two"}],
        },
        {"role": "assistant", "content": "said"},
        {"role": "user", "content": [{"type": "tool_result", "content": "42"}]},
    ]
    assert asked(_envelope(messages=turns)) == "one\ntwo"
    assert asked(_envelope(input=turns)) == "one\ntwo"
    assert asked(_envelope(input="as one text")) == "as one text"
    assert asked(_envelope(messages=[])) is None
    assert asked(_envelope(messages=[{"role": "user", "content": "x" * LONGEST}])) is None


def _envelope(**fields: object) -> Envelope:
    return Envelope(
        dialect="openai",
        operation="chat",
        model="r",
        stream=False,
        include_usage=False,
        user=None,
        fields={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()},
    )
