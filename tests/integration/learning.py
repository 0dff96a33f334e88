"""What tests of learned files share: a folder in which models were asked, a copy of it for each test."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main

from .gateway import Served, serving

SMALL, STRONG = "openai/small", "openai/strong"
CHEAP = {"input": 0.1, "output": 0.1}


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The folder is where commands run, with the gateway's state in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ISTHMUS_HOME", str(folder / "state"))
        yield


@contextmanager
def working_in_copy(of: Path, folder: Path) -> Iterator[None]:
    """As `working_in`, in a copy whose changes nobody else sees."""
    with working_in(shutil.copytree(of, folder / "home")):
        yield


def save(document: Any, samples: Iterable[dict[str, Any]]) -> None:
    """The config and the dataset `work.jsonl` stand in the folder."""
    Path("isthmus.yaml").write_text(json.dumps(document))
    Path("work.jsonl").write_text("\n".join(map(json.dumps, samples)))


def run(*arguments: str) -> Result:
    """What the command says."""
    return CliRunner().invoke(main, list(arguments))


def served(check: Callable[[Served], Awaitable[None]]) -> None:
    """A gateway of the folder's config stands by while `check` runs."""
    text, folder = Path("isthmus.yaml").read_text(), Path.cwd()

    async def serve() -> None:
        async with serving(text, folder) as gateway:
            await check(gateway)

    asyncio.run(serve())
