"""`isthmus pilot`: one's own work, asked of several models, and an answer with an interval."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import open_ask, open_runs
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.progress import ProgressLine, RunLine
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
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.config.places import ledger_path
from isthmus.core.evaluation import Sample
from isthmus.core.money import format_usd
from isthmus.evals.answers import Remembering, basis_of, candidate_of
from isthmus.evals.datasets import Dataset, open_dataset
from isthmus.evals.pilot import Pilot, Tally, new_run
from isthmus.store.runs import Run, Runs, alone

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--models", required=True, help="The models of the config to ask, separated by commas.")
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    required=True,
    help="How answers are scored, such as exact or numeric:tolerance=0.01; may be said again. The first one "
    "counts for the frontier and for gates.",
)
@click.option("--split", help="Only samples whose metadata have this for their `split`.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many samples.")
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True, help="Ask so often.")
@click.option("--max-usd", type=Usd(), help="Spend at most so much on this run, however often it is resumed.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Requests at once to one provider.",
)
@click.option("--temperature", type=Number(0, 2), help="For samples that say none themselves.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer, where a sample says none.")
@click.option("--logprobs", is_flag=True, help="Ask for log-probabilities, and keep them with the answers.")
@click.option("--fresh", is_flag=True, help="Take no answer from an earlier run.")
@click.option("--fail-under", type=Number(0, 1), help="End with status 1 where a model's quality is lower.")
@click.option(
    "--fail-below",
    "baselines",
    multiple=True,
    metavar="MODEL",
    help="End with status 1 where another model is worse than this one, and the difference is real.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with a chart, too.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def pilot(
    dataset: Path,
    models: str,
    scorers: tuple[str, ...],
    split: str | None,
    limit: int | None,
    repeat: int,
    max_usd: int | None,
    concurrency: int,
    temperature: float | None,
    max_tokens: int | None,
    logprobs: bool,
    fresh: bool,
    fail_under: float | None,
    baselines: tuple[str, ...],
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Ask the samples of DATASET of several models, and report quality, latency and cost.

    Requests go the way of live traffic: the perimeter holds, and records go to the ledger. Every answer is
    kept: the same command resumes what was interrupted, and asks nothing twice. Prints Markdown. Ends with
    status 1 where a gate fails or the run is not complete.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    require_statistics()
    names = _known(models, config, "--models")
    _known(",".join(baselines), config, "--fail-below", among=names)
    check_scorers(scorers)
    judges = judges_of(scorers, config)
    require_cap(config, [*names, *judges], max_usd)
    opened = open_dataset(dataset)
    for note in opened.notes:
        click.echo(f"isthmus: {opened.name}: {note}", err=True)
    request = {"temperature": temperature, "max_tokens": max_tokens, "logprobs": logprobs or None}
    run = new_run(
        opened,
        _chosen(opened, split, limit),
        [candidate_of(config, name) for name in names],
        scorers,
        config.hash,
        split=split,
        request={name: value for name, value in request.items() if value is not None},
        repeat=repeat,
        fresh=fresh,
        cap_nanousd=max_usd,
        who=user_name(),
    )
    runs = open_runs(config, path)
    run = carried_out(run, opened, config, path, runs, judges, concurrency)
    found = outcome_of(run, runs)
    present(found, html_path, as_json=as_json)
    raise SystemExit(passed(found, fail_under, baselines))


def carried_out(
    run: Run,
    dataset: Dataset,
    config: Config,
    path: Path | None,
    runs: Runs,
    judges: Sequence[str],
    concurrency: int,
) -> Run:
    """The run, or the unfinished one of its identity, with all asked and scored that can be; progress and the
    end are told. Ctrl-C ends the process, and loses nothing."""
    with alone(ledger_path(config, path), run.identity):
        run = _resumed(run, runs, dataset)
        try:
            tally = asyncio.run(_carry_out(run, config, path, runs, judges, concurrency))
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted. {_how_to_go_on(run)}", err=True)
            raise SystemExit(INTERRUPTED) from None
    _tell_end(tally, run)
    return run


async def _carry_out(
    run: Run, config: Config, path: Path | None, runs: Runs, judges: Sequence[str], concurrency: int
) -> Tally:
    fetching, line = ProgressLine(), RunLine("Asking")
    names = [it.name for it in run.models]
    both = list(dict.fromkeys([*names, *judges]))
    bases = {name: basis_of(config, await asyncio.to_thread(candidate_of, config, name)) for name in both}
    async with open_ask(
        config,
        path,
        both,
        name=run.id,
        cap_nanousd=run.cap_nanousd,
        concurrency=concurrency,
        report=fetching,
    ) as ask:
        fetching.end()
        samples = await asyncio.to_thread(runs.samples, run)
        remembering = Remembering(ask, runs, run.id, bases, run.at_us if run.fresh else 0)

        def tell(tally: Tally) -> None:
            line(tally.done, tally.total, tally.asked, _note(tally))

        try:
            carried = Pilot(run, samples, remembering, runs, concurrency=concurrency, tell=tell)
            tally = await carried.ask_all()
        finally:
            line.end()
        asked_nanousd, asked_unpriced = remembering.spent_nanousd, remembering.unpriced
        await score_by(run.scorers, run, samples, runs, remembering, ask.embed)
        judged_nanousd = remembering.spent_nanousd - asked_nanousd
        if unpriced := remembering.unpriced - asked_unpriced:
            known = f", and USD {format_usd(judged_nanousd)} is known" if judged_nanousd else ""
            click.echo(f"{unpriced:,} judgements have no known price{known}.", err=True)
        elif judged_nanousd:
            click.echo(f"Judges have cost USD {format_usd(judged_nanousd)} besides.", err=True)
    if tally.complete:
        await asyncio.to_thread(runs.end, run.id, time.time_ns() // 1000)
    return tally


def _known(said: str, config: Config, option: str, among: Sequence[str] | None = None) -> list[str]:
    """The models that are named; what is none of them is a fault of usage."""
    names = list(dict.fromkeys(name.strip() for name in said.split(",") if name.strip()))
    known = list(config.models) if among is None else list(among)
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of: {', '.join(known)}", param_hint=option)
        capabilities = config.models[name].capabilities
        if capabilities is not None and "chat" not in capabilities:
            raise click.BadParameter(f"{name!r} cannot chat", param_hint=option)
    if among is None and not names:
        raise click.BadParameter("name at least one model", param_hint=option)
    return names


def _chosen(dataset: Dataset, split: str | None, limit: int | None) -> tuple[Sample, ...]:
    samples = dataset.samples
    if split is not None:
        samples = tuple(it for it in samples if it.metadata.get("split") == split)
        if not samples:
            raise click.BadParameter("no sample's metadata have this `split`", param_hint="--split")
    return samples[:limit]


def _resumed(run: Run, runs: Runs, dataset: Dataset) -> Run:
    """The run of the same identity that was not finished, with today's cap; else this one, begun."""
    left = runs.unfinished(run.identity)
    if left is not None:
        click.echo(f"Going on with {left.id}.", err=True)
        return msgspec.structs.replace(left, cap_nanousd=run.cap_nanousd)
    wanted = set(run.sample_ids)
    runs.begin(run, [it for it in dataset.samples if it.id in wanted])
    return run


