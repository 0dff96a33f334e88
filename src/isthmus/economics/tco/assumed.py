"""Numbers that an answer rests on, each with how far off it may be, where it comes from, and when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from isthmus.core.errors import Fault, IsthmusError

Amount = Annotated[float, Meta(ge=0)]

T = TypeVar("T")


class Assumed(msgspec.Struct, frozen=True, kw_only=True):
    """A number of a case. A bare number is its `value`.

    `low` and `high` are the least and the most that it may turn out to be; without them the spread of its
    name counts. `source` says where it comes from, `date` of when it is.
    """

    shorthand: ClassVar[str] = "value"

    value: Amount
    low: Amount | None = None
    high: Amount | None = None
    source: str = ""
    date: dt.date | None = None


class Spread(NamedTuple):
    """How far off a number of this kind may be, as factors of its value, and why we think so."""

    low: float
    high: float
    why: str


CERTAIN = Spread(1.0, 1.0, "taken as exact")
"""The spread of what is decided, not found out."""

_PRICES = Spread(
    0.67, 1.55, "the median cut and rise among 463 price changes that genai-prices 0.2.3 records"
)
_RENTS = Spread(0.75, 1.6, "rents of the same GPU rose by up to 60 % from May to October 2026")

SPREADS: Mapping[str, Spread] = {
    "requests_per_month": Spread(0.5, 2.0, "a forecast of traffic may be wrong by a factor of two"),
    "input_tokens": Spread(0.8, 1.25, "tokenisers and prompts differ"),
    "output_tokens": Spread(0.8, 1.25, "tokenisers and answers differ"),
    "cache_share": Spread(0.5, 1.3, "caches are hit less often than hoped"),
    "utilisation": Spread(0.4, 2.0, "measured fleets range from 5 % to 50 %"),
    "burst": Spread(0.75, 1.5, "how bursty arrivals are is seldom known beforehand"),
    "input": _PRICES,
    "output": _PRICES,
    "cache_read": _PRICES,
    "usd_per_gpu_hour": _RENTS,
    "tokens_per_s": Spread(0.9, 1.1, "the same machine differs from run to run and version to version"),
    "lost": Spread(0.5, 2.0, "what the market takes away is not promised"),
    "escalated": Spread(0.5, 2.0, "a quality gap is known by evaluation, with an interval"),
    "retried": Spread(0.5, 2.0, "a quality gap is known by evaluation, with an interval"),
    "fte": Spread(0.5, 2.0, "what a team has not run yet takes more of its time than it thinks"),
    "usd_per_year": Spread(0.8, 1.25, "salaries and overheads differ by place"),
    "usd_per_gpu": Spread(0.83, 1.33, "8-GPU servers are offered from 250,000 to 400,000 USD"),
    "years": Spread(0.75, 1.25, "a new generation may come sooner or later"),
    "residual": Spread(0.0, 2.0, "what used GPUs will fetch is a guess"),
    "usd_per_kwh": Spread(0.7, 1.5, "contracts and places differ"),
    "colocation_usd_per_kw_month": Spread(0.8, 1.25, "contracts and places differ"),
    "maintenance": Spread(0.75, 1.25, "3 to 5 % of the price a year"),
}
"""How far off numbers may be whose case says nothing of it, by their last name; others are `CERTAIN`."""

_SHARES = frozenset({"cache_share", "utilisation", "lost", "escalated", "retried", "residual", "derate"})
_MOST_LOST = 0.95
_AT_LEAST_ONE = frozenset({"burst", "pue"})


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """An assumption with its name in the case and its range worked out; `spread` says why it is that wide."""

    name: str
    value: float
    low: float
    high: float
    spread: str
    source: str
    date: dt.date | None


def stated(case: Any) -> list[Stated]:
    """Every assumption of a case, in its order."""
    return [_stated(name, assumed) for name, assumed in _walk(case, "")]


def assume(thing: T, values: Mapping[str, float]) -> T:
    """The case with these values, by the names of `stated`."""
    return _with(thing, values, "")  # type: ignore[no-any-return]


def require(wrong: list[str]) -> None:
    """Nothing where nothing is wrong. Raises IsthmusError (`invalid_case`) with all that is."""
    if wrong:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "The case does not hold together: " + "; ".join(wrong) + ".",
            code="invalid_case",
            hint="See docs/how-to/compare-self-hosting-with-an-api.md for what a case says.",
        )


def out_of_order(case: Any) -> list[str]:
    """What is wrong with the ranges of a case."""
    return [
        f"`{it.name}` is {it.value:g}, which is not between its low {it.low:g} and its high {it.high:g}"
        for it in stated(case)
        if not it.low <= it.value <= it.high
    ]


def _stated(name: str, it: Assumed) -> Stated:
    last = name.rpartition(".")[2]
    spread = SPREADS.get(last, CERTAIN)
    if it.low is not None or it.high is not None:
        spread = Spread(1.0, 1.0, "as the case says")
    low = it.value * spread.low if it.low is None else it.low
    high = it.value * spread.high if it.high is None else it.high
    if last in _SHARES:
        # Who may lose all machines all of the time has no fleet.
        high = max(it.value, min(high, _MOST_LOST if last == "lost" else 1.0))
    if last in _AT_LEAST_ONE:
        low = min(it.value, max(low, 1.0))
    return Stated(
        name=name,
        value=it.value,
        low=low,
        high=high,
        spread=spread.why,
        source=it.source or "the case",
        date=it.date,
    )


def _walk(thing: Any, name: str) -> Iterator[tuple[str, Assumed]]:
    if isinstance(thing, Assumed):
        yield name, thing
        return
    for part, value in _parts(thing):
        yield from _walk(value, f"{name}.{part}" if name else part)


def _with(thing: Any, values: Mapping[str, float], name: str) -> Any:
    if isinstance(thing, Assumed):
        return Assumed(value=values[name]) if name in values else thing
    changed = {}
    for part, value in _parts(thing):
        new = _with(value, values, f"{name}.{part}" if name else part)
        if new is not value:
            changed[part] = new
    if not changed:
        return thing
    return {**thing, **changed} if isinstance(thing, dict) else msgspec.structs.replace(thing, **changed)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, dict):
        yield from thing.items()
    elif isinstance(thing, msgspec.Struct):
        for field in thing.__struct_fields__:
            yield field, getattr(thing, field)
