"""`isthmus dataset`: samples to judge models by."""

from __future__ import annotations

import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.bootstrap import inspection_of, open_feedback, open_records
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.core.label import LEVELS, Label, Level
from isthmus.core.record import Outcome
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.datasets import Dataset, open_dataset, save
from isthmus.evals.datasets.files import exists
from isthmus.evals.datasets.from_records import Look, Wish, samples_of
from isthmus.evals.datasets.near_duplicates import groups_of
from isthmus.evals.datasets.samples import call_of, line_of
from isthmus.evals.datasets.splits import Division
from isthmus.evals.datasets.splits import split as divide
from isthmus.gateway.inspection import Inspection
from isthmus.store.records import Where

_SHOWN_VALUES = 8
_FEW = 10

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def dataset() -> None:
    """Samples to judge models by: of files, of other tools, of the ledger."""


@dataset.command()
@click.argument("file", type=FILE)
@click.option(
    "--by", default="task", show_default=True, help="Count the values of this field of the metadata."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def show(file: Path, by: str, as_json: bool) -> None:
    """Say what is in a dataset: its hash, labels, targets, tokens, and how much of it is nearly the same.

    FILE is JSONL, JSON, CSV or Parquet, a config of promptfoo, a dataset or log of inspect-ai, or a file for
    OpenAI's Evals or fine-tuning.
    """
    found = _summary(_opened(file), by)
    click.echo(msgspec.json.encode(found) if as_json else "\n".join(_lines(found, by)))


@dataset.command("import")
@click.argument("file", type=FILE)
@click.option("--output", "-o", type=NEW_FILE, help="Default: stdout.")
@click.option("--input", "asked", help="The file's own name of what is asked.")
@click.option("--target", help="The file's own name of the good answer.")
@click.option("--label", type=click.Choice(LEVELS), help="How sensitive every sample is at least.")
@click.option("--drop-doubles", is_flag=True, help="Keep the first of samples that say the same.")
@told
def import_(
    file: Path,
    output: Path | None,
    asked: str | None,
    target: str | None,
    label: Level | None,
    drop_doubles: bool,
) -> None:
    """Write a dataset of any form that is known as our own JSONL, one sample a line.

    What samples cannot carry is said.
    """
    named = {our: theirs for our, theirs in (("input", asked), ("target", target)) if theirs is not None}
    found = _opened(file, named, drop_doubles=drop_doubles)
    least = Label(label or "public")
    samples = (msgspec.structs.replace(it, label=it.label.join(least)) for it in found.samples)
    if output is None:
        for sample in samples:
            sys.stdout.buffer.write(line_of(sample))
    else:
        save(output, samples, _mode(file))
    click.echo(f"{len(found.samples):,} samples", err=True)


@dataset.command()
@click.argument("file", type=FILE)
@click.option("--train", type=click.FloatRange(0), default=0.6, show_default=True)
@click.option("--dev", type=click.FloatRange(0), default=0.2, show_default=True)
@click.option("--test", type=click.FloatRange(0), default=0.2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Another one draws anew.")
@click.option("--by", help="Give each value of this field of the metadata the same shares.")
@click.option(
    "--folder", "-o", type=click.Path(path_type=Path, file_okay=False), help="Default: beside FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def split(
    file: Path,
    train: float,
    dev: float,
    test: float,
    seed: int,
    by: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Divide a dataset into NAME.train.jsonl, NAME.dev.jsonl and NAME.test.jsonl.

    Samples that ask nearly the same are never in two parts. The parts are those of the next run, too; samples
    that come later move none but their own near-duplicates (with --by, a few at the borders). A share of 0
    leaves the part out.
    """
    shares = {name: share for name, share in (("train", train), ("dev", dev), ("test", test)) if share}
    to = folder or file.parent
    files = {name: to / f"{file.stem}.{name}.jsonl" for name in shares}
    for path in files.values():
        if path.exists():
            raise exists(path)
    found = _opened(file)
    with _comparing(found) as bar:
        division = divide(found, shares, seed, by, bar.update)
    to.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        save(path, division.parts[name].samples, _mode(file))
    _tell_of(division, files, as_json)


@dataset.command("from-records")
@click.option("--output", "-o", required=True, type=NEW_FILE, help="The file to write; only you may read it.")
@click.option("--since", type=Span(), help="Only the last while, e.g. 30d.")
@click.option("--route", help="Only this route.")
@click.option("--model", help="Only what this model answered.")
@click.option("--outcome", type=click.Choice(["ok", "error", "cancelled"]), default="ok", show_default=True)
@click.option("--min-feedback", type=click.FloatRange(0, 1), help="Only what was given at least this score.")
@click.option("--corrected", is_flag=True, help="Only what somebody put right.")
@click.option("--limit", type=click.IntRange(1), help="So many samples at most, the oldest first.")
@config_option
@told
def from_records(
    output: Path,
    since: float | None,
    route: str | None,
    model: str | None,
    outcome: Outcome,
    min_feedback: float | None,
    corrected: bool,
    limit: int | None,
    config_path: Path | None,
) -> None:
    """Make a dataset of what was really asked, from the ledger, where the config keeps the texts.

    Each sample carries the label of its request, raised by a look with today's rules. A correction from
    feedback is its target; the answer that was given is in its metadata. Personal data stays as it is.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    since_us = None if since is None else time.time_ns() // 1000 - int(since * 1_000_000)
    where = Where(since_us=since_us, route=route, model=model, outcome=outcome)
    inspection = inspection_of(config.perimeter, secrets.token_bytes(32))
    left_out: Counter[str] = Counter()
    recorded = open_records(config, path).scan(where, bodies=True)
    records = (record for record in recorded if record.mirrors is None)
    wish = Wish(score=min_feedback, corrected=corrected)
    found = samples_of(records, open_feedback(config, path).of, _looking(inspection), wish, left_out)
    try:
        count = save(output, _counted_on_terminal(_at_least_one(islice(found, limit), left_out)))
    finally:
        inspection.close()
    _tell_notes(f"{what} ({many:,})" for what, many in left_out.items())
    click.echo(
        f"{count:,} samples. They hold what was asked, personal data too: only you may read them.", err=True
    )


def _looking(inspection: Inspection) -> Look:
    return lambda texts, least: inspection.look(texts, (least,), barred=lambda _: False).label


def _at_least_one(found: Iterable[Sample], left_out: Counter[str]) -> Iterator[Sample]:
    several = iter(found)
    first = next(several, None)
    if first is None:
        reasons = "; ".join(f"{what} ({many:,})" for what, many in left_out.items())
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"No record gives a sample{f': {reasons}' if reasons else ''}.",
            code="no_samples",
            hint="Texts are kept where a route says `record_bodies: true`.",
        )
    return chain([first], several)


def _counted_on_terminal(found: Iterator[Sample]) -> Iterator[Sample]:
    talk = sys.stderr
    with click.progressbar(found, label="Reading", file=talk, hidden=not talk.isatty()) as bar:
        yield from bar


def _comparing(found: Dataset) -> Any:
    """A bar that hears of the steps of `groups_of`."""
    steps, talk = 2 * len(found.samples), sys.stderr
    return click.progressbar(length=steps, label="Comparing", file=talk, hidden=not talk.isatty())


def _opened(file: Path, named: Mapping[str, str] | None = None, *, drop_doubles: bool = False) -> Dataset:
    found = open_dataset(file, named or {}, drop_doubles=drop_doubles)
    _tell_notes(found.notes)
    return found


def _tell_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)


def _mode(file: Path) -> int:
    """What was for few eyes stays so."""
    return file.stat().st_mode & 0o777


# Telling


def _summary(found: Dataset, by: str) -> dict[str, Any]:
    samples = found.samples
    with _comparing(found) as bar:
        groups = Counter(groups_of(samples, bar.update))
    return {
        "name": found.name,
        "hash": found.hash,
        "samples": len(samples),
        "labels": _counted(it.label.level for it in samples),
        "zones": sum(it.label.zones is not None for it in samples),
        "with_target": sum(bool(it.target) for it in samples),
        "with_choices": sum(bool(it.choices) for it in samples),
        "with_tools": sum(bool(it.request.get("tools")) for it in samples),
        "by": {by: _counted(str(it.metadata[by]) for it in samples if by in it.metadata)},
        "prompt_tokens_estimated": sum(estimate_tokens(call_of(it.request)).tokens for it in samples),
        "doubles": len(samples) - len(groups),
        "largest_group": max(groups.values()),
        "notes": found.notes,
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _lines(found: Mapping[str, Any], by: str) -> Iterator[str]:
    yield f"name       {found['name']}"
    yield f"hash       {found['hash']}"
    yield f"samples    {found['samples']:,}"
    zones = f"; {found['zones']:,} only in some zones" if found["zones"] else ""
    yield f"labels     {_in_words(found['labels'])}{zones}"
    yield f"targets    {found['with_target']:,} with, {found['samples'] - found['with_target']:,} without"
    for what in ("choices", "tools"):
        if found[f"with_{what}"]:
            yield f"{what:<10} {found[f'with_{what}']:,} with"
    if found["by"][by]:
        yield f"{by:<10} {_in_words(found['by'][by])}"
    yield f"tokens     {found['prompt_tokens_estimated']:,} in all requests (estimated)"
    largest = f"; the largest group has {found['largest_group']:,}" if found["doubles"] else ""
    yield f"doubles    {found['doubles']:,} ask nearly the same as an earlier one{largest}"


def _in_words(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:_SHOWN_VALUES]]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, f"{rest} more"] if rest else shown)


def _tell_of(division: Division, files: Mapping[str, Path], as_json: bool) -> None:
    parts = {
        name: {"file": str(path), "samples": len(part.samples), "hash": part.hash}
        for (name, path), part in zip(files.items(), division.parts.values(), strict=True)
    }
    counts = {"groups": division.groups, "doubles": division.doubles, "largest_group": division.largest}
    if as_json:
        click.echo(msgspec.json.encode({"parts": parts, **counts}))
    else:
        rows = [
            (name, f"{it['samples']:,}", str(it["hash"])[:12], str(it["file"])) for name, it in parts.items()
        ]
        click.echo(table(("PART", "SAMPLES", "HASH", "FILE"), rows))
    total = sum(len(part.samples) for part in division.parts.values())
    click.echo(f"Near-duplicates: {division.doubles:,} of {total:,}, each with its own kind.", err=True)
    for name, part in parts.items():
        if not part["samples"]:
            click.echo(f"Note: {name} is empty: too few samples for its share.", err=True)
    if total > _FEW and division.largest > total / 2:
        click.echo(
            f"Note: {division.largest:,} of them ask nearly the same: the shares are far off.", err=True
        )
