"""Plays strategies on outcomes: what is learned is learned on some queries, and what is told is of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.confidence import fitting, thresholds, voting
from isthmus.confidence.shift import shift
from isthmus.confidence.signals import Signals, of_probability
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.datasets.samples import call_of
from isthmus.evals.simulation.outcomes import Floats, Outcomes
from isthmus.evals.simulation.specs import (
    Cascade,
    Choose,
    Ensemble,
    Oracle,
    Random,
    Single,
    Strategy,
    models_of,
    named,
    written,
)
from isthmus.routing.learned import query
from isthmus.routing.learned.choice import picks
from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.stack import learn
from isthmus.statistics import intervals

DRAWS = 5
"""So often the queries are parted anew."""

CALIBRATION = 0.5

MOST_CURVES = 4
"""So many cascades are drawn at most: of more, nobody could tell the lines apart."""

Chance = np.random.Generator
Places = NDArray[np.intp]


class Played(NamedTuple):
    """What came of each query: score, dollars, milliseconds, and the share of the last model's calls.

    Of a cascade, `promise` is its promise and `sureness` how sure it is of every query's first answer that
    it is to be kept. `why` says what was learned.
    """

    scores: Floats
    costs: Floats
    latencies: Floats
    escalated: Floats
    promise: thresholds.Promise | None = None
    sureness: Floats | None = None
    why: str = ""


class Range(msgspec.Struct, frozen=True):
    """An estimate, and its interval of 95 %: what other queries like these would give."""

    value: float
    low: float
    high: float


class Guarantee(msgspec.Struct, frozen=True, kw_only=True):
    """A promise put to the proof: made in so many of the `draws`, broken on the other queries in so many.

    `risk` is the mean of what the risk was there. `delta` allows for a broken promise in so many of all.
    """

    risk_kind: thresholds.Risk
    max_risk: float
    delta: float
    draws: int
    promised: int
    broken: int
    risk: float | None
    why: str
    shifted: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy does, by the queries that it did not learn from.

    `quality` is the mean score, `cost_usd` the mean of a query. `gain` and `saving` are set against the
    reference, a single model; `saving` is the share of its cost that is not spent. `escalated` is the share
    of queries that went to the last model of a cascade or ensemble.
    """

    strategy: str
    name: str
    quality: Range
    cost_usd: float
    gain: Range
    saving: Range | None
    latency_ms: float | None
    escalated: float | None
    verdict: str
    guarantee: Guarantee | None = None


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """All strategies over one table. `curves` are costs and qualities by name, to be drawn.

    `later` is the number of queries that came later and were judged by; 0 where all are of one table, parted
    by chance.
    """

    queries: int
    later: int
    left_out: int
    draws: int
    reference: str
    results: tuple[Result, ...]
    curves: dict[str, tuple[tuple[float, float], ...]]


def simulate(
    outcomes: Outcomes,
    strategies: Sequence[Strategy],
    *,
    later: Outcomes | None = None,
    reference: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    embedding: Embedding | None = None,
    tell: Callable[[], None] = lambda: None,
) -> Simulation:
    """What each strategy costs and is worth beside `reference`, by default the best single model.

    In each draw a half of the queries, by chance, is learned from and the other is judged by. With outcomes
    that came `later`, all the others are learned from, once, and those are judged by. `tell` is called for
    each strategy of each draw. Raises IsthmusError where the table lacks what a strategy needs.
    """
    early = len(outcomes.scores)
    if later is not None:
        outcomes, draws = outcomes.followed_by(later), 1
    _check(outcomes, strategies)
    against = outcomes.place(reference) if reference else int(outcomes.scores[:early].mean(0).argmax())
    queries = None
    if any(isinstance(it, Choose) for it in strategies):
        queries = [
            query.query_of(prompt or "", task, embedding)
            for prompt, task in zip(outcomes.prompts, outcomes.tasks, strict=True)
        ]
    many = len(outcomes.scores)
    tried: list[list[tuple[Places, Played]]] = [[] for _ in strategies]
    for draw in range(draws):
        learned, judged = _parted(many, early, np.random.default_rng((seed, draw)))
        for at, strategy in enumerate(strategies):
            rng = np.random.default_rng((seed, draw, at))
            tried[at].append((judged, play(strategy, outcomes, learned, judged, rng, queries)))
            tell()
    results = tuple(
        _result(strategy, plays, outcomes, against, seed, is_later=later is not None)
        for strategy, plays in zip(strategies, tried, strict=True)
    )
    return Simulation(
        queries=early,
        later=many - early,
        left_out=outcomes.left_out,
        draws=draws,
        reference=outcomes.models[against],
        results=results,
        curves=_curves(outcomes, strategies, [plays[0][1] for plays in tried]),
    )


