"""What was spent, as a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isthmus.core.money import NANO_PER_USD
from isthmus.core.traffic import Spent
from isthmus.economics.spend.sums import Spend
from isthmus.reports.document import Block, Document, Line, Lines, Prose, Section, Table


def spend_report(spend: Spend) -> Document:
    """The report: the sum, its parts, what would have been cheaper, what is to come, what was unusual."""
    parts = (
        ("day", spend.by_day),
        ("key", spend.by_key),
        ("team", spend.by_team),
        ("route", spend.by_route),
        ("model", spend.by_model),
        ("provider", spend.by_provider),
        ("kind", spend.by_kind),
    )
    return Document(
        f"Spend from {spend.since} to {spend.until}",
        (
            Section("In all", tuple(_in_all(spend))),
            *(Section(f"By {name}", (_parts(name, those, spend.total),)) for name, those in parts),
            Section("The same traffic elsewhere", tuple(_elsewhere(spend))),
            Section("Forecast", tuple(_forecast(spend))),
            Section("Unusual days", tuple(_unusual(spend))),
        ),
    )


def _in_all(spend: Spend) -> Iterator[Block]:
    total = spend.total
    unknown = (
        f" Requests of unknown price, which are in no sum: {total.unpriced:,}." if total.unpriced else ""
    )
    yield Prose(
        f"{total.requests:,} requests cost {_usd(total.nanousd / NANO_PER_USD)} USD.{unknown} "
        f"Caches saved {_usd(spend.cache_saved_usd)} USD."
    )
    if len(spend.by_day) > 1:
        days = tuple((float(number), it.nanousd / NANO_PER_USD) for number, it in enumerate(spend.by_day))
        if any(usd > 0 for _, usd in days):
            yield Lines(
                says=f"USD by day, from {spend.by_day[0].name} to {spend.by_day[-1].name}.",
                across=f"days since {spend.by_day[0].name}",
                upward="USD a day",
                lines=(Line("spent", days),),
            )


def _parts(name: str, parts: Sequence[Spent], total: Spent) -> Table:
    return Table(
        (name, "requests", "USD", "share", "of unknown price"),
        tuple(
            (
                it.name,
                f"{it.requests:,}",
                _usd(it.nanousd / NANO_PER_USD),
                f"{it.nanousd / total.nanousd:.1%}" if total.nanousd else "-",
                f"{it.unpriced:,}",
            )
            for it in parts
        ),
    )


def _elsewhere(spend: Spend) -> Iterator[Block]:
    yield Prose(
        "All of the traffic on one model, at the prices of its own hours, with the tokens as they were "
        "counted; tokenisers differ by a tenth or more. Whether the model is good enough, and may see it, is "
        "not said."
    )
    yield Table(
        ("model", "kind", "USD", "of unknown price"),
        tuple((it.model, it.kind, _usd(it.usd), f"{it.unpriced:,}") for it in spend.elsewhere),
        numbers=2,
    )


def _forecast(spend: Spend) -> Iterator[Block]:
    found = spend.forecast
    if found is None:
        yield Prose("Less than a week of whole days is known: too little for a forecast.")
        return
    yield Prose(
        f"{found.month} has cost {_usd(found.so_far_usd)} USD so far. By its end: P10 {_usd(found.p10_usd)}, "
        f"P50 {_usd(found.p50_usd)}, P90 {_usd(found.p90_usd)} USD. Days to come are drawn from the last "
        f"{found.days} days, and cost more or less where prices for them are announced."
    )


def _unusual(spend: Spend) -> Iterator[Block]:
    if not spend.anomalies:
        yield Prose("None.")
        return
    yield Table(
        ("day", "what", "USD", "usual"),
        tuple((it.day.isoformat(), it.name, _usd(it.usd), _usd(it.usual_usd)) for it in spend.anomalies),
        numbers=2,
    )


def _usd(amount: float) -> str:
    return (
        f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:,.2f}" if abs(amount) >= 1 else f"{amount:.4f}"
    )
