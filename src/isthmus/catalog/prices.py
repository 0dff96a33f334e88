"""Price lists as integers: what a token of each class costs at a time, and for a prompt of a size.

Prices come from the config, or from the library genai-prices (pinned, no network). The library takes 0.1 ms
for a charge and half a second to import; so its list is flattened here, once for each model, into the numbers
that a charge needs, and a law in the tests holds the two equal for every model. It is imported only where a
model is priced by it.

What the library prices by other measures than tokens and requests (seconds, pages) is no part of a usage, and
so of no charge. Where a provider tells that it ran tools of its own, such as searches, the charge is unknown.
A model with no token price in the library counts as unknown: the library cannot tell "free" from "not known".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from isthmus.core.portfolio import PriceOverride

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

_DAY_US = 86_400_000_000

# Each class of tokens, and the one whose price it has where it has none of its own.
_CLASSES = {
    "input": "input",
    "output": "output",
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "input",
    "input_audio": "input",
    "output_audio": "output",
    "reasoning": "output",
}


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a token of each class costs, in nano-USD times `scale`; None where that is not known.

    The classes exclude each other: `input` is neither cached nor audio, `output` is neither reasoning nor
    audio. `request` is what each request costs on top. `scale` makes all of them whole numbers.
    """

    input: int | None
    output: int | None
    cache_read: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    input_audio: int | None
    output_audio: int | None
    reasoning: int | None
    request: int = 0
    scale: int = 1


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of a time: between two moments, or daily between two times of the UTC day.

    It holds from `since_us` until before `until_us` (wall clock). `daily` is in microseconds since midnight,
    the end excluded, and goes over midnight where the end is before the begin. `tiers` are the rates for
    prompts of more than that many tokens (all of the prompt's tokens), in ascending order; `base` is for the
    others.
    """

    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    since_us: int | None = None
    until_us: int | None = None
    daily: tuple[int, int] | None = None

    def holds(self, at_us: int) -> bool:
        """True where the period contains that time."""
        if self.since_us is not None and at_us < self.since_us:
            return False
        if self.until_us is not None and at_us >= self.until_us:
            return False
        if self.daily is None:
            return True
        begin, end = self.daily
        time_us = at_us % _DAY_US
        return begin <= time_us < end if begin <= end else time_us >= begin or time_us < end

    def rates(self, prompt_tokens: int) -> Rates:
        """The rates for a prompt of that size."""
        found = self.base
        for above, rates in self.tiers:
            if prompt_tokens > above:
                found = rates
        return found


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """The periods of one source; the last one that holds counts.

    `basis` and `snapshot` stand on every charge.
    """

    basis: str
    snapshot: str
    periods: tuple[Period, ...]


class Price(msgspec.Struct, frozen=True):
    """All that is known of a model's price: the first list with a period that holds counts; none: unknown."""

    lists: tuple[PriceList, ...] = ()

    def in_force(self, at_us: int) -> tuple[PriceList, Period] | None:
        """The list and the period that count at that time, None where the price is unknown then."""
        for listed in self.lists:
            for period in reversed(listed.periods):
                if period.holds(at_us):
                    return listed, period
        return None


UNKNOWN = Price()
"""The price of a model that nobody has told us."""

OWN_ENGINE = Price(
    (
        PriceList(
            basis="own engine",
            snapshot="",
            periods=(
                Period(
                    base=Rates(
                        input=0,
                        output=0,
                        cache_read=0,
                        cache_write_5m=0,
                        cache_write_1h=0,
                        input_audio=0,
                        output_audio=0,
                        reasoning=0,
                    )
                ),
            ),
        ),
    )
)
"""The price of a model on a machine of yours: its tokens cost nothing; the machine is not priced."""


class PriceBook:
    """Finds the prices of models; each is worked out once and kept."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], PriceList | None] = {}

    def price(self, listed_as: str | None, model_id: str, overrides: Sequence[PriceOverride] = ()) -> Price:
        """The price of a provider's model: the config's overrides first, then genai-prices.

        `listed_as` is the provider's id in genai-prices, None where it is not listed there. Imports the
        library, which takes half a second and 40 MB, the first time that it is asked.
        """
        lists = [_overridden(overrides)] if overrides else []
        if listed_as is not None:
            key = (listed_as, model_id)
            if key not in self._found:
                self._found[key] = _listed(listed_as, model_id)
            found = self._found[key]
            if found is not None:
                lists.append(found)
        return Price(tuple(lists))

    def host_of(self, model_id: str) -> str | None:
        """Who, in genai-prices, serves a model of that id first of all; None where nobody is known to."""
        from genai_prices.data_snapshot import get_snapshot

        try:
            provider, _ = get_snapshot().find_provider_model(model_id, None, None, None)
        except LookupError:
            return None
        return provider.id


def _overridden(overrides: Sequence[PriceOverride]) -> PriceList:
    written = msgspec.json.encode(overrides, order="deterministic")
    return PriceList(
        basis="config",
        snapshot=f"config/{hashlib.sha256(written).hexdigest()[:12]}",
        periods=tuple(
            Period(
                base=_rates(msgspec.structs.asdict(override)),
                since_us=None if override.valid_from is None else _midnight_us(override.valid_from),
                until_us=None if override.valid_until is None else _midnight_us(override.valid_until),
            )
            for override in overrides
        ),
    )


def _listed(provider: str, model_id: str) -> PriceList | None:
    from genai_prices import __version__
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import ModelPrice

    try:
        _, model = get_snapshot().find_provider_model(model_id, None, provider, None)
    except LookupError:
        return None
    if isinstance(model.prices, ModelPrice):
        periods = [_listed_period(model.prices, None)]
    else:
        # Where no constraint holds, the library takes the first price: so that one has none, whatever it
        # says.
        first, *others = model.prices
        periods = [_listed_period(first.prices, None)]
        periods += [_listed_period(other.prices, other.constraint) for other in others]
    return PriceList(basis="genai-prices", snapshot=f"genai-prices/{__version__}", periods=tuple(periods))


def _listed_period(
    prices: ModelPrice, constraint: StartDateConstraint | TimeOfDateConstraint | None
) -> Period:
    from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

    values = {name: value for name, value in vars(prices).items() if value is not None}
    starts = {
        tier.start for value in values.values() if isinstance(value, TieredPrices) for tier in value.tiers
    }
    since_us = _midnight_us(constraint.start_date) if isinstance(constraint, StartDateConstraint) else None
    daily = None
    if isinstance(constraint, TimeOfDateConstraint):
        daily = (_time_us(constraint.start_time), _time_us(constraint.end_time))
    return Period(
        base=_listed_rates(values, 0),
        tiers=tuple((start, _listed_rates(values, start + 1)) for start in sorted(starts)),
        since_us=since_us,
        daily=daily,
    )


def _listed_rates(values: Mapping[str, Decimal | TieredPrices], prompt_tokens: int) -> Rates:
    flat = {name: _at(value, prompt_tokens) for name, value in values.items()}
    written = flat.get("cache_write_mtok")
    return _rates(
        {
            "input": flat.get("input_mtok"),
            "output": flat.get("output_mtok"),
            "cache_read": flat.get("cache_read_mtok"),
            "cache_write_5m": flat.get("cache_write_5m_mtok", written),
            "cache_write_1h": flat.get("cache_write_1h_mtok", written),
            "input_audio": flat.get("input_audio_mtok"),
            "output_audio": flat.get("output_audio_mtok"),
            "reasoning": flat.get("output_reasoning_mtok"),
        },
        per_thousand_requests=flat.get("requests_kcount", Decimal(0)),
    )


def _at(value: Decimal | TieredPrices, prompt_tokens: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    reached = [tier.price for tier in value.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else value.base


def _rates(
    usd_per_million: Mapping[str, Decimal | None], per_thousand_requests: Decimal = Decimal(0)
) -> Rates:
    """The rates of prices by class; a class without a price costs what `input` or `output` costs."""
    prices = {
        name: usd_per_million.get(name)
        if usd_per_million.get(name) is not None
        else usd_per_million.get(ordinary)
        for name, ordinary in _CLASSES.items()
    }
    nanousd = {name: None if price is None else price.scaleb(3) for name, price in prices.items()}
    per_request = per_thousand_requests.scaleb(6)
    digits = max(_decimals(value) for value in (per_request, *nanousd.values()) if value is not None)
    return Rates(
        **{name: None if value is None else int(value.scaleb(digits)) for name, value in nanousd.items()},
        request=int(per_request.scaleb(digits)),
        scale=10**digits,
    )


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _midnight_us(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * _DAY_US


def _time_us(time: dt.time) -> int:
    midnight = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    moment = dt.datetime.combine(midnight, time, tzinfo=time.tzinfo or dt.UTC)
    return (moment - midnight) // dt.timedelta(microseconds=1) % _DAY_US
