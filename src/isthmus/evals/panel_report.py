"""What a learned panel is worth, as a report."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.evals.choosing_report import policies_table
from isthmus.evals.panels import Trial
from isthmus.reports.document import Block, Document, Prose, Section, Table


def panel_report(route: str, trial: Trial, *, escalates: bool) -> Document:
    """The verdict, what the vote and each member come to, and what was learned from; `escalates` says that
    the route asks another model where not all agree."""
    sections = [Section("Verdict", tuple(_verdict(trial, escalates)))]
    if trial.policies:
        sections.append(Section("The vote beside its members", tuple(_policies(trial))))
    sections.append(Section("Samples", tuple(_samples(trial))))
    return Document(f"A vote for {route}: {', '.join(trial.members)}", tuple(sections))


def _verdict(trial: Trial, escalates: bool) -> Iterator[Block]:
    head = {"vote": "Vote", "the best alone": f"The best alone, {trial.best}", "no guarantee": "No guarantee"}
    yield Prose(f"{head[trial.verdict]}: {trial.why}.")
    if trial.panel is None:
        return
    yield Table(
        ("", "value"),
        (
            *((f"weight of {name}", f"{weight:.2f}") for name, weight in trial.panel.weights.items()),
            ("all say the same", f"{trial.unanimous:.0%}"),
            ("score of what all say", _score(trial.unanimous_quality)),
        ),
    )
    if escalates:
        yield Prose(
            "The route has `otherwise`: all are asked, and what not all say is escalated. The panel decides "
            "where that cannot answer."
        )


def _policies(trial: Trial) -> Iterator[Block]:
    yield Prose(f"On the {trial.tested:,} samples that taught nothing. Gains are over {trial.best} alone.")
    yield policies_table(trial.policies)


def _samples(trial: Trial) -> Iterator[Block]:
    yield Prose(
        f"{trial.samples:,} samples had a score of every member: {trial.learned:,} taught the panel, "
        f"{trial.tested:,} others judged it. At least {trial.needed:,} are needed."
    )
    if trial.left_out:
        rows = tuple((why, f"{many:,}") for why, many in trial.left_out.items())
        yield Table(("left out", "samples"), rows)


def _score(score: float | None) -> str:
    return "they never do" if score is None else f"{score:.3f}"
