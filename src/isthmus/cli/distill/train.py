"""`isthmus distill train`: a student learns from good answers, on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec

from isthmus.cli.distill.permitting import permission_of, recipe_or_exit
from isthmus.cli.options import config_option, told
from isthmus.cli.progress import ProgressLine, RunLine
from isthmus.config.load import locate
from isthmus.distill.golden import hashes_of
from isthmus.distill.permission import Batch, require_may_teach
from isthmus.distill.provenance import FIELD
from isthmus.distill.recipe import Recipe, needed
from isthmus.distill.training.events import Event, Note, Phase, Step
from isthmus.distill.training.run import Place
from isthmus.distill.training.run import train as train_student
from isthmus.evals.datasets import open_dataset
from isthmus.providers.engines.fetch import weights_folder


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="The training's folder. Default: students/NAME beside the recipe.",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What is learned, in place of the recipe's dataset.",
)
@click.option(
    "--python",
    default=sys.executable,
    envvar="ISTHMUS_TRAIN_PYTHON",
    help="The Python that has the extra `train`. Default: $ISTHMUS_TRAIN_PYTHON, else the one running this.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads. Default: all that there are.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print what came out as JSON.")
@told
def train(
    recipe: Path,
    out: Path | None,
    dataset: Path | None,
    python: str,
    threads: int | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Train the student of RECIPE, or go on where a training of it was stopped.

    The folder `student` in the training's folder is what comes out: the adapter for vLLM (safetensors) and
    for llama.cpp (GGUF), the chat template, and how it was made. Nothing leaves this machine. Answers that
    may not teach, or of which nobody says whose they are, are refused.
    """
    said = recipe_or_exit(recipe)
    if dataset is not None:
        said = msgspec.structs.replace(said, dataset=str(dataset.absolute()))
    _require_may_teach(said, recipe.parent, config_path)
    place = out if out is not None else recipe.parent / "students" / needed(said.name, "name")
    folder = weights_folder(os.environ)
    talk, bar = _Talk(), ProgressLine()
    evidence = train_student(
        said,
        recipe.parent,
        Place(
            out=place.absolute(),
            weights=folder,
            cache=folder.with_name("trainable"),
            python=python,
            threads=threads or _cores(),
        ),
        talk,
        bar,
    )
    talk.end()
    student = place / "student"
    if as_json:
        fields = {"student": str(student), **msgspec.structs.asdict(evidence)}
        click.echo(msgspec.json.encode(fields))
        return
    click.echo(f"{student}")
    click.echo(
        f"{evidence.steps:,} steps, {evidence.tokens:,} tokens in {evidence.seconds:,.0f} s; the loss came "
        f"to {evidence.losses[-1]:.3f}. The curve: {place / 'loss.html'}.",
        err=True,
    )


def _require_may_teach(recipe: Recipe, beside: Path, config_path: Path | None) -> None:
    file = beside / needed(recipe.dataset, "dataset")
    dataset = open_dataset(file)
    samples = dataset.samples
    if recipe.by == "people":
        samples = tuple(it for it in samples if FIELD in it.metadata)
    grounds = recipe.collect.permission if recipe.collect is not None else ()
    batch = Batch(samples, hashes_of(file, dataset))
    require_may_teach([batch], permission_of(locate(config_path), grounds))


class _Talk:
    """Shows what a training tells, on stderr."""

    def __init__(self) -> None:
        self._line: RunLine | None = None
        self._done = 0

    def __call__(self, event: Event) -> None:
        match event:
            case Phase(what):
                self.end()
                click.echo(f"{what} …", err=True)
            case Note(text):
                self.end()
                click.echo(f"isthmus: {text}", err=True)
            case Step():
                self._line = self._line or RunLine("Training")
                self._done += 1
                note = f"loss {event.loss:.3f}  {event.tokens / max(event.seconds, 1e-9):,.0f} tokens/s"
                self._line(event.step, event.steps, self._done, note)

    def end(self) -> None:
        """Leave the line."""
        if self._line is not None:
            self._line.end()
            self._line = None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
