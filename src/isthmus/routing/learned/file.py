"""What was learned as a file: arrays of numpy without pickle, behind a header of JSON and its SHA-256.

The file is eight bytes of length, the header, and an `npz` archive. The header has the archive's hash, so a
file that was cut or changed is refused before anything of it is used.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.core.errors import Fault, IsthmusError
from isthmus.routing.learned.parts import Neighbours, Part, Surface, TaskMeans, Words
from isthmus.routing.learned.stack import Scale, Stack

VERSION = 1
_KINDS: dict[str, type[TaskMeans] | type[Neighbours] | type[Words] | type[Surface]] = {
    kind.name: kind for kind in (TaskMeans, Neighbours, Words, Surface)
}


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="router", tag_field="isthmus"):
    """What stands before the arrays. `embedding` is the hash of the table that made the vectors."""

    version: int
    sha256: str
    models: tuple[str, ...]
    best: int
    parts: tuple[str, ...]
    tasks: bool
    both: bool
    support: float
    embedding: str | None


def dump(stack: Stack) -> bytes:
    """The stack as a file."""
    arrays: dict[str, NDArray[Any]] = {"overall": stack.overall.astype(np.float64)}
    named: list[Part] = [*stack.parts, *((stack.tasks,) if stack.tasks else ())]
    for part in named:
        arrays |= {f"{part.name}.{name}": array for name, array in part.arrays().items()}
    for which, scale in (("by_text", stack.by_text), ("by_both", stack.by_both)):
        if scale is not None:
            arrays |= {f"{which}.{name}": array for name, array in scale._asdict().items()}
    body = BytesIO()
    np.savez(body, allow_pickle=False, **arrays)
    content = body.getvalue()
    header = msgspec.json.encode(
        Header(
            version=VERSION,
            sha256=hashlib.sha256(content).hexdigest(),
            models=stack.models,
            best=stack.best,
            parts=tuple(part.name for part in stack.parts),
            tasks=stack.tasks is not None,
            both=stack.by_both is not None,
            support=stack.support,
            embedding=stack.embedding,
        )
    )
    return len(header).to_bytes(8, "little") + header + content


def load(content: bytes) -> Stack:
    """The stack that `dump` wrote. Raises IsthmusError (`bad_router`) for anything else."""
    try:
        size = int.from_bytes(content[:8], "little")
        header = msgspec.json.decode(content[8 : 8 + size], type=Header)
        body = content[8 + size :]
        if header.version != VERSION or hashlib.sha256(body).hexdigest() != header.sha256:
            raise ValueError("another version, or not whole")
        with np.load(BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _stack(header, arrays)
    except (
        ValueError,
        KeyError,
        IndexError,
        OSError,
        BadZipFile,
        msgspec.MsgspecError,
        RecursionError,
    ) as error:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "This is no learned router of this version, or it is not whole.",
            code="bad_router",
            hint="Learn it anew.",
        ) from error


def _stack(header: Header, arrays: dict[str, NDArray[Any]]) -> Stack:
    def of(prefix: str) -> dict[str, NDArray[Any]]:
        return {
            name.removeprefix(f"{prefix}."): it
            for name, it in arrays.items()
            if name.startswith(f"{prefix}.")
        }

    return Stack(
        models=header.models,
        best=header.best,
        overall=arrays["overall"],
        parts=tuple(_KINDS[name].load(of(name)) for name in header.parts),
        tasks=TaskMeans.load(of(TaskMeans.name)) if header.tasks else None,
        by_text=Scale(**of("by_text")),
        by_both=Scale(**of("by_both")) if header.both else None,
        support=header.support,
        embedding=header.embedding,
    )
