"""`isthmus distill quarantine`: sources that may teach nobody, with whatever descends from them."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import click
import msgspec

from isthmus.cli.distill.permitting import quarantine_file
from isthmus.cli.options import config_option, told
from isthmus.cli.pilot import user_name
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.distill.provenance import asking_of
from isthmus.distill.quarantine import KINDS, Entry, Quarantine, source_of
from isthmus.evals.datasets import open_dataset


@click.command()
@click.argument("source", required=False)
@click.option("--why", default="", help="Why, in words. Needed to put something in.")
@click.option("--lift", is_flag=True, help="Let SOURCE out again.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@told
def quarantine(source: str | None, why: str, lift: bool, config_path: Path | None, as_json: bool) -> None:
    """Put SOURCE into quarantine: nothing that descends from it may teach. Without SOURCE, list all.

    SOURCE is the file of a dataset, or one of terms:zai/api, provider:NAME, model:ID, weights:SHA256,
    source:RUN-OR-REQUEST, dataset:HASH. Of a file, the rows are remembered by what they ask: they stay in
    quarantine in mixed datasets, and with other answers.
    """
    file = quarantine_file(locate(config_path))
    if source is None:
        _list(Quarantine(file.read()), as_json)
        return
    if not why and not lift:
        raise click.UsageError("Say --why: whoever comes after you wants to know.")
    entry = _entry(source, why, lift)
    held = {(it.kind, it.value) for it in Quarantine(file.read()).held}
    if lift and (entry.kind, entry.value) not in held:
        raise click.UsageError(f"{entry.kind}:{entry.value} is not in quarantine.")
    file.add(entry)
    what = "let out of" if lift else "in"
    click.echo(f"{entry.kind}:{entry.value} is {what} quarantine.", err=True)
    if not lift:
        click.echo("See what it touches: isthmus distill check DATASET.", err=True)


def _entry(source: str, why: str, lift: bool) -> Entry:
    now_us = time.time_ns() // 1000
    named = source_of(source)
    if named is not None:
        return Entry(kind=named[0], value=named[1], at_us=now_us, why=why, who=user_name(), lifted=lift)
    if not Path(source).is_file():
        kinds = ", ".join(f"{kind}:..." for kind in KINDS)
        raise click.BadParameter(f"{source!r} is no file, and none of: {kinds}", param_hint="SOURCE")
    opened = open_dataset(Path(source))
    return Entry(
        kind="dataset",
        value=opened.hash,
        at_us=now_us,
        why=why,
        who=user_name(),
        lifted=lift,
        askings=() if lift else tuple(sorted({asking_of(it) for it in opened.samples})),
    )


def _list(found: Quarantine, as_json: bool) -> None:
    if as_json:
        for it in found.held:
            click.echo(msgspec.json.encode(it))
    elif found.held:
        rows = [
            (f"{it.kind}:{it.value}", _day(it.at_us), it.who or "-", f"{len(it.askings):,}", it.why)
            for it in found.held
        ]
        click.echo(table(("SOURCE", "SINCE (UTC)", "BY", "ROWS", "WHY"), rows))
    else:
        click.echo("Nothing is in quarantine.", err=True)


def _day(at_us: int) -> str:
    return f"{dt.datetime.fromtimestamp(at_us / 1e6, dt.UTC):%Y-%m-%d}"