def _parted(many: int, early: int, rng: Chance) -> tuple[Places, Places]:
    """What is learned from, and what is judged by."""
    if early < many:
        return np.arange(early), np.arange(early, many)
    order = rng.permutation(many)
    cut = int(many * CALIBRATION)
    return order[:cut], np.sort(order[cut:])


def usual_strategies(outcomes: Outcomes, max_risk: float, delta: float) -> list[Strategy]:
    """What is worth trying on such a table: every single model, cascades up to the best, choice, a vote.

    A cascade begins with a model that states confidences and costs less; where prompts are known, and the
    best model costs more for some than for others, it also goes by costs. The best three models of those near
    the best vote, where the table has answers.
    """
    from isthmus.evals.simulation.specs import Accept, Step

    quality, cost = outcomes.scores.mean(0), outcomes.costs.mean(0)
    by_quality = [outcomes.models[at] for at in np.argsort(-quality, kind="stable")]
    best = outcomes.place(by_quality[0])
    uneven = all(outcomes.prompts) and np.ptp(outcomes.costs[:, best]) > 0
    orders = (False, True) if uneven else (False,)
    found: list[Strategy] = [Single(model) for model in by_quality]
    found += [
        Cascade(
            Step(model=model, accept=Accept(max_risk=max_risk, delta=delta, costs=costs)),
            Step(model=outcomes.models[best]),
        )
        for at, model in enumerate(outcomes.models)
        if cost[at] < cost[best] and np.isfinite(outcomes.confidences[:, at]).all()
        for costs in orders
    ]
    if len(outcomes.models) > 1 and len(outcomes.scores) >= 250:
        if any(outcomes.prompts) or len(set(outcomes.tasks)) > 1:
            floor = round(max(0.01, float(quality[best]) - max_risk), 2)
            found.append(Choose(among=outcomes.models, minimise="cost", quality_at_least=floor))
        near = [
            model for model in by_quality if quality[outcomes.place(model)] >= quality[best] - voting.NEAR
        ]
        if outcomes.answers is not None and len(near) > 2:
            found.append(Ensemble(models=tuple(near[:3])))
    return [*found, Random(), Oracle()]


def play(
    strategy: Strategy,
    outcomes: Outcomes,
    learned: Places,
    judged: Places,
    rng: Chance,
    queries: Sequence[query.Query] | None = None,
) -> Played:
    """The strategy, learned from some rows, on others."""
    match strategy:
        case Single(model):
            return _taken(outcomes, judged, np.full(len(judged), outcomes.place(model)))
        case Random():
            return _taken(outcomes, judged, rng.integers(0, len(outcomes.models), len(judged)))
        case Oracle():
            # Of equally good answers the cheapest: a cost can never outweigh a score here.
            scores, costs = outcomes.scores[judged], outcomes.costs[judged]
            good = scores >= scores.max(1, keepdims=True) - 1e-12
            return _taken(outcomes, judged, np.where(good, costs, np.inf).argmin(1))
        case Cascade():
            return _cascade(strategy, outcomes, learned, judged, rng)
        case Choose():
            assert queries is not None, "queries are made where a strategy chooses"
            return _choose(strategy, outcomes, learned, judged, rng, queries)
        case Ensemble():
            return _ensemble(strategy, outcomes, learned, judged)


def _taken(outcomes: Outcomes, rows: Places, models: Places, why: str = "") -> Played:
    return Played(
        scores=outcomes.scores[rows, models],
        costs=outcomes.costs[rows, models],
        latencies=outcomes.latencies[rows, models],
        escalated=np.full(len(rows), np.nan),
        why=why,
    )


def _cascade(strategy: Cascade, outcomes: Outcomes, learned: Places, judged: Places, rng: Chance) -> Played:
    weak, strong = outcomes.place(strategy.first.model), outcomes.place(strategy.second.model)
    accept = strategy.first.accept
    assert accept is not None, "a spec without it is refused"
    promise, threshold = None, accept.confidence
    sure, tests = outcomes.confidences[:, weak], learned
    if accept.costs:
        sure, tests = _by_costs(outcomes, (weak, strong), learned, rng)
    if accept.max_risk is not None:
        losses = thresholds.losses_of(
            accept.risk, outcomes.scores[tests, weak], outcomes.scores[tests, strong]
        )
        promise = thresholds.promise(
            sure[tests], losses, max_risk=accept.max_risk, delta=accept.delta, risk=accept.risk
        )
        threshold = promise.threshold
    taken = sure[judged] >= (np.inf if threshold is None else threshold)
    first, second = (_taken(outcomes, judged, np.full(len(judged), at)) for at in (weak, strong))
    return Played(
        scores=np.where(taken, first.scores, second.scores),
        costs=first.costs + np.where(taken, 0.0, second.costs),
        latencies=first.latencies + np.where(taken, 0.0, second.latencies),
        escalated=(~taken).astype(float),
        promise=promise,
        sureness=sure,
        why=promise.why if promise else "",
    )


