"""A simulation as a report."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.evals.simulation.playing import Guarantee, Range, Result, Simulation
from isthmus.reports.document import Block, Document, Line, Lines, Prose, Section, Table

_FEW = 6

_RISKS = {
    "added": "the score that the stronger model would have added, over all queries",
    "accepted": "the mean loss of accepted answers",
}


def simulation_report(simulation: Simulation) -> Document:
    """The report: costs and qualities, promises put to the proof, the frontier, and what to paste."""
    sections = [Section("Strategies", (Prose(_method(simulation)), _overview(simulation)))]
    promised = [it for it in simulation.results if it.guarantee is not None]
    if promised:
        sections.append(Section("Promises", tuple(_promises(promised))))
    told = tuple(Prose(f"{it.name}: {it.verdict}.") for it in simulation.results if it.verdict)
    if told:
        sections.append(Section("What to make of it", told))
    if any(len(points) > 1 for points in simulation.curves.values()):
        sections.append(Section("Frontier", (_frontier(simulation), _points_of(simulation))))
    rows = tuple((it.name, it.strategy) for it in simulation.results if it.strategy.startswith("{"))
    if rows:
        pasted = Table(("strategy", "under a route of isthmus.yaml"), rows, numbers=2)
        sections.append(Section("As config", (pasted,)))
    return Document("Simulated strategies", tuple(sections))


def _method(simulation: Simulation) -> str:
    parted = (
        f"{simulation.queries:,} queries are learned from, {simulation.later:,} later ones judged by."
        if simulation.later
        else f"{simulation.queries:,} queries. In each of {simulation.draws} draws one half, by chance, is "
        "learned from, and the other is judged by."
    )
    left = (
        f" {simulation.left_out:,} queries that some model has not answered are left out."
        if simulation.left_out
        else ""
    )
    return (
        f"{parted} Gains and savings are set against {simulation.reference} alone, with intervals "
        f"of 95 %.{left}"
    )


def _overview(simulation: Simulation) -> Table:
    return Table(
        ("strategy", "quality", "gain, points", "USD per 1,000", "saving", "escalated", "latency, ms"),
        tuple(
            (
                it.name,
                f"{it.quality.value:.3f}",
                _points(it.gain),
                f"{1000 * it.cost_usd:.4g}",
                "-" if it.saving is None else _percent(it.saving),
                "-" if it.escalated is None else f"{it.escalated:.0%}",
                "unknown" if it.latency_ms is None else f"{it.latency_ms:,.0f}",
            )
            for it in sorted(simulation.results, key=lambda it: -it.quality.value)
        ),
    )


def _promises(results: list[Result]) -> Iterator[Block]:
    kinds = {it.guarantee.risk_kind for it in results if it.guarantee is not None}
    for kind in sorted(kinds):
        yield Prose(f"The risk `{kind}` is {_RISKS[kind]}.")
    yield Table(
        ("strategy", "risk at most", "delta", "promised", "broken", "risk, measured"),
        tuple((it.name, *_promise(it.guarantee)) for it in results if it.guarantee is not None),
    )


def _promise(it: Guarantee) -> tuple[str, ...]:
    return (
        f"{it.max_risk:g} ({it.risk_kind})",
        f"{it.delta:g}",
        f"{it.promised} of {it.draws}",
        f"{it.broken} of {it.promised}" if it.promised else "-",
        "-" if it.risk is None else f"{it.risk:.3f}",
    )


def _frontier(simulation: Simulation) -> Lines:
    cheapest_first = {name: points for name, points in simulation.curves.items() if len(points) > 1}
    return Lines(
        says="Quality by cost: single models mixed by chance, and cascades at each threshold.",
        across="USD per 1,000 queries",
        upward="quality",
        lines=tuple(
            Line(name, tuple((1000 * cost, quality) for cost, quality in points))
            for name, points in cheapest_first.items()
        ),
    )


def _points_of(simulation: Simulation) -> Table:
    """A few points of each curve, for who reads the text alone."""
    return Table(
        ("curve", "USD per 1,000: quality"),
        tuple(
            (
                name,
                "; ".join(
                    f"{1000 * cost:.3g}: {quality:.3f}"
                    for cost, quality in points[:: max(1, len(points) // _FEW)]
                ),
            )
            for name, points in simulation.curves.items()
        ),
        numbers=2,
    )


def _points(it: Range) -> str:
    return f"{100 * it.value:+.1f} ({100 * it.low:+.1f} to {100 * it.high:+.1f})"


def _percent(it: Range) -> str:
    return f"{it.value:.0%} ({it.low:.0%} to {it.high:.0%})"
