"""`isthmus judge`: models that judge answers, and whether to believe them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from isthmus.bootstrap import open_ask, open_runs
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.progress import ProgressLine, RunLine
from isthmus.cli.runs import Usd, judges_of, require_cap, require_statistics
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.evals.answers import Remembering, basis_of, candidate_of
from isthmus.evals.scorers.judge import Judge
from isthmus.evals.scorers.pairwise import Pairwise
from isthmus.reports.document import Block, Document, Prose, Section, Table
from isthmus.reports.markdown import markdown

if TYPE_CHECKING:
    from isthmus.evals.agreement import Checked, Compared, Graded, Marked
    from isthmus.statistics.agreement import Agreement
    from isthmus.statistics.intervals import Interval


@click.group()
def judge() -> None:
    """Models that judge answers, and whether to believe them."""


@judge.command()
@click.argument("marks", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--judge", "model", required=True, help="The model of the config that judges.")
@click.option(
    "--rubric", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="As of the scorer `judge`."
)
@click.option("--scale", type=click.IntRange(2, 100), default=5, show_default=True, help="The highest mark.")
@click.option("--max-usd", type=Usd(), help="Spend at most so much on this check, however often it is run.")
@click.option(
    "--fail-under",
    type=click.FloatRange(-1, 1),
    help="End with status 1 where the low end of kappa's interval is lower, or some were not judged.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def check(
    marks: Path,
    model: str,
    rubric: Path | None,
    scale: int,
    max_usd: int | None,
    fail_under: float | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Let a model judge the answers of MARKS, which people have judged, and say how far they agree.

    Each line of MARKS is a sample with an `answer` and its `mark`, or with `answer`, `other` and which is
    `better`. What the judge has said is kept: the same command asks nothing twice. Prints Markdown.
    """
    require_statistics()
    from isthmus.evals.agreement import read_marks

    path = locate(config_path)
    config = load_or_exit(path)
    judges_of([f"judge:model={model}"], config)
    require_cap(config, [model], max_usd)
    marked = read_marks(marks, scale)
    name = _name(model, rubric, marked)
    found = asyncio.run(_checked(marked, model, rubric, scale, config, path, name, max_usd))
    click.echo(msgspec.json.encode(found) if as_json else markdown(_report(found, len(marked))), nl=as_json)
    if fail_under is not None:
        _require(found, fail_under)


def _require(found: Checked, least: float) -> None:
    """End with status 1 where kappa may be lower, or some was not judged: of that kappa says nothing."""
    told = [it for it in (found.graded, found.compared) if it is not None]
    low = min(it.agreement.interval.low for it in told)
    if unscored := sum(it.unscored for it in told):
        click.echo(f"Failed: {unscored:,} were not judged; the report says why.", err=True)
    elif low < least:
        click.echo(f"Failed: kappa may be as low as {low:.2f}.", err=True)
    else:
        return
    raise SystemExit(1)


async def _checked(
    marked: Sequence[Marked],
    model: str,
    rubric: Path | None,
    scale: int,
    config: Config,
    path: Path | None,
    name: str,
    cap: int | None,
) -> Checked:
    from isthmus.evals.agreement import check as check_judge

    fetching, line = ProgressLine(), RunLine("Judging")
    basis = basis_of(config, await asyncio.to_thread(candidate_of, config, model))
    runs = open_runs(config, path)
    async with open_ask(config, path, [model], name=name, cap_nanousd=cap, report=fetching) as ask:
        fetching.end()
        remembering = Remembering(ask, runs, name, {model: basis})
        try:
            return await check_judge(
                marked,
                Judge(ask=remembering, model=model, rubric=rubric, scale=scale),
                Pairwise(ask=remembering, model=model, rubric=rubric),
                scale,
                lambda done, total: line(done, total, done),
            )
        finally:
            line.end()
            await remembering.close()


def _name(model: str, rubric: Path | None, marked: Sequence[Marked]) -> str:
    """The name under which the check spends: the same for the same check."""
    what = msgspec.json.encode([model, rubric.read_text(encoding="utf-8") if rubric else None, marked])
    return f"judge_{hashlib.sha256(what).hexdigest()[:16]}"


# Telling


def _report(found: Checked, marked: int) -> Document:
    sections = [Section("Marks", (Prose(f"Judged by people and by {found.judge}: {marked:,}."),))]
    if found.graded is not None:
        sections.append(Section("Grades", tuple(_grades(found.graded))))
    if found.compared is not None:
        sections.append(Section("Pairs", tuple(_pairs(found.compared))))
    return Document(f"The judge {found.judge}", tuple(sections))


def _grades(it: Graded) -> Iterator[Block]:
    rows = (
        ("kappa", *_figures(it.agreement)),
        ("kappa, by squares", *_figures(it.weighted)),
        ("kinder than people, in grades", "", _range(it.bias)),
    )
    yield Table(("", "value", "95%"), rows)
    yield Prose(f"The same grade as people in {it.agreement.same:.0%} of {it.agreement.n:,}.")
    yield _confusion("people said", it.confusion)
    yield from _unscored(it.unscored, it.because)


def _pairs(it: Compared) -> Iterator[Block]:
    rows = (
        ("kappa", *_figures(it.agreement)),
        ("of one mind when places change", f"{it.consistent} of {it.agreement.n}", _range(it.consistency)),
    )
    yield Table(("", "value", "95%"), rows)
    yield Prose(f"The same choice as people in {it.agreement.same:.0%} of {it.agreement.n:,}.")
    yield _confusion("people preferred", it.confusion)
    yield from _unscored(it.unscored, it.because)


def _figures(it: Agreement) -> tuple[str, str]:
    return "unknown" if it.kappa is None else f"{it.kappa:.2f}", _range(it.interval)


def _range(it: Interval) -> str:
    return f"{it.low:.2f} to {it.high:.2f}"


def _confusion(people: str, counts: Mapping[Any, Mapping[Any, int]]) -> Table:
    said = sorted({one for each in counts.values() for one in each})
    rows = [(str(mark), *(str(each.get(one, 0)) for one in said)) for mark, each in counts.items()]
    return Table((people, *(f"judge: {one}" for one in said)), tuple(rows))


def _unscored(count: int, because: Sequence[str]) -> Iterator[Block]:
    if count:
        yield Prose(f"NOT JUDGED: {count:,}, because {'; '.join(because[:5])}.")