def _by_costs(
    outcomes: Outcomes, pair: tuple[int, int], learned: Places, rng: Chance
) -> tuple[Floats, Places]:
    """How sure it is of each row's weak answer that it is to be kept, by what escalating gains for what it
    costs; and the rows that no part of this was learned from. As `isthmus calibrate` does it."""
    weak, strong = pair
    # By chance, for a table may stand in any order: one half has to be like the other.
    fits, tests = np.array_split(rng.permutation(learned), 2)
    if len(fits) < fitting.FEWEST:
        # So few rows promise nothing, whatever the order.
        return outcomes.confidences[:, weak], tests
    losses = thresholds.losses_of("added", outcomes.scores[fits, weak], outcomes.scores[fits, strong])
    rows = _signals(outcomes.confidences[:, weak])
    tokens = [_tokens(prompt or "") for prompt in outcomes.prompts]
    calibrator = fitting.fit([rows[at] for at in fits], losses, "helps")
    escalation = fitting.escalation_of([tokens[at] for at in fits], outcomes.costs[fits, strong])
    calibrator = msgspec.structs.replace(calibrator, escalation=escalation)
    return fitting.confidences(calibrator, rows, tokens), tests


def _signals(confidences: Floats) -> list[Signals]:
    """What is fitted to: probabilities as such, other numbers as they are."""
    if ((confidences >= 0) & (confidences <= 1)).all():
        return [of_probability("confidence", it) for it in confidences]
    return [{"confidence": it} for it in confidences]


def _tokens(prompt: str) -> int:
    return estimate_tokens(call_of({"messages": [{"role": "user", "content": prompt}]})).tokens


def _choose(
    strategy: Choose,
    outcomes: Outcomes,
    learned: Places,
    judged: Places,
    rng: Chance,
    queries: Sequence[query.Query],
) -> Played:
    places = np.array([outcomes.place(model) for model in strategy.among])
    stack = learn(
        query.Outcomes(
            strategy.among, [queries[at] for at in learned], outcomes.scores[np.ix_(learned, places)]
        ),
        rng,
    )
    costs = outcomes.costs[np.ix_(learned, places)].mean(0)
    qualities, supported = stack.estimates([queries[at] for at in judged])
    picked = picks(
        qualities,
        supported,
        costs,
        quality_at_least=strategy.quality_at_least,
        cost_at_most=strategy.cost_at_most,
    )
    strange = 1 - supported.mean()
    why = f"{strange:.0%} were like nothing that was learned from" if strange else ""
    return _taken(outcomes, judged, places[picked], why)


def _ensemble(strategy: Ensemble, outcomes: Outcomes, learned: Places, judged: Places) -> Played:
    places = {model: outcomes.place(model) for model in strategy.models}
    answers = outcomes.answers
    assert answers is not None, "a table without answers is refused"

    def said(row: int) -> dict[str, str]:
        return {model: answers[row][at] for model, at in places.items()}

    panel = voting.panel_of(
        [said(row) for row in learned],
        [{model: float(outcomes.scores[row, at]) for model, at in places.items()} for row in learned],
    )
    if strategy.otherwise is not None:
        # All have to agree here, so that all are asked, whatever their vote would be worth.
        panel = msgspec.structs.replace(panel, weights=dict.fromkeys(strategy.models, 1.0), why="")
    members = np.array([places[model] for model in panel.weights])
    ballots = [voting.vote(panel, said(row)) for row in judged]
    picked = np.array([places[ballot.model if ballot else panel.best] for ballot in ballots])
    costs = outcomes.costs[np.ix_(judged, members)].sum(1)
    latencies = outcomes.latencies[np.ix_(judged, members)].max(1)
    scores, up = outcomes.scores[judged, picked], np.zeros(len(judged))
    if strategy.otherwise is not None:
        last = outcomes.place(strategy.otherwise)
        up = np.array([0.0 if ballot and ballot.unanimous else 1.0 for ballot in ballots])
        scores = np.where(up > 0, outcomes.scores[judged, last], scores)
        costs = costs + up * outcomes.costs[judged, last]
        latencies = latencies + np.where(up > 0, outcomes.latencies[judged, last], 0.0)
    return Played(scores, costs, latencies, up, why=panel.why)


