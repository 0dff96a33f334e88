"""What a learned router is worth, as a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isthmus.evals.choosing import Policy, Trial
from isthmus.reports.document import Block, Document, Prose, Section, Table
from isthmus.statistics.intervals import Interval


def choosing_report(route: str, trial: Trial) -> Document:
    """The verdict, what each way to choose comes to, and what was learned from."""
    sections = [Section("Verdict", tuple(_verdict(trial)))]
    if trial.policies:
        sections.append(Section("Ways to choose", tuple(_policies(trial))))
    sections.append(Section("Samples", tuple(_samples(trial))))
    return Document(f"Choosing for {route}: {', '.join(trial.models)}", tuple(sections))


def _verdict(trial: Trial) -> Iterator[Block]:
    head = {"choose": "Choose", "do not choose": "Do not choose", "no guarantee": "No guarantee"}
    yield Prose(f"{head[trial.verdict]}: {trial.why}.")
    if not trial.policies:
        return
    yield Table(
        ("", "value"),
        (
            ("instead of", f"{trial.reference} alone"),
            ("loss, at most", f"{trial.max_risk:g} with a chance of {1 - trial.delta:g}"),
            ("saving", _saving(trial.saving)),
            ("like nothing learned from", f"{trial.unsupported:.0%}"),
            *((f"chosen: {name}", f"{share:.0%}") for name, share in trial.shares.items()),
        ),
    )


def _policies(trial: Trial) -> Iterator[Block]:
    yield Prose(
        f"On the {trial.tested:,} samples that taught nothing. Gains are over {trial.reference} alone; "
        "random asks each model as often, and oracle knows every score beforehand, which nothing can."
    )
    yield policies_table(trial.policies)


def policies_table(policies: Sequence[Policy]) -> Table:
    """What each way comes to, a row each."""
    return Table(
        ("way", "quality", "95 % interval", "gain", "95 % interval", "USD per 1,000"),
        tuple(map(_row, policies)),
    )


def _row(policy: Policy) -> tuple[str, ...]:
    return (
        policy.name,
        f"{policy.quality:.3f}",
        _interval(policy.interval),
        f"{policy.gain:+.3f}",
        _interval(policy.gain_interval),
        "unknown" if policy.usd_per_thousand is None else f"{policy.usd_per_thousand:.4f}",
    )


def _samples(trial: Trial) -> Iterator[Block]:
    seen = "their words, their surface" + (", and their nearest neighbours" if trial.vectors else "")
    by = f" It goes by {seen}." if trial.policies else ""
    what = "recorded requests had a score" if trial.recorded else "samples had a score of every model"
    yield Prose(
        f"{trial.samples:,} {what}: {trial.learned:,} taught the router, "
        f"{trial.tested:,} others judged it. At least {trial.needed:,} are needed.{by}"
    )
    if trial.recorded:
        yield Prose(
            f"Of the scores {trial.recorded - trial.judged:,} are people's and {trial.judged:,} judges'. Who "
            "was asked was drawn, and by the odds on record a score stands for those that nobody knows. Who "
            "gives a score at all chooses that freely: all this holds for requests like those that are "
            "scored. Costs are those that are foreseen."
        )
    yield Prose(
        f"Their label, joined, is {trial.label.in_words()}. A file that is learned from them has no texts, "
        "but vectors and weights that tell of their words: keep it as what is so labelled."
    )
    if trial.left_out:
        rows = tuple((why, f"{many:,}") for why, many in trial.left_out.items())
        yield Table(("left out", "samples"), rows)


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _saving(saving: Interval | None) -> str:
    if saving is None:
        return "unknown: a price is not known, or nothing is spent"
    return f"{saving.low:.0%} to {saving.high:.0%}"
