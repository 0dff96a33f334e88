"""The answer to a case as a report."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.economics.tco.answer import Answer
from isthmus.economics.tco.break_even import BreakEven
from isthmus.economics.tco.figures import Verdict
from isthmus.economics.tco.options import Option
from isthmus.economics.tco.uncertainty import Swing, cheapest_fleet
from isthmus.reports.document import Bar, Block, Document, Line, Lines, Prose, Section, Table, Tornado

_SHOWN_SWINGS = 12


def tco_report(answer: Answer) -> Document:
    """The report: the options, where they meet, what flips the answer, how far off it may be, and on what
    all of it rests."""
    sections = [
        Section("Options", (Prose(_verdict_in_words(answer)), _options(answer))),
        Section("Break-even", tuple(_break_even(answer))),
        Section("What flips the answer", tuple(_tornado(answer))),
        Section("How far off it may be", tuple(_outlook(answer))),
        Section("Assumptions", (_assumptions(answer),)),
    ]
    if answer.verdicts or answer.claim:
        sections.insert(1, Section("What was expected", tuple(_expected(answer))))
    return Document(answer.title, tuple(sections))


def _verdict_in_words(answer: Answer) -> str:
    api = next(it for it in answer.options if it.name == answer.first_api)
    fleet = cheapest_fleet(answer.options)
    if fleet is None:
        return f"{api.name} costs {_usd(api.usd_per_month)} a month. There is nothing to compare it with."
    saving = api.usd_per_month - fleet.usd_per_month
    chance = next(it.chance_cheaper for it in answer.outlook if it.option == fleet.name)
    words = "less" if saving > 0 else "more"
    cheapest = min(answer.options, key=lambda it: it.usd_per_month)
    beyond = "" if cheapest in (api, fleet) else f" The cheapest of all options is {cheapest.name}."
    return (
        f"At {_count(answer.requests_per_month)} requests a month the cheapest way to run it yourself, "
        f"{fleet.name}, costs {_usd(fleet.usd_per_month)}: {_usd(abs(saving))} {words} than {api.name} "
        f"({_usd(api.usd_per_month)}). It is the cheaper of the two in {_share(chance)} of the draws.{beyond}"
    )


def _options(answer: Answer) -> Table:
    heads = ("option", "USD a month", "USD per M tokens", "per M output", "per 1,000 requests")
    return Table(
        (*heads, "replicas", "GPUs", "busy", "machines", "people", "escalated"),
        tuple(_row(it) for it in answer.options),
    )


def _row(it: Option) -> tuple[str, ...]:
    return (
        it.name,
        _usd(it.usd_per_month),
        _price(it.usd_per_million_tokens),
        _price(it.usd_per_million_output),
        _price(it.usd_per_thousand_requests),
        "-" if it.replicas is None else f"{it.replicas:,.3g}",
        "-" if it.gpus is None else f"{it.gpus:,.3g}",
        _share(it.utilisation),
        *(_usd(it.parts[part]) if part in it.parts else "-" for part in ("machines", "people", "escalated")),
    )


def _expected(answer: Answer) -> Iterator[Block]:
    rows = [_verdict_row(it, "as expected" if it.holds else "NOT as expected") for it in answer.verdicts]
    if answer.claim:
        rows.append(
            _verdict_row(answer.claim, "claim holds" if answer.claim.holds else "claim does not hold")
        )
    yield Table(("figure", "option", "against", "verdict", "expected", "found"), tuple(rows), numbers=4)


def _verdict_row(it: Verdict, words: str) -> tuple[str, ...]:
    found = "never" if it.found is None else f"{it.found:,.5g}"
    return (it.figure, it.option, it.against, words, it.expected, found)


def _break_even(answer: Answer) -> Iterator[Block]:
    if not answer.break_evens:
        yield Prose("There is no fleet to compare with.")
        return
    yield Prose(
        "Fleets have whole replicas, so costs rise in steps. From the first volume on a fleet may be the "
        "cheaper one; from the lasting volume on it stays so. Busy is how much of the time the replicas of "
        "this volume would have to work to cost what the API takes. Steps leave out what is escalated."
    )
    yield Table(
        ("option", "against", "first at requests a month", "lasting from", "busy at break-even"),
        tuple(
            (
                it.option,
                it.api,
                _count(it.first_requests),
                _count(it.lasting_requests),
                _share(it.utilisation),
            )
            for it in answer.break_evens
        ),
        numbers=2,
    )
    shown = _shown(answer)
    yield Prose(f"Step by step, {shown.option} against {shown.api}:")
    yield Table(
        ("serving replicas", "carry requests a month", "USD then", "API then", "break-even at", "busy"),
        tuple(
            (
                str(step.replicas),
                _count(step.requests),
                _usd(step.usd),
                _usd(step.api_usd),
                "-" if step.break_even_requests is None else _count(step.break_even_requests),
                _share(step.utilisation),
            )
            for step in shown.steps
        ),
        numbers=0,
    )
    yield Lines(
        says=f"Monthly costs by volume: {shown.option} in steps, {shown.api} as a straight line. "
        f"They first cost the same at {_count(shown.first_requests)} requests a month.",
        across="requests a month",
        upward="USD a month",
        lines=(
            Line(shown.option, tuple(_stairs(shown)), stairs=True),
            Line(shown.api, ((0.0, 0.0), (shown.steps[-1].requests, shown.steps[-1].api_usd))),
        ),
    )


def _shown(answer: Answer) -> BreakEven:
    """The comparison of the cheapest fleet with the first API."""
    fleet = cheapest_fleet(answer.options)
    assert fleet is not None, "who has break-evens has fleets"
    return next(it for it in answer.break_evens if (it.option, it.api) == (fleet.name, answer.first_api))


def _stairs(shown: BreakEven) -> Iterator[tuple[float, float]]:
    before = 0.0
    for step in shown.steps:
        yield before, step.usd
        yield step.requests, step.usd
        before = step.requests


def _tornado(answer: Answer) -> Iterator[Block]:
    if not answer.tornado:
        yield Prose("Nothing to compare.")
        return
    flipping = [it for it in answer.tornado if it.flips_at is not None]
    if flipping:
        yield Prose("; ".join(_flip_in_words(it) for it in flipping).capitalize() + ".")
    else:
        yield Prose("No assumption flips the answer alone within its range.")
    yield Prose(
        "The monthly saving by the cheapest fleet, if one assumption alone is at its low or its high:"
    )
    shown = answer.tornado[:_SHOWN_SWINGS]
    yield Table(
        ("assumption", "value", "low", "high", "saving at low", "saving at high", "flips at"),
        tuple(
            (
                it.assumption,
                _number(it.value),
                _number(it.low),
                _number(it.high),
                _usd(it.saving_at_low_usd),
                _usd(it.saving_at_high_usd),
                "-" if it.flips_at is None else _number(it.flips_at),
            )
            for it in shown
        ),
    )
    usd = {it.name: it.usd_per_month for it in answer.options}
    fleet = cheapest_fleet(answer.options)
    assert fleet is not None, "who has swings has a fleet"
    yield Tornado(
        says=f"What each assumption does to the monthly saving; {shown[0].assumption} does most.",
        along="saving in USD a month; left of 0 the API is the cheaper one",
        centre=usd[answer.first_api] - fleet.usd_per_month,
        bars=tuple(
            Bar(it.assumption, _number(it.low), it.saving_at_low_usd, _number(it.high), it.saving_at_high_usd)
            for it in shown
        ),
    )


def _flip_in_words(it: Swing) -> str:
    assert it.flips_at is not None
    side = "below" if it.flips_at < it.value else "above"
    return f"`{it.assumption}` flips it {side} {_number(it.flips_at)} (now {_number(it.value)})"


def _outlook(answer: Answer) -> Iterator[Block]:
    yield Prose(
        f"{answer.draws:,} draws (seed {answer.seed}) of all assumptions at once, each by itself, by a "
        "triangle from its low over its value to its high."
    )
    yield Table(
        ("option", "P10 USD a month", "P50", "P90", f"cheaper than {answer.first_api}"),
        tuple(
            (it.option, _usd(it.p10_usd), _usd(it.p50_usd), _usd(it.p90_usd), _share(it.chance_cheaper))
            for it in answer.outlook
        ),
    )


def _assumptions(answer: Answer) -> Table:
    return Table(
        ("assumption", "value", "low", "high", "why so wide", "source", "date"),
        tuple(
            (
                it.name,
                _number(it.value),
                _number(it.low),
                _number(it.high),
                it.spread,
                it.source,
                "-" if it.date is None else it.date.isoformat(),
            )
            for it in answer.assumptions
        ),
        numbers=7,
    )


def _usd(amount: float) -> str:
    return f"{amount:,.0f}" if abs(amount) >= 100 else f"{amount:,.2f}"


def _price(amount: float) -> str:
    return f"{amount:,.4g}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _count(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