# Telling


def _result(
    strategy: Strategy,
    plays: Sequence[tuple[Places, Played]],
    outcomes: Outcomes,
    against: int,
    seed: int,
    *,
    is_later: bool,
) -> Result:
    scores, costs = (_means(len(outcomes.scores), plays, name) for name in ("scores", "costs"))
    there = np.isfinite(scores)
    scores, costs = scores[there], costs[there]
    gains, paid = scores - outcomes.scores[there, against], outcomes.costs[there, against]
    guarantee = _guarantee(strategy, plays, outcomes, is_later=is_later)
    escalated = np.nanmean([played.escalated.mean() for _, played in plays]) if _escalates(strategy) else None
    saving = alone = _saving(costs, paid, np.random.default_rng((seed, 7)))
    if isinstance(strategy, Cascade):
        # Whether it pays is a question of its own strong model, which may be another than the reference.
        strong = outcomes.costs[there, outcomes.place(strategy.second.model)]
        alone = _saving(costs, strong, np.random.default_rng((seed, 7)))
    latency = float(np.mean([played.latencies.mean() for _, played in plays]))
    return Result(
        strategy=written(strategy),
        name=named(strategy),
        quality=_mean(scores, least=0.0),
        cost_usd=float(costs.mean()),
        gain=_mean(gains, least=-1.0),
        saving=saving,
        latency_ms=latency if np.isfinite(latency) else None,
        escalated=None if escalated is None else float(escalated),
        verdict=_verdict(strategy, alone, guarantee, plays),
        guarantee=guarantee,
    )


def _means(many: int, plays: Sequence[tuple[Places, Played]], name: str) -> Floats:
    """The mean of each query over the draws in which it was judged; not a number where it never was."""
    sums, counts = np.zeros(many), np.zeros(many)
    for rows, played in plays:
        sums[rows] += getattr(played, name)
        counts[rows] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _mean(values: Floats, *, least: float) -> Range:
    interval = intervals.mean(values, least=least)
    return Range(float(values.mean()), float(interval.low), float(interval.high))


def _saving(costs: Floats, paid: Floats, rng: Chance) -> Range | None:
    """The share of what the reference costs that is not spent; None where it costs nothing."""
    if not paid.sum():
        return None
    ratio = intervals.ratio(costs, paid, rng)
    return Range(float(1 - costs.sum() / paid.sum()), float(1 - ratio.high), float(1 - ratio.low))


def _escalates(strategy: Strategy) -> bool:
    return isinstance(strategy, Cascade) or (
        isinstance(strategy, Ensemble) and strategy.otherwise is not None
    )


def _guarantee(
    strategy: Strategy, plays: Sequence[tuple[Places, Played]], outcomes: Outcomes, *, is_later: bool
) -> Guarantee | None:
    if not isinstance(strategy, Cascade) or strategy.first.accept is None:
        return None
    accept = strategy.first.accept
    if accept.max_risk is None:
        return None
    weak, strong = outcomes.place(strategy.first.model), outcomes.place(strategy.second.model)
    losses = thresholds.losses_of(accept.risk, outcomes.scores[:, weak], outcomes.scores[:, strong])
    risks, shifted = [], _shifted(outcomes, *plays[0]) if is_later else ""
    for rows, played in plays:
        if played.promise is not None and played.promise.kept:
            taken = played.escalated == 0
            counted = losses[rows][taken] if accept.risk == "accepted" else np.where(taken, losses[rows], 0.0)
            if is_later and thresholds.contradicted(counted, accept.max_risk):
                shifted = shifted or "what came later has more errors at the same confidence"
            # What accepts nothing has no risk of accepted answers.
            risks.append(thresholds.risk_of(taken, losses[rows], accept.risk) or 0.0)
    return Guarantee(
        risk_kind=accept.risk,
        max_risk=accept.max_risk,
        delta=accept.delta,
        draws=len(plays),
        promised=len(risks),
        broken=sum(risk > accept.max_risk for risk in risks),
        risk=float(np.mean(risks)) if risks else None,
        why=next((played.why for _, played in plays if played.why), ""),
        shifted=shifted,
    )


