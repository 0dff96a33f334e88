"""What is known of a watched route, and what one more piece of its traffic adds to that. Pure.

The pieces are whole hours, days or weeks, and the requests of one come in an order that chance made: what
changes with the time of day, and comes back, is no drift therefore. Each quantity is tested by itself
(`isthmus.statistics.change`), at its share of alpha, so that the chance of a false alarm of any of them,
ever, is alpha at most.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from isthmus.config.config import Quantity, Watch
from isthmus.core.alarm import Alarm
from isthmus.statistics.change import Change, Value
from isthmus.store.drift import Observed, Standing

LEAST_BASELINE = 100
"""So many values a baseline needs before anything is held against it."""

MOST_OF_BASELINE = 20_000
MOST_OF_PIECE = 5_000
"""So many requests at most of the baseline, and of each piece after it, are looked at, chosen by chance."""

_PIECE = {"hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1), "week": dt.timedelta(weeks=1)}
_MICROSECOND = dt.timedelta(microseconds=1)
_to_json = msgspec.json.Encoder(order="deterministic").encode

_UNITS: dict[Quantity, str] = {
    "quality": "mean score",
    "grades": "mean score",
    "label": "share",
    "task": "share",
    "refusals": "share",
    "failures": "share",
    "length": "median tokens",
    "latency": "median ms",
    "escalation": "share",
}

SCORED: dict[Quantity, bool] = {"quality": False, "grades": True}
"""What is watched by scores that others have given later, and whether these are judges."""


class Summary(msgspec.Struct, frozen=True):
    """Values in short: how many, and their mean, median or shares, as their quantity's unit says."""

    n: int
    figure: float | None = None
    shares: dict[str, float] = {}


class Watched(msgspec.Struct, kw_only=True):
    """One quantity of a route: the test, and since when it alarms.

    `before` is the baseline in short, `lately` the last piece that had any of it. `tries` is how
    often it was tried to tell of the alarm, `told` whether that came to its end.
    """

    change: Change = msgspec.field(default_factory=Change)
    before: Summary = Summary(0)
    lately: Summary = Summary(0)
    alarmed_us: int | None = None
    tries: int = 0
    told: bool = False


