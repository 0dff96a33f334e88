"""What the verbs of `distill` share: the recipe's sections, and what may teach today."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import click

from isthmus.cli.options import use_colour
from isthmus.config.faults import ConfigError
from isthmus.config.places import state_dir
from isthmus.config.report import render
from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.permission import Permission
from isthmus.distill.quarantine import Quarantine, QuarantineFile
from isthmus.distill.sections import section
from isthmus.distill.terms import Ground

T = TypeVar("T")


def section_or_exit(recipe: Path, name: str, kind: type[T]) -> T:
    """That section of the recipe; where it has faults they are shown and the process ends with status 1.

    Raises IsthmusError (`no_section`) where it has none.
    """
    try:
        found = section(recipe, name, kind)
    except ConfigError as error:
        click.echo(render(error.faults, colour=use_colour(sys.stderr)), err=True, nl=False)
        raise SystemExit(1) from None
    if found is None:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The recipe {recipe} has no section `{name}`.",
            code="no_section",
            hint="See the how-to page on distilling a student.",
        )
    return found


def quarantine_file(config_path: Path | None) -> QuarantineFile:
    """Where the quarantine of this config is kept."""
    return QuarantineFile(state_dir(config_path) / "quarantine.jsonl")


def permission_of(config_path: Path | None, grounds: Sequence[Ground] = ()) -> Permission:
    """What may teach today, on these grounds."""
    quarantine = Quarantine(quarantine_file(config_path).read())
    return Permission(dt.datetime.now(dt.UTC).date(), grounds, quarantine)
