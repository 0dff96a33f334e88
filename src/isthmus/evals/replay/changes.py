"""A recorded decision beside those of another config: what changes, why, and what crosses the boundary."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from isthmus.core.decision import Decision, Refused
from isthmus.core.errors import Fault, IsthmusError
from isthmus.evals.replay.boundary import Place, Portfolio, crossed
from isthmus.evals.replay.fates import Chance
from isthmus.store.history import Tried
from isthmus.strategies.plan.node import Attempt, Begin, Draft, Node, Race, Result, Wait

Change: TypeAlias = Literal["same", "adjusted", "moved", "newly refused", "newly allowed", "still refused"]
"""What becomes of a request: `adjusted` asks the same models in the same order in another way (retries,
pseudonyms), `moved` asks others, or in another order."""

_MOST_ATTEMPTS = 1_000


class Then(NamedTuple):
    """What was decided and done: `decided` None where nothing was, `model` who answered.

    `tried` are the attempts where there was more than one, or one that failed. `portfolio` is that of the
    config that was in force.
    """

    decided: Decision | None
    model: str | None
    tried: tuple[Tried, ...]
    portfolio: Portfolio


class Outcome(NamedTuple):
    """One thing that may become of a request, and how likely it is.

    `answers` is the model that would answer, None where that is not known or nobody would; `keeps` says that
    it is the one that did, and no other under its name. `had` are the
    places that had the request then. `lets_out` are the places beyond the boundary that would newly have it,
    `may_let_out` those that would where a model fails, and `brings_in` those that would have it no more.
    """

    odds: float
    change: Change
    reason: str
    answers: str | None
    keeps: bool = False
    had: tuple[Place, ...] = ()
    lets_out: tuple[Place, ...] = ()
    may_let_out: tuple[Place, ...] = ()
    brings_in: tuple[Place, ...] = ()


def compare(
    then: Then,
    now: Sequence[Chance],
    portfolio: Portfolio,
    odds_then: Mapping[bytes, float],
) -> tuple[Outcome, ...]:
    """What becomes of a request that was decided, where the config `now` leaves these chances.

    As few requests as can be are taken to move: a request stays with its plan unless that has become less
    likely, and moves to those that have become likelier than they were by `odds_then`.
    """
    assert then.decided is not None
    plan_then = as_data(then.decided.plan)
    staying, moving = _settled(then.decided, plan_then, now, odds_then)
    outcomes = [_going(then, chance, portfolio) for chance in moving]
    if staying is not None:
        outcomes.append(_staying(then, staying, portfolio))
    return tuple(outcome for outcome in outcomes if outcome.odds > 0)


def possible(then: Then, now: Sequence[Chance], portfolio: Portfolio) -> Outcome:
    """What may become of a request whose label is at least the one by which `now` was decided.

    A higher label allows fewer models, so only these can get it; but it may be one that would not be asked
    first by this label.
    """
    had = _places_then(then)
    gets = [
        place for it in now for place in places(it.decision.allowed, portfolio, it.decision.pseudonymised)
    ]
    perhaps = tuple(dict.fromkeys(crossed(gets, had)))
    return Outcome(1.0, "moved", "not known", None, had=tuple(had), may_let_out=perhaps)


class Overlap(NamedTuple):
    """With which probability a plan was chosen, and with which it would be; and how likely others are chosen
    that were never chosen before."""

    propensity: float
    wanted: float
    unseen: float


def overlap(decided: Decision, now: Sequence[Chance], odds_then: Mapping[bytes, float]) -> Overlap:
    """How a decision and these chances, of nobody in particular, bear on each other."""
    plan_then = as_data(decided.plan)
    plans = [(it.odds, as_data(it.decision.plan)) for it in now]
    return Overlap(
        decided.propensity,
        sum(odds for odds, plan in plans if plan == plan_then),
        sum(odds for odds, plan in plans if plan != plan_then and plan not in odds_then),
    )


def as_data(plan: Any) -> bytes:
    """A plan as JSON, whether it comes from a router or from a ledger."""
    return msgspec.json.encode(plan, order="sorted")


def _settled(
    decided: Decision, plan_then: bytes, now: Sequence[Chance], odds_then: Mapping[bytes, float]
) -> tuple[Chance | None, list[Chance]]:
    """How likely the request stays with its plan, and where else it goes; together they are certain."""
    alike = [chance for chance in now if as_data(chance.decision.plan) == plan_then]
    others = [chance for chance in now if chance not in alike]
    stays = 0.0
    if alike and not others:
        stays = 1.0
    elif alike:
        # Both are what a choice said of itself, so that what is said in the same way is compared.
        likely = sum(chance.decision.propensity for chance in alike)
        stays = min(1.0, likely / decided.propensity)
    if stays == 1.0:
        return Chance(1.0, alike[0].decision), []
    gains = [max(0.0, it.odds - odds_then.get(as_data(it.decision.plan), 0.0)) for it in others]
    if not sum(gains):
        gains = [chance.odds for chance in others]
    moves = (1.0 - stays) / sum(gains)
    moving = [Chance(gain * moves, it.decision) for gain, it in zip(gains, others, strict=True)]
    return (Chance(stays, alike[0].decision) if alike else None), moving


def _staying(then: Then, chance: Chance, portfolio: Portfolio) -> Outcome:
    """What becomes of a request whose plan stays: its models may have become others under their names."""
    decided, now = then.decided, chance.decision
    assert decided is not None
    if now.plan is None:
        return Outcome(chance.odds, "still refused", _why_refused(now.refused), None, keeps=True)
    names = models_of(now)
    others = sorted(name for name in names if not _is_as_it_was(then, portfolio, name))
    if others:
        return _placed(then, chance, portfolio, "moved", f"{', '.join(others)} is another model now")
    if set(decided.pseudonymised) & set(names) != set(now.pseudonymised) & set(names):
        return _placed(then, chance, portfolio, "adjusted", "pseudonyms go to other models")
    return Outcome(chance.odds, "same", "", then.model, keeps=True)


def _is_as_it_was(then: Then, now: Portfolio, name: str) -> bool:
    """True where the model of that name is the one that bore it then, as far as that is known."""
    return name not in then.portfolio.models or now.is_the_same(name, then.portfolio)


def _going(then: Then, chance: Chance, portfolio: Portfolio) -> Outcome:
    """What becomes of a request that gets another plan, or none."""
    decided, now = then.decided, chance.decision
    assert decided is not None
    if now.plan is None:
        outcome = Outcome(chance.odds, "newly refused", _why_refused(now.refused), None)
        had = _places_then(then)
        return outcome._replace(had=tuple(had), brings_in=tuple(crossed(had, ())))
    if decided.plan is None:
        return _placed(then, chance, portfolio, "newly allowed", _why_allowed(decided, now))
    names_then, names_now = models_of(decided), models_of(now)
    if names_then == names_now:
        return _placed(then, chance, portfolio, "adjusted", "other settings of the plan")
    return _placed(then, chance, portfolio, "moved", _why_moved(decided, now, names_then, names_now))


def _placed(then: Then, chance: Chance, portfolio: Portfolio, change: Change, reason: str) -> Outcome:
    plan: Node = chance.decision.plan
    asked, answers, untold = walk(plan, then.tried)
    veiled = frozenset(chance.decision.pseudonymised)
    had = _places_then(then)
    had_perhaps = had | _planned_then(then)
    gets = places(asked, portfolio, veiled)
    lets_out = crossed(gets, had)
    # That a model might have been asked where another fails is nothing new where it might have been then.
    perhaps = [
        *crossed(places(untold, portfolio, veiled), had),
        *crossed(places(plan.models(), portfolio, veiled), had_perhaps),
    ]
    return Outcome(
        chance.odds,
        change,
        reason,
        answers,
        keeps=answers is not None and answers == then.model and _is_as_it_was(then, portfolio, answers),
        had=tuple(had),
        lets_out=tuple(lets_out),
        may_let_out=tuple(it for it in dict.fromkeys(perhaps) if it not in lets_out),
        brings_in=tuple(crossed(had, gets)),
    )


class Walked(NamedTuple):
    """The models that a plan would ask, and the one that would answer; None where it cannot be told.

    `untold` are those of which it cannot be told whether they would be asked, though no model fails.
    """

    asked: tuple[str, ...]
    answers: str | None
    untold: tuple[str, ...] = ()


def walk(plan: Node, tried: Sequence[Tried]) -> Walked:
    """Where a settled plan would lead.

    A model that failed then fails now; one that answered, or was not asked, answers. How good answers are and
    how soon they begin is not recorded: what a plan does by it cannot be told.
    """
    failed = {attempt.model: attempt.fault for attempt in tried}
    asked = dict.fromkeys(name for aside in plan.asides(None) for name in aside.models())
    untold: dict[str, None] = {}
    steps = plan.steps()
    reply: Result | None = None
    for _ in range(_MOST_ATTEMPTS):
        try:
            effect = steps.send(reply)
        except StopIteration as end:
            result: Result = end.value
            return Walked(tuple(asked), result.model if result.error is None else None, tuple(untold))
        match effect:
            case Attempt(model) | Race(Attempt(model)):
                asked[model] = None
                if isinstance(effect, Race):
                    # The second is asked where the first is slow.
                    untold[effect.second.model] = None
                reply = _result(model, failed.get(model))
            case Draft(model) if failed.get(model) is not None:
                asked[model] = None
                reply = _result(model, failed[model])
            case Begin(drafts):
                asked.update((draft.model, None) for draft in drafts)
                reply = None
            case Wait():
                reply = None
            case Draft(model):
                asked[model] = None
                break
            case _:
                break
    return Walked(tuple(asked), None, plan.models())


def _result(model: str, fault: str | None) -> Result:
    if fault is None:
        return Result(model)
    # Its pause is not waited for: nothing is asked.
    return Result(model, IsthmusError(Fault(fault), "as it was recorded"))


def places(names: Collection[str], portfolio: Portfolio, veiled: Collection[str]) -> frozenset[Place]:
    """Where these models run."""
    return frozenset(portfolio.place(name, name in veiled) for name in names)


def models_of(decided: Decision) -> tuple[str, ...]:
    """The models of its plan, a node or what a ledger kept of one, in the order of their first mention."""
    return tuple(dict.fromkeys(_names(msgspec.to_builtins(decided.plan), frozenset(decided.allowed))))


def _names(data: Any, models: frozenset[str]) -> Iterator[str]:
    match data:
        case str() if data in models:
            yield data
        case dict():
            for field, value in data.items():
                if field != "strategy":
                    yield from _names(field, models)
                    yield from _names(value, models)
        case list() | tuple():
            for item in data:
                yield from _names(item, models)


def _places_then(then: Then) -> frozenset[Place]:
    assert then.decided is not None
    asked = {attempt.model for attempt in then.tried} or ({then.model} if then.model else set())
    return places(asked, then.portfolio, then.decided.pseudonymised)


def _planned_then(then: Then) -> frozenset[Place]:
    decided = then.decided
    if decided is None or decided.plan is None:
        return frozenset()
    return places(models_of(decided), then.portfolio, decided.pseudonymised)


def _why_refused(refused: Collection[Refused]) -> str:
    return "; ".join(sorted({f"{it.model} by {it.rule}" for it in refused}))


def _why_allowed(decided: Decision, now: Decision) -> str:
    ruled_out = {it.model: it.rule for it in decided.refused}
    freed = sorted(f"{name} no longer by {ruled_out[name]}" for name in now.allowed if name in ruled_out)
    return "; ".join(freed) or "the route has other models"


def _why_moved(
    decided: Decision, now: Decision, names_then: tuple[str, ...], names_now: tuple[str, ...]
) -> str:
    parts = []
    gone = {it.model: it.rule for it in now.refused}
    was_out = {it.model: it.rule for it in decided.refused}
    for name in names_then:
        if name in gone:
            parts.append(f"{name} now refused by {gone[name]}")
        elif name not in names_now and name not in now.allowed:
            parts.append(f"{name} no longer in the route")
    for name in names_now:
        if name in was_out:
            parts.append(f"{name} no longer refused by {was_out[name]}")
        elif name not in names_then and name not in decided.allowed:
            parts.append(f"{name} new in the route")
    if decided.thrifty != now.thrifty:
        parts.append("money was short")
    return "; ".join(parts) or "another plan or another arm"
