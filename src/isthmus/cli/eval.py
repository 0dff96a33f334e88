"""`isthmus eval`: the runs that there are, shown, compared, scored again, forgotten."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import open_ask, open_runs
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.runs import (
    Number,
    Usd,
    check_scorers,
    judges_of,
    outcome_of,
    passed,
    present,
    require_cap,
    require_statistics,
    score_by,
)
from isthmus.cli.table import table
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.evals.answers import Remembering, basis_of, candidate_of
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.runs import Run, Runs

_html_option = click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with a chart, too.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.group("eval")
def eval_() -> None:
    """Pilot runs are kept beside the ledger, with their samples, answers and scores.

    A run is named by its id or what that begins with.
    """


@eval_.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@told
def list_(limit: int, config_path: Path | None, as_json: bool) -> None:
    """List runs, the newest first."""
    found = _opened(config_path)[1].list(limit)
    if as_json:
        for run in found:
            click.echo(msgspec.json.encode(run))
    elif found:
        heads = ("RUN", "BEGUN (UTC)", "STATE", "DATASET", "SAMPLES", "MODELS", "SCORERS")
        click.echo(table(heads, [_row(run) for run in found]))
    else:
        click.echo("There are no runs: `isthmus pilot` makes one.", err=True)


@eval_.command()
@click.argument("run", default="")
@click.option("--fail-under", type=Number(0, 1), help="As of `isthmus pilot`.")
@click.option("--fail-below", "baselines", multiple=True, metavar="MODEL", help="As of `isthmus pilot`.")
@_html_option
@config_option
@_json_option
@told
def show(
    run: str,
    fail_under: float | None,
    baselines: tuple[str, ...],
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show what RUN says; without it, the newest."""
    require_statistics()
    _, runs, _ = _opened(config_path)
    found = outcome_of(runs.find(run), runs)
    unknown = [name for name in baselines if name not in {it.model.name for it in found.standings}]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of the run's models", param_hint="--fail-below")
    present(found, html_path, as_json=as_json)
    if fail_under is not None or baselines:
        raise SystemExit(passed(found, fail_under, baselines))


@eval_.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--fail-if-worse",
    is_flag=True,
    help="End with status 1 where B is worse, and that is real, or nothing can be compared.",
)
@_html_option
@config_option
@_json_option
@told
def compare(
    a: str, b: str, fail_if_worse: bool, html_path: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Compare run B with run A: is it better, or can that not be told?

    Each model of both is compared with itself; where they have none in common, each with each.
    """
    require_statistics()
    from isthmus.evals.comparison import Side
    from isthmus.evals.comparison import compare as compared
    from isthmus.evals.report import comparison_report

    _, runs, _ = _opened(config_path)
    sides = [Side(it, runs.samples(it), runs.scores(it.id)) for it in (runs.find(a), runs.find(b))]
    found = compared(*sides)
    document = comparison_report(found)
    click.echo(msgspec.json.encode(found) if as_json else markdown(document), nl=as_json)
    if html_path is not None:
        html_path.write_text(html(document), encoding="utf-8")
    worse = [f"{it.b} by {it.scorer}" for it in found.changes if it.verdict == "worse"]
    if fail_if_worse and worse:
        click.echo(f"Failed: worse is {', '.join(worse)}.", err=True)
        raise SystemExit(1)
    if fail_if_worse and not any(it.quality_a.n and it.quality_b.n for it in found.changes):
        click.echo("Failed: there is nothing to compare: no scorer has scored both runs.", err=True)
        raise SystemExit(1)


@eval_.command()
@click.argument("run")
@click.option("--scorer", "scorers", multiple=True, required=True, help="As of `isthmus pilot`.")
@click.option("--max-usd", type=Usd(), help="Judges may bring what the run has cost to so much.")
@_html_option
@config_option
@_json_option
@told
def score(
    run: str,
    scorers: tuple[str, ...],
    max_usd: int | None,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Score the answers of RUN by other scorers. No model is asked but judges."""
    require_statistics()
    config, runs, path = _opened(config_path)
    check_scorers(scorers)
    judges = judges_of(scorers, config)
    require_cap(config, judges, max_usd)
    found = runs.find(run)
    asyncio.run(_score(found, scorers, judges, max_usd, config, path, runs))
    present(outcome_of(found, runs), html_path, as_json=as_json)


@eval_.command()
@click.argument("run")
@config_option
@told
def delete(run: str, config_path: Path | None) -> None:
    """Forget RUN, with what it was answered; samples and answers that other runs have stay."""
    _, runs, _ = _opened(config_path)
    found = runs.find(run) if run else None
    if found is None:
        raise click.BadParameter("say which run", param_hint="RUN")
    runs.delete(found.id)
    click.echo(f"{found.id} is forgotten.", err=True)


async def _score(
    run: Run,
    scorers: Sequence[str],
    judges: Sequence[str],
    max_usd: int | None,
    config: Config,
    path: Path | None,
    runs: Runs,
) -> None:
    bases = {name: basis_of(config, await asyncio.to_thread(candidate_of, config, name)) for name in judges}
    samples = await asyncio.to_thread(runs.samples, run)
    async with open_ask(config, path, judges, name=run.id, cap_nanousd=max_usd) as ask:
        await score_by(scorers, run, samples, runs, Remembering(ask, runs, run.id, bases), ask.embed)


def _opened(config_path: Path | None) -> tuple[Config, Runs, Path | None]:
    path = locate(config_path)
    config = load_or_exit(path)
    return config, open_runs(config, path), path


def _row(run: Run) -> tuple[str, ...]:
    return (
        run.id,
        f"{dt.datetime.fromtimestamp(run.at_us // 1_000_000, dt.UTC):%Y-%m-%d %H:%M}",
        "complete" if run.ended_us else "unfinished",
        run.dataset,
        f"{len(run.sample_ids):,}",
        ", ".join(it.name for it in run.models),
        ", ".join(run.scorers),
    )


eval = eval_
"""The command, by its name."""
