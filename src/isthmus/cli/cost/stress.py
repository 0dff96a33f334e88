"""`isthmus cost stress`: what shocks do to a portfolio and its traffic."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click
import msgspec

from isthmus.accounting.budgets import Budget
from isthmus.bootstrap import facts_of, prices_of, traffic_of
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.config.places import ledger_path
from isthmus.core.label import Label
from isthmus.core.traffic import Flow
from isthmus.economics.stress.effects import Impact, Portfolio
from isthmus.economics.stress.effects import stress as under
from isthmus.economics.stress.report import stress_report
from isthmus.economics.stress.shocks import FORMS, shock_of, standard_shocks
from isthmus.economics.stress.shortage import simulated
from isthmus.economics.tco.case import SECONDS_PER_MONTH
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.records import Where


@click.command()
@click.option(
    "--shock",
    "names",
    multiple=True,
    help=f"A shock; repeat. {', '.join(FORMS.values())}. Default: every one that the portfolio may meet.",
)
@click.option("--since", type=Span(), default="30d", show_default=True, help="The traffic of the last while.")
@click.option("--route", help="Only the traffic of this route.")
@click.option("--key", help="Only the traffic of this key's id.")
@click.option(
    "--at", type=click.DateTime(["%Y-%m-%d"]), help="Take listed prices as of this day. Default: today."
)
@click.option(
    "--fail-on",
    type=click.Choice(["breaks", "moves"]),
    help="End with status 1 where a shock leaves a route without a model, or moves traffic to another one.",
)
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page, too."
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def stress(
    names: tuple[str, ...],
    since: float,
    route: str | None,
    key: str | None,
    at: dt.datetime | None,
    fail_on: Literal["breaks", "moves"] | None,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Say what shocks would do: which routes break, what it costs, what answers instead, what mends it.

    Applies each shock to the config and to the ledger's traffic. Without a ledger, routes are tried at rest.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    shocks = [shock_of(it, config.models, config.providers) for it in names] or standard_shocks(
        config.models, config.providers
    )
    where = Where(since_us=time.time_ns() // 1000 - int(since * 1e6), route=route, key_id=key)
    flows, seconds = _flows(ledger_path(config, path), where)
    day = at.date() if at else dt.datetime.now(dt.UTC).date()
    portfolio = _portfolio(config, flows, seconds, day)
    impacts = [under(portfolio, shock) for shock in shocks]
    report = stress_report(impacts, _in_words(config, flows, seconds, day))
    if html_path is not None:
        html_path.write_text(html(report), encoding="utf-8")
    click.echo(msgspec.json.encode(impacts) if as_json else markdown(report), nl=as_json)
    if any(_fails(it, fail_on) for it in impacts):
        raise SystemExit(1)


def _flows(ledger: Path, where: Where) -> tuple[Sequence[Flow], float]:
    """The flows, and the seconds in which they came."""
    if not ledger.exists():
        return (), SECONDS_PER_MONTH
    traffic = traffic_of(ledger)
    now_us = time.time_ns() // 1000
    first_us = traffic.since_us(where)
    return traffic.flows(where), max((now_us - (first_us or now_us)) / 1e6, 1.0)


def _portfolio(config: Config, flows: Sequence[Flow], seconds: float, day: dt.date) -> Portfolio:
    return Portfolio(
        facts=facts_of(config),
        prices=prices_of(config),
        floor=Label(config.perimeter.default),
        flows=flows,
        months=seconds / SECONDS_PER_MONTH,
        day=day,
        budgets=config.budgets,
    )


def _in_words(config: Config, flows: Sequence[Flow], seconds: float, day: dt.date) -> str:
    requests = sum(flow.requests for flow in flows)
    if requests == 0:
        return "The ledger has no traffic, so each route is tried with nothing known of its requests."
    return (
        f"{requests:,} requests of {seconds / 86_400:,.3g} days, as a month, at the list prices of {day}. "
        "Each keeps its tokens on another model; tokenisers differ by a tenth or more."
        + _left_out([it for it in config.budgets if not simulated(it)])
    )


def _left_out(budgets: Sequence[Budget]) -> str:
    if not budgets:
        return ""
    names = ", ".join(f"`{it.name}`" for it in budgets)
    return f" Budgets of single callers and models are not simulated: {names}."


def _fails(impact: Impact, fail_on: Literal["breaks", "moves"] | None) -> bool:
    match fail_on:
        case "breaks":
            return bool(impact.breaks)
        case "moves":
            return bool(impact.breaks or impact.moves)
    return False
