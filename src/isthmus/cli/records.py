"""`isthmus records`: what the ledger tells."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import open_feedback, open_records
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.core.feedback import Feedback
from isthmus.core.label import BOTTOM
from isthmus.core.money import format_usd
from isthmus.core.record import AttemptRecord, Features, Grounds, Outcome, Record
from isthmus.store.export import write_jsonl, write_parquet
from isthmus.store.records import Records, Where, parse_cursor


@click.group()
def records() -> None:
    """Every request and every attempt, with usage, charge, timings and the decision's reasons."""


@records.command("list")
@click.option("--since", type=Span(), help="Only the last while, e.g. 24h.")
@click.option("--route", help="Only this route.")
@click.option("--model", help="Only what this model answered.")
@click.option("--key", help="Only this key's id.")
@click.option("--outcome", type=click.Choice(["ok", "error", "cancelled", "interrupted"]))
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--after", help="Go on from the place that the last listing named.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@told
def list_(
    since: float | None,
    route: str | None,
    model: str | None,
    key: str | None,
    outcome: Outcome | None,
    limit: int,
    after: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """List records, the newest first."""
    where = Where(since_us=_since(since), route=route, model=model, key_id=key, outcome=outcome)
    page = _records(config_path).page(where, limit, parse_cursor(after) if after else None)
    if as_json:
        for record in page.records:
            click.echo(msgspec.json.encode(record))
    else:
        heads = ("TIME (UTC)", "ID", "ROUTE", "MODEL", "OUTCOME", "IN", "OUT", "USD", "OVERHEAD", "TOTAL")
        click.echo(table(heads, [_row(record) for record in page.records]))
        if not page.records:
            click.echo("There is no such record.", err=True)
    if page.next is not None:
        click.echo(f"There are more: --after {page.next}", err=True)


@records.command()
@click.argument("record_id")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def show(record_id: str, config_path: Path | None, as_json: bool) -> None:
    """Show the whole story of one request.

    The beginning of its id is enough.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    record = open_records(config, path).find(record_id)
    said = open_feedback(config, path).of([record.id]).get(record.id, [])
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.structs.asdict(record), "feedback": said}))
    else:
        click.echo("\n".join([*_story(record), *map(_opinion, said)]))


@records.command()
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Default: stdout.")
@click.option("--since", type=Span(), help="Only the last while, e.g. 30d.")
@click.option("--bodies", is_flag=True, help="With the texts, where the config keeps them.")
@config_option
@told
def export(
    form: str, output: Path | None, since: float | None, bodies: bool, config_path: Path | None
) -> None:
    """Export records, the oldest first, for other tools."""
    found = _records(config_path).scan(Where(since_us=_since(since)), bodies=bodies)
    write = write_jsonl if form == "jsonl" else write_parquet
    if output is None:
        if form == "parquet" and sys.stdout.isatty():
            raise click.UsageError("Parquet is not for terminals: say --output FILE.")
        count = write(found, sys.stdout.buffer, bodies=bodies)
    else:
        with output.open("wb") as out:
            count = write(found, out, bodies=bodies)
    click.echo(f"{count:,} records", err=True)


def _records(config_path: Path | None) -> Records:
    path = locate(config_path)
    return open_records(load_or_exit(path), path)


def _since(seconds: float | None) -> int | None:
    return None if seconds is None else time.time_ns() // 1000 - int(seconds * 1_000_000)


def _row(record: Record) -> tuple[str, ...]:
    usage = record.usage
    return (
        _time(record),
        record.id[:20],
        record.route or "-",
        record.model or "-",
        record.code or record.outcome,
        str(usage.prompt) if usage else "-",
        str(usage.output) if usage else "-",
        format_usd(record.charge.nanousd) if record.charge else "-",
        f"{record.timings.overhead_ms:.2f} ms",
        f"{record.timings.total_ms:,.0f} ms",
    )


def _story(record: Record) -> list[str]:
    timings = record.timings
    first = "-" if timings.first_token_ms is None else f"{timings.first_token_ms:,.1f} ms"
    lines = [
        f"id         {record.id}",
        f"time       {_time(record)} UTC",
        f"asked      route {record.route or '-'} by {record.key_id or 'no key'} in {record.dialect}",
        f"outcome    {record.outcome}, status {record.status}" + (f", {record.code}" if record.code else ""),
    ]
    if record.features is not None:
        lines.append(f"request    {_features(record.features)}")
    if record.mirrors:
        lines.append(f"mirrors    {record.mirrors}: no client got this answer")
    if record.message:
        lines.append(f"error      {record.message}")
    if record.findings is not None:
        found = ", ".join(f"{kind} ({count})" for kind, count in record.findings.items())
        lines.append(f"found      {found or 'nothing'}")
    if record.decision is not None:
        lines += [f"grounds    {ground}" for ground in _grounds(record.grounds)]
        lines.append(f"label      {record.decision.label.in_words()}")
        lines += [f"because    {reason}" for reason in record.decision.reasons]
    lines += [_attempt(attempt) for attempt in record.attempts]
    if record.charge is not None:
        charge = record.charge
        estimated = "estimated" if charge.estimated else ""
        source = ", ".join(filter(None, (charge.basis, charge.snapshot, estimated)))
        lines.append(f"charge     {format_usd(charge.nanousd)} USD ({source})")
    lines.append(
        f"time       first token {first}, total {timings.total_ms:,.1f} ms, "
        f"queue {timings.queue_ms:,.1f} ms, gateway's own {timings.overhead_ms:.3f} ms"
    )
    lines.append(f"config     {record.config_hash[:12]}")
    return lines


def _grounds(grounds: Grounds | None) -> Iterator[str]:
    if grounds is None:
        return
    if grounds.asked is not None:
        # A caller has written it: no character of it may command the terminal.
        yield f"asked as {grounds.asked!r}"
    if grounds.floor != BOTTOM:
        yield f"{grounds.floor.in_words()}, the key's floor"
    if grounds.said:
        yield f"{', '.join(grounds.said)}, as the caller says"
    if grounds.blind:
        yield "something could not be looked into"
    if grounds.unlooked:
        yield f"nobody looked for {', '.join(grounds.unlooked)}, which would not have raised the label"


def _features(features: Features) -> str:
    parts = {"tools": features.tools, "pictures": features.pictures, "files": features.files}
    more = {"audio": features.audio, "thinking": features.thinking, "logprobs": features.logprobs}
    has = [name for name, there in (parts | more).items() if there]
    form = [] if features.form == "text" else [features.form]
    return ", ".join([f"{features.size:,} bytes", f"{features.turns} messages", *has, *form])


def _opinion(one: Feedback) -> str:
    """One feedback without its texts, which may be long, and as sensitive as the request."""
    parts = [] if one.score is None else [f"score {one.score:g}"]
    parts += [f"a {name}" for name in ("correction", "comment") if getattr(one, name)]
    return f"feedback   {', '.join(parts)}, by {one.key_id or 'no key'} ({one.id})"


def _attempt(attempt: AttemptRecord) -> str:
    usage = attempt.usage
    tokens = f"{usage.prompt} in, {usage.output} out" if usage else "no usage"
    estimated = " (estimated)" if usage and usage.estimated else ""
    beyond = f", {', '.join(usage.beyond)}" if usage and usage.beyond else ""
    result = attempt.code or attempt.finish or attempt.outcome
    who = f"attempt {attempt.number}  {attempt.model} ({attempt.model_id})"
    what = "" if attempt.purpose == "answer" else f" as {attempt.purpose}"
    sure = f" ({attempt.confidence:.2f})" if attempt.confidence is not None else ""
    verdict = f"; {attempt.verdict}{sure}" if attempt.verdict else ""
    weights = f"; weights {attempt.weights}" if attempt.weights else ""
    return f"{who}{what}: {result}, {tokens}{estimated}{beyond}, {attempt.total_ms:,.0f} ms{verdict}{weights}"


def _time(record: Record) -> str:
    return dt.datetime.fromtimestamp(record.at_us / 1_000_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
