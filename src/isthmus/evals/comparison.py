"""Two runs against each other: the same models later, or another portfolio on the same work. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.core.evaluation import Sample
from isthmus.evals.outcome import ALPHA, Quality, Scores, Verdict, quality, values
from isthmus.statistics import paired
from isthmus.statistics.intervals import Interval
from isthmus.store.runs import Run


class Side(msgspec.Struct, frozen=True):
    """A run, with what it asked and how good that was found."""

    run: Run
    samples: tuple[Sample, ...]
    scores: Mapping[str, Scores]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A model in run A against a model in run B, by one scorer: whether the one in B is better.

    `paired` says that it is told by samples that both runs have; else only their qualities are known.
    """

    scorer: str
    a: str
    b: str
    quality_a: Quality
    quality_b: Quality
    verdict: Verdict
    paired: bool
    n: int
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from run `a` to run `b`."""

    a: Run
    b: Run
    changes: tuple[Change, ...]


def compare(a: Side, b: Side) -> Comparison:
    """Every model of both runs against itself; where they have none in common, each against each."""
    same = _same_samples(a, b)
    scorers = [it for it in a.scores if it in b.scores]
    changes = tuple(change for scorer in scorers for change in _changes(scorer, a, b, same))
    return Comparison(a=a.run, b=b.run, changes=changes)


def _same_samples(a: Side, b: Side) -> frozenset[str]:
    """The ids under which both runs asked the same."""
    asked = {sample.id: sample for sample in a.samples}
    return frozenset(it.id for it in b.samples if asked.get(it.id) == it)


def _changes(scorer: str, a: Side, b: Side, same: frozenset[str]) -> list[Change]:
    drawn = [
        _change(scorer, one, other, values(one, a.scores[scorer]), values(other, b.scores[scorer]), same)
        for one, other in _opponents(a.run, b.run)
    ]
    p_values = iter(paired.holm([it.p for it in drawn if it.p is not None]))
    return [it if it.p is None else _corrected(it, next(p_values)) for it in drawn]


def _opponents(a: Run, b: Run) -> list[tuple[str, str]]:
    ours, theirs = [it.name for it in a.models], [it.name for it in b.models]
    both = [(name, name) for name in ours if name in theirs]
    return both or [(one, other) for one in ours for other in theirs]


def _change(
    scorer: str, a: str, b: str, before: Mapping[str, float], after: Mapping[str, float], same: frozenset[str]
) -> Change:
    both = sorted(same & before.keys() & after.keys())
    was, now = quality(scorer, before.values()), quality(scorer, after.values())
    if not both:
        return Change(
            scorer=scorer,
            a=a,
            b=b,
            quality_a=was,
            quality_b=now,
            verdict=_apart(was.interval, now.interval),
            paired=False,
            n=0,
        )
    one, other = [after[it] for it in both], [before[it] for it in both]
    binary = all(value in (0.0, 1.0) for value in [*one, *other])
    found = paired.difference(one, other, binary=binary)
    return Change(
        scorer=scorer,
        a=a,
        b=b,
        quality_a=was,
        quality_b=now,
        verdict="cannot be told",
        paired=True,
        n=found.n,
        difference=found.mean,
        interval=found.interval,
        p=found.p,
    )


def _corrected(change: Change, p: float) -> Change:
    assert change.difference is not None
    real: Verdict = "better" if change.difference > 0 else "worse"
    return msgspec.structs.replace(change, p=p, verdict=real if p < ALPHA else "cannot be told")


def _apart(was: Interval, now: Interval) -> Verdict:
    if now.low > was.high:
        return "better"
    return "worse" if now.high < was.low else "cannot be told"
