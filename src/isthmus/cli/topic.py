"""`isthmus topic`: a small classifier, trained on texts of one's own, without a word of them in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from isthmus.cli.options import told
from isthmus.cli.texts import files_in, replace, text_of
from isthmus.perimeter.detectors.classifier import EPOCHS, train
from isthmus.perimeter.parts import parts_of
from isthmus.perimeter.policy import SURE_ENOUGH
from isthmus.perimeter.views import normalised

_PATH = click.Path(path_type=Path, exists=True)


@click.command()
@click.option("--about", multiple=True, required=True, type=_PATH, help="Texts about the topic.")
@click.option(
    "--other", multiple=True, required=True, type=_PATH, help="Texts that are about something else."
)
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the classifier goes, to be named under `perimeter: topics:`.",
)
@told
def topic(about: tuple[Path, ...], other: tuple[Path, ...], out: Path) -> None:
    """Learn to tell texts about a topic from others, to find it in requests.

    A file is one text; of JSON Lines, each line is one: texts as {"text": ...}, or requests of a log. A fifth
    of them is kept from the training, and measured by. The file holds weights of hashed words, and no words.
    Nothing leaves this machine.
    """
    talk = sys.stderr
    with click.progressbar(length=EPOCHS, label="Learning", file=talk, hidden=not talk.isatty()) as bar:
        try:
            model = train(_texts(about), _texts(other), SURE_ENOUGH, lambda: bar.update(1))
        except ValueError as fault:
            raise click.ClickException(str(fault)) from None
    replace(out, model.dump())
    measured = model.measured
    click.echo(
        f"{out}: of texts that it had not seen, {measured.found} of {measured.about} about the topic "
        f"were found, and {measured.mistaken} of {measured.other} others were taken for it",
        err=True,
    )


def _texts(paths: tuple[Path, ...]) -> list[str]:
    return [normalised(text) for file in files_in(paths) for text in _texts_of(file)]


def _texts_of(file: Path) -> Iterator[str]:
    text = text_of(file.read_bytes())
    if text is None:
        return
    if file.suffix != ".jsonl":
        yield text
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError:
            raise click.ClickException(f"{file}:{number} is not JSON.") from None
        yield "\n".join(part.text for part in parts_of(value).texts)
