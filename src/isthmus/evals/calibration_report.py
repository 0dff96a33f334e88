"""A calibration as a report."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.evals.calibration import Trial
from isthmus.reports.document import Block, Document, Line, Lines, Prose, Section, Table


def calibration_report(route: str, trial: Trial) -> Document:
    """The verdict, what it stands on, and how far confidences can be believed."""
    sections = [Section("Verdict", tuple(_verdict(trial))), Section("Labels", tuple(_labels(trial)))]
    if trial.coverage:
        sections.append(Section("Risk by coverage", tuple(_coverage(trial))))
        sections.append(Section("Reliability", tuple(_reliability(trial))))
    return Document(f"Calibration of {route}: {trial.weak}, then {trial.strong}", tuple(sections))


def _verdict(trial: Trial) -> Iterator[Block]:
    head = {"cascade": "Cascade", "do not cascade": "Do not cascade", "no guarantee": "No guarantee"}
    yield Prose(f"{head[trial.verdict]}: {trial.why.rstrip('.')}.")
    promise = trial.promise
    yield Table(
        ("", "value"),
        (
            ("answers are kept by", _order(trial)),
            ("threshold", "none" if promise.threshold is None else f"{promise.threshold:.4f}"),
            ("risk, at most", f"{promise.max_risk:g} with a chance of {1 - promise.delta:g}"),
            ("risk, among the tested", _number(promise.observed)),
            ("accepted", f"{promise.coverage:.0%}"),
            ("saving", _saving(trial)),
            (f"quality of {trial.weak}", _number(trial.weak_quality)),
            (f"quality of {trial.strong}", _number(trial.strong_quality)),
            ("quality of the cascade", _number(trial.quality)),
        ),
    )


def _labels(trial: Trial) -> Iterator[Block]:
    yield Prose(
        f"{trial.labels:,} labels: {trial.fitted:,} made the confidence, {trial.tested:,} others tested the "
        f"threshold. At least {trial.needed:,} are needed for any promise of this kind, and more for a "
        "looser threshold."
    )
    if trial.left_out:
        yield Table(
            ("left out", "samples"), tuple((why, f"{many:,}") for why, many in trial.left_out.items())
        )


def _coverage(trial: Trial) -> Iterator[Block]:
    yield Lines(
        says="What is lost on the mean of accepted answers, by the share that is accepted, in the order in "
        "which they are.",
        across="share accepted",
        upward="mean loss of accepted answers",
        lines=(Line(trial.weak, tuple((it.coverage, it.risk) for it in trial.coverage)),),
    )
    yield Table(
        ("accepted", "mean loss of these"),
        tuple((f"{it.coverage:.0%}", f"{it.risk:.3f}") for it in trial.coverage[1::2]),
    )


def _reliability(trial: Trial) -> Iterator[Block]:
    told = "unknown" if trial.discrimination is None else f"{trial.discrimination:.3f}"
    yield Prose(
        f"The confidence is how likely the strong model would not do better. Expected calibration error "
        f"{_number(trial.calibration_error)}; chance that a good answer has more than a bad one (AUROC): "
        f"{told}."
    )
    yield Lines(
        says="What came true, by the confidence; a straight line from 0 to 1 would be perfect.",
        across="confidence",
        upward="share that came true",
        lines=(
            Line("perfect", ((0.0, 0.0), (1.0, 1.0))),
            Line(trial.weak, tuple((it.said, it.true) for it in trial.reliability)),
        ),
    )
    yield Table(
        ("confidence", "came true", "answers"),
        tuple((f"{it.said:.3f}", f"{it.true:.3f}", f"{it.answers:,}") for it in trial.reliability),
    )


def _order(trial: Trial) -> str:
    return "what escalating gains for what it costs" if trial.weighs_costs else "their confidence"


def _saving(trial: Trial) -> str:
    if trial.saving is None:
        return "unknown: a price is not known, or the strong model costs nothing"
    return f"{trial.saving.low:.0%} to {trial.saving.high:.0%}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