def _shifted(outcomes: Outcomes, later: Places, played: Played) -> str:
    """How what came later differs from what was calibrated by; nothing where it does not."""
    early = np.setdiff1d(np.arange(len(outcomes.scores)), later)
    sure = played.sureness
    assert sure is not None, "a cascade is sure of something"
    tasks = [task or "" for task in outcomes.tasks]
    return shift(
        sure[early], sure[later], Counter(tasks[at] for at in early), [tasks[at] for at in later]
    ).why


def _verdict(
    strategy: Strategy,
    saving: Range | None,
    guarantee: Guarantee | None,
    plays: Sequence[tuple[Places, Played]],
) -> str:
    if isinstance(strategy, Cascade):
        if guarantee is not None and guarantee.promised * 2 < guarantee.draws:
            return f"no guarantee: {guarantee.why}"
        if guarantee is not None and guarantee.shifted:
            return f"no guarantee here: {guarantee.shifted}"
        if saving is not None and saving.low <= 0:
            return "do not cascade: no saving can be shown, as the first attempt is paid for as well"
    return next((played.why for _, played in plays if played.why and played.promise is None), "")


def _curves(
    outcomes: Outcomes, strategies: Sequence[Strategy], played: Sequence[Played]
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Costs and qualities: of mixtures of single models, and of each cascade by its thresholds, in the order
    in which it kept answers in the first draw."""
    quality, cost = outcomes.scores.mean(0), outcomes.costs.mean(0)
    curves = {"single models, mixed": hull(list(zip(cost.tolist(), quality.tolist(), strict=True)))}
    for strategy, play in zip(strategies, played, strict=True):
        if not isinstance(strategy, Cascade) or play.sureness is None or len(curves) > MOST_CURVES:
            continue
        by_costs = strategy.first.accept is not None and strategy.first.accept.costs
        first, second = models_of(strategy)
        name = f"{first}, then {second}" + (", by costs" if by_costs else "")
        weak, strong = outcomes.place(first), outcomes.place(second)
        order = np.argsort(play.sureness, kind="stable")
        ups = np.linspace(0, len(order), 41).astype(int)
        gains = np.concatenate(
            ([0], np.cumsum((outcomes.scores[:, strong] - outcomes.scores[:, weak])[order]))
        )
        spent = np.concatenate(([0], np.cumsum(outcomes.costs[:, strong][order])))
        curves[name] = tuple(
            (float(cost[weak] + spent[up] / len(order)), float(quality[weak] + gains[up] / len(order)))
            for up in ups
        )
    return curves


def hull(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The best that mixing points by chance can do: the upper hull, from the cheapest on, never falling.

    RouterBench (arXiv:2403.12031) calls it the Zero router.
    """
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda it: (it[0], -it[1])):
        if best and y <= best[-1][1]:
            continue
        while len(best) > 1 and _turns_up(best[-2], best[-1], (x, y)):
            best.pop()
        best.append((x, y))
    return tuple(best)


def _turns_up(one: tuple[float, float], two: tuple[float, float], three: tuple[float, float]) -> bool:
    return (two[1] - one[1]) * (three[0] - one[0]) <= (three[1] - one[1]) * (two[0] - one[0])


def _check(outcomes: Outcomes, strategies: Sequence[Strategy]) -> None:
    if len(outcomes.scores) < 20:
        raise _lacks(f"{len(outcomes.scores)} queries that every model answered", "At least 20 are needed.")
    used = {model for it in strategies for model in models_of(it)} or set(outcomes.models)
    for model in sorted(used):
        if not np.isfinite(outcomes.costs[:, outcomes.place(model)]).all():
            raise _lacks(f"no cost of {model} for some queries", f"Say what it costs: --cost {model}=0.002")
    for strategy in strategies:
        match strategy:
            case Cascade(first=first):
                if not np.isfinite(outcomes.confidences[:, outcomes.place(first.model)]).all():
                    raise _lacks(
                        f"no confidence of {first.model} for some queries",
                        "A cascade needs one for each of its first model's answers.",
                    )
                if first.accept is not None and first.accept.costs and not all(outcomes.prompts):
                    raise _lacks(
                        "no prompt for some queries",
                        "To go by costs, a cascade reckons them by the prompt's length. Leave out `costs`.",
                    )
            case Ensemble() if outcomes.answers is None:
                raise _lacks("no answers", "A vote needs a column `answer`.")
            case Choose() if not any(outcomes.prompts) and len(set(outcomes.tasks)) < 2:
                raise _lacks("neither prompts nor tasks", "To choose before the call needs one of them.")


def _lacks(what: str, hint: str) -> IsthmusError:
    return IsthmusError(Fault.INVALID_REQUEST, f"The table has {what}.", code="bad_outcomes", hint=hint)
