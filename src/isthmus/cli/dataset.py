"""`isthmus dataset`: samples to judge models by."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.cli.options import told
from isthmus.cli.table import table
from isthmus.core.label import LEVELS, Label, Level
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.datasets import Dataset, open_dataset, save
from isthmus.evals.datasets.files import exists
from isthmus.evals.datasets.near_duplicates import groups_of
from isthmus.evals.datasets.samples import call_of, line_of
from isthmus.evals.datasets.splits import Division
from isthmus.evals.datasets.splits import split as divide

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
    found = _opened(file)
    shares = {name: share for name, share in (("train", train), ("dev", dev), ("test", test)) if share}
    division = _divided(found, shares, seed, by)
    to = folder or file.parent
    to.mkdir(parents=True, exist_ok=True)
    files = {name: to / f"{file.stem}.{name}.jsonl" for name in shares}
    for path in files.values():
        if path.exists():
            raise exists(path)
    for name, path in files.items():
        save(path, division.parts[name].samples, _mode(file))
    _tell_of(division, files, as_json)


def _divided(found: Dataset, shares: Mapping[str, float], seed: int, by: str | None) -> Division:
    steps, talk = 2 * len(found.samples), sys.stderr
    with click.progressbar(length=steps, label="Comparing", file=talk, hidden=not talk.isatty()) as bar:
        return divide(found, shares, seed, by, bar.update)


def _opened(file: Path, named: Mapping[str, str] | None = None, *, drop_doubles: bool = False) -> Dataset:
    found = open_dataset(file, named or {}, drop_doubles=drop_doubles)
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)
    return found


def _mode(file: Path) -> int:
    """What was for few eyes stays so."""
    return file.stat().st_mode & 0o777


# Telling


def _summary(found: Dataset, by: str) -> dict[str, Any]:
    samples = found.samples
    groups = Counter(groups_of(samples))
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