class Route(msgspec.Struct, kw_only=True):
    """All that is known of a watched route until `until_us`; `watch` tells by which settings."""

    watch: str
    until_us: int
    quantities: dict[Quantity, Watched] = {}


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch says of one quantity: `p` is the p-value of the claim that nothing has changed.

    It alarms where `p` has fallen below `alpha`, this quantity's share of the whole. `state` is `learning`
    until the baseline is complete, `unknown` where the records have too little of it.
    """

    route: str
    quantity: Quantity
    unit: str
    state: str
    p: float
    alpha: float
    before: Summary
    lately: Summary
    until_us: int
    alarmed_us: int | None = None


def begun(watch: Watch) -> Route:
    """A route of which nothing is known."""
    return Route(watch=watch.identity, until_us=_since_us(watch))


def read(watch: Watch, standing: Standing | None) -> Route:
    """What was written down of a route, or nothing, where that was by another baseline or other settings."""
    if standing is None:
        return begun(watch)
    try:
        route = msgspec.json.decode(standing.body, type=Route)
    except msgspec.DecodeError:
        # Written by another version: the ledger tells it all again.
        return begun(watch)
    return route if route.watch == watch.identity else begun(watch)


def written(watch: Watch, route: Route) -> Standing:
    """What is written down of a route."""
    return Standing(watch.route, route.until_us, _to_json(route))


def alarms(kept: Standing) -> tuple[Alarm, ...]:
    """The alarms in what was written down of a route; none where another version wrote it."""
    try:
        route = msgspec.json.decode(kept.body, type=Route)
    except msgspec.DecodeError:
        return ()
    return alarms_of(kept.route, route)


def alarms_of(name: str, route: Route) -> tuple[Alarm, ...]:
    """The alarms that there are of a route of that name."""
    return tuple(
        Alarm(route=name, quantity=quantity, watch=route.watch, at_us=watched.alarmed_us)
        for quantity, watched in route.quantities.items()
        if watched.alarmed_us is not None
    )


def next_piece(watch: Watch, route: Route) -> tuple[int, int, int]:
    """What is to be looked at next: from when until when, and how many requests of it at most."""
    end = _baseline_end_us(watch)
    if route.until_us < end:
        return _since_us(watch), end, MOST_OF_BASELINE
    return route.until_us, route.until_us + _PIECE[watch.per] // _MICROSECOND, MOST_OF_PIECE


def advance(
    watch: Watch,
    route: Route,
    seen: Sequence[Observed],
    scores: Mapping[Quantity, Sequence[float]],
    until_us: int,
    draw: Callable[[], float],
) -> None:
    """Takes the next piece, or the baseline, into account: its requests, and the scores given in it.

    `draw` gives numbers in [0, 1).
    """
    learning = route.until_us < _baseline_end_us(watch)
    for quantity in watch.quantities:
        values = values_of(quantity, seen, scores)
        watched = route.quantities.setdefault(quantity, Watched())
        if learning:
            for value in values:
                watched.change.learn(value)
            watched.before = summary(quantity, values)
        elif watched.before.n >= LEAST_BASELINE:
            for value in values:
                watched.change.observe(value, draw())
            if values:
                watched.lately = summary(quantity, values)
            if watched.alarmed_us is None and watched.change.p <= share_of_alpha(watch):
                watched.alarmed_us = until_us
    route.until_us = until_us


def share_of_alpha(watch: Watch) -> float:
    """What each quantity has of the chance of a false alarm."""
    return watch.alpha / len(watch.quantities)


def drifts(watch: Watch, route: Route) -> Iterator[Drift]:
    """What is known of each quantity of a route."""
    for quantity in watch.quantities:
        watched = route.quantities.get(quantity, Watched())
        yield Drift(
            route=watch.route,
            quantity=quantity,
            unit=_UNITS[quantity],
            state=_state(watch, route, watched),
            p=watched.change.p,
            alpha=share_of_alpha(watch),
            before=watched.before,
            lately=watched.lately,
            until_us=route.until_us,
            alarmed_us=watched.alarmed_us,
        )


def values_of(
    quantity: Quantity, seen: Sequence[Observed], scores: Mapping[Quantity, Sequence[float]]
) -> list[Value]:
    """What a piece says of a quantity, in the order of the piece."""
    said = scores.get(quantity, ()) if quantity in SCORED else (_value(quantity, it) for it in seen)
    return [value for value in said if value is not None]


def _value(quantity: Quantity, seen: Observed) -> Value | None:
    """What one request says of a quantity, None where it says nothing of it."""
    match quantity:
        case "label":
            return None if seen.label is None else seen.label.level
        case "task":
            return _task(seen)
        case "refusals":
            return float(seen.refused) if seen.outcome == "ok" else None
        case "failures":
            # What a client did wrong, or gave up, is no failure of the route.
            blameless = 400 <= seen.status < 500 or seen.outcome == "cancelled"
            return None if blameless else float(seen.outcome != "ok")
        case "length":
            return None if seen.output is None or seen.outcome != "ok" else float(seen.output)
        case "latency":
            return seen.total_ms if seen.outcome == "ok" else None
        case "escalation":
            return float(seen.models > 1) if seen.models else None
        case "quality" | "grades":
            # It is said of the answer, by others, and later.
            return None


def summary(quantity: Quantity, values: Sequence[Value]) -> Summary:
    """The values in short."""
    if not values:
        return Summary(0)
    words = [value for value in values if isinstance(value, str)]
    if words:
        shares = {word: count / len(words) for word, count in sorted(Counter(words).items())}
        return Summary(len(words), shares=shares)
    numbers = sorted(float(value) for value in values)
    if _UNITS[quantity].startswith("median"):
        return Summary(len(numbers), numbers[len(numbers) // 2])
    return Summary(len(numbers), math.fsum(numbers) / len(numbers))


def _task(seen: Observed) -> str | None:
    """What kind of work a request is, as far as its features tell."""
    it = seen.features
    if it is None:
        return None if seen.operation == "chat" else seen.operation
    for kind, holds in (
        ("tools", it.tools),
        ("pictures", it.pictures),
        ("files", it.files),
        ("audio", it.audio),
        ("structured", it.form != "text"),
        ("conversation", it.turns > _TURNS_OF_ONE_QUESTION),
    ):
        if holds:
            return kind
    return "question" if seen.operation == "chat" else seen.operation


_TURNS_OF_ONE_QUESTION = 2


def _state(watch: Watch, route: Route, watched: Watched) -> str:
    if watched.alarmed_us is not None:
        return "alarm"
    if route.until_us < _baseline_end_us(watch):
        return "learning"
    return "unknown" if watched.before.n < LEAST_BASELINE else "as before"


def _since_us(watch: Watch) -> int:
    midnight = dt.datetime.combine(watch.since, dt.time(), dt.UTC)
    return (midnight - dt.datetime.fromtimestamp(0, dt.UTC)) // _MICROSECOND


def _baseline_end_us(watch: Watch) -> int:
    return _since_us(watch) + dt.timedelta(days=watch.days) // _MICROSECOND
