"""What a run says: quality with its interval, failures, latency, cost, and which differences are real. Pure.

A failure (an error of any kind) is worth nothing, since a model that fails is no good; an answer that was cut
off or refused is scored as it stands, and counted. What a model was not permitted to see says nothing of it:
it is missing, and two models are compared over the samples that both have a score for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import mean as average
from statistics import pvariance
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from isthmus.core.evaluation import CUT_SHORT, REFUSED, Answered, Sample, Score
from isthmus.core.money import NANO_PER_USD
from isthmus.evals.answers import NOT_PERMITTED
from isthmus.statistics import intervals, paired, power
from isthmus.statistics.intervals import Interval
from isthmus.store.runs import Candidate, Kept, Place, Run

ALPHA = 0.05

Verdict: TypeAlias = Literal["better", "worse", "cannot be told"]
Scores: TypeAlias = Mapping[Place, Score]


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """The median and the 95th percentile of times in milliseconds; None where nothing was timed."""

    p50: float | None = None
    p95: float | None = None


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model is by one scorer: the mean over `n` samples, and the interval that it lies in.

    `unscored` samples have an answer of which the scorer cannot say how good it is; without any that is
    scored, `mean` is None.
    """

    scorer: str
    mean: float | None
    interval: Interval
    n: int
    unscored: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One model in a run.

    `asked` counts its places, `answered` those with an answer; of the others `failed` counts failures by
    their code, `not_permitted` what was never sent, and `left` what was not asked yet. `truncated` and
    `refused` answers are among those answered. Times are those of answers. `usd_per_thousand` is the cost of
    a thousand requests like these, failures included; None where a price is unknown. Tokens are means.
    """

    model: Candidate
    asked: int
    answered: int
    failed: dict[str, int]
    not_permitted: int
    left: int
    truncated: int
    refused: int
    qualities: tuple[Quality, ...]
    first_token_ms: Quantiles
    total_ms: Quantiles
    usd_per_thousand: float | None
    usd: float | None
    tokens_in: float | None
    tokens_out: float | None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Whether model `a` is better than `b` by one scorer, over the `n` samples that both have a score for.

    `adjusted_p` is corrected for all pairs of the scorer (Holm). `needed` is how many samples would show a
    difference of the size seen, with a chance of 0.8; None where none is seen.
    """

    scorer: str
    a: str
    b: str
    n: int
    difference: float
    interval: Interval
    p: float
    adjusted_p: float
    verdict: Verdict
    needed: int | None
    method: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What one model said to a sample, and how good that was found."""

    model: str
    text: str
    value: float | None
    code: str | None = None
    why: str | None = None


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """A sample on which models differ: what was asked, what a good answer is, and what each said."""

    sample: str
    prompt: str
    target: tuple[str, ...]
    said: tuple[Said, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a run. `frontier` names the models that no other one beats in both cost and
    quality, by the first scorer, the cheapest first."""

    run: Run
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    frontier: tuple[str, ...]
    differing: tuple[Differing, ...]

    @property
    def complete(self) -> bool:
        """True where nothing is left to ask."""
        return all(it.left == 0 for it in self.standings)


def outcome(
    run: Run,
    samples: Sequence[Sample],
    answers: Mapping[Place, Kept],
    scores: Mapping[str, Scores],
    *,
    most_differing: int = 20,
) -> Outcome:
    """What the run says, by these answers and their scores."""
    names = [it.name for it in run.models]
    standings = tuple(_standing(run, it, answers, scores) for it in run.models)
    by_scorer = {scorer: {it: values(it, marks) for it in names} for scorer, marks in scores.items()}
    pairs = tuple(pair for scorer, by_model in by_scorer.items() for pair in pairs_of(scorer, by_model))
    first = next(iter(scores), None)
    differing = _differing(run, samples, answers, scores[first])[:most_differing] if first else ()
    return Outcome(
        run=run, standings=standings, pairs=pairs, frontier=_frontier(standings), differing=differing
    )


