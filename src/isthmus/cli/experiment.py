"""`isthmus experiment`: what a split on live traffic has shown so far."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import experiment_on, in_service, open_feedback, open_records
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.core.feedback import verdict
from isthmus.evals.experiments import ArmSoFar, Worse, drawn_afresh, so_far, trials_of
from isthmus.evals.trials.referee import Stopped
from isthmus.statistics.intervals import Interval
from isthmus.store.records import Where
from isthmus.strategies.plan import Split


@click.command()
@click.argument("route")
@click.option("--since", type=Span(), help="Only the last while, e.g. 7d: since the arms are as they are.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def experiment(route: str, since: float | None, config_path: Path | None, as_json: bool) -> None:
    """Compare the arms of a split by what ROUTE's requests came to: answers, cost, time, and feedback.

    You may look as often as you like, and stop when it says so: its intervals and tests hold at all times
    together. Who was drawn by several splits counts for the outermost. Where the split is sticky, the first
    request of each key or user is counted, for it was dealt an arm once.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    since_us = None if since is None else time.time_ns() // 1000 - int(since * 1_000_000)
    records, where = open_records(config, path), Where(since_us=since_us, route=route)
    # Twice through the records, rather than all of them in memory at once.
    opinions = open_feedback(config, path).of([record.id for record in records.scan(where)])
    scores = {name: score for name, said in opinions.items() if (score := verdict(said).score) is not None}
    plan = config.routes[route].plan if route in config.routes else None
    split = plan if isinstance(plan, Split) else None
    subject = drawn_afresh if split is None else split.subject
    found = so_far(trials_of(records.scan(where), scores, subject))
    if as_json:
        standing = msgspec.to_builtins(experiment_on(route, in_service(config, path), path))
        said = {name: standing[name] for name in ("stopped", "weights")}
        click.echo(msgspec.json.encode(msgspec.to_builtins(found) | said))
        return
    heads = ("ARM", "REQUESTS", "COUNTED", "ANSWERED", "USD EACH", "MEDIAN", "P95", "FEEDBACK")
    click.echo(table(heads, [_row(arm) for arm in found.arms]))
    if split is not None and split.sticky is not None:
        click.echo(f"Of each {split.sticky}, the first request and the first score are counted.", err=True)
    standing = experiment_on(route, in_service(config, path), path)
    for stopped in standing.stopped:
        when = dt.datetime.fromtimestamp(stopped.at_us / 1_000_000, dt.UTC)
        click.echo(f"{stopped.arm} was stopped on {when:%Y-%m-%d %H:%M} UTC: it {_why(stopped)}.")
    for worse in found.worse:
        if worse.arm not in {stopped.arm for stopped in standing.stopped}:
            click.echo(_stop(worse))
    if standing.weights:
        click.echo(f"Weights by now: {', '.join(f'{arm} {weight:g}' for arm, weight in standing.weights)}.")
    if not found.arms:
        click.echo(f"No request of the route {route} was drawn into an arm of a split.", err=True)
    elif not found.worse:
        click.echo("No arm is worse than another beyond what chance explains, so far.", err=True)


def _why(stopped: Stopped) -> str:
    return stopped.in_words().removeprefix(f"{stopped.arm} ")


def _row(arm: ArmSoFar) -> tuple[str, ...]:
    return (
        arm.arm,
        f"{arm.requests:,}",
        f"{arm.counted:,}",
        _share(arm.answered),
        "unknown" if arm.usd is None else f"{arm.usd:.6f}",
        f"{arm.median_ms:,.0f} ms",
        f"{arm.p95_ms:,.0f} ms",
        "-"
        if arm.feedback is None
        else f"{arm.feedback.low:.2f} to {arm.feedback.high:.2f} ({arm.scored:,})",
    )


def _share(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def _stop(worse: Worse) -> str:
    what = "answers fewer requests" if worse.measure == "answered" else "gets worse feedback"
    by = f"by {100 * worse.by.low:.1f} to {100 * worse.by.high:.1f} points"
    return f"{worse.arm} may be stopped: it {what} than {worse.than}, {by} (p = {worse.p:.2g})."
