"""Laws of money: our flat prices are the library's, sums are exact, and unknown is never zero."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec
from genai_prices import Usage as LibraryUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from isthmus.accounting.charge import charge, total
from isthmus.catalog.prices import UNKNOWN, PriceBook, Rates
from isthmus.core.money import nanousd
from isthmus.core.portfolio import PriceOverride
from isthmus.core.usage import Charge, Usage

BOOK = PriceBook()

counts = st.one_of(st.integers(0, 50), st.integers(0, 2_000_000))
usages = st.builds(
    Usage,
    input=counts,
    output=counts,
    cache_read=counts,
    cache_write_5m=counts,
    cache_write_1h=counts,
    reasoning=counts,
    input_audio=counts,
    output_audio=counts,
    estimated=st.booleans(),
)
beyond = st.lists(
    st.sampled_from(["tier.flex", "tier.priority", "speed.fast", "geo.us", "tool.web_search", "tool.x"]),
    max_size=3,
).map(tuple)
times_us = st.integers(1_700_000_000_000_000, 1_900_000_000_000_000)
charges = st.builds(
    Charge,
    nanousd=st.none() | st.integers(0, 10**15),
    basis=st.sampled_from(["config", "genai-prices"]),
    snapshot=st.sampled_from(["config/1", "genai-prices/1"]),
)


@cache
def listed_models() -> list[tuple[str, str]]:
    return [(provider.id, model.id) for provider in get_snapshot().providers for model in provider.models]


def library_charge(provider: str, model_id: str, usage: Usage, at_us: int) -> int:
    heard = min(usage.input_audio, usage.input)
    spoken = min(usage.output_audio, usage.output)
    known: dict[str, Any] = {
        "input_tokens": usage.prompt,
        "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_write_5m_tokens": usage.cache_write_5m,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "input_audio_tokens": heard,
        "cache_audio_read_tokens": 0,
        "cache_audio_write_tokens": 0,
        "output_audio_tokens": spoken,
        "output_reasoning_tokens": min(usage.reasoning, usage.output - spoken),
        "output_audio_reasoning_tokens": 0,
        # What the library would otherwise ask for, and what no usage of ours can tell.
        "input_image_tokens": 0,
        "output_image_tokens": 0,
        "input_video_tokens": 0,
        "output_video_tokens": 0,
        "audio_seconds": 0,
        "input_audio_seconds": 0,
    }
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)
    price = calc_price(LibraryUsage(**known), model_id, provider_id=provider, genai_request_timestamp=at)
    return nanousd(price.total_price)


def check_against_library(provider: str, model_id: str, usage: Usage, at_us: int) -> bool:
    found = charge(BOOK.price(provider, model_id), usage, at_us)
    if found.nanousd is None:
        return False
    assert found.nanousd == library_charge(provider, model_id, usage, at_us), (provider, model_id)
    return True


def test_every_model_of_the_library_costs_what_the_library_says() -> None:
    small = Usage(
        input=1000, output=11, cache_read=13, cache_write_5m=17, cache_write_1h=19, reasoning=5, input_audio=7
    )
    large = msgspec.structs.replace(small, input=1_999_999, output_audio=3)
    at_us = 1_790_000_000_000_000
    known = [
        check_against_library(*model, usage, at_us) for model in listed_models() for usage in (small, large)
    ]
    # Embedding models have no price of output, and some models are priced by the second or the page.
    assert sum(known) / len(known) > 0.8


@given(st.sampled_from(listed_models()), usages, times_us)
def test_flat_prices_are_the_librarys(model: tuple[str, str], usage: Usage, at_us: int) -> None:
    check_against_library(*model, usage, at_us)


@given(
    st.sampled_from([model for model in listed_models() if model[0] in ("deepseek", "anthropic", "google")]),
    usages,
    times_us,
)
def test_prices_with_tiers_and_times_of_day_are_the_librarys(
    model: tuple[str, str], usage: Usage, at_us: int
) -> None:
    check_against_library(*model, usage, at_us)


@given(usages | st.none(), times_us)
def test_without_a_price_a_charge_is_unknown_and_never_zero(usage: Usage | None, at_us: int) -> None:
    for price in (UNKNOWN, BOOK.price(None, "anything"), BOOK.price("openai", "no-such-model")):
        found = charge(price, usage, at_us)
        assert (found.nanousd, found.basis) == (None, "unknown")


@given(usages, beyond, times_us)
def test_what_is_billed_beside_tokens_is_never_taken_for_nothing(
    usage: Usage, beside: tuple[str, ...], at_us: int
) -> None:
    price = BOOK.price(None, "m", (PriceOverride(input=Decimal(3), output=Decimal(15)),))
    plain = charge(price, usage, at_us)
    found = charge(price, msgspec.structs.replace(usage, beyond=beside), at_us)
    if any(name.startswith("tool.") for name in beside):
        assert (found.nanousd, found.basis) == (None, "unknown")
    else:
        assert (found.nanousd, found.basis) == (plain.nanousd, "config")
    assert found.estimated == (usage.estimated or bool(beside))
    both = total([plain, found])
    assert both is not None
    assert both.estimated or not beside
    assert (both.nanousd is None) == (found.nanousd is None)


@given(usages, usages, beyond, beyond)
def test_a_sum_of_usages_is_beyond_what_each_part_is(
    one: Usage, other: Usage, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    parts = [msgspec.structs.replace(part, beyond=said) for part, said in ((one, first), (other, second))]
    assert set((parts[0] + parts[1]).beyond) == {*first, *second}


rates = st.decimals(Decimal(0), Decimal(1000), places=6)


@given(rates, rates, st.none() | rates, st.none() | rates, usages, usages, times_us)
def test_a_charge_is_within_half_a_nanodollar_of_the_exact_amount(
    input_rate: Decimal,
    output_rate: Decimal,
    cached: Decimal | None,
    audio: Decimal | None,
    one: Usage,
    other: Usage,
    at_us: int,
) -> None:
    override = PriceOverride(input=input_rate, output=output_rate, cache_read=cached, input_audio=audio)
    price = BOOK.price(None, "m", (override,))
    heard = min(one.input_audio, one.input)
    exact = (
        (one.input - heard + one.cache_write_5m + one.cache_write_1h) * input_rate
        + heard * (input_rate if audio is None else audio)
        + one.cache_read * (input_rate if cached is None else cached)
        + one.output * output_rate
    ) * 1000
    found = charge(price, one, at_us).nanousd
    assert found is not None
    assert abs(found - exact) <= Decimal("0.5")
    assert found == int(exact.to_integral_value())
    both = msgspec.structs.replace(one, input=one.input + other.input, output=one.output + other.output)
    more = charge(price, both, at_us).nanousd
    assert more is not None
    assert audio is not None or more >= found


@given(st.lists(charges | st.none(), max_size=6))
def test_a_sum_is_exact_and_unknown_as_soon_as_a_part_is(parts: list[Charge | None]) -> None:
    found = total(parts)
    used = [part for part in parts if part is not None]
    if not used:
        assert found is None
        return
    assert found is not None
    amounts = [part.nanousd for part in used]
    assert found.nanousd == (None if None in amounts else sum(amount or 0 for amount in amounts))
    for arranged in itertools.islice(itertools.permutations(parts), 10):
        again = total(arranged)
        assert again is not None
        assert again.nanousd == found.nanousd


def test_rates_are_whole_numbers() -> None:
    for model in listed_models():
        for listed in BOOK.price(*model).lists:
            for period in listed.periods:
                for found in (period.base, *(each for _, each in period.tiers)):
                    assert all(type(value) in (int, type(None)) for value in _values(found))


def _values(found: Rates) -> tuple[int | None, ...]:
    return msgspec.structs.astuple(found)
