"""A router for a route's choice, learned by a run or from records: how good is each model's answer, and does
choosing pay?

One half of the samples that every model answered teaches the router, the other half judges the choices that
the route would make by it: those of `strategies.plan.Choose` itself, at the prices of the config. Of recorded
requests few models' answers are known; a draw's odds make up for the others (`statistics.doubly_robust`).
Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.accounting.forecast import priced
from isthmus.catalog.prices import Price
from isthmus.core.evaluation import Answered, Sample
from isthmus.core.foresight import Foresight, Outlook
from isthmus.core.label import BOTTOM, Label
from isthmus.core.money import NANO_PER_USD
from isthmus.core.tie import Evidence, Tie
from isthmus.dialects.asked import about_tokens, asked
from isthmus.dialects.features import features_of
from isthmus.dialects.openai import OpenAIChat
from isthmus.evals.calibration import halves, usd_of
from isthmus.evals.outcome import Scores, scored_by_all
from isthmus.evals.recorded import Scored
from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.file import dump
from isthmus.routing.learned.header import Origin
from isthmus.routing.learned.predictor import Predictor
from isthmus.routing.learned.query import Outcomes, query_of
from isthmus.routing.learned.stack import FEWEST_ROWS, Stack, learn
from isthmus.statistics import intervals
from isthmus.statistics.doubly_robust import Completion, misfits
from isthmus.statistics.intervals import Interval
from isthmus.store.runs import Kept, Place
from isthmus.strategies.plan import Choose
from isthmus.strategies.plan.node import Circumstances, Learned

Verdict: TypeAlias = Literal["choose", "do not choose", "no guarantee"]
_Floats = NDArray[np.float64]
_Places = NDArray[np.intp]

_wire = OpenAIChat()


class Lesson(NamedTuple):
    """One sample that models answered: what is seen of its request, and what came of it, in the order of the
    models. `usd` and `outputs`, an answer's tokens, are None where nobody knows them; so are `scores`, and
    `odds` are those by which each came to be known. No odds: all are known."""

    sample: str
    words: str | None
    task: str | None
    tokens: int
    max_output: int | None
    label: Label
    scores: tuple[float | None, ...]
    usd: tuple[float | None, ...]
    outputs: tuple[int | None, ...]
    odds: tuple[float, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What one way to choose comes to, on the tested half.

    `usd_per_thousand` requests is None where a price is unknown. `gain` is how much better its answers are
    than those of the model that would be asked without a choice.
    """

    name: str
    quality: float
    interval: Interval
    usd_per_thousand: float | None
    gain: float
    gain_interval: Interval


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of learning.

    `reference` is the model that would be asked without a choice: the best of the learned half, or the best
    for the price. `samples` had a score of every model, of them `learned` taught and `tested` judged; at
    least `needed` are needed. `left_out` counts the others, by the reason. `recorded` of the samples are
    requests of the ledger, `judged` of them scored by models; 0 where a run was learned from. `shares` says
    how often each model is chosen, `unsupported` how many requests were like nothing that was learned from.
    `saving` is the share of the reference's cost that is not spent; None where that is unknown, or nothing.
    `vectors` says whether neighbours were learned. `label` is that of the samples, and so of the file.
    """

    models: tuple[str, ...]
    verdict: Verdict
    why: str
    samples: int
    needed: int
    learned: int
    tested: int
    left_out: dict[str, int]
    recorded: int = 0
    judged: int = 0
    max_risk: float
    delta: float
    reference: str | None = None
    policies: tuple[Policy, ...] = ()
    shares: dict[str, float] = {}
    unsupported: float = 0.0
    saving: Interval | None = None
    vectors: bool = False
    label: Label = BOTTOM


def lessons(
    models: Sequence[str],
    samples: Iterable[Sample],
    answers: Mapping[Place, Kept],
    marks: Scores,
    added: Mapping[str, Any],
) -> tuple[list[Lesson], dict[str, int]]:
    """The samples that teach, and how many do not, by the reason; `added` are the fields that the run put
    into every request. The first answer of each model counts."""
    told, left = scored_by_all(models, samples, answers, marks)
    return [_lesson(it.sample, added, it.answers, it.scores) for it in told], left


def recorded_lessons(
    found: Iterable[Scored], models: Sequence[str], prices: Mapping[str, Price], at_us: int
) -> list[Lesson]:
    """What recorded requests teach. What a model's answer costs is foreseen as a choice foresees it, by the
    mean length of its answers, whether it was asked or not."""
    several = list(found)
    lengths = {name: [it.marks[name].output for it in several if name in it.marks] for name in models}
    outputs = _means(lengths)
    return [_recorded(it, models, outputs, prices, at_us) for it in several]


def teach(
    lessons: Iterable[Lesson],
    choose: Choose,
    tie: Tie,
    prices: Mapping[str, Price],
    *,
    embedding: Embedding | None,
    named: bool,
    max_risk: float,
    delta: float,
    made_at_us: int,
    asked_at_us: int,
    evidence: Evidence | None = None,
    left_out: Mapping[str, int] | None = None,
    judged: int = 0,
) -> tuple[Trial, bytes | None]:
    """What a router for this choice, learned from these lessons, is worth, and its file; None where it is not
    to be used.

    `named` says that callers name the tasks of their requests; else it is judged without names. Which lesson
    goes to which half is decided by a hash of its sample, so that it is the same every time.
    """
    fits, tests = halves(lessons)
    models = choose.models()
    trial = Trial(
        models=models,
        verdict="no guarantee",
        why=f"at least {FEWEST_ROWS} samples are needed to learn from, and as many to test by",
        samples=len(fits) + len(tests),
        needed=2 * FEWEST_ROWS,
        learned=len(fits),
        tested=len(tests),
        left_out=dict(left_out or {}),
        recorded=sum(bool(it.odds) for it in (*fits, *tests)),
        judged=judged,
        max_risk=max_risk,
        delta=delta,
        label=_joined(it.label for it in (*fits, *tests)),
    )
    if min(len(fits), len(tests)) < FEWEST_ROWS:
        return trial, None
    known, odds = _known(fits)
    unscored = [it for at, it in enumerate(models) if not np.isfinite(known[:, at]).any()]
    if unscored:
        return msgspec.structs.replace(trial, why=f"no answer of {' and '.join(unscored)} was scored"), None
    every = _known((*fits, *tests))
    if odd := [models[at] for at in np.flatnonzero(misfits(*every))]:
        names = " and ".join(odd)
        why = (
            f"answers of {names} were scored more or less often than the draws' odds tell, so that who was "
            "scored was not chance"
        )
        return msgspec.structs.replace(trial, why=why), None
    # The means are of the half that teaches, so that nothing of the other has a part in its own judgement.
    completion = Completion.of(known, odds)._replace(odds=Completion.of(*every).odds)
    stack = _learned(fits, completion.complete(known, odds), models, embedding)
    if not named:
        # What was not judged by is not served by, even where a caller names a task.
        stack = stack._replace(tasks=None, by_both=None)
    origin = Origin(
        tie=tie,
        made_at_us=made_at_us,
        asked_at_us=asked_at_us,
        evidence=evidence,
        label=trial.label,
        learned=len(fits),
        tested=len(tests),
        outputs=_outputs(fits, models),
    )
    content = dump(stack, origin)
    picked, supported = _picked(content, choose, tests, prices, embedding, made_at_us, named)
    trial = _judged(trial, choose, stack, completion, fits, tests, picked)
    trial = msgspec.structs.replace(
        trial, unsupported=1 - float(supported.mean()), vectors=embedding is not None
    )
    return trial, content if trial.verdict == "choose" else None


def _lesson(
    sample: Sample, added: Mapping[str, Any], told: Sequence[Answered], scores: Sequence[float]
) -> Lesson:
    # Read as a request of it would be, by the same functions.
    envelope = _wire.peek(msgspec.json.encode({**sample.request, **added, "model": "sample"}))
    task = sample.metadata.get("task")
    return Lesson(
        sample=sample.id,
        words=asked(envelope),
        task=task if isinstance(task, str) and task else None,
        tokens=about_tokens(envelope),
        max_output=features_of(envelope, 0).max_output,
        label=_joined((sample.label, *(it.label for it in told))),
        scores=tuple(scores),
        usd=tuple(map(usd_of, told)),
        outputs=tuple(it.usage.output if it.usage is not None else None for it in told),
    )


def _recorded(
    found: Scored,
    models: Sequence[str],
    outputs: Mapping[str, int],
    prices: Mapping[str, Price],
    at_us: int,
) -> Lesson:
    envelope = _wire.peek(msgspec.json.encode({**found.sample.request, "model": "sample"}))
    tokens, most = about_tokens(envelope), features_of(envelope, 0).max_output
    foreseen = Foresight(
        by="",
        supported=True,
        why="",
        input=tokens,
        max_output=most,
        outlooks=tuple(Outlook(name, 0.0, outputs.get(name)) for name in models),
    )
    costs = [it.nanousd for it in priced(foreseen, prices, at_us).outlooks]
    marks = [found.marks.get(name) for name in models]
    return Lesson(
        sample=found.sample.id,
        words=asked(envelope),
        task=None,
        tokens=tokens,
        max_output=most,
        label=found.sample.label,
        scores=tuple(None if it is None else it.score for it in marks),
        usd=tuple(None if it is None else it / NANO_PER_USD for it in costs),
        outputs=tuple(None if it is None else it.output for it in marks),
        odds=tuple(0.0 if it is None else it.odds for it in marks),
    )


def _known(lessons: Sequence[Lesson]) -> tuple[_Floats, _Floats]:
    """The scores, not a number where none is known, and the odds by which they came to be known."""
    odds = np.array([it.odds or (1.0,) * len(it.scores) for it in lessons], np.float64)
    return _table([it.scores for it in lessons]), odds


def _learned(
    fits: Sequence[Lesson], scores: _Floats, models: tuple[str, ...], embedding: Embedding | None
) -> Stack:
    queries = [query_of(it.words or "", it.task, embedding) for it in fits]
    sha256 = embedding.sha256 if embedding is not None else None
    return learn(Outcomes(models, queries, scores), np.random.default_rng(0), sha256)


def _picked(
    content: bytes,
    choose: Choose,
    tests: Sequence[Lesson],
    prices: Mapping[str, Price],
    embedding: Embedding | None,
    at_us: int,
    named: bool,
) -> tuple[_Places, NDArray[np.bool_]]:
    """The place of the model that the route would ask first, for each lesson, and which are supported."""
    models = choose.models()
    sha256 = hashlib.sha256(content).hexdigest()
    predictor = Predictor(content, sha256, embedding)
    by = Learned(file="", sha256=sha256, overall=tuple(zip(models, predictor.header.overall, strict=True)))
    settled = msgspec.structs.replace(choose, by=by)
    places, supported = [], []
    for lesson in tests:
        foresight = predictor.foresee(
            lesson.words, lesson.task if named else None, lesson.tokens, lesson.max_output
        )
        seen = Circumstances(draw=0.0, foreseen=(priced(foresight, prices, at_us),))
        places.append(models.index(settled.choose(seen).node.models()[0]))
        supported.append(foresight.supported)
    return np.array(places), np.array(supported)


def _judged(
    trial: Trial,
    choose: Choose,
    stack: Stack,
    completion: Completion,
    fits: Sequence[Lesson],
    tests: Sequence[Lesson],
    picked: _Places,
) -> Trial:
    models, rows = trial.models, np.arange(len(tests))
    scores, usd = completion.complete(*_known(tests)), _table([it.usd for it in tests])
    (least, most), reach = completion.bounds, completion.reach
    costs = _table([it.usd for it in fits]).mean(0)
    single = _reference(stack, costs, choose.cost_at_most)
    base = scores[:, single]

    def policy(name: str, quality: _Floats, spent: _Floats) -> Policy:
        mean = float(spent.mean())
        return Policy(
            name=name,
            quality=float(quality.mean()),
            interval=intervals.mean(quality, least=least, most=most),
            usd_per_thousand=None if np.isnan(mean) else 1000 * mean,
            gain=float((quality - base).mean()),
            gain_interval=intervals.mean(quality - base, least=-reach, most=reach),
        )

    policies = [policy("choice", scores[rows, picked], usd[rows, picked])]
    policies += [policy(f"{it} alone", scores[:, at], usd[:, at]) for at, it in enumerate(models)]
    policies += [policy("random", scores.mean(1), usd.mean(1))]
    if not trial.recorded:
        # Of equally good answers the cheapest; without prices the first.
        best = np.lexsort((np.nan_to_num(usd), -scores), axis=1)[:, 0]
        policies += [policy("oracle", scores[rows, best], usd[rows, best])]
    saving = _saving(usd[rows, picked], usd[:, single])
    verdict, why = _verdict(trial, choose, models[single], base - scores[rows, picked], saving, reach)
    return msgspec.structs.replace(
        trial,
        verdict=verdict,
        why=why,
        reference=models[single],
        policies=tuple(policies),
        shares={it: float((picked == at).mean()) for at, it in enumerate(models)},
        saving=saving,
    )


def _verdict(
    trial: Trial, choose: Choose, reference: str, losses: _Floats, saving: Interval | None, reach: float
) -> tuple[Verdict, str]:
    alone = f"asking {reference} alone"
    if choose.cost_at_most is not None:
        no_better = intervals.mean_at_most(-losses, 0.0, least=-reach, most=reach)
        if no_better > trial.delta:
            return "do not choose", f"no gain over {alone} can be shown"
        return "choose", f"with a chance of at least {1 - trial.delta:g}, it is better than {alone}"
    too_bad = intervals.mean_at_least(losses, trial.max_risk, least=-reach, most=reach)
    if too_bad > trial.delta:
        return "no guarantee", f"it cannot be shown that it loses less than {trial.max_risk:g} to {alone}"
    if saving is None:
        return "do not choose", f"what {alone} costs is nothing, or a price is not known"
    if saving.low <= 0:
        return "do not choose", f"no saving against {alone} can be shown"
    promise = (
        f"with a chance of at least {1 - trial.delta:g}, it loses less than {trial.max_risk:g} of a score"
    )
    return "choose", f"{promise} to {alone}, on the mean over requests like those that judged it"


def _reference(stack: Stack, costs: _Floats, cost_at_most: float | None) -> int:
    """The model that would be asked without a choice, by the learned half."""
    if cost_at_most is None:
        return stack.best
    within = np.where(costs <= cost_at_most, stack.overall, -np.inf)
    return int(within.argmax() if np.isfinite(within).any() else np.nan_to_num(costs, nan=np.inf).argmin())


def _saving(spent: _Floats, base: _Floats) -> Interval | None:
    if not (np.isfinite(spent) & np.isfinite(base)).all() or not base.sum():
        return None
    ratio = intervals.ratio(spent, base, np.random.default_rng(0))
    return Interval(1 - float(ratio.high), 1 - float(ratio.low), ratio.confidence)


def _outputs(fits: Sequence[Lesson], models: Sequence[str]) -> dict[str, int]:
    return _means({name: [it.outputs[at] for it in fits] for at, name in enumerate(models)})


def _means(lengths: Mapping[str, Sequence[int | None]]) -> dict[str, int]:
    """The mean length by model, of those of which any is known."""
    known = {name: [it for it in some if it is not None] for name, some in lengths.items()}
    return {name: round(fmean(some)) for name, some in known.items() if some}


def _table(rows: Sequence[Sequence[float | None]]) -> _Floats:
    return np.array([[np.nan if it is None else it for it in row] for row in rows], np.float64)


def _joined(labels: Iterable[Label]) -> Label:
    found = BOTTOM
    for label in labels:
        found = found.join(label)
    return found
