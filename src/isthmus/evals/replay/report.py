"""A replay, as a report: the boundary first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isthmus.core.label import LEVELS
from isthmus.core.money import NANO_PER_USD
from isthmus.evals.replay.calls import Called
from isthmus.evals.replay.summary import Crossing, Direction, Quality, Replay, Times, Worth
from isthmus.reports.document import Block, Document, Prose, Section, Table

MOST_ROWS = 40
"""The longest table; what is left out is counted below it. JSON has it all."""

_HOW: dict[Direction, str] = {
    "out": "goes out",
    "perhaps out": "may go out",
    "back": "stays inside",
}


def replay_report(replay: Replay, traffic: str) -> Document:
    """The report; `traffic` says what was replayed."""
    sections = (
        Section("The boundary", tuple(_boundary(replay))),
        Section("What changes", (Prose(traffic), *_changes(replay))),
        Section("Cost", tuple(_cost(replay))),
        Section("Latency", tuple(_latency(replay))),
        Section("Quality", tuple(_quality(replay))),
        *((Section("Asked now", tuple(_called(replay))),) if replay.called else ()),
        Section("What cannot be known", tuple(_unknown(replay))),
    )
    return Document(f"Replay of {replay.requests:,} requests by config {replay.config[:12]}", sections)


def _boundary(replay: Replay) -> Iterator[Block]:
    out, perhaps = replay.crossing("out"), replay.crossing("perhaps out")
    if out:
        yield Prose(f"{_number(out)} requests WOULD NEWLY CROSS THE BOUNDARY.")
    else:
        yield Prose("No request is known to newly cross the boundary.")
    if perhaps:
        yield Prose(
            f"{_number(perhaps)} more MAY CROSS IT: if a model fails, or if what is not known of them is so."
        )
    if back := replay.crossing("back"):
        yield Prose(f"{_number(back)} requests that went out would stay inside.")
    yield Prose(
        "A request crosses where a model beyond your own walls would have it: farther out than any that had "
        "it then (local, open, closed), with another host, in another zone, or in clear where there were "
        "pseudonyms."
    )
    if replay.crossings:
        heads = ("how", "route", "level", "found in it", "was", "goes", "requests")
        yield from _table(heads, [_crossing(it) for it in replay.crossings], 6)


def _crossing(it: Crossing) -> tuple[str, ...]:
    found = ", ".join(it.categories) or "nothing"
    return (_HOW[it.direction], it.route, it.level, found, it.was, it.goes, _number(it.requests))


def _changes(replay: Replay) -> Iterator[Block]:
    unknown = sum(it.requests for it in replay.unknown)
    yield Table(
        ("what becomes of them", "requests"),
        (
            ("go the way they went", _number(replay.same)),
            ("change", _number(replay.changed)),
            ("cannot be told", _number(unknown)),
            ("ended before a decision", _number(sum(replay.undecided.values()))),
        ),
    )
    if replay.changes:
        heads = ("route", "level", "change", "why", "requests")
        rows = [(it.route, it.level, it.change, it.reason, _number(it.requests)) for it in replay.changes]
        yield from _table(heads, rows, 4)
    if any(set(row) - {level} for level, row in replay.levels.items()):
        yield Prose("Levels then (down) and now (across):")
        across = (*LEVELS, "unknown")
        yield Table(
            ("then", *across),
            tuple(
                (level, *(_number(replay.levels[level].get(now, 0)) for now in across))
                for level in LEVELS
                if level in replay.levels
            ),
        )


def _cost(replay: Replay) -> Iterator[Block]:
    cost = replay.cost
    change = f" ({(cost.now_nanousd / cost.then_nanousd - 1):+.1%})" if cost.then_nanousd else ""
    yield Prose(
        f"{_usd(cost.now_nanousd)} USD{change}, where it was {_usd(cost.then_nanousd)} USD. Of "
        f"{_number(cost.unpriced)} requests one of the two is not known, and they are in neither."
    )
    yield Prose(
        "A request that moves is priced by the tokens that it had, at the prices of its day, all of them on "
        "the model that would answer. Tokenisers differ by a tenth or more, and models in how much they say: "
        "an estimate. What caches would save or lose is not in it."
    )


def _latency(replay: Replay) -> Iterator[Block]:
    if not replay.latency:
        yield Prose("No route's answers come from elsewhere.")
        return
    yield Prose(
        "A request that moves is taken to last as long as those that the same model has answered on the same "
        "route. Where there are fewer than 30 of them it is left out, and counted as unknown."
    )
    heads = ("route", "half, then", "half, now", "95 of 100, then", "95 of 100, now", "unknown requests")
    yield from _table(heads, [_times(it) for it in replay.latency], 1)


def _times(it: Times) -> tuple[str, ...]:
    times = (it.p50_then, it.p50_now, it.p95_then, it.p95_now)
    return (it.route, *("-" if ms is None else f"{ms:,.0f} ms" for ms in times), _number(it.unknown))


def _quality(replay: Replay) -> Iterator[Block]:
    if replay.by_feedback:
        yield from _by_feedback(replay)
    if not replay.quality:
        if not replay.by_feedback:
            yield Prose("Nothing is known of how good the answers are: say --quality RUN, or --feedback.")
        return
    yield Prose(
        "The mean of what is known of the models that answer. The bounds hold where those of all the models "
        "do. That a model is as good on other requests of a route as on those that it was scored on is taken "
        "for granted."
    )
    heads = ("route", "then", "now", "unknown requests")
    yield from _table(heads, [_worth_row(it) for it in replay.quality], 1)


def _by_feedback(replay: Replay) -> Iterator[Block]:
    yield Prose(
        "By what people said of answers, weighed by how likely each plan was and would be. The bounds reckon "
        "with any worth of what was never done. Those who give feedback are taken to be like all."
    )
    heads = ("route", "judged", "mean then", "now", "bounds", "never done", "worth requests")
    rows = [
        (
            it.route,
            f"{it.judged:,}",
            f"{it.then:.3f}",
            "too few" if it.now is None else f"{it.now:.3f}",
            f"{it.low:.3f} to {it.high:.3f}",
            f"{it.unseen:.0%}",
            f"{it.effective:,.0f}",
        )
        for it in replay.by_feedback
    ]
    yield from _table(heads, rows, 1)


def _worth_row(it: Quality) -> tuple[str, ...]:
    return (it.route, _worth(it.then), _worth(it.now), _number(it.unknown))


def _worth(worth: Worth | None) -> str:
    if worth is None:
        return "unknown"
    return f"{worth.value:.3f} [{worth.low:.3f}, {worth.high:.3f}] ({worth.source})"


def _called(replay: Replay) -> Iterator[Block]:
    yield Prose(
        "Requests that would move, drawn at random and asked of the model that would answer; but for those "
        "that would newly cross the boundary: a config that is only tried opens nothing. Means of USD and "
        "tokens, medians of times, over those that were answered."
    )
    heads = ("route", "model", "asked", "answered", "USD then", "now", "tokens then", "now", "ms then", "now")
    yield from _table(heads, [_called_row(it) for it in replay.called], 2)
    for it in replay.called:
        if it.unread or it.failed:
            failed = ", ".join(f"{count} failed with {code}" for code, count in sorted(it.failed.items()))
            unread = f"{it.unread} of {it.drawn} have no texts that can be asked again" if it.unread else ""
            yield Prose(f"{it.route} on {it.model}: {'; '.join(filter(None, (unread, failed)))}.")


def _called_row(it: Called) -> tuple[str, ...]:
    def number(value: float | None, scale: float, form: str) -> str:
        return "unknown" if value is None else format(value / scale, form)

    return (
        it.route,
        it.model,
        f"{it.drawn - it.unread:,}",
        f"{it.answered:,}",
        number(it.then_nanousd, NANO_PER_USD, ",.6f"),
        number(it.now_nanousd, NANO_PER_USD, ",.6f"),
        number(it.then_output, 1, ",.0f"),
        number(it.now_output, 1, ",.0f"),
        number(it.then_ms, 1, ",.0f"),
        number(it.now_ms, 1, ",.0f"),
    )


def _unknown(replay: Replay) -> Iterator[Block]:
    if replay.unknown:
        rows = [(it.route, it.why, _number(it.requests)) for it in replay.unknown]
        yield from _table(("route", "why it cannot be told", "requests"), rows, 2)
    if replay.undecided:
        yield Prose("Ended before anything was decided, and not replayed, by their code:")
        yield Table(
            ("code", "requests"),
            tuple((code, _number(count)) for code, count in sorted(replay.undecided.items())),
        )
    if replay.assumed:
        yield Prose(
            f"Of {_number(replay.assumed)} requests it is taken for granted that pseudonyms could stand for "
            "every value of which the rules let them."
        )
    yield Prose(
        "Budgets are not replayed: what was refused for money stays so, and a route is thrifty where it was. "
        "A model that failed then fails now; one that was not asked answers. Where a plan judges answers, "
        "what it asks after the first is not known."
    )


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers: int) -> Iterator[Block]:
    yield Table(heads, tuple(rows[:MOST_ROWS]), numbers=numbers)
    if len(rows) > MOST_ROWS:
        yield Prose(f"And {len(rows) - MOST_ROWS:,} rows more: see --json.")


def _number(requests: float) -> str:
    whole = round(requests)
    return f"{whole:,}" if abs(requests - whole) < 1e-6 else f"{requests:,.1f}"


def _usd(nanousd: float) -> str:
    return f"{nanousd / NANO_PER_USD:,.4f}"
