"""What the gate found, as evidence that goes with the weights, and as a report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from isthmus.core.money import format_usd
from isthmus.distill.gate import MOST_OF_A_SHARE, Check, Judgement, Probed
from isthmus.distill.sections import Gate
from isthmus.evals.outcome import Standing
from isthmus.reports.document import Block, Document, Prose, Section, Table
from isthmus.statistics.intervals import Interval
from isthmus.store.runs import Candidate

_TITLES = {
    "keeps": "keeps its teacher's quality",
    "incumbent": "no worse than the incumbent",
    "retention": "has not lost what its base can do",
    "safety": "loses no safety probe",
}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the held-out samples: its quality in its interval (95 %), times, and costs."""

    role: str
    model: Candidate
    n: int
    quality: float | None
    interval: Interval | None
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    usd_per_thousand: float | None


class GateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gate found, to be kept with the weights that it is about.

    `runs` are the pilot runs behind it; `held_out`, `retention` and `learned` are hashes of datasets, and no
    sample of `learned` touches one of the others. `models` are those judged, the student first.
    """

    judgement: Judgement
    rule: Gate
    scorer: str
    models: tuple[Measured, ...]
    probes: tuple[Probed, ...]
    runs: dict[str, str]
    held_out: str
    retention: str | None
    learned: tuple[str, ...]
    notes: tuple[str, ...]
    config_hash: str
    at_us: int


def measured_of(role: str, standing: Standing) -> Measured:
    """What a run says of one model, by its first scorer."""
    quality = standing.qualities[0] if standing.qualities else None
    return Measured(
        role=role,
        model=standing.model,
        n=quality.n if quality is not None else 0,
        quality=quality.mean if quality is not None else None,
        interval=quality.interval if quality is not None else None,
        failed=sum(standing.failed.values()),
        p50_ms=standing.total_ms.p50,
        p95_ms=standing.total_ms.p95,
        usd_per_thousand=standing.usd_per_thousand,
    )


def gate_report(record: GateRecord) -> Document:
    """The record in words and tables."""
    student = record.models[0].model.name
    sections = [
        Section("Verdict", tuple(_verdict(record))),
        Section("Checks", (_checks(record.judgement.checks),)),
        Section("Models", tuple(_models(record))),
        Section("Classes", tuple(_classes(record.judgement))),
        Section("Safety probes", tuple(_probes(record))),
        Section("What would help", tuple(_advice(record.judgement))),
        Section("What it rests on", tuple(_grounds(record))),
    ]
    return Document(f"Gate of {student}", tuple(it for it in sections if it.blocks))


def _verdict(record: GateRecord) -> Iterator[Block]:
    judgement = record.judgement
    yield Prose(f"{judgement.verdict.upper()}: {record.models[0].model.name}.")
    if judgement.share is not None:
        span = judgement.share_interval
        yield Prose(
            f"It keeps {judgement.share:.1%} of its teacher's quality ({span.low:.1%} to "
            f"{_percent(span.high)}, each end wrong in {record.rule.chance:.0%} of cases at most), by "
            f"{record.scorer}."
        )
    for check in judgement.checks:
        if check.verdict != "passed":
            why = check.why[:1].upper() + check.why[1:]
            yield Prose(f"{check.verdict.capitalize()}: {_TITLES[check.name]}. {why}.")


def _checks(checks: tuple[Check, ...]) -> Table:
    heads = ("check", "verdict", "measured", "interval", "p (not reached)", "p (reached)", "n", "needed")
    return Table(heads, tuple(_check(it) for it in checks), numbers=2)


def _check(it: Check) -> tuple[str, ...]:
    return (
        _TITLES[it.name],
        it.verdict,
        "-" if it.measured is None else f"{it.measured:+.3f}",
        "-" if it.interval is None else f"{it.interval.low:+.3f} to {it.interval.high:+.3f}",
        _p(it.refutes),
        _p(it.holds),
        f"{it.n:,}",
        "-" if it.needed is None else f"{it.needed:,}",
    )


def _models(record: GateRecord) -> Iterator[Block]:
    heads = ("role", "model", "quality", "n", "failed", "p50 ms", "p95 ms", "USD/1000")
    yield Table(heads, tuple(_model(it) for it in record.models), numbers=2)
    if beside := _beside_teacher(record.models):
        yield Prose(f"Beside its teacher, {beside}. Known answers have the times of when they were asked.")


def _beside_teacher(models: Sequence[Measured]) -> str:
    """The student's median time and cost as shares of its teacher's, as far as they are known."""
    student, teacher = (next(it for it in models if it.role == role) for role in ("student", "teacher"))
    pairs = (
        ("takes", "of the time (medians)", student.p50_ms, teacher.p50_ms),
        ("costs", "of the money", student.usd_per_thousand, teacher.usd_per_thousand),
    )
    told = [
        f"it {does} {ours / its:.1%} {what}" for does, what, ours, its in pairs if ours is not None and its
    ]
    return " and ".join(told)


def _model(it: Measured) -> tuple[str, ...]:
    span = f" ({it.interval.low:.3f} to {it.interval.high:.3f})" if it.interval is not None else ""
    return (
        it.role,
        it.model.name,
        "-" if it.quality is None else f"{it.quality:.3f}{span}",
        f"{it.n:,}",
        f"{it.failed:,}",
        _number(it.p50_ms),
        _number(it.p95_ms),
        "unknown" if it.usd_per_thousand is None else format_usd(round(it.usd_per_thousand * 1e9)),
    )


def _classes(judgement: Judgement) -> Iterator[Block]:
    if judgement.classes:
        heads = ("class", "worse", "student", judgement.rival, "p", "n")
        rows = (
            (
                it.name,
                "WORSE" if it.worse else "-",
                f"{it.student:.3f}",
                f"{it.rival:.3f}",
                _p(it.p),
                f"{it.n:,}",
            )
            for it in judgement.classes
        )
        yield Table(heads, tuple(rows), numbers=2)


def _probes(record: GateRecord) -> Iterator[Block]:
    rows = tuple(
        (it.id, it.kind, _said(it.base), _said(it.student), "LOST" if it.lost else "-")
        for it in record.probes
    )
    if rows:
        yield Table(("probe", "kind", "base", "student", "lost"), rows, numbers=5)
        yield Prose(
            "A few probes of our own: they find what a training has broken, and prove no model safe. What "
            "the base fails is not held against the student."
        )


def _advice(judgement: Judgement) -> Iterator[Block]:
    for it in judgement.advice:
        yield Prose(f"- {it}")


def _grounds(record: GateRecord) -> Iterator[Block]:
    runs = ", ".join(f"{name} {run}" for name, run in record.runs.items())
    yield Prose(f"Runs: {runs}. Config {record.config_hash[:12]}. Held-out samples {record.held_out[:12]}.")
    learned = ", ".join(it[:12] for it in record.learned)
    yield Prose(f"Nothing that was learned ({learned}) touches what was asked here.")
    for note in record.notes:
        yield Prose(f"Note. {note}")
    yield Prose(
        "A check is passed where the claim that the student does not reach it is refuted; that one passes "
        f"which should not has a chance of {record.rule.chance:g} at most. Measured is the mean score less "
        "what must be reached. What is failed is told by p-values corrected for all checks (Holm); the rest "
        "is undecided."
    )


def _said(passed: bool | None) -> str:
    return "no answer" if passed is None else "passed" if passed else "not"


def _percent(share: float) -> str:
    return "no bound" if share == MOST_OF_A_SHARE else f"{share:.1%}"


def _p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
