"""A route's cascade, calibrated by a run: how sure is the weak model, and from where on may it be believed?

One half of the labelled answers fits what turns signals into a confidence, the other half tests thresholds of
it (`confidence.thresholds`): a promise is worth nothing on the labels that made the confidence. Pure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.confidence import fitting, thresholds
from isthmus.confidence.artefact import Calibration
from isthmus.confidence.reliability import (
    Bin,
    Coverage,
    calibration_error,
    discrimination,
    reliability,
    risk_coverage,
)
from isthmus.confidence.signals import Signals
from isthmus.confidence.signals.answer import of_answer
from isthmus.core.calibrator import Calibrator
from isthmus.core.evaluation import Answered, Sample
from isthmus.core.money import NANO_PER_USD
from isthmus.core.tie import Evidence, Tie
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.datasets.samples import call_of
from isthmus.evals.outcome import Scores
from isthmus.statistics import intervals
from isthmus.statistics.intervals import Interval
from isthmus.store.runs import Kept, Place

_QUANTILES = 101

Verdict: TypeAlias = Literal["cascade", "do not cascade", "no guarantee"]
_Floats = NDArray[np.float64]


class _OfSample(Protocol):
    @property
    def sample(self) -> str: ...


S = TypeVar("S", bound=_OfSample)


class Labelled(NamedTuple):
    """One sample that both models answered: what the weak answer shows, about how many tokens were asked,
    both scores, both costs in USD."""

    sample: str
    signals: Signals
    tokens: int
    weak: float
    strong: float
    weak_usd: float | None
    strong_usd: float | None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of calibrating.

    `labels` were there, of them `fitted` made the calibrator and `tested` the promise; `needed` is the least
    number for any promise. `left_out` counts samples that are no label, by the reason. Qualities, curves and
    `saving` (the share of the strong model's cost that is not spent; None where that is unknown, or nothing)
    are those of the tested half. `weighs_costs` says that answers are kept by what escalating gains for what
    it costs. `calibration` is None unless the verdict is `cascade`.
    """

    weak: str
    strong: str
    verdict: Verdict
    why: str
    labels: int
    needed: int
    fitted: int
    tested: int
    left_out: dict[str, int]
    promise: thresholds.Promise
    weak_quality: float | None
    strong_quality: float | None
    quality: float | None
    saving: Interval | None
    discrimination: float | None
    calibration_error: float | None
    reliability: tuple[Bin, ...]
    coverage: tuple[Coverage, ...]
    weighs_costs: bool
    calibration: Calibration | None


def labelled(
    weak: str, strong: str, samples: Iterable[Sample], answers: Mapping[Place, Kept], marks: Scores
) -> tuple[list[Labelled], dict[str, int]]:
    """The samples that calibrate, and how many do not, by the reason.

    The first answer of each model counts: a sample that was asked again is no second label. An answer that
    failed is none, since live it is never accepted.
    """
    found: list[Labelled] = []
    left: Counter[str] = Counter()
    asked = {it.sample for it in answers if it.model in (weak, strong)}
    for sample in sorted((it for it in samples if it.id in asked), key=lambda it: it.id):
        first, second = Place(weak, sample.id), Place(strong, sample.id)
        pair = [answers[it].answered for it in (first, second) if it in answers]
        scores = [marks[it].value for it in (first, second) if it in marks]
        if len(pair) < 2 or any(it.code is not None for it in pair):
            left["not answered by both models"] += 1
        elif len(scores) < 2 or scores[0] is None or scores[1] is None:
            left["without a score of both answers"] += 1
        elif not pair[0].logprobs:
            left["without log-probabilities of the weak answer"] += 1
        else:
            said = pair[0]
            found.append(
                Labelled(
                    sample=sample.id,
                    signals=of_answer(said.text, said.finish, said.logprobs or ()),
                    tokens=estimate_tokens(call_of(sample.request)).tokens,
                    weak=scores[0],
                    strong=scores[1],
                    weak_usd=usd_of(pair[0]),
                    strong_usd=usd_of(pair[1]),
                )
            )
    return found, dict(left)


