"""A run, and the comparison of two, as reports. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from isthmus.core.money import format_usd
from isthmus.evals.comparison import Comparison
from isthmus.evals.outcome import Differing, Outcome, Pair, Quality, Said, Standing
from isthmus.reports.document import Block, Document, Point, Prose, Scatter, Section, Table
from isthmus.statistics.intervals import Interval
from isthmus.store.runs import Run

EXCERPT = 160
"""So many characters of a prompt or an answer are shown."""


def pilot_report(outcome: Outcome) -> Document:
    """The report: models, frontier, pairs, failures, and where models differ."""
    run = outcome.run
    sections = [
        Section("Models", tuple(_models(outcome))),
        Section("Cost and quality", tuple(_frontier(outcome))),
        Section("Which differences are real", tuple(_pairs(outcome.pairs))),
        Section("Failures", tuple(_failures(outcome.standings))),
        Section("Where models differ", tuple(_differing(outcome))),
    ]
    return Document(f"Pilot of {run.dataset}", (Section("Run", tuple(_run(outcome))), *sections))


def comparison_report(comparison: Comparison) -> Document:
    """The report: the two runs, and each model in one against the other."""
    sections = [
        Section("Runs", (_two_runs(comparison),)),
        Section("Quality", tuple(_compared(comparison))),
    ]
    return Document(f"{comparison.a.id} and {comparison.b.id}", tuple(sections))


def _run(outcome: Outcome) -> Iterator[Block]:
    run = outcome.run
    times = f", each {run.repeat} times" if run.repeat > 1 else ""
    split = f" (split {run.split})" if run.split else ""
    yield Prose(
        f"{run.id}: {len(run.sample_ids):,} samples of {run.dataset}{split}{times}, begun {_when(run.at_us)}"
        f" UTC{f' by {run.who}' if run.who else ''}. Dataset {run.dataset_hash[:12]}, config "
        f"{run.config_hash[:12]}."
    )
    left = sum(it.left for it in outcome.standings)
    if left:
        yield Prose(f"NOT COMPLETE: {left:,} answers are still to be asked for. Run the same command again.")


def _models(outcome: Outcome) -> Iterator[Block]:
    scorers = list(dict.fromkeys(it.scorer for one in outcome.standings for it in one.qualities))
    times = ("p50 ms", "p95 ms", "first p50", "first p95")
    heads = ("model", *scorers, "n", "failed", *times, "USD/1000", "in", "out")
    yield Table(heads, tuple(_standing(it) for it in outcome.standings))
    yield Prose(
        "Quality is the mean score with its 95% interval. A failure scores 0. Times are of the attempt that "
        "answered, `first` to the first token; USD/1000 is the cost of a thousand such requests, retries "
        "included, and 0 for an engine of your own, whatever its machine costs; `in` and `out` are mean "
        "tokens."
    )
    barred = [it for it in outcome.standings if it.not_permitted]
    if barred:
        named = ", ".join(f"{it.model.name} {it.not_permitted:,}" for it in barred)
        yield Prose(
            f"Not permitted, and never sent: {named}. Each model's quality is over the samples that it may "
            "see; pairs are compared over those that both may."
        )


def _standing(it: Standing) -> tuple[str, ...]:
    n = it.qualities[0].n if it.qualities else it.answered
    return (
        it.model.name,
        *map(_quality, it.qualities),
        f"{n:,}",
        f"{sum(it.failed.values()):,}",
        _number(it.total_ms.p50),
        _number(it.total_ms.p95),
        _number(it.first_token_ms.p50),
        _number(it.first_token_ms.p95),
        "unknown" if it.usd_per_thousand is None else _usd(it.usd_per_thousand),
        _number(it.tokens_in),
        _number(it.tokens_out),
    )


def _frontier(outcome: Outcome) -> Iterator[Block]:
    points = tuple(_point(it, outcome.frontier) for it in outcome.standings if _can_be_placed(it))
    if not points:
        yield Prose("No model has both a known price and a score.")
        return
    best = ", then ".join(outcome.frontier)
    yield Prose(
        f"From cheap to good: {best}. No other model is both cheaper and better, by the means; whether a "
        "difference is real stands below."
    )
    scorer = outcome.standings[0].qualities[0].scorer
    yield Scatter(
        says=f"Quality by {scorer} against cost; the line joins {best}. Whiskers are 95% intervals.",
        across="USD per thousand requests",
        upward=f"quality by {scorer}",
        points=points,
    )
    unplaced = [it.model.name for it in outcome.standings if not _can_be_placed(it)]
    if unplaced:
        yield Prose(f"Not in the chart, for want of a price or a score: {', '.join(unplaced)}.")


def _can_be_placed(it: Standing) -> bool:
    return it.usd_per_thousand is not None and bool(it.qualities) and it.qualities[0].mean is not None


def _point(it: Standing, frontier: Sequence[str]) -> Point:
    quality = it.qualities[0]
    assert it.usd_per_thousand is not None
    assert quality.mean is not None
    return Point(
        name=it.model.name,
        x=it.usd_per_thousand,
        y=quality.mean,
        low=quality.interval.low,
        high=quality.interval.high,
        marked=it.model.name in frontier,
    )


def _pairs(pairs: Sequence[Pair]) -> Iterator[Block]:
    if not pairs:
        yield Prose("There is one model, or no score.")
        return
    yield Table(
        ("scorer", "model", "is", "than", "by", "95% interval", "p", "n", "needed"),
        tuple(_pair(it) for it in pairs),
        numbers=4,
    )
    yield Prose(
        "Over the same samples. p is corrected for all pairs of a scorer (Holm); below 0.05 a difference is "
        "called real. `needed` is how many samples would show a difference as large as the one seen, in four "
        "of five tries."
    )


def _pair(it: Pair) -> tuple[str, ...]:
    return (
        it.scorer,
        it.a,
        it.verdict,
        it.b,
        f"{it.difference:+.3f}",
        f"{it.interval.low:+.3f} to {it.interval.high:+.3f}",
        _p(it.adjusted_p),
        f"{it.n:,}",
        "-" if it.needed is None else f"{it.needed:,}",
    )


def _failures(standings: Sequence[Standing]) -> Iterator[Block]:
    rows = tuple(row for it in standings for row in _failed(it))
    if not rows:
        yield Prose("None: every request was answered, and no answer was cut off or refused.")
        return
    yield Table(("model", "what", "counts as", "count"), rows, numbers=3)


def _failed(it: Standing) -> Iterator[tuple[str, ...]]:
    name = it.model.name
    for code, count in it.failed.items():
        yield name, code, "0", f"{count:,}"
    told = (
        ("cut off at the limit of tokens", it.truncated, "scored as it stands"),
        ("refused, or filtered", it.refused, "scored as it stands"),
        ("not permitted", it.not_permitted, "missing"),
        ("not asked yet", it.left, "missing"),
        *((f"not scored by {q.scorer}", q.unscored, "missing") for q in it.qualities),
    )
    for what, count, counts_as in told:
        if count:
            yield name, what, counts_as, f"{count:,}"


def _differing(outcome: Outcome) -> Iterator[Block]:
    if not outcome.differing:
        yield Prose("Nowhere.")
        return
    for it in outcome.differing:
        yield Prose(f"{it.sample}: {_excerpt(it.prompt)}{_wanted(it)}")
        yield Table(("model", "answer", "score"), tuple(map(_said, it.said)), numbers=2)


def _wanted(it: Differing) -> str:
    return f" (wanted: {_excerpt(' or '.join(it.target))})" if it.target else ""


def _said(it: Said) -> tuple[str, ...]:
    text = _excerpt(it.text) if it.code is None else f"failed: {it.code}"
    return it.model, text, "-" if it.value is None else f"{it.value:.3g}"


def _two_runs(comparison: Comparison) -> Table:
    rows = [("A", comparison.a), ("B", comparison.b)]
    heads = ("", "run", "begun (UTC)", "dataset", "models", "samples")
    return Table(heads, tuple((letter, *_one_run(run)) for letter, run in rows), numbers=5)


def _one_run(run: Run) -> tuple[str, ...]:
    models = ", ".join(it.name for it in run.models)
    dataset = f"{run.dataset} {run.dataset_hash[:8]}"
    return run.id, _when(run.at_us), dataset, models, f"{len(run.sample_ids):,}"


def _compared(comparison: Comparison) -> Iterator[Block]:
    if not comparison.changes:
        yield Prose("The runs have no scorer in common, so there is nothing to compare.")
        return
    yield Table(
        ("scorer", "model in A", "model in B", "A", "B", "B is", "by", "95% interval", "p", "n"),
        tuple(
            (
                it.scorer,
                it.a,
                it.b,
                _quality(it.quality_a),
                _quality(it.quality_b),
                it.verdict,
                "-" if it.difference is None else f"{it.difference:+.3f}",
                "-" if it.interval is None else _signed(it.interval),
                "-" if it.p is None else _p(it.p),
                f"{it.n:,}" if it.paired else "unpaired",
            )
            for it in comparison.changes
        ),
        numbers=6,
    )
    yield Prose(
        "Where both runs have the same samples they are compared sample by sample; p is corrected for all "
        "rows of a scorer (Holm). Unpaired rows have no sample in common: they are told apart only where "
        "the two intervals do not touch, which is cautious."
    )


def _quality(it: Quality) -> str:
    if it.mean is None:
        return "-"
    return f"{it.mean:.3f} ({it.interval.low:.3f} to {it.interval.high:.3f})"


def _signed(it: Interval) -> str:
    return f"{it.low:+.3f} to {it.high:+.3f}"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _usd(amount: float) -> str:
    return format_usd(round(amount * 1e9)) if amount < 0.01 else f"{amount:,.2f}"


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"


def _when(at_us: int) -> str:
    return f"{dt.datetime.fromtimestamp(at_us // 1_000_000, dt.UTC):%Y-%m-%d %H:%M}"
