"""What several commands share: finding the config, and refusing a wrong one in words."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from isthmus.config.config import Config
from isthmus.config.faults import ConfigError
from isthmus.config.load import load, load_as
from isthmus.config.report import render
from isthmus.core.errors import IsthmusError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """Adds `--config`; without it ISTHMUS_CONFIG counts, then ./isthmus.yaml, then the built-in config."""
    return click.option(
        "--config",
        "-c",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The config file. Default: $ISTHMUS_CONFIG, else ./isthmus.yaml, else the built-in config.",
    )(command)


def load_or_exit(path: Path | None) -> Config:
    """The config; where it has faults they are shown and the process ends with status 1."""
    try:
        return load(path)
    except ConfigError as error:
        click.echo(render(error.faults, colour=use_colour(sys.stderr)), err=True, nl=False)
        raise SystemExit(1) from None


def load_as_or_exit(path: Path, kind: type[T]) -> T:
    """A file as a struct of that kind; where it has faults the process ends as by `load_or_exit`."""
    try:
        return load_as(path, kind)
    except ConfigError as error:
        click.echo(render(error.faults, colour=use_colour(sys.stderr)), err=True, nl=False)
        raise SystemExit(1) from None


def told(command: F) -> F:
    """Lets a command's own failures end it in words, with status 1, never with a stack trace."""

    @functools.wraps(command)
    def tell(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except IsthmusError as error:
            click.echo(f"isthmus: {error.text}", err=True)
            raise SystemExit(1) from None
        except BrokenPipeError:
            # Whoever read the output has seen enough: click ends the process quietly.
            raise
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            click.echo(f"isthmus: {error.strerror or error}{where}", err=True)
            raise SystemExit(1) from None

    return tell  # type: ignore[return-value]


def use_colour(stream: Any) -> bool:
    """True on a terminal, unless NO_COLOR is set (no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR")
