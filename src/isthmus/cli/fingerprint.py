"""`isthmus fingerprint`: by what documents and source code are known again, without a word of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from isthmus.cli.options import told
from isthmus.cli.texts import files_in, replace, text_of
from isthmus.perimeter.detectors.fingerprints import NOISE, dump, prints_of
from isthmus.perimeter.views import normalised

_PATH = click.Path(path_type=Path, exists=True)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PATH)
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the fingerprints go, to be named under `perimeter: fingerprints:`.",
)
@click.option(
    "--except",
    "-x",
    "known",
    multiple=True,
    type=_PATH,
    help="A file or folder of what everybody may know, such as licences: what stands there is left out.",
)
@told
def fingerprint(paths: tuple[Path, ...], out: Path, known: tuple[Path, ...]) -> None:
    """Make fingerprints of the texts in PATHS: files, and folders without what is hidden in them.

    A piece of a text is known again by them where 20 words in a row agree, and by chance from 12 on. The file
    holds hashes and no words, but who has it can test a guess of what stands in the texts. Nothing leaves
    this machine.
    """
    everything, exceptions = files_in(paths), files_in(known)
    size = sum(file.stat().st_size for file in everything + exceptions)
    talk = sys.stderr
    with click.progressbar(length=size, label="Reading", file=talk, hidden=not talk.isatty()) as bar:
        found = [_prints(file, bar) for file in everything]
        left_out = [_prints(file, bar) for file in exceptions]
    texts = [prints for prints in found if prints is not None]
    prints = _all(texts) - _all([prints for prints in left_out if prints is not None])
    if not prints:
        raise click.ClickException(f"No text here has {NOISE} words of its own in a row.")
    replace(out, dump(prints))
    click.echo(f"{out}: {len(prints):,} fingerprints of {len(texts):,} texts", err=True)
    if len(texts) < len(found):
        click.echo(f"left out, as they are no text in UTF-8: {len(found) - len(texts):,}", err=True)
    if empty := sum(not prints for prints in texts):
        click.echo(f"too short to be known again: {empty:,}", err=True)


def _prints(file: Path, bar: Any) -> set[int] | None:
    """The fingerprints of a file; None where it is no text."""
    content = file.read_bytes()
    bar.update(len(content))
    text = text_of(content)
    return None if text is None else prints_of(normalised(text))


def _all(texts: list[set[int]]) -> set[int]:
    return set().union(*texts)