def _note(tally: Tally) -> str:
    parts = [f"USD {format_usd(tally.spent_nanousd)}"]
    parts += [f"{count:,} {what}" for count, what in _counts(tally)]
    return ", ".join(parts)


def _counts(tally: Tally) -> list[tuple[int, str]]:
    told = (
        (tally.again, "known already"),
        (tally.failed, "failed"),
        (tally.not_permitted, "not permitted"),
        (tally.unpriced, "of unknown price"),
    )
    return [it for it in told if it[0]]


def _tell_end(tally: Tally, run: Run) -> None:
    click.echo(f"Asked {tally.asked:,} of {tally.total:,}: {_note(tally)}.", err=True)
    for model, reason in tally.given_up.items():
        click.echo(f"{model} was given up: {reason}", err=True)
    if tally.out_of_money:
        click.echo("The cap is reached: such a call is not sure to fit into what is left of it.", err=True)
    if not tally.complete:
        more = " with a higher --max-usd" if tally.out_of_money else ""
        click.echo(f"{_how_to_go_on(run, more)}", err=True)


def _how_to_go_on(run: Run, more: str = "") -> str:
    return f"What was answered is kept. Run the same command again{more} to go on with {run.id}."


def user_name() -> str:
    """Who begins a run, as far as the system tells."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A process may have a number for its user and no name.
        return ""
