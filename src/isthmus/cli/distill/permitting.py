"""What the verbs of `distill` share: the recipe, and what may teach today."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from isthmus.cli.options import use_colour
from isthmus.config.faults import ConfigError
from isthmus.config.places import state_dir
from isthmus.config.report import render
from isthmus.distill.permission import Permission
from isthmus.distill.quarantine import Quarantine, QuarantineFile
from isthmus.distill.recipe import Recipe, open_recipe
from isthmus.distill.terms import Ground


def recipe_or_exit(path: Path) -> Recipe:
    """The recipe of a file; where it has faults they are shown and the process ends with status 1."""
    try:
        return open_recipe(path)
    except ConfigError as error:
        click.echo(render(error.faults, colour=use_colour(sys.stderr)), err=True, nl=False)
        raise SystemExit(1) from None


def quarantine_file(config_path: Path | None) -> QuarantineFile:
    """Where the quarantine of this config is kept."""
    return QuarantineFile(state_dir(config_path) / "quarantine.jsonl")


def permission_of(config_path: Path | None, grounds: Sequence[Ground] = ()) -> Permission:
    """What may teach today, on these grounds."""
    quarantine = Quarantine(quarantine_file(config_path).read())
    return Permission(dt.datetime.now(dt.UTC).date(), grounds, quarantine)