def failed_gates(
    outcome: Outcome, *, fail_under: float | None = None, baselines: Sequence[str] = ()
) -> list[str]:
    """Why the run does not pass, in words: by its first scorer, and since it has to be complete.

    A model fails whose quality is below `fail_under`, or may be: what has no score may be worth nothing. And
    one fails that is worse than a baseline, where the difference is real.
    """
    failures = [] if outcome.complete else ["the run is not complete"]
    for it in outcome.standings:
        if fail_under is not None and (low := _too_low(it, fail_under)):
            failures.append(f"the quality of {it.model.name} {low}")
    first = next((it.qualities[0].scorer for it in outcome.standings if it.qualities), None)
    for pair in (it for it in outcome.pairs if it.scorer == first):
        for worse, better, verdict in ((pair.a, pair.b, "worse"), (pair.b, pair.a, "better")):
            if better in baselines and pair.verdict == verdict:
                failures.append(f"{worse} is worse than {better} by {abs(pair.difference):.3f}")
    return failures


def _too_low(standing: Standing, fail_under: float) -> str | None:
    """How a model's quality by the first scorer is below that, or may be; None where it is not."""
    found = standing.qualities[0] if standing.qualities else None
    if found is None or found.mean is None:
        return f"is unknown, below {fail_under:g}"
    if found.mean < fail_under:
        return f"is {found.mean:.3f}, below {fail_under:g}"
    least = found.mean * found.n / (found.n + found.unscored)
    if least < fail_under:
        return f"may be {least:.3f}, below {fail_under:g}: {found.unscored:,} samples have no score"
    return None


class ScoredByAll(NamedTuple):
    """A sample that all of some models answered, with their answers and the scores of these, in the order of
    the models."""

    sample: Sample
    answers: list[Answered]
    scores: list[float]


def scored_by_all(
    models: Sequence[str], samples: Iterable[Sample], answers: Mapping[Place, Kept], marks: Scores
) -> tuple[list[ScoredByAll], dict[str, int]]:
    """The samples that all models answered, and how many they did not, by the reason. The first answer of
    each model counts."""
    found: list[ScoredByAll] = []
    left: Counter[str] = Counter()
    for sample in samples:
        places = [Place(model, sample.id) for model in models]
        told = [answers[it].answered for it in places if it in answers]
        scores = [marks[it].value for it in places if it in marks]
        known = [score for score in scores if score is not None]
        if len(told) < len(models) or any(it.code is not None for it in told):
            left["not answered by every model"] += 1
        elif len(known) < len(models):
            left["without a score of every answer"] += 1
        else:
            found.append(ScoredByAll(sample, told, known))
    return found, dict(left)


def values(model: str, scores: Scores) -> dict[str, float]:
    """The score of each sample that has one, the mean where it was asked several times."""
    found: dict[str, list[float]] = {}
    for place, score in scores.items():
        if place.model == model and score.value is not None:
            found.setdefault(place.sample, []).append(score.value)
    return {sample: average(them) for sample, them in found.items()}


def quality(scorer: str, scored: Iterable[float], unscored: int = 0) -> Quality:
    """The mean of scores, and its interval: of shares the exact one, of others Gaffke's."""
    told = list(scored)
    interval = (
        intervals.proportion(sum(map(int, told)), len(told)) if _is_binary(told) else intervals.mean(told)
    )
    return Quality(
        scorer=scorer,
        mean=average(told) if told else None,
        interval=interval,
        n=len(told),
        unscored=unscored,
    )


def pairs_of(scorer: str, by_model: Mapping[str, Mapping[str, float]]) -> list[Pair]:
    """Every pair of models, compared over the samples that both have a score for."""
    drawn = [(a, b, *_common(by_model[a], by_model[b])) for a, b in combinations(by_model, 2)]
    found = [paired.difference(one, other, binary=_is_binary([*one, *other])) for _, _, one, other in drawn]
    adjusted = paired.holm([it.p for it in found])
    return [
        Pair(
            scorer=scorer,
            a=a,
            b=b,
            n=it.n,
            difference=it.mean,
            interval=it.interval,
            p=it.p,
            adjusted_p=p,
            verdict="cannot be told" if p >= ALPHA else "better" if it.mean > 0 else "worse",
            needed=_needed(one, other, len(drawn)),
            method=it.method,
        )
        for (a, b, one, other), it, p in zip(drawn, found, adjusted, strict=True)
    ]


