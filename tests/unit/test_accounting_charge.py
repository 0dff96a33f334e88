"""What a usage costs, by hand."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from decimal import Decimal
from importlib.metadata import version

from isthmus.accounting.charge import charge, total
from isthmus.catalog.prices import OWN_ENGINE, UNKNOWN, PriceBook
from isthmus.core.portfolio import PriceOverride
from isthmus.core.usage import Charge, Usage

BOOK = PriceBook()
NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


def test_each_class_has_its_price() -> None:
    override = PriceOverride(
        input=Decimal("3"),
        output=Decimal("15"),
        cache_read=Decimal("0.3"),
        cache_write_5m=Decimal("3.75"),
        cache_write_1h=Decimal("6"),
        input_audio=Decimal("40"),
        output_audio=Decimal("80"),
    )
    usage = Usage(
        input=1000,
        output=100,
        cache_read=10,
        cache_write_5m=20,
        cache_write_1h=30,
        input_audio=200,
        output_audio=50,
    )
    found = charge(BOOK.price(None, "m", (override,)), usage, NOW_US)
    assert (
        found.nanousd == 800 * 3000 + 200 * 40000 + 50 * 15000 + 50 * 80000 + 10 * 300 + 20 * 3750 + 30 * 6000
    )
    assert found.basis == "config"
    assert found.snapshot.startswith("config/")
    assert not found.estimated


def test_the_snapshot_changes_with_the_price() -> None:
    prices = [PriceOverride(input=Decimal(each), output=Decimal(1)) for each in ("1", "2", "1")]
    first, second, third = (
        charge(BOOK.price(None, "m", (price,)), Usage(), NOW_US).snapshot for price in prices
    )
    assert first == third != second


def test_half_a_nanodollar_is_rounded_to_even() -> None:
    price = BOOK.price(None, "m", (PriceOverride(input=Decimal("0.0005"), output=Decimal(0)),))
    assert [charge(price, Usage(input=tokens), NOW_US).nanousd for tokens in (1, 2, 3, 5, 7)] == [
        0,
        1,
        2,
        2,
        4,
    ]


def test_an_override_counts_from_its_first_day_until_before_its_last() -> None:
    begin = dt.date(2026, 3, 1)
    override = PriceOverride(
        input=Decimal(1), output=Decimal(1), valid_from=begin, valid_until=dt.date(2026, 3, 3)
    )
    price = BOOK.price(None, "m", (override,))
    begin_us = (begin - dt.date(1970, 1, 1)).days * DAY_US
    times = (begin_us - 1, begin_us, begin_us + 2 * DAY_US - 1, begin_us + 2 * DAY_US)
    assert [charge(price, Usage(input=1), at_us).nanousd for at_us in times] == [None, 1000, 1000, None]


def test_the_later_of_two_overrides_counts_and_the_library_where_none_does() -> None:
    general = PriceOverride(input=Decimal(1), output=Decimal(1), valid_from=dt.date(2026, 1, 1))
    special = PriceOverride(input=Decimal(2), output=Decimal(2), valid_from=dt.date(2026, 6, 1))
    price = BOOK.price("openai", "gpt-4o", (general, special))

    def at(day: dt.date) -> Charge:
        return charge(price, Usage(input=1), (day - dt.date(1970, 1, 1)).days * DAY_US)

    assert [at(dt.date(2026, month, 2)).nanousd for month in (2, 7)] == [1000, 2000]
    before = at(dt.date(2025, 1, 1))
    assert (before.nanousd, before.basis) == (2500, "genai-prices")
    assert before.snapshot == f"genai-prices/{version('genai-prices')}"


def test_a_prompt_over_a_tiers_threshold_costs_the_tiers_price_for_all_of_it() -> None:
    price = BOOK.price("google", "gemini-2.5-pro")
    at_threshold = charge(price, Usage(input=150_000, cache_read=50_000), NOW_US)
    above = charge(price, Usage(input=150_001, cache_read=50_000), NOW_US)
    assert at_threshold.nanousd == 150_000 * 1250 + 50_000 * 125
    assert above.nanousd == 150_001 * 2500 + 50_000 * 250


def test_tokens_of_a_class_without_price_make_the_charge_unknown() -> None:
    price = BOOK.price("openai", "text-embedding-3-small")
    assert charge(price, Usage(input=1000), NOW_US).nanousd == 20_000
    unknown = charge(price, Usage(input=1000, output=1), NOW_US)
    assert (unknown.nanousd, unknown.basis) == (None, "unknown")


def test_a_model_that_is_priced_by_the_second_is_unknown() -> None:
    assert charge(BOOK.price("openai", "whisper-1"), Usage(), NOW_US).nanousd is None


def test_unknown_usage_is_an_unknown_charge() -> None:
    assert charge(OWN_ENGINE, None, NOW_US) == Charge(nanousd=None, basis="unknown", snapshot="")


def test_the_own_engine_costs_nothing_and_says_so() -> None:
    usage = Usage(input=10, output=10, cache_read=5, reasoning=3, estimated=True)
    assert charge(OWN_ENGINE, usage, NOW_US) == Charge(
        nanousd=0, basis="own engine", snapshot="", estimated=True
    )


def test_a_sum_names_all_that_it_is_made_of() -> None:
    one = Charge(nanousd=1, basis="config", snapshot="config/1")
    two = Charge(nanousd=2, basis="genai-prices", snapshot="genai-prices/1", estimated=True)
    assert total([one, None, two, one]) == Charge(
        nanousd=4, basis="config + genai-prices", snapshot="config/1 + genai-prices/1", estimated=True
    )
    assert total([None, one]) == one
    assert total([None]) is None
    unknown = total([one, charge(UNKNOWN, Usage(input=1), NOW_US)])
    assert unknown is not None
    assert (unknown.nanousd, unknown.basis) == (None, "unknown")


def test_the_library_is_imported_only_where_a_model_is_priced_by_it() -> None:
    code = (
        "import sys; from isthmus.catalog.prices import PriceBook; from isthmus.accounting import charge;"
        "PriceBook().price(None, 'm'); print('genai_prices' in sys.modules);"
        "PriceBook().price('openai', 'gpt-4o'); print('genai_prices' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["False", "True"]
