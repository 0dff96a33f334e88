"""`isthmus cost tco`: self-hosting against API."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from ruamel.yaml import YAML

from isthmus.bootstrap import open_runs, traffic_of
from isthmus.catalog.prices import PriceBook
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_as_or_exit, load_or_exit, told
from isthmus.config.load import locate
from isthmus.config.places import ledger_path
from isthmus.core.errors import Fault, IsthmusError
from isthmus.economics.tco.answer import Answer, answer
from isthmus.economics.tco.assumed import Assumed
from isthmus.economics.tco.break_even import BreakEven
from isthmus.economics.tco.case import Case, Expected, Figure, Workload
from isthmus.economics.tco.listed import priced
from isthmus.economics.tco.measured import measured_workload
from isthmus.economics.tco.report import tco_report
from isthmus.economics.tco.uncertainty import DRAWS
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.records import Where


@click.command()
@click.argument("case_path", metavar="CASE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--since", type=Span(), help="Take the workload from the ledger's last while, e.g. 30d.")
@click.option("--route", help="With --since: only this route.")
@click.option("--model", help="With --since: only what this model answered.")
@click.option("--key", help="With --since: only this key's id.")
@click.option("--run", "run_id", help="Take the quality gap from this evaluation run; see `eval list`.")
@click.option("--ours", help="With --run: the model that would be self-hosted, as the run names it.")
@click.option("--theirs", help="With --run: the model behind the API, as the run names it.")
@click.option("--scorer", help="With --run: by this scorer. Default: the run's first.")
@click.option(
    "--at", type=click.DateTime(["%Y-%m-%d"]), help="Take listed prices as of this day. Default: today."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The seed of the draws.")
@click.option("--draws", type=click.IntRange(10, 100_000), default=DRAWS, show_default=True)
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with charts, too.",
)
@click.option(
    "--export-case",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the case with every assumption said and every result expected: a test.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def tco(
    case_path: Path,
    since: float | None,
    route: str | None,
    model: str | None,
    key: str | None,
    run_id: str | None,
    ours: str | None,
    theirs: str | None,
    scorer: str | None,
    at: dt.datetime | None,
    seed: int,
    draws: int,
    html_path: Path | None,
    export_case: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Compare self-hosting with an API, for the workload of the file CASE or of the ledger.

    Prints Markdown. Ends with status 1 where the case expects of itself what does not come out.
    """
    case = load_as_or_exit(case_path, Case)
    if since is not None:
        where = Where(
            since_us=time.time_ns() // 1000 - int(since * 1e6), route=route, model=model, key_id=key
        )
        case = msgspec.structs.replace(case, workload=_from_ledger(where, config_path))
    elif route or model or key:
        raise click.UsageError("--route, --model and --key choose from the ledger: say --since, too.")
    if run_id is not None:
        if ours is None or theirs is None:
            raise click.UsageError("--run compares two of its models: say --ours and --theirs, too.")
        escalated = _from_run(run_id, ours, theirs, scorer, config_path)
        case = msgspec.structs.replace(
            case, quality=msgspec.structs.replace(case.quality, escalated=escalated)
        )
    elif ours or theirs or scorer:
        raise click.UsageError("--ours, --theirs and --scorer are about an evaluation run: say --run, too.")
    day = at.date() if at else dt.datetime.now(dt.UTC).date()
    case = priced(case, PriceBook().price, day)
    found = answer(case, random.Random(seed).random, seed=seed, draws=draws)
    if html_path is not None:
        html_path.write_text(html(tco_report(found)), encoding="utf-8")
    if export_case is not None:
        _write_yaml(export_case, _as_test(case, found))
    click.echo(msgspec.json.encode(found) if as_json else markdown(tco_report(found)), nl=as_json)
    if not all(it.holds for it in found.verdicts):
        raise SystemExit(1)


def _from_ledger(where: Where, config_path: Path | None) -> Workload:
    path = locate(config_path)
    traffic = traffic_of(ledger_path(load_or_exit(path), path))
    now_us = time.time_ns() // 1000
    first_us = traffic.since_us(where)
    seconds = (now_us - (first_us or now_us)) / 1e6
    hours = traffic.week(where)
    today = dt.datetime.now(dt.UTC).date()
    source = f"the ledger, {seconds / 86_400:.3g} days"
    return measured_workload(hours, max(seconds, 1.0), source, today)


def _from_run(run_id: str, ours: str, theirs: str, scorer: str | None, config_path: Path | None) -> Assumed:
    """The share of requests that the API must answer after all, with the interval that the run knows it
    to."""
    from isthmus.evals.gap import gap

    path = locate(config_path)
    runs = open_runs(load_or_exit(path), path)
    run = runs.find(run_id)
    scores = runs.scores(run.id)
    by = scorer or next(iter(run.scorers), "")
    if by not in scores:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The run {run.id} has no scores by {by!r}.",
            code="unknown_scorer",
            hint=f"It has those by {', '.join(scores) or 'none'}; see `isthmus eval score`.",
        )
    found = gap(scores[by], ours, theirs)
    return Assumed(
        value=found.share,
        low=found.interval.low,
        high=found.interval.high,
        source=f"run {run.id}: {ours} is worse than {theirs} at {found.worse} of {found.n} samples by {by}",
        date=dt.datetime.fromtimestamp(run.at_us / 1e6, dt.UTC).date(),
    )


def _as_test(case: Case, found: Answer) -> dict[str, Any]:
    """The case as plain data, expecting of itself what it gives now."""
    expect = [
        Expected(figure="usd_per_month", option=it.name, value=it.usd_per_month) for it in found.options
    ]
    for it in found.break_evens:
        expect += [
            Expected(figure=figure, option=it.option, against=it.api, value=value)
            for figure, value in _meeting(it)
        ]
    data = msgspec.to_builtins(msgspec.structs.replace(case, expect=tuple(expect)), builtin_types=(dt.date,))
    return _without_nothing(data)  # type: ignore[no-any-return]


def _meeting(it: BreakEven) -> Iterator[tuple[Figure, float | None]]:
    yield "break_even_requests", it.first_requests
    yield "break_even_utilisation", it.utilisation


def _without_nothing(data: Any) -> Any:
    """The data without what was not said."""
    if isinstance(data, dict):
        return {name: _without_nothing(it) for name, it in data.items() if it is not None and it != ""}
    return [_without_nothing(it) for it in data] if isinstance(data, list | tuple) else data


def _write_yaml(path: Path, data: dict[str, Any]) -> None:
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 110
    # A case has no anchors: two equal dates are written twice.
    yaml.representer.ignore_aliases = lambda _: True
    with path.open("w", encoding="utf-8") as out:
        yaml.dump(data, out)
