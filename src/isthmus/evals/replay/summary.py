"""What a replay comes to: crossings, changes, cost, latency, quality, and what cannot be known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from isthmus.evals.replay.boundary import Place, named
from isthmus.evals.replay.calls import Called
from isthmus.evals.replay.changes import Outcome
from isthmus.evals.replay.latency import Spread
from isthmus.evals.replay.replayed import Judgement

Direction: TypeAlias = Literal["out", "perhaps out", "back"]
"""Newly over the boundary; over it if a model fails, or if what is not known is so; no longer over it."""

ENOUGH = 30
"""From so many recorded answers on, a model's times are taken for its times."""

_DUST = 1e-9
"""Odds that add up to less than this are rounding errors."""


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests cross the boundary alike. `categories` are the families of what was found in them."""

    direction: Direction
    route: str
    level: str
    categories: tuple[str, ...]
    was: str
    goes: str
    requests: float


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests of a route change alike, for the same reason."""

    route: str
    level: str
    change: str
    reason: str
    requests: float


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """Of so many requests of a route it cannot be told what becomes of them, for this reason."""

    route: str
    why: str
    requests: float


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD that requests cost and would cost, of those for which both are known; of `unpriced` they are
    not."""

    then_nanousd: float
    now_nanousd: float
    unpriced: float


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds that half, and 95 of 100, of a route's answers take at most, then and now.

    Of `unknown` requests the model that would answer has no times on record.
    """

    route: str
    p50_then: float | None
    p95_then: float | None
    p50_now: float | None
    p95_now: float | None
    unknown: float


