"""A text as the mean of its tokens' static vectors: an embedding that takes a tenth of a millisecond.

The table and its vocabulary are read as data out of the two files that `catalog.weights` names; the format of
the table is safetensors (https://github.com/huggingface/safetensors). A word becomes the longest tokens that
it begins with, from left to right, rather than those of the tokenizer's merges: under a mean the two can
hardly be told apart, and this one needs no library.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.core.errors import Fault, IsthmusError
from isthmus.routing.learned.features import LOOKED_AT, Vector

WIDTH = 128
"""So many numbers of each token's vector are used, from the first on: the table was trained so that its
beginnings are vectors, too (A. Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022). With all
256 of them neighbours are no better than by chance, and take twice as long to look through."""

_SPACE = "\u2581"
_LONGEST_TOKEN = 16
_LONGEST_WORD = 32
_WORDS = 50_000
"""So many words' tokens are remembered, in about 10 MB: finding them is what takes longest of a long text."""

_TOKEN = ""
"""Under it a node of the tree has the place of the token that ends there; no letter is empty."""

_Tree: TypeAlias = dict[str, Any]
_TYPES = {"F16": np.float16, "F32": np.float32}


class Embedding:
    """Embeds texts by a table of vectors, one for each token of a vocabulary."""

    def __init__(self, table: bytes, vocabulary: bytes, sha256: str) -> None:
        """By the bytes of a safetensors file with one tensor, and of a `tokenizer.json`.

        `sha256` is the table's: what was learned with another one is not used with this. Raises IsthmusError
        (`bad_embedding`).
        """
        try:
            self._table = np.ascontiguousarray(_tensor(table)[:, :WIDTH])
            tokens = msgspec.json.decode(vocabulary, type=_Tokenizer).model.vocab
        except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise IsthmusError(
                Fault.INTERNAL,
                f"The static embedding cannot be read: {type(error).__name__}.",
                code="bad_embedding",
                hint="Delete its files in the folder of weights; they are fetched again.",
            ) from error
        self.sha256 = sha256
        self.width = int(self._table.shape[1])
        self._tree = _tree(tokens, len(self._table))
        self._ids = lru_cache(maxsize=_WORDS)(self._longest_tokens)

    def embed(self, text: str) -> Vector:
        """The text's vector, of length one; of length zero where the text has no known token."""
        ids: list[int] = []
        for word in text[:LOOKED_AT].replace("\n", " ").split(" "):
            # What is no word comes once: it would fill the memory.
            ids += self._ids(word) if len(word) <= _LONGEST_WORD else self._longest_tokens(word)
        if not ids:
            return np.zeros(self.width, np.float32)
        vector: Vector = np.einsum("ij->j", self._table.take(ids, axis=0)) / len(ids)
        length = float(np.sqrt(vector @ vector))
        return vector / length if length else vector

    def _longest_tokens(self, word: str) -> tuple[int, ...]:
        word, ids, at = _SPACE + word, [], 0
        size = len(word)
        while at < size:
            node, end, longest, after = self._tree, at, None, at + 1
            while end < size and word[end] in node:
                node, end = node[word[end]], end + 1
                if _TOKEN in node:
                    longest, after = node[_TOKEN], end
            if longest is not None:
                ids.append(longest)
            at = after
        return tuple(ids)


def _tree(tokens: Mapping[str, int], many: int) -> _Tree:
    """The tokens letter by letter, each with its place in the table at its end.

    By it a word is read as far as any token begins so, and no further: what is like no token costs little.
    """
    root: _Tree = {}
    for token, id_ in tokens.items():
        if len(token) <= _LONGEST_TOKEN and id_ < many:
            node = root
            for letter in token:
                node = node.setdefault(letter, {})
            node[_TOKEN] = id_
    return root


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
