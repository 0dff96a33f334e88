"""The peer of the perimeter benchmark: Presidio with the best weights that a package index has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from isthmus.catalog.pipelines import ENGLISH
from isthmus.perimeter.detectors.presidio import KINDS

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".venvs" / "presidio"
PINS = ("presidio-analyzer==2.2.366", "spacy==3.8.18")
WEIGHTS = f"{ENGLISH.package}=={ENGLISH.version}"
LEAST_SCORE = 0.35
"""Below it Presidio's own demonstrations show nothing."""


class Found(NamedTuple):
    """What was found at `start:end`, and how sure it is."""

    kind: str
    start: int
    end: int
    score: float


class PresidioHost:
    """Presidio, served by a process of its own environment."""

    def __init__(self) -> None:
        _prepare()
        self._process = subprocess.Popen(
            [str(VENV / "bin/python"), str(HERE / "presidio_host.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def find(self, text: str) -> tuple[list[Found], float]:
        """What it found, and the milliseconds that it took, by its own clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        spans, took_ms = self._answer()
        return [Found(KINDS.get(kind, kind), *rest) for kind, *rest in spans], took_ms

    def __enter__(self) -> PresidioHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> list[object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"Presidio ended: run {VENV / 'bin/python'} {HERE / 'presidio_host.py'} to see why"
            )
        answer: list[object] = json.loads(line)
        return answer


def weights() -> Path:
    """The folder of the English pipeline in the peer's environment."""
    [folder] = VENV.glob(f"lib/python*/site-packages/{ENGLISH.module}/{ENGLISH.folder}")
    return folder


def _prepare() -> None:
    """Presidio's environment, made once and kept between runs."""
    python = VENV / "bin/python"
    if python.exists() and list(VENV.glob(f"lib/python*/site-packages/{ENGLISH.module}")):
        return
    print("bench: installing Presidio into an environment of its own (once)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *PINS], check=True)
    # The weights ask for Python 3.12 in their package's metadata, and are data: any Python reads them.
    subprocess.run([*pip, "--no-deps", "--ignore-requires-python", WEIGHTS], check=True)
