"""Checkpoints: all that a training needs to go on as if nothing had happened.

A checkpoint is a folder with one safetensors file and `state.json`, which holds that file's SHA-256. It is
written beside, brought to the disk, and renamed into place: it is there whole or not at all, and the one
before stays until then. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

KEPT = 2
_NAME = re.compile(r"step-(\d{7})")
_TENSORS, _STATE = "tensors.safetensors", "state.json"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training stands. `step` counts the steps done; `losses` are theirs, `tokens` the sum so far.

    `seconds` is the time that all runs took together, `fingerprint` the job's.
    """

    step: int
    fingerprint: str
    losses: list[float]
    tokens: int
    seconds: float
    versions: dict[str, str]
    sha256: str = ""


class Keeper(Protocol):
    """What keeps a training's checkpoints."""

    def save(self, state: State, tensors: dict[str, Any]) -> None:
        """Keep it, durably. Raises OSError, and then leaves the earlier ones as they were."""
        ...

    def newest(self, fingerprint: str) -> tuple[State, dict[str, Any]] | None:
        """The newest whole checkpoint of that job, None where there is none."""
        ...


class Checkpoints:
    """The checkpoints in a folder, the newest `KEPT` of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: State, tensors: dict[str, Any]) -> None:
        """Keep it, durably. Raises OSError, and then leaves the earlier ones as they were."""
        from safetensors.torch import save

        content = save(tensors)
        state = msgspec.structs.replace(state, sha256=hashlib.sha256(content).hexdigest())
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / ".new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir()
            write_durably(new / _TENSORS, content)
            write_durably(new / _STATE, msgspec.json.encode(state))
            target = self._folder / f"step-{state.step:07}"
            shutil.rmtree(target, ignore_errors=True)
            new.rename(target)
            sync_folder(self._folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        for _, path in list(self._newest_first())[KEPT:]:
            shutil.rmtree(path)

    def newest(self, fingerprint: str) -> tuple[State, dict[str, Any]] | None:
        """The newest whole checkpoint of that job, None where there is none; a damaged one is passed over."""
        from safetensors.torch import load

        for _, path in self._newest_first():
            try:
                state = msgspec.json.decode((path / _STATE).read_bytes(), type=State)
                content = (path / _TENSORS).read_bytes()
            except (OSError, msgspec.MsgspecError):
                continue
            if state.fingerprint == fingerprint and hashlib.sha256(content).hexdigest() == state.sha256:
                return state, load(content)
        return None

    def _newest_first(self) -> Iterator[tuple[int, Path]]:
        if not self._folder.is_dir():
            return
        found = ((_NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        yield from sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file in place of the one that may be there, whole or not at all; for its owner's eyes only."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    write_durably(new, content)
    new.replace(path)


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
