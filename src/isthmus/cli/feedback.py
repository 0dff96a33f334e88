"""`isthmus feedback`: what was said of answers."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from random import getrandbits
from typing import TextIO

import click
import msgspec

from isthmus.bootstrap import open_feedback, open_records
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.core.feedback import THUMBS, Feedback, require_sound
from isthmus.core.ids import feedback_id

_SHOWN = 40


@click.group()
def feedback() -> None:
    """What was said of answers, by end users through POST /v1/feedback, or here.

    It stands beside the record of its request, and is deleted with it.
    """


@feedback.command()
@click.argument("record_id")
@click.option("--score", type=click.FloatRange(0, 1), help="From 0, worthless, to 1, as good as can be.")
@click.option("--thumb", type=click.Choice(list(THUMBS)), help="`up` is a score of 1, `down` of 0.")
@click.option(
    "--correction", type=click.File("r"), help="A file with the answer as it should have been; - is stdin."
)
@click.option("--comment", help="What one likes.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def add(
    record_id: str,
    score: float | None,
    thumb: str | None,
    correction: TextIO | None,
    comment: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Say what an answer was worth. The beginning of the request's id is enough."""
    if score is not None and thumb is not None:
        raise click.UsageError("Say --score or --thumb, not both.")
    path = locate(config_path)
    config = load_or_exit(path)
    at_us = time.time_ns() // 1000
    given = Feedback(
        id=feedback_id(at_us, getrandbits(80)),
        record_id=open_records(config, path).find(record_id).id,
        at_us=at_us,
        score=score if thumb is None else THUMBS[thumb],
        correction=_text(correction),
        comment=comment or None,
    )
    require_sound(given)
    open_feedback(config, path).add(given)
    if as_json:
        click.echo(msgspec.json.encode(given))
    click.echo(f"{given.id} is kept with {given.record_id}.", err=True)


@feedback.command("list")
@click.option("--since", type=Span(), help="Only the last while, e.g. 24h.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@told
def list_(since: float | None, limit: int, config_path: Path | None, as_json: bool) -> None:
    """List feedback, the newest first."""
    path = locate(config_path)
    since_us = None if since is None else time.time_ns() // 1000 - int(since * 1_000_000)
    found = open_feedback(load_or_exit(path), path).list(since_us, limit)
    if as_json:
        for one in found:
            click.echo(msgspec.json.encode(one))
        return
    heads = ("TIME (UTC)", "REQUEST", "BY", "SCORE", "CORRECTED", "COMMENT")
    click.echo(table(heads, [_row(one) for one in found]))
    if not found:
        click.echo("There is none yet.", err=True)


def _row(one: Feedback) -> tuple[str, ...]:
    # An end user's words must not steer an operator's terminal.
    printable = (it if it.isprintable() else " " for it in one.comment or "-")
    comment = " ".join("".join(printable).split())
    return (
        dt.datetime.fromtimestamp(one.at_us / 1_000_000, dt.UTC).strftime("%Y-%m-%d %H:%M"),
        one.record_id,
        one.judge or one.key_id or "-",
        "-" if one.score is None else f"{one.score:g}",
        "yes" if one.correction else "-",
        comment if len(comment) <= _SHOWN else f"{comment[: _SHOWN - 1]}…",
    )


def _text(file: TextIO | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read() or None
    except UnicodeDecodeError:
        raise click.BadParameter("it is no text in UTF-8", param_hint="--correction") from None
