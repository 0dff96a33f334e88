"""What shocks do, as a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isthmus.economics.stress.effects import Cost, Impact
from isthmus.reports.document import Block, Document, Prose, Section, Table


def stress_report(impacts: Sequence[Impact], traffic: str) -> Document:
    """The report: all shocks in one table, then each that does something. `traffic` says what was put under
    stress."""
    told = [
        Section(it.shock.name, tuple(_told(it)))
        for it in impacts
        if it.breaks or it.moves or it.better or it.short
    ]
    overview = Section("Shocks", (Prose(traffic), _overview(impacts)))
    return Document("Stress test", (overview, *told))


def _overview(impacts: Sequence[Impact]) -> Table:
    return Table(
        ("shock", "what happens", "breaks", "routes moved", "USD a month", "then", "change"),
        tuple(
            (
                it.shock.name,
                it.shock.says,
                ", ".join(dict.fromkeys(broken.route for broken in it.breaks)) or "nothing",
                ", ".join(dict.fromkeys(moved.route for moved in it.moves)) or "none",
                _usd(it.before),
                _usd(it.after),
                _change(it),
            )
            for it in impacts
        ),
        numbers=4,
    )


def _told(impact: Impact) -> Iterator[Block]:
    yield Prose(f"{impact.shock.says[:1].upper()}{impact.shock.says[1:]}.")
    for broken in impact.breaks:
        zones = "" if broken.zones is None else f", only in {', '.join(broken.zones) or 'no zone'}"
        reasons = "; ".join(f"{it.model}: {it.reason}" for it in broken.refusals)
        which = "the thrifty plan of route" if broken.thrifty else "route"
        yield Prose(
            f"BREAKS: {which} {broken.route} has no model left for {broken.operation} that is {broken.level}"
            f"{zones} ({broken.requests:,.0f} requests a month): {reasons}. {broken.change}"
        )
    if impact.short:
        yield Prose(
            "Budgets run short in a month whose days are alike. So many requests come while a route is "
            "thrifty, and so many while a budget is spent: those are refused, unless a free model answers."
        )
        yield Table(
            ("route", "thrifty before", "thrifty then", "spent before", "spent then"),
            tuple(
                (
                    it.route,
                    *(
                        f"{one:,.0f}"
                        for one in (it.thrifty_before, it.thrifty_after, it.spent_before, it.spent_after)
                    ),
                )
                for it in impact.short
            ),
            numbers=1,
        )
    if impact.moves:
        yield Prose("Quality at risk: evaluate before it happens whether these models answer well enough.")
        yield Table(
            ("route", "lost", "instead", "requests a month", "USD before", "USD then"),
            tuple(
                (it.route, it.lost, it.instead, f"{it.requests:,.0f}", _usd(it.before), _usd(it.after))
                for it in impact.moves
            ),
            numbers=3,
        )
    if impact.better:
        yield Prose("Permitted models of the portfolio that would cost less then, if they are good enough:")
        yield Table(
            ("route", "model", "instead", "USD then", "USD instead"),
            tuple(
                (it.route, it.model, it.instead, _usd(it.after), _usd(it.by_instead)) for it in impact.better
            ),
            numbers=3,
        )


def _usd(cost: Cost) -> str:
    amount = f"{cost.usd:,.0f}" if cost.usd >= 100 else f"{cost.usd:,.2f}"
    return amount if cost.unpriced == 0 else f"{amount} and {cost.unpriced:,.0f} requests of unknown price"


def _change(impact: Impact) -> str:
    if impact.before.usd == 0:
        return "-"
    return f"{impact.after.usd / impact.before.usd - 1:+.0%}"