def calibrate(
    labels: Iterable[Labelled],
    tie: Tie,
    pair: tuple[str, str],
    *,
    max_risk: float,
    delta: float,
    made_at_us: int,
    asked_at_us: int,
    costs: bool = True,
    evidence: Evidence | None = None,
    left_out: Mapping[str, int] | None = None,
) -> Trial:
    """The cascade from the first model of `pair` to the second, calibrated by these labels.

    With `costs`, answers are kept in the order of what escalating gains for what it costs, as far as all the
    strong model's costs are known; without, in that of their confidences.
    Which label goes to which half is decided by a hash of its sample, so that it is the same every time.
    """
    fits, tests = halves(labels)
    # Below that, so few are tested that nothing is promised, whatever their confidences.
    calibrator = _fitted(fits, costs) if len(fits) >= fitting.FEWEST else None
    confidences = _confidences(calibrator, tests)
    losses = _losses(tests)
    promise = thresholds.promise(confidences, losses, max_risk=max_risk, delta=delta)
    taken = confidences >= (np.inf if promise.threshold is None else promise.threshold)
    saving = _saving(tests, taken)
    verdict, why = _verdict(promise, saving)
    weak, strong = (np.array([getattr(it, name) for it in tests]) for name in ("weak", "strong"))
    calibration = None
    if verdict == "cascade" and calibrator is not None:
        calibration = Calibration(
            tie=tie,
            made_at_us=made_at_us,
            asked_at_us=asked_at_us,
            evidence=evidence,
            calibrator=calibrator,
            threshold=promise.threshold,
            risk=promise.risk,
            max_risk=max_risk,
            delta=delta,
            promise=in_words(promise),
            labels=len(fits) + len(tests),
            confidences=tuple(map(float, np.quantile(confidences, np.linspace(0, 1, _QUANTILES)))),
        )
    sure, good = _sureness(calibrator, tests), 1 - losses
    told = len(sure) > 0
    return Trial(
        weak=pair[0],
        strong=pair[1],
        verdict=verdict,
        why=why,
        labels=len(fits) + len(tests),
        needed=2 * max(thresholds.FEWEST, promise.needed),
        fitted=len(fits),
        tested=len(tests),
        left_out=dict(left_out or {}),
        promise=promise,
        weak_quality=_mean(weak),
        strong_quality=_mean(strong),
        quality=_mean(np.where(taken, weak, strong)),
        saving=saving,
        discrimination=discrimination(sure, good) if told else None,
        calibration_error=calibration_error(sure, good) if told else None,
        reliability=tuple(reliability(sure, good)) if told else (),
        coverage=tuple(risk_coverage(confidences, losses)) if told else (),
        weighs_costs=calibrator is not None and calibrator.escalation is not None,
        calibration=calibration,
    )


def halves(labels: Iterable[S]) -> tuple[list[S], list[S]]:
    """Those that teach and those that judge, parted by a hash of their samples: the same every time."""
    ordered = sorted(labels, key=lambda it: hashlib.sha256(it.sample.encode()).digest())
    cut = len(ordered) // 2
    return ordered[:cut], ordered[cut:]


def in_words(promise: thresholds.Promise) -> str:
    """What is promised, in a sentence."""
    return (
        f"With a chance of at least {1 - promise.delta:g}, accepting these answers loses at most "
        f"{promise.max_risk:g} of a score, on the mean over all requests like those that were labelled."
    )


def _fitted(labels: list[Labelled], costs: bool) -> Calibrator:
    calibrator = fitting.fit([it.signals for it in labels], _losses(labels), "helps")
    if not costs:
        return calibrator
    paid = np.array([it.strong_usd for it in labels], float)
    escalation = fitting.escalation_of([it.tokens for it in labels], paid)
    return msgspec.structs.replace(calibrator, escalation=escalation)


def _confidences(calibrator: Calibrator | None, labels: list[Labelled]) -> _Floats:
    """How sure it is of each answer that it is to be kept; by which answers are accepted."""
    if calibrator is None:
        return np.zeros(len(labels))
    return fitting.confidences(calibrator, [it.signals for it in labels], [it.tokens for it in labels])


def _sureness(calibrator: Calibrator | None, labels: list[Labelled]) -> _Floats:
    """How sure it is of each answer that the strong model would not do better; none before anything was
    fitted."""
    if calibrator is None:
        return np.zeros(0)
    return 1 - fitting.probabilities(calibrator, [it.signals for it in labels])


def _losses(labels: list[Labelled]) -> _Floats:
    """What accepting each weak answer loses, which is how far escalating helps."""
    return thresholds.losses_of("added", [it.weak for it in labels], [it.strong for it in labels])


def _saving(labels: list[Labelled], taken: NDArray[np.bool_]) -> Interval | None:
    weak = np.array([it.weak_usd for it in labels], float)
    strong = np.array([it.strong_usd for it in labels], float)
    if len(labels) < 2 or not (np.isfinite(weak) & np.isfinite(strong)).all() or not strong.sum():
        return None
    spent = intervals.ratio(weak + np.where(taken, 0.0, strong), strong, np.random.default_rng(0))
    return Interval(1 - float(spent.high), 1 - float(spent.low), spent.confidence)


def _verdict(promise: thresholds.Promise, saving: Interval | None) -> tuple[Verdict, str]:
    if not promise.kept:
        return "no guarantee", f"by the tested half of the labels, {promise.why}"
    if saving is not None and saving.low <= 0:
        return "do not cascade", "no saving can be shown, as the first attempt is paid for as well"
    if not promise.coverage:
        return "do not cascade", "no answer is accepted"
    return "cascade", in_words(promise)


def usd_of(answered: Answered) -> float | None:
    """What an answer cost, in USD; None where that is not known."""
    charge = answered.charge
    return None if charge is None or charge.nanousd is None else charge.nanousd / NANO_PER_USD


def _mean(values: _Floats) -> float | None:
    return float(values.mean()) if len(values) else None