class Worth(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model's answers are on a route, from 0 to 1, with an interval and where that is from."""

    value: float
    low: float
    high: float
    source: str


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """The mean worth of a route's answers, then and now, of those requests for which it is known.

    The bounds are weighted means of the models' own: where all of these hold, so do they. Of `unknown`
    requests no worth is known of the model that answers.
    """

    route: str
    then: Worth | None
    now: Worth | None
    unknown: float


class ByFeedback(msgspec.Struct, frozen=True, kw_only=True):
    """The mean score of a route's `judged` answers, then, and the estimate for the new config.

    `low` and `high` bound it, whatever answers would be worth that were never given: these are a share
    `unseen`. `effective` is how many requests under the new config the feedback is worth; `now` is None where
    these are too few.
    """

    route: str
    judged: int
    then: float
    now: float | None
    low: float
    high: float
    unseen: float
    effective: float


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What another config would have done with recorded traffic. Requests are expected numbers: where a
    config draws, they are fractions.

    `same` go the way they went. `undecided` ended before anything was decided, by their code. `assumed` rest
    on pseudonyms for every value. `called` is what a sample of those that move took, where models were asked,
    and `by_feedback` how good answers are, by what people said of them.
    """

    config: str
    requests: int
    same: float
    crossings: tuple[Crossing, ...]
    changes: tuple[Changed, ...]
    unknown: tuple[Unknown, ...]
    undecided: dict[str, int]
    levels: dict[str, dict[str, float]]
    cost: Cost
    latency: tuple[Times, ...]
    quality: tuple[Quality, ...]
    assumed: int
    called: tuple[Called, ...] = ()
    by_feedback: tuple[ByFeedback, ...] = ()

    def crossing(self, *directions: Direction) -> float:
        """How many requests cross the boundary in these ways."""
        return sum(it.requests for it in self.crossings if it.direction in directions)

    @property
    def changed(self) -> float:
        """How many requests do not go the way they went, of those of which it is known."""
        return sum(it.requests for it in self.changes)


def summary(config: str, judgements: Iterable[Judgement], worth: Mapping[str, Worth] | None = None) -> Replay:
    """What these judgements come to; `worth` is what is known of models, by their names."""
    judged = list(judgements)
    decided = [it for it in judged if it.undecided is None]
    known = [it for it in decided if it.unknown is None]
    return Replay(
        config=config,
        requests=sum(it.requests for it in judged),
        same=sum(it.requests * it.stays for it in known),
        crossings=tuple(_crossings(judged)),
        changes=tuple(_changes(known)),
        unknown=tuple(_unknown(judged)),
        undecided=dict(_undecided(judged)),
        levels=_levels(decided),
        cost=Cost(
            then_nanousd=sum(it.then_nanousd for it in known),
            now_nanousd=sum(it.now_nanousd for it in known),
            unpriced=sum(it.unpriced for it in known) + sum(it.requests for it in decided if it.unknown),
        ),
        latency=tuple(_latency(known)),
        quality=tuple(_quality(known, worth)) if worth else (),
        assumed=sum(it.requests for it in judged if it.assumed),
    )


def _crossings(judged: Iterable[Judgement]) -> list[Crossing]:
    counted: defaultdict[tuple[Direction, str, str, tuple[str, ...], str, str], float] = defaultdict(float)
    for judgement in judged:
        for outcome in judgement.outcomes:
            for direction, goes in _ways(outcome):
                about = (judgement.route, judgement.label.level, _families(judgement.label.categories))
                counted[direction, *about, named(outcome.had), named(goes)] += (
                    judgement.requests * outcome.odds
                )
    order: tuple[Direction, ...] = ("out", "perhaps out", "back")
    rows = sorted(counted.items(), key=lambda it: (order.index(it[0][0]), -it[1], it[0]))
    return [
        Crossing(
            direction=direction,
            route=route,
            level=level,
            categories=families,
            was=was,
            goes=goes,
            requests=requests,
        )
        for (direction, route, level, families, was, goes), requests in rows
        if requests > _DUST
    ]


def _ways(outcome: Outcome) -> list[tuple[Direction, Collection[Place]]]:
    """In which way these requests cross, if they do; what is not known may cross, and does not come back."""
    if outcome.lets_out:
        return [("out", outcome.lets_out)]
    if outcome.may_let_out:
        return [("perhaps out", outcome.may_let_out)]
    return [("back", outcome.brings_in)] if outcome.brings_in else []


def _families(categories: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(categories))


def _changes(known: Iterable[Judgement]) -> list[Changed]:
    counted: defaultdict[tuple[str, str, str, str], float] = defaultdict(float)
    for judgement in known:
        for outcome in judgement.outcomes:
            if outcome.change not in ("same", "still refused"):
                index = (judgement.route, judgement.label.level, outcome.change, outcome.reason)
                counted[index] += judgement.requests * outcome.odds
    return [
        Changed(route=route, level=level, change=change, reason=reason, requests=requests)
        for (route, level, change, reason), requests in sorted(
            counted.items(), key=lambda it: (-it[1], it[0])
        )
        if requests > _DUST
    ]


def _unknown(judged: Iterable[Judgement]) -> list[Unknown]:
    counted: Counter[tuple[str, str]] = Counter()
    for judgement in judged:
        if judgement.unknown is not None:
            counted[judgement.route, judgement.unknown] += judgement.requests
    return [
        Unknown(route=route, why=why, requests=requests)
        for (route, why), requests in sorted(counted.items(), key=lambda it: (-it[1], it[0]))
    ]


def _undecided(judged: Iterable[Judgement]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for judgement in judged:
        if judgement.undecided is not None and judgement.unknown is None:
            counted[judgement.undecided] += judgement.requests
    return counted


def _levels(decided: Iterable[Judgement]) -> dict[str, dict[str, float]]:
    """How many requests of each level then have each level now; `unknown` where that cannot be told."""
    counted: dict[str, dict[str, float]] = defaultdict(dict)
    for judgement in decided:
        if judgement.label_then is not None:
            now = "unknown" if judgement.unknown is not None else judgement.label.level
            row = counted[judgement.label_then.level]
            row[now] = row.get(now, 0) + judgement.requests
    return dict(counted)


def _latency(known: Iterable[Judgement]) -> list[Times]:
    of_model: dict[tuple[str, str], Spread] = defaultdict(Spread)
    by_route: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in known:
        by_route[judgement.route].append(judgement)
        if judgement.model is not None:
            of_model[judgement.route, judgement.model].mix(judgement.spread.counts, 1.0)
    found = []
    for route, judged in sorted(by_route.items()):
        then, now, unknown = Spread(), Spread(), 0.0
        for judgement in judged:
            if judgement.model is not None:
                then.mix(judgement.spread.counts, 1.0)
            for outcome in judgement.outcomes:
                if outcome.keeps:
                    now.mix(judgement.spread.counts, outcome.odds)
                elif outcome.answers is not None:
                    # Of another model under an old name no times are known.
                    renamed = outcome.answers == judgement.model
                    spread = None if renamed else of_model.get((route, outcome.answers))
                    requests = judgement.requests * outcome.odds
                    if spread is None or spread.total < ENOUGH:
                        unknown += requests
                    else:
                        now.mix(spread.counts, requests / spread.total)
                elif outcome.change in ("moved", "newly allowed", "adjusted"):
                    unknown += judgement.requests * outcome.odds
        if unknown > _DUST or any(it.stays < 1.0 for it in judged):
            found.append(
                Times(
                    route=route,
                    p50_then=then.quantile(0.5),
                    p95_then=then.quantile(0.95),
                    p50_now=now.quantile(0.5),
                    p95_now=now.quantile(0.95),
                    unknown=unknown,
                )
            )
    return found


def _quality(known: Iterable[Judgement], worth: Mapping[str, Worth]) -> list[Quality]:
    then: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    now: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    unknown: dict[str, float] = defaultdict(float)
    for judgement in known:
        if judgement.model is not None:
            then[judgement.route][judgement.model] += judgement.requests
        for outcome in judgement.outcomes:
            requests = judgement.requests * outcome.odds
            if outcome.answers is not None and outcome.answers in worth:
                now[judgement.route][outcome.answers] += requests
            elif outcome.answers is not None or outcome.change in ("moved", "newly allowed", "adjusted"):
                unknown[judgement.route] += requests
    return [
        Quality(
            route=route,
            then=_mean(then[route], worth),
            now=_mean(now[route], worth),
            unknown=unknown[route],
        )
        for route in sorted(then.keys() | now.keys() | unknown.keys())
    ]


def _mean(requests: Mapping[str, float], worth: Mapping[str, Worth]) -> Worth | None:
    """The mean over the requests whose model's worth is known, None where none is."""
    known = {name: worth[name] for name in requests if name in worth}
    total = sum(requests[name] for name in known)
    if not total:
        return None

    def mean(bound: str) -> float:
        return sum(float(getattr(it, bound)) * requests[name] for name, it in known.items()) / total

    source = ", ".join(sorted({it.source for it in known.values()}))
    return Worth(value=mean("value"), low=mean("low"), high=mean("high"), source=source)
