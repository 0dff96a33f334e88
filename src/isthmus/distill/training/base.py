"""Weights in a form that can be trained: a folder of safetensors that transformers loads.

A GGUF file is turned into one, once: its quantised numbers are computed out, so that the student learns on
exactly the weights that the engine will serve. Nothing is loaded that could bring code along: no pickle, no
`trust_remote_code`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.training.job import Base
from isthmus.distill.training.template import TEMPLATE

LOADED = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja"
    r"|special_tokens_map\.json|added_tokens\.json|model\.safetensors\.index\.json|[\w.-]+\.safetensors"
)
"""The files of a folder that may be loaded; what else lies there is not touched."""


def folder_sha256(folder: Path) -> str:
    """The SHA-256 over the names and the SHA-256 of all files of a folder that may be loaded.

    Raises IsthmusError (`unsafe_weights`, `incomplete_weights`), and OSError.
    """
    files = sorted(path for path in folder.iterdir() if LOADED.fullmatch(path.name) and path.is_file())
    names = {path.name for path in files}
    if not {"config.json", "tokenizer.json"} <= names or not any(it.endswith(".safetensors") for it in names):
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{folder} is not a model's folder: config.json, tokenizer.json or *.safetensors is missing.",
            code="incomplete_weights",
            hint="Weights in other formats can run code when they are loaded: convert them to safetensors.",
        )
    for name in ("config.json", "tokenizer_config.json"):
        if name in names and _brings_code(folder / name):
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"{folder / name} wants code of its own to be run (`auto_map`).",
                code="unsafe_weights",
                hint="Take a model of an architecture that transformers knows itself.",
            )
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.name} {file_sha256(path)}\n".encode())
    return whole.hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trainable(base: Base, dtype: str, kept: Path, tell: Callable[[str], None]) -> Path:
    """The folder of that base. A GGUF file's is made at its first use, and put into the folder `kept`.

    It is kept in the numbers' type that it is trained in, so that nothing is rounded twice.
    """
    if base.form == "folder":
        return Path(base.path)
    folder = kept / f"{base.sha256}-{dtype}"
    kept.mkdir(parents=True, exist_ok=True)
    with _alone(kept / f".{folder.name}.lock"):
        if not folder.exists():
            tell(f"Computing {base.name} out of its quantised form (once)")
            new = kept / f".{folder.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            _dequantise(Path(base.path), dtype, new)
            new.rename(folder)
    return folder


def _dequantise(gguf: Path, dtype: str, into: Path) -> None:
    import gguf as gguf_package
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers has the file read three times, each of which takes ten seconds for a large vocabulary. This
    # process reads no other file.
    gguf_package.GGUFReader = cache(gguf_package.GGUFReader)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=getattr(torch, dtype),
        # Without it the weights stay packed, and can be neither trained nor saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _require_space(into.parent, sum(it.numel() * it.element_size() for it in model.parameters()))
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
    # The very text of the file that is served, whatever became of it on the way.
    (into / TEMPLATE).write_text(tokenizer.chat_template or "", encoding="utf-8")


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The weights as they are trained take {size / 1e9:.1f} GB; {folder} has {free / 1e9:.1f} left.",
            code="disk_full",
            hint="Free some space, or set ISTHMUS_HOME to a folder on another disk.",
        )


def _brings_code(path: Path) -> bool:
    value: Any = json.loads(path.read_bytes())
    return isinstance(value, dict) and "auto_map" in value


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