def _common(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[list[float], list[float]]:
    both = sorted(one.keys() & other.keys())
    return [one[sample] for sample in both], [other[sample] for sample in both]


def _needed(one: Sequence[float], other: Sequence[float], comparisons: int) -> int | None:
    apart = [a - b for a, b in zip(one, other, strict=True)]
    if not apart:
        return None
    return power.samples_needed(average(apart), pvariance(apart), comparisons=comparisons)


def _is_binary(told: Sequence[float]) -> bool:
    return all(value in (0.0, 1.0) for value in told)


def _standing(
    run: Run, model: Candidate, answers: Mapping[Place, Kept], scores: Mapping[str, Scores]
) -> Standing:
    said = {place: kept.answered for place, kept in answers.items() if place.model == model.name}
    good = [it for it in said.values() if it.code is None]
    asked = len(run.sample_ids) * run.repeat
    permitted = [it for it in said.values() if it.code != NOT_PERMITTED]
    usd = _usd(permitted)
    used = [it.usage for it in good if it.usage is not None]
    return Standing(
        model=model,
        asked=asked,
        answered=len(good),
        failed=dict(Counter(it.code for it in permitted if it.code is not None).most_common()),
        not_permitted=len(said) - len(permitted),
        left=asked - len(said),
        truncated=sum(it.finish in CUT_SHORT for it in good),
        refused=sum(it.finish in REFUSED for it in good),
        qualities=tuple(_quality_of(model.name, name, marks, said) for name, marks in scores.items()),
        first_token_ms=_quantiles([it.first_token_ms for it in good if it.first_token_ms is not None]),
        total_ms=_quantiles([it.total_ms for it in good]),
        usd_per_thousand=None if usd is None or not permitted else 1000 * usd / len(permitted),
        usd=usd,
        tokens_in=average(it.prompt for it in used) if used else None,
        tokens_out=average(it.output for it in used) if used else None,
    )


def _quality_of(model: str, scorer: str, scores: Scores, said: Mapping[Place, Answered]) -> Quality:
    told = values(model, scores)
    # One that nobody has scored yet has no score either.
    permitted = {place.sample for place, it in said.items() if it.code != NOT_PERMITTED}
    return quality(scorer, told.values(), len(permitted) - len(told))


def _usd(answers: Sequence[Answered]) -> float | None:
    """What the answers have cost in all; None where that of one is unknown."""
    charges = [it.charge.nanousd for it in answers if it.charge is not None]
    known = [it for it in charges if it is not None]
    return sum(known) / NANO_PER_USD if len(known) == len(charges) else None


def _quantiles(times: Sequence[float]) -> Quantiles:
    """The nearest-rank quantiles: each is a time that was really taken."""
    ordered = sorted(times)
    if not ordered:
        return Quantiles()
    return Quantiles(p50=_at(ordered, 50), p95=_at(ordered, 95))


def _at(ordered: Sequence[float], percent: int) -> float:
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _frontier(standings: Sequence[Standing]) -> tuple[str, ...]:
    points = [
        (it.usd_per_thousand, -it.qualities[0].mean, it.model.name)
        for it in standings
        if it.usd_per_thousand is not None and it.qualities and it.qualities[0].mean is not None
    ]
    best: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1] or point[:2] == best[-1][:2]:
            best.append(point)
    return tuple(name for *_, name in best)


def _differing(
    run: Run, samples: Sequence[Sample], answers: Mapping[Place, Kept], scores: Scores
) -> tuple[Differing, ...]:
    """The samples on which models differ most, the widest first."""
    found: list[tuple[float, Differing]] = []
    for sample in samples:
        places = [Place(it.name, sample.id) for it in run.models]
        told = [scores[it].value for it in places if it in scores and scores[it].value is not None]
        numbers = [it for it in told if it is not None]
        if numbers and (width := max(numbers) - min(numbers)) > 0:
            found.append((width, _side_by_side(sample, places, answers, scores)))
    found.sort(key=lambda it: -it[0])
    return tuple(it for _, it in found)


def _side_by_side(
    sample: Sample, places: Sequence[Place], answers: Mapping[Place, Kept], scores: Scores
) -> Differing:
    said = [
        Said(
            model=place.model,
            text=answers[place].answered.text,
            value=scores[place].value if place in scores else None,
            code=answers[place].answered.code,
            why=scores[place].why if place in scores else None,
        )
        for place in places
        if place in answers
    ]
    return Differing(sample=sample.id, prompt=prompt_of(sample), target=sample.target, said=tuple(said))


def prompt_of(sample: Sample) -> str:
    """The last text of a user in the request."""
    for message in reversed(sample.request.get("messages") or []):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            return " ".join(text for text in texts if isinstance(text, str))
    return ""
