"""What was learned as a file: arrays of numpy without pickle, behind a header (see `header`)."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from isthmus.routing.learned.header import VERSION, Header, Origin, bad_router, joined, parted
from isthmus.routing.learned.parts import Neighbours, Part, Surface, TaskMeans, Words
from isthmus.routing.learned.stack import Scale, Stack

_KINDS: dict[str, type[TaskMeans] | type[Neighbours] | type[Words] | type[Surface]] = {
    kind.name: kind for kind in (TaskMeans, Neighbours, Words, Surface)
}


def dump(stack: Stack, origin: Origin) -> bytes:
    """The stack as a file."""
    arrays: dict[str, NDArray[Any]] = {}
    named: list[Part] = [*stack.parts, *((stack.tasks,) if stack.tasks else ())]
    for part in named:
        arrays |= {f"{part.name}.{name}": array for name, array in part.arrays().items()}
    for which, scale in (("by_text", stack.by_text), ("by_both", stack.by_both)):
        if scale is not None:
            arrays |= {f"{which}.{name}": array for name, array in scale._asdict().items()}
    body = BytesIO()
    np.savez(body, allow_pickle=False, **arrays)
    content = body.getvalue()
    header = Header(
        version=VERSION,
        sha256=hashlib.sha256(content).hexdigest(),
        origin=origin,
        models=stack.models,
        overall=tuple(map(float, stack.overall)),
        best=stack.best,
        parts=tuple(part.name for part in stack.parts),
        tasks=stack.tasks is not None,
        both=stack.by_both is not None,
        support=stack.support,
        embedding=stack.embedding,
    )
    return joined(header, content)


def load(content: bytes) -> Stack:
    """The stack that `dump` wrote. Raises IsthmusError (`bad_router`) for anything else."""
    header, body = parted(content)
    try:
        return _stack(header, _arrays(body))
    except (ValueError, KeyError, IndexError, TypeError, OSError, BadZipFile) as error:
        raise bad_router() from error


def _arrays(body: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an archive that is no larger than it looks. Raises ValueError, among others."""
    with ZipFile(BytesIO(body)) as archive:
        if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
            raise ValueError("compressed: `dump` writes none that are")
    with np.load(BytesIO(body), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("a number is none")
    return arrays


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
        overall=np.array(header.overall),
        parts=tuple(_KINDS[name].load(of(name)) for name in header.parts),
        tasks=TaskMeans.load(of(TaskMeans.name)) if header.tasks else None,
        by_text=Scale(**of("by_text")),
        by_both=Scale(**of("by_both")) if header.both else None,
        support=header.support,
        embedding=header.embedding,
    )
