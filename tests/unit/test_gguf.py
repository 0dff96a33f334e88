"""GGUF files: what is written can be read back by the format's own rules, and what is none is told apart."""

from __future__ import annotations

import json
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from isthmus.artefacts import gguf
from isthmus.artefacts.faults import MalformedWeightsError
from isthmus.artefacts.gguf import check_gguf
from isthmus.providers.engines.bert import pack_bert

WIDTH, INNER, CONTEXT, HEADS = 8, 12, 16, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "un", "##known", "é"]
SHAPES: dict[str, tuple[int, ...]] = {
    "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
    "embeddings.position_embeddings.weight": (CONTEXT, WIDTH),
    "embeddings.token_type_embeddings.weight": (2, WIDTH),
    "embeddings.LayerNorm.weight": (WIDTH,),
    "embeddings.LayerNorm.bias": (WIDTH,),
    "encoder.layer.0.attention.self.query.weight": (WIDTH, WIDTH),
    "encoder.layer.0.attention.self.query.bias": (WIDTH,),
    "encoder.layer.0.intermediate.dense.weight": (INNER, WIDTH),
    "encoder.layer.0.output.LayerNorm.weight": (WIDTH,),
    "encoder.layer.10.attention.self.query.weight": (WIDTH, WIDTH),
    "pooler.dense.weight": (WIDTH, WIDTH),
}


def safetensors(shapes: dict[str, tuple[int, ...]], dtype: str = "F32", cut: int = 0) -> bytes:
    """A file whose every number tells which one it is."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, shape in shapes.items():
        start, count = len(body) // 4, 1
        for side in shape:
            count *= side
        body += struct.pack(f"<{count}f", *range(start, start + count))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start * 4, len(body)]}
    encoded = json.dumps(header).encode()
    whole = struct.pack("<Q", len(encoded)) + encoded + body
    return whole[: len(whole) - cut]


@pytest.fixture
def pack(tmp_path: Path) -> Any:
    def run(content: bytes, words: list[str] = WORDS, name: str = "packed.gguf") -> Path:
        (tmp_path / "model.safetensors").write_bytes(content)
        (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        pack_bert(
            title="tiny",
            tensors=tmp_path / "model.safetensors",
            vocabulary=tmp_path / "vocab.txt",
            heads=HEADS,
            layer_norm_epsilon=1e-12,
            into=tmp_path / name,
        )
        return tmp_path / name

    return run


class Reader:
    """GGUF version 3, read by the letter of its specification and independently of the writer."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            assert file.read(4) == b"GGUF"
            version, tensors, pairs = struct.unpack("<IQQ", file.read(20))
            assert version == 3
            self.metadata = dict(self._pair(file) for _ in range(pairs))
            entries = [self._entry(file) for _ in range(tensors)]
            base = file.tell() + -file.tell() % 32
            self.tensors: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
            for name, shape, offset in entries:
                assert offset % 32 == 0
                count = 1
                for side in shape:
                    count *= side
                file.seek(base + offset)
                self.tensors[name] = shape, struct.unpack(f"<{count}f", file.read(4 * count))

    def _pair(self, file: BinaryIO) -> tuple[str, Any]:
        return self._string(file), self._value(file, *struct.unpack("<I", file.read(4)))

    def _value(self, file: BinaryIO, kind: int) -> Any:
        if kind == 8:
            return self._string(file)
        if kind == 9:
            inner, count = struct.unpack("<IQ", file.read(12))
            return [self._value(file, inner) for _ in range(count)]
        code = {4: "<I", 5: "<i", 6: "<f", 7: "<?"}[kind]
        return struct.unpack(code, file.read(struct.calcsize(code)))[0]

    def _entry(self, file: BinaryIO) -> tuple[str, tuple[int, ...], int]:
        name = self._string(file)
        (dimensions,) = struct.unpack("<I", file.read(4))
        shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
        kind, offset = struct.unpack("<IQ", file.read(12))
        assert kind == 0
        return name, shape, offset

    def _string(self, file: BinaryIO) -> str:
        return file.read(struct.unpack("<Q", file.read(8))[0]).decode()


def test_every_tensor_arrives_whole_under_the_engines_name(pack: Any) -> None:
    packed = Reader(pack(safetensors(SHAPES)))
    assert set(packed.tensors) == {
        "token_embd.weight",
        "position_embd.weight",
        "token_types.weight",
        "token_embd_norm.weight",
        "token_embd_norm.bias",
        "blk.0.attn_q.weight",
        "blk.0.attn_q.bias",
        "blk.0.ffn_up.weight",
        "blk.0.layer_output_norm.weight",
        "blk.10.attn_q.weight",
    }
    shape, numbers = packed.tensors["blk.0.ffn_up.weight"]
    assert shape == (WIDTH, INNER)
    start = int(numbers[0])
    assert numbers == tuple(range(start, start + WIDTH * INNER))


