"""`isthmus replay`: what another config would have done with recorded traffic."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import open_history, replayer_of
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told, use_colour
from isthmus.config.config import Config
from isthmus.config.load import locate, read
from isthmus.config.report import render
from isthmus.evals.replay.replayed import Replayer
from isthmus.evals.replay.report import replay_report
from isthmus.evals.replay.summary import summary
from isthmus.gateway.direct import PREFIX
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.history import SqliteHistory
from isthmus.store.records import Where


@click.command()
@click.option(
    "--policy",
    "policy_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The config to try: a whole isthmus.yaml. Its secrets need not be there.",
)
@click.option("--since", type=Span(), default="30d", show_default=True, help="The traffic of the last while.")
@click.option("--route", help="Only the traffic of this route.")
@click.option("--key", help="Only the traffic of this key's id.")
@click.option(
    "--fail-on-crossing",
    is_flag=True,
    help="For CI: end with status 1 where a request would or may newly cross the boundary.",
)
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page, too."
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def replay(
    policy_path: Path,
    since: float,
    route: str | None,
    key: str | None,
    fail_on_crossing: bool,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Say what another config would have done with recorded traffic: what would newly cross the boundary,
    which decisions change and why, cost and latency. No model is called.

    The ledger is that of --config; the config to try is --policy. Prints Markdown.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    policy = _policy_or_exit(policy_path)
    where = Where(since_us=time.time_ns() // 1000 - int(since * 1e6), route=route, key_id=key)
    history = open_history(config, path)
    replayer = replayer_of(policy, config, path, where)
    left_out = _take_all(replayer, history, where)
    found = summary(policy.hash, replayer.judgements, {})
    report = replay_report(found, _in_words(since, left_out))
    if html_path is not None:
        html_path.write_text(html(report), encoding="utf-8")
    click.echo(msgspec.json.encode(found) if as_json else markdown(report), nl=as_json)
    if fail_on_crossing and found.crossing("out", "perhaps out"):
        click.echo("isthmus: requests would or may newly cross the boundary.", err=True)
        raise SystemExit(1)


def _policy_or_exit(path: Path) -> Config:
    policy, faults = read(path, check_secrets=False)
    if policy is None:
        click.echo(render(faults, colour=use_colour(sys.stderr)), err=True, nl=False)
        raise SystemExit(1)
    return policy


def _take_all(replayer: Replayer, history: SqliteHistory, where: Where) -> int:
    """Replay everything that is meant; returns how many were the evaluations' own, and left out."""
    left_out = 0
    talk = sys.stderr
    length = history.count(where)
    with click.progressbar(length=length, label="Replaying", file=talk, hidden=not talk.isatty()) as bar:
        for some in history.requests(where):
            for past in some:
                if past.route.startswith(PREFIX):
                    left_out += 1
                else:
                    replayer.take(past)
            bar.update(len(some))
    return left_out


def _in_words(since: float, left_out: int) -> str:
    own = f" {left_out:,} requests of evaluations are left out." if left_out else ""
    return (
        f"The traffic of the last {since / 86_400:,.3g} days.{own} Where a config draws between plans, each "
        "counts by its odds, so requests may be fractions."
    )
