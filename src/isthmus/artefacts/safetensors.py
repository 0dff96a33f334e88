"""The header of a safetensors file, read with suspicion.

https://github.com/huggingface/safetensors#format: eight bytes of length, a JSON object of tensors with their
types, shapes and places, and their bytes without gap or overlap. Nothing but the header is read, and nothing
of it is believed before it fits the file.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta

from isthmus.artefacts.faults import MalformedWeightsError

LONGEST_HEADER = 100_000_000
"""The bound of the format's own reference."""

_NATURAL = Annotated[int, Meta(ge=0)]
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor: its type, its shape, and where its bytes are, counted from the header's end."""

    dtype: str
    shape: Annotated[tuple[_NATURAL, ...], Meta(max_length=16)]
    data_offsets: tuple[_NATURAL, _NATURAL]

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.data_offsets[1] - self.data_offsets[0]


def read_tensors(file: BinaryIO, length: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file of so many bytes, by name, and where their bytes begin.

    Raises MalformedWeightsError.
    """
    file.seek(0)
    header = int.from_bytes(file.read(8), "little")
    if header > LONGEST_HEADER or 8 + header > length:
        raise MalformedWeightsError(
            "it is not a safetensors file: its header would be longer than one may be"
        )
    try:
        entries = json.loads(file.read(header), object_pairs_hook=_once)
        metadata = entries.pop("__metadata__", {}) if isinstance(entries, dict) else {}
        msgspec.convert(metadata, dict[str, str])
        tensors = msgspec.convert(entries, dict[str, Tensor])
    except (ValueError, msgspec.ValidationError, RecursionError) as fault:
        raise MalformedWeightsError(f"it is not a safetensors file: {fault}") from None
    _check_places(tensors, length - 8 - header)
    return tensors, 8 + header


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs as an object; of a name that stands twice no two readers would take the same."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedWeightsError("a name stands twice in its header")
    return found


def _check_places(tensors: dict[str, Tensor], length: int) -> None:
    """Pass if the tensors fill these bytes, each as its type and shape want it, without gap or overlap."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _BITS:
            raise MalformedWeightsError(f"the tensor {name[:60]!r} is of an unknown type")
        if math.prod(tensor.shape) * _BITS[tensor.dtype] != tensor.size * 8:
            raise MalformedWeightsError(f"the tensor {name[:60]!r} has another length than its shape says")
    end = 0
    for begin, until in sorted(tensor.data_offsets for tensor in tensors.values()):
        if begin != end:
            raise MalformedWeightsError("its tensors overlap, or leave a gap")
        end = until
    if end != length:
        raise MalformedWeightsError("it is cut short, or something stands behind its tensors")