def test_the_encoders_numbers_are_read_off_its_tensors(pack: Any) -> None:
    metadata = Reader(pack(safetensors(SHAPES))).metadata
    assert metadata["general.architecture"] == "bert"
    assert metadata["general.name"] == "tiny"
    assert metadata["bert.block_count"] == 2
    assert metadata["bert.context_length"] == CONTEXT
    assert metadata["bert.embedding_length"] == WIDTH
    assert metadata["bert.feed_forward_length"] == INNER
    assert metadata["bert.attention.head_count"] == HEADS
    assert metadata["bert.attention.causal"] is False
    assert metadata["bert.pooling_type"] == 1
    assert metadata["tokenizer.ggml.token_type_count"] == 2


def test_the_vocabulary_marks_the_beginning_of_words(pack: Any) -> None:
    metadata = Reader(pack(safetensors(SHAPES))).metadata
    assert metadata["tokenizer.ggml.tokens"] == [*WORDS[:6], "▁un", "known", "▁é"]
    assert metadata["tokenizer.ggml.token_type"] == [3, 3, 3, 3, 3, 1, 1, 1, 1]
    assert metadata["tokenizer.ggml.seperator_token_id"] == WORDS.index("[SEP]")
    assert metadata["tokenizer.ggml.bos_token_id"] == WORDS.index("[CLS]")


def test_the_same_encoder_gives_the_same_bytes_in_whatever_order_it_came(pack: Any) -> None:
    once = pack(safetensors(SHAPES))
    again = pack(safetensors(SHAPES), name="again.gguf")
    assert once.read_bytes() == again.read_bytes()
    turned = Reader(pack(safetensors(dict(reversed(SHAPES.items()))), name="turned.gguf"))
    assert list(turned.tensors) == list(Reader(once).tensors)


def test_what_was_packed_passes_as_gguf(pack: Any) -> None:
    with pack(safetensors(SHAPES)).open("rb") as file:
        check_gguf(file)


@pytest.mark.parametrize(
    ("content", "words", "why"),
    [
        (b"", WORDS, "not a safetensors file"),
        (b"\xff" * 64, WORDS, "header would be longer"),
        (safetensors(SHAPES, dtype="I32"), WORDS, "is I32, not F32"),
        (safetensors(SHAPES, cut=2000), WORDS, "cut short"),
        (safetensors({**SHAPES, "lm_head.weight": (WIDTH,)}), WORDS, "belongs to no plain BERT"),
        (safetensors({**SHAPES, "encoder.layer.0.gate.weight": (WIDTH,)}), WORDS, "belongs to no plain BERT"),
        (safetensors({"embeddings.LayerNorm.bias": (WIDTH,)}), WORDS, "missing or misshapen"),
        (safetensors(SHAPES), WORDS[:-1], "differ in the number of tokens"),
        (safetensors(SHAPES), ["[PAD]", "[UNK]", "[CLS]", "x", *WORDS[4:]], "has no \\[SEP\\]"),
    ],
)
def test_what_is_no_encoder_is_refused_with_the_reason(
    pack: Any, content: bytes, words: list[str], why: str
) -> None:
    with pytest.raises(MalformedWeightsError, match=why):
        pack(content, words)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not begin with"),
        (b"GGML" + bytes(40), "does not begin with"),
        (b"GGUF\3\0\0\0", "ends within"),
        (b"GGUF" + struct.pack("<IQQ", 1, 5, 5), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 5, 5), "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 5), "no tensors"),
    ],
)
def test_what_is_no_gguf_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file, pytest.raises(MalformedWeightsError, match=why):
        check_gguf(file)


@pytest.mark.parametrize("kind", [8, 9])
def test_arrays_longer_than_any_vocabulary_are_not_walked(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MOST_ITEMS", 1000)
    item = struct.pack("<Q", 0) if kind == 8 else struct.pack("<IQ", 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k"
    several = struct.pack("<IQ", kind, 400) + item * 400
    arrays = {
        "more texts": struct.pack("<IIQ", 9, kind, 1001) + item * 1001,
        # Many short ones are as many.
        "than any": struct.pack("<IIQ", 9, 9, 3) + several * 3,
        # So many may be: what is wrong comes after them.
        "a tensor has 0 dimensions": struct.pack("<IIQ", 9, 9, 2) + several * 2 + bytes(12),
    }
    for why, said in arrays.items():
        with pytest.raises(MalformedWeightsError, match=why):
            gguf.read_gguf(BytesIO(head + said), len(head + said))
