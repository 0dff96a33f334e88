"""`isthmus drift`: whether watched routes are still what they were."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import drifts_of
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.evals.drift.standing import Drift
from isthmus.evals.drift.watchman import figure


@click.command()
@click.option("--route", help="Only this route.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each quantity.")
@told
def drift(route: str | None, config_path: Path | None, as_json: bool) -> None:
    """Say whether watched routes are still what they were in their baselines.

    The exit status is 1 where any is not. The gateway looks while it runs, whenever an hour, day or week is
    over; this tells what it found.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    if route is not None and route not in {watch.route for watch in config.drift}:
        raise click.UsageError(f"The route {route} is not watched: say so under `drift` in the config.")
    if not config.drift:
        click.echo("No route is watched: see `drift` in the reference of the config.", err=True)
        return
    found = [it for it in drifts_of(config, path) if route in (None, it.route)]
    if as_json:
        for it in found:
            click.echo(msgspec.json.encode(it))
    else:
        heads = ("ROUTE", "QUANTITY", "STATE", "P", "BASELINE", "LATELY")
        click.echo(table(heads, [_row(it) for it in found]))
    if any(it.state == "alarm" for it in found):
        raise SystemExit(1)


def _row(it: Drift) -> tuple[str, ...]:
    tested = it.state in ("alarm", "as before")
    return (
        it.route,
        it.quantity,
        it.state,
        f"{it.p:.2g}" if tested else "-",
        figure(it, it.before),
        figure(it, it.lately),
    )
