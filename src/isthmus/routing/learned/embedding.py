"""A text as the mean of its tokens' static vectors: an embedding that takes a tenth of a millisecond.

The table and its vocabulary are read as data out of the two files that `catalog.weights` names; the format of
the table is safetensors (https://github.com/huggingface/safetensors). A word becomes the longest tokens that
it begins with, from left to right, rather than those of the tokenizer's merges: under a mean the two can
hardly be told apart, and this one needs no library.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.core.errors import Fault, IsthmusError
from isthmus.routing.learned.features import LOOKED_AT, Vector

_SPACE = "\u2581"
_LONGEST_TOKEN = 16
_TYPES = {"F16": np.float16, "F32": np.float32}


class Embedding:
    """Embeds texts by a table of vectors, one for each token of a vocabulary."""

    def __init__(self, table: bytes, vocabulary: bytes, sha256: str) -> None:
        """By the bytes of a safetensors file with one tensor, and of a `tokenizer.json`.

        `sha256` is the table's: what was learned with another one is not used with this. Raises IsthmusError
        (`bad_embedding`).
        """
        try:
            self._table = _tensor(table)
            self._tokens: dict[str, int] = msgspec.json.decode(vocabulary, type=_Tokenizer).model.vocab
        except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise IsthmusError(
                Fault.INTERNAL,
                f"The static embedding cannot be read: {type(error).__name__}.",
                code="bad_embedding",
                hint="Delete its files in the folder of weights; they are fetched again.",
            ) from error
        self.sha256 = sha256
        self.width = int(self._table.shape[1])
        self._ids = lru_cache(maxsize=50_000)(self._longest_tokens)

    def embed(self, text: str) -> Vector:
        """The text's vector, of length one; of length zero where the text has no known token."""
        words = text[:LOOKED_AT].replace("\n", " ").split(" ")
        ids = [id_ for word in words for id_ in self._ids(word)]
        if not ids:
            return np.zeros(self.width, np.float32)
        vector: Vector = self._table[ids].mean(0)
        length = float(np.sqrt(vector @ vector))
        return vector / length if length else vector

    def _longest_tokens(self, word: str) -> tuple[int, ...]:
        word, ids, at = _SPACE + word, [], 0
        while at < len(word):
            for end in range(min(len(word), at + _LONGEST_TOKEN), at, -1):
                id_ = self._tokens.get(word[at:end])
                if id_ is not None and id_ < len(self._table):
                    ids.append(id_)
                    at = end
                    break
            else:
                at += 1
        return tuple(ids)


class _Model(msgspec.Struct, frozen=True):
    vocab: dict[str, int]


class _Tokenizer(msgspec.Struct, frozen=True):
    model: _Model


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, int]
    data_offsets: tuple[int, int]


def _tensor(content: bytes) -> NDArray[np.float32]:
    """The only tensor of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = msgspec.json.decode(content[8 : 8 + size], type=dict[str, msgspec.Raw])
    header.pop("__metadata__", None)
    (raw,) = header.values()
    tensor = msgspec.json.decode(raw, type=_Tensor)
    begins, ends = (8 + size + offset for offset in tensor.data_offsets)
    flat = np.frombuffer(content[begins:ends], _TYPES[tensor.dtype])
    return flat.reshape(tensor.shape).astype(np.float32)
