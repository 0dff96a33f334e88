"""A BERT encoder of safetensors, packed into a GGUF file of version 3.

For the formats see `isthmus.artefacts.gguf` and `isthmus.artefacts.safetensors`. Both lay tensors out in the
same row-major way, so their bytes are copied as they are and no number is ever computed.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from isthmus.artefacts.faults import MalformedWeightsError
from isthmus.artefacts.gguf import DEFAULT_ALIGNMENT, MAGIC
from isthmus.artefacts.safetensors import Tensor, read_tensors

_VERSION = 3
_CHUNK = 1 << 20

# Numbers that the format gives to types of values and of tensors, and llama.cpp to classes of tokens and to
# pooling.
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TENSOR_F32 = 0
_TOKEN_NORMAL, _TOKEN_CONTROL = 1, 3
_POOLING_MEAN = 1

_SPECIAL_TOKENS = {
    "[PAD]": "padding",
    "[UNK]": "unknown",
    "[CLS]": "bos",
    "[SEP]": "seperator",  # the format's own spelling
    "[MASK]": "mask",
}

_WHOLE_TENSORS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# A head for a task that embeddings are not, and a constant that the engine makes itself.
_LEFT_OUT = ("pooler.", "embeddings.position_ids")
_TENSOR_NAME = re.compile(r"(?:encoder\.layer\.(?P<layer>\d+)\.)?(?P<place>.+)\.(?P<part>weight|bias)")

_Value: TypeAlias = "tuple[int, bytes]"


class _Encoder(NamedTuple):
    """The numbers that llama.cpp wants to be told about a BERT encoder."""

    layers: int
    context: int
    width: int
    inner_width: int
    token_types: int
    heads: int
    layer_norm_epsilon: float


def pack_bert(
    *, title: str, tensors: Path, vocabulary: Path, heads: int, layer_norm_epsilon: float, into: Path
) -> None:
    """Write a sentence encoder of the BERT architecture, with mean pooling, as one GGUF file.

    `tensors` is the encoder's safetensors file in float32, `vocabulary` its WordPiece vocabulary with one
    token a line. The same input gives the same bytes. Raises MalformedWeightsError where the input is no such
    encoder.
    """
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    with tensors.open("rb") as source:
        named, start = _named_tensors(source)
        encoder = _describe(named, heads, layer_norm_epsilon)
        if named["token_embd.weight"].shape[0] != len(words):
            raise MalformedWeightsError("the vocabulary and the tensors differ in the number of tokens")
        metadata = {
            "general.architecture": _string("bert"),
            "general.name": _string(title),
            "general.file_type": _u32(_TENSOR_F32),
            **_encoder_metadata(encoder),
            **_tokenizer_metadata(words),
        }
        with into.open("wb") as out:
            out.write(_header(metadata, named))
            for tensor in named.values():
                _pad(out)
                source.seek(start + tensor.data_offsets[0])
                _copy(source, out, tensor.size)
            _pad(out)


def _named_tensors(source: BinaryIO) -> tuple[dict[str, Tensor], int]:
    """The encoder's tensors under llama.cpp's names, in the order of these, and where their bytes start."""
    tensors, start = read_tensors(source, os.fstat(source.fileno()).st_size)
    named = {_engine_name(name): tensor for name, tensor in tensors.items() if not name.startswith(_LEFT_OUT)}
    for name, tensor in named.items():
        if tensor.dtype != "F32":
            raise MalformedWeightsError(f"the tensor {name} is {tensor.dtype}, not F32")
    return dict(sorted(named.items())), start


def _engine_name(name: str) -> str:
    match = _TENSOR_NAME.fullmatch(name)
    layer = match["layer"] if match else None
    place = (_WHOLE_TENSORS if layer is None else _LAYER_TENSORS).get(match["place"]) if match else None
    if match is None or place is None:
        raise MalformedWeightsError(f"the tensor {name} belongs to no plain BERT encoder")
    prefix = "" if layer is None else f"blk.{layer}."
    return f"{prefix}{place}.{match['part']}"


def _describe(named: Mapping[str, Tensor], heads: int, layer_norm_epsilon: float) -> _Encoder:
    try:
        context, width = named["position_embd.weight"].shape
        return _Encoder(
            layers=sum(name.endswith(".attn_q.weight") for name in named),
            context=context,
            width=width,
            inner_width=named["blk.0.ffn_up.weight"].shape[0],
            token_types=named["token_types.weight"].shape[0],
            heads=heads,
            layer_norm_epsilon=layer_norm_epsilon,
        )
    except (KeyError, ValueError) as fault:
        raise MalformedWeightsError(f"a tensor of a BERT encoder is missing or misshapen: {fault}") from fault


def _encoder_metadata(encoder: _Encoder) -> dict[str, _Value]:
    return {
        "bert.block_count": _u32(encoder.layers),
        "bert.context_length": _u32(encoder.context),
        "bert.embedding_length": _u32(encoder.width),
        "bert.feed_forward_length": _u32(encoder.inner_width),
        "bert.attention.head_count": _u32(encoder.heads),
        "bert.attention.layer_norm_epsilon": (_F32, struct.pack("<f", encoder.layer_norm_epsilon)),
        "bert.attention.causal": (_BOOL, b"\0"),
        "bert.pooling_type": _u32(_POOLING_MEAN),
        "tokenizer.ggml.token_type_count": _u32(encoder.token_types),
    }


def _tokenizer_metadata(words: Sequence[str]) -> dict[str, _Value]:
    numbers = {word: number for number, word in enumerate(words)}
    if missing := _SPECIAL_TOKENS.keys() - numbers.keys():
        raise MalformedWeightsError(f"the vocabulary has no {min(missing)}")
    kinds = [_TOKEN_CONTROL if word in _SPECIAL_TOKENS else _TOKEN_NORMAL for word in words]
    return {
        "tokenizer.ggml.model": _string("bert"),
        "tokenizer.ggml.pre": _string("default"),
        "tokenizer.ggml.tokens": _array(_STRING, [_text(_with_phantom_space(word)) for word in words]),
        "tokenizer.ggml.token_type": _array(_I32, [struct.pack("<i", kind) for kind in kinds]),
        **{f"tokenizer.ggml.{role}_token_id": _u32(numbers[word]) for word, role in _SPECIAL_TOKENS.items()},
    }


def _with_phantom_space(word: str) -> str:
    # WordPiece marks what goes on within a word, llama.cpp what begins one.
    if word.startswith("[") and word.endswith("]"):
        return word
    return word[2:] if word.startswith("##") else f"▁{word}"


def _header(metadata: Mapping[str, _Value], tensors: Mapping[str, Tensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, (kind, value) in metadata.items():
        parts += [_text(key), struct.pack("<I", kind), value]
    offset = 0
    for name, tensor in tensors.items():
        # The format counts dimensions from the one that varies fastest.
        shape = tensor.shape[::-1]
        parts += [_text(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _TENSOR_F32, offset)]
        offset += tensor.size + -tensor.size % DEFAULT_ALIGNMENT
    return b"".join(parts)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _string(value: str) -> _Value:
    return _STRING, _text(value)


def _u32(value: int) -> _Value:
    return _U32, struct.pack("<I", value)


def _array(kind: int, items: Sequence[bytes]) -> _Value:
    return _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items)


def _pad(out: BinaryIO) -> None:
    out.write(bytes(-out.tell() % DEFAULT_ALIGNMENT))


def _copy(source: BinaryIO, out: BinaryIO, size: int) -> None:
    while size:
        chunk = source.read(min(size, _CHUNK))
        if not chunk:
            raise MalformedWeightsError("the tensors' file is cut short")
        out.write(chunk)
        size -= len(chunk)
