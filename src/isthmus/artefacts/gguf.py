"""The header of a GGUF file, read with suspicion.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: a magic number, counts, metadata as typed key-value
pairs, one entry a tensor, and the tensors' bytes on aligned places. Everything is little-endian. Lengths are
the file's own word, so each is compared with what is left of the file before anything is read by it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, TypeAlias

from isthmus.artefacts.faults import MalformedWeightsError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
TEMPLATE = "tokenizer.chat_template"
MOST_TENSORS = 100_000
MOST_PAIRS = 10_000
MOST_ITEMS = 2_000_000
"""So many texts and arrays may stand in all arrays: the largest vocabularies have 300,000 tokens and twice as
many merges, and each text takes a look."""

_LONGEST_KEY = 65_535
_LONGEST_HEADER = 64 << 20
_LONGEST_TEXT = 16 << 20
_MOST_DIMENSIONS = 4
_DEEPEST = 4
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# Of each type of tensors that is known here: how many numbers a block has, and how many bytes
# (https://github.com/ggml-org/ggml, the table `type_traits` of ggml.c).
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    30: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    20: (32, 18),
    39: (32, 17),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    29: (256, 56),
    34: (256, 54),
    35: (256, 66),
}

Value: TypeAlias = "str | int | float | bool | None"


class Place(NamedTuple):
    """Where a tensor lies: its dimensions, the fastest first, its type's number, its offset in the data."""

    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int:
        """Its bytes; of a type that is not known here the engine knows them, and one is the least."""
        numbers, length = _BLOCKS.get(self.kind, (math.prod(self.shape) or 1, 1))
        return -(-math.prod(self.shape) // numbers) * length


class Gguf(NamedTuple):
    """What a header says. The values of arrays are not kept: they are None."""

    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Place]

    def text(self, key: str) -> str | None:
        """The text under that key, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def read_gguf(file: BinaryIO, length: int) -> Gguf:
    """The header of a file of so many bytes. Raises MalformedWeightsError."""
    file.seek(0)
    reader = _Reader(file, min(length, _LONGEST_HEADER))
    version, tensor_count, pair_count = _counts(reader)
    metadata: dict[str, Value] = {}
    for _ in range(pair_count):
        key = reader.text(_LONGEST_KEY)
        if key in metadata:
            raise MalformedWeightsError(f"its metadata says {key[:60]!r} twice")
        metadata[key] = reader.value(reader.number("I"))
    tensors: dict[str, Place] = {}
    for _ in range(tensor_count):
        name = reader.text(_LONGEST_KEY)
        if name in tensors:
            raise MalformedWeightsError(f"it has the tensor {name[:60]!r} twice")
        tensors[name] = _place(reader)
    _check_places(tensors, reader.at, length, metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    return Gguf(version, metadata, tensors)


def check_gguf(file: BinaryIO) -> None:
    """Pass if the file begins as a GGUF file that holds tensors; only its first 24 bytes are read.

    To find one cut short is the engine's part. Raises MalformedWeightsError, and OSError.
    """
    _counts(_Reader(file, 24))


def _counts(reader: _Reader) -> tuple[int, int, int]:
    if reader.bytes_or_fewer(len(MAGIC)) != MAGIC:
        raise MalformedWeightsError("it does not begin with the letters GGUF")
    version, tensors, pairs = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version not in VERSIONS:
        raise MalformedWeightsError(f"its format has the version {version}, and engines read 2 and 3")
    if tensors == 0:
        raise MalformedWeightsError("it holds no tensors, only a vocabulary")
    if tensors > MOST_TENSORS or pairs > MOST_PAIRS:
        raise MalformedWeightsError("it claims more tensors or metadata than any model has")
    return version, tensors, pairs


def _place(reader: _Reader) -> Place:
    dimensions = reader.number("I")
    if not 0 < dimensions <= _MOST_DIMENSIONS:
        raise MalformedWeightsError(f"a tensor has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    if math.prod(shape) >= 1 << 63:
        raise MalformedWeightsError("a tensor has more numbers than can be counted")
    return Place(shape, reader.number("I"), reader.number("Q"))


def _check_places(tensors: Mapping[str, Place], header: int, length: int, alignment: Value) -> None:
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise MalformedWeightsError("its alignment is none")
    free = 0
    for place in sorted(tensors.values(), key=lambda place: place.offset):
        if place.offset % alignment or place.offset < free:
            raise MalformedWeightsError("its tensors overlap, or lie between their places")
        free = place.offset + place.size
    if header + -header % alignment + free > length:
        raise MalformedWeightsError("it is cut short: a tensor would lie behind its end")


class _Reader:
    """Reads numbers and texts, and never beyond the end that it was given."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.at = 0
        self._file = file
        self._end = end
        self._items_left = MOST_ITEMS

    def bytes_or_fewer(self, count: int) -> bytes:
        found = self._file.read(count)
        self.at += len(found)
        return found

    def number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self._exactly(struct.calcsize(f"<{code}")))[0]
        return value

    def text(self, longest: int) -> str:
        length = self.number("Q")
        if length > longest:
            raise MalformedWeightsError("a text in it would be longer than one may be")
        try:
            return self._exactly(length).decode()
        except UnicodeDecodeError:
            raise MalformedWeightsError("a text in it is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.text(_LONGEST_TEXT)
        if kind == _ARRAY and depth < _DEEPEST:
            self._pass_array(depth)
            return None
        if kind not in _NUMBERS:
            raise MalformedWeightsError(f"its metadata has a value of the unknown kind {kind}")
        return self.number(_NUMBERS[kind])

    def _pass_array(self, depth: int) -> None:
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[kind]}"))
            return
        if count > self._items_left:
            raise MalformedWeightsError("its arrays have more texts than any vocabulary")
        self._items_left -= count
        for _ in range(count):
            if kind == _STRING:
                self._skip(self.number("Q"))
            else:
                self.value(kind, depth + 1)

    def _exactly(self, count: int) -> bytes:
        if count > self._end - self.at:
            raise MalformedWeightsError("it ends within its own header")
        found = self.bytes_or_fewer(count)
        if len(found) < count:
            raise MalformedWeightsError("it ends within its own header")
        return found

    def _skip(self, count: int) -> None:
        if count > self._end - self.at:
            raise MalformedWeightsError("it ends within its own header")
        self._file.seek(count, 1)
        self.at += count
