"""What may be in an artefact: weights that are only numbers, and texts. Nothing that runs.

Lists of what is forbidden lose against inventors, so this is a list of what is allowed: safetensors and
GGUF, whose headers are read, and files that are UTF-8 text under a suffix that nobody executes. A JSON file
that asks its reader to run code from elsewhere is refused, too: that is what `trust_remote_code` and
`auto_map` do for transformers, and `model_file` for mlx-lm (CVE-2026-5843).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from isthmus.artefacts.faults import MalformedWeightsError, malformed
from isthmus.artefacts.gguf import MAGIC, read_gguf
from isthmus.artefacts.manifest import ITSELF, Files
from isthmus.artefacts.safetensors import read_tensors

LONGEST_TEXT = 64 << 20
_TEXTS = frozenset({".json", ".jsonl", ".jinja", ".md", ".txt", ".yaml", ".yml", ".csv", ".html", ".svg"})
_BARE = frozenset({"LICENSE", "LICENCE", "NOTICE", "README", "COPYING"})
_RUN_CODE = frozenset({"auto_map", "trust_remote_code", "model_file"})


def check_files(files: Files) -> None:
    """Pass if every file is allowed and is what its name says. Raises ArtefactError: `artefact_malformed`."""
    for name, file in files.items():
        check_file(name, file)


def check_file(name: str, file: BinaryIO) -> None:
    """Pass if the file is allowed and is what its name says. Raises ArtefactError: `artefact_malformed`."""
    length = os.fstat(file.fileno()).st_size
    suffix = PurePosixPath(name).suffix
    file.seek(0)
    try:
        if suffix == ".safetensors":
            read_tensors(file, length)
        elif suffix == ".gguf" or file.read(len(MAGIC)) == MAGIC:
            read_gguf(file, length)
        elif suffix in _TEXTS or PurePosixPath(name).name in _BARE:
            _check_text(suffix, file, length)
        else:
            raise MalformedWeightsError(
                "weights are safetensors or GGUF, the rest is text; pickles, archives and programs stay out"
            )
    except MalformedWeightsError as fault:
        raise malformed("the file" if name == ITSELF else name, str(fault)) from None
    finally:
        file.seek(0)


def _check_text(suffix: str, file: BinaryIO, length: int) -> None:
    if length > LONGEST_TEXT:
        raise MalformedWeightsError("it is too long for a text")
    file.seek(0)
    try:
        text = file.read().decode()
    except UnicodeDecodeError:
        raise MalformedWeightsError("it is not the text that its name promises") from None
    if "\0" in text:
        raise MalformedWeightsError("it is not the text that its name promises")
    if suffix == ".json":
        _check_json(text)


def _check_json(text: str) -> None:
    try:
        content = json.loads(text)
        asked = next((key for key, value in _pairs(content) if key in _RUN_CODE and value), None)
    except (ValueError, RecursionError) as fault:
        raise MalformedWeightsError(f"it is not JSON ({fault})") from None
    if asked is not None:
        raise MalformedWeightsError(f"its `{asked}` asks whoever loads it to run code from elsewhere")


def _pairs(content: object) -> Iterator[tuple[str, object]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(content, list):
        for value in content:
            yield from _pairs(value)
