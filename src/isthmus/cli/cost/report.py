"""`isthmus cost report`: what was spent, for what, and what is to come."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import hours_of, prices_of
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.config.load import locate
from isthmus.config.places import ledger_path
from isthmus.economics.spend.forecast import LOOK_BACK
from isthmus.economics.spend.report import spend_report
from isthmus.economics.spend.sums import Ledger, spend
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.hours import Scope


@click.command()
@click.option("--since", type=Span(), default="30d", show_default=True, help="How far back, e.g. 365d.")
@click.option("--route", help="Only this route.")
@click.option("--model", help="Only what this model answered.")
@click.option("--key", help="Only this key's id.")
@click.option("--team", help="Only what this team's keys asked for.")
@click.option("--seed", type=int, default=0, show_default=True, help="The seed of the forecast's draws.")
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with a chart, too.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def report(
    since: float,
    route: str | None,
    model: str | None,
    key: str | None,
    team: str | None,
    seed: int,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Report what was spent: by day, key, team, route, model, provider and kind.

    With what caches saved, what the same traffic would have cost on the portfolio's other models, a forecast
    to the month's end, and unusual days. Days are those of UTC. Prints Markdown.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    now = dt.datetime.now(dt.UTC)
    first = (now - dt.timedelta(seconds=since)).date()
    # The forecast needs the month so far and four weeks, whatever is reported.
    earliest = min(first, now.date().replace(day=1), now.date() - dt.timedelta(days=2 * LOOK_BACK))
    sums = hours_of(ledger_path(config, path))

    def since_day(day: dt.date) -> Scope:
        midnight = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
        since_us = int(midnight.timestamp()) * 1_000_000
        return Scope(since_us=since_us, route=route, model=model, key_id=key, team=team)

    found = spend(
        Ledger(
            hours=sums.hours(since_day(earliest)),
            keys=sums.by_key(since_day(first)),
            teams=sums.teams(),
            models=config.models,
            prices=prices_of(config),
            since=first,
            today=now.date(),
        ),
        random.Random(seed).random,
    )
    if html_path is not None:
        html_path.write_text(html(spend_report(found)), encoding="utf-8")
    click.echo(msgspec.json.encode(found) if as_json else markdown(spend_report(found)), nl=as_json)
