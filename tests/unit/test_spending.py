"""Which models a budget of money bounds, and whether that can be done."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import msgspec
import pytest

from isthmus.catalog.prices import OWN_ENGINE, UNKNOWN, PriceBook
from isthmus.config.config import Config
from isthmus.config.load import parse
from isthmus.config.spending import bounded_in_usd, is_priced
from isthmus.core.portfolio import PriceOverride

CONFIG = """
providers: {p: {preset: vllm, base_url: "http://127.0.0.1:1/v1"}}
models: {a: {provider: p}, b: {provider: p}, c: {provider: p}, idle: {provider: p}}
routes:
  one: {model: a, thrift: {model: b, at: 0.5}}
  two-*: {fallback: [b, c]}
budgets: BUDGETS
"""


def config(*budgets: str) -> Config:
    found, faults = parse(CONFIG.replace("BUDGETS", f"[{', '.join(budgets)}]"), "isthmus.yaml")
    assert found is not None, faults
    return found


@pytest.mark.parametrize(
    ("budget", "bounded"),
    [
        ("{usd: 1, per: day}", "abc"),
        ("{usd: 1, per: day, key: k, each: user}", "abc"),
        ("{usd: 1, per: day, route: one}", "ab"),
        ("{usd: 1, per: day, route: two-*}", "bc"),
        ("{usd: 1, per: day, model: '[ac]'}", "ac"),
        ("{usd: 1, per: day, route: one, model: c}", ""),
        ("{tokens: 1, per: day}", ""),
        ("{requests: 1, per: day}", ""),
    ],
)
def test_a_budget_of_money_bounds_what_its_routes_may_call(budget: str, bounded: str) -> None:
    assert sorted(bounded_in_usd(config(budget))) == list(bounded)


def test_whoever_judges_new_weights_is_paid_from_the_same_budget() -> None:
    text = (
        CONFIG.replace("BUDGETS", "[{usd: 1, per: day}]") + "rollouts: [{model: a, judge: idle, shadow: 0.1}]"
    )
    found, faults = parse(text, "isthmus.yaml")
    assert found is not None, faults
    assert set(bounded_in_usd(found)) == {"a", "b", "c", "idle"}


def test_the_first_budget_is_named() -> None:
    found = bounded_in_usd(config("{usd: 1, per: day, model: a}", "{usd: 1, per: month}"))
    assert {name: budget.per for name, budget in found.items()} == {"a": "day", "b": "month", "c": "month"}


def test_a_price_has_to_hold_and_to_say_what_is_paid_for() -> None:
    chat = config().models["a"]
    embedder = msgspec.structs.replace(chat, capabilities=frozenset({"embeddings"}))
    until = dt.date(2026, 6, 1)
    said = PriceOverride(input=Decimal(0), output=Decimal(0), valid_until=until)
    free, listed = (
        PriceBook().price(None, "m", (said,)),
        PriceBook().price("openai", "text-embedding-3-small"),
    )
    before, after = (int(dt.datetime(2026, month, 1, tzinfo=dt.UTC).timestamp() * 1e6) for month in (5, 7))
    assert is_priced(chat, free, before)
    assert not is_priced(chat, free, after)
    assert is_priced(chat, OWN_ENGINE, after)
    assert not is_priced(chat, UNKNOWN, after)
    # What is only read has no price for what is said.
    assert is_priced(embedder, listed, after)
    assert not is_priced(chat, listed, after)
