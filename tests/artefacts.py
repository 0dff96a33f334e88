"""Artefacts for tests: tiny ones with files of every role, and an adapter for the built-in model."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isthmus.artefacts import declaration, keys
from isthmus.artefacts.declaration import Base, Dataset, Declaration, Evaluation, Teacher
from isthmus.artefacts.lineage import Known
from isthmus.artefacts.manifest import digests, opened
from isthmus.artefacts.signature import signed
from isthmus.artefacts.verify import signature_path
from isthmus.core.portfolio import Signer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY_BASE = "ab" * 32


def gguf(
    tensors: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    texts: Mapping[str, str] | None = None,
    floats: Mapping[str, float] | None = None,
) -> bytes:
    """A GGUF file of float32 tensors, their dimensions with the fastest first."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(texts or {}) + len(floats or {}))
    for key, text in (texts or {}).items():
        head += _text(key) + struct.pack("<I", 8) + _text(text)
    for key, number in (floats or {}).items():
        head += _text(key) + struct.pack("<If", 6, number)
    body = b""
    for name, (shape, numbers) in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(body))
        body += struct.pack(f"<{len(numbers)}f", *numbers)
        body += bytes(-len(body) % 32)
    return head + bytes(-len(head) % 32) + body


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def adapter(scale: float = 1.0, width: int = 896, layers: int = 24) -> bytes:
    """A LoRA of rank one to the built-in model's queries that changes what it says, the more the scale."""
    wave = [scale * ((7 * at) % 13 - 6) / 6 for at in range(width)]
    tensors = {
        f"blk.{layer}.attn_q.weight.lora_{side}": (shape, wave)
        for layer in range(layers)
        for side, shape in (("a", (width, 1)), ("b", (1, width)))
    }
    texts = {"general.architecture": "qwen2", "general.type": "adapter", "adapter.type": "lora"}
    return gguf(tensors, texts, {"adapter.lora.alpha": 1.0})


def tiny_weights() -> bytes:
    """Weights of nothing, in good form."""
    return gguf({"one": ((4,), (1, 2, 3, 4)), "two": ((2, 2), (5, 6, 7, 8))}, {"general.name": "tiny"})


def write(
    folder: Path, weights: bytes, *, base: str = TINY_BASE, template: str = TEMPLATE, name: str = "student"
) -> Path:
    """An unsigned artefact of an adapter, with a file of every kind."""
    (folder / "evidence").mkdir(parents=True)
    texts = {
        declaration.TEMPLATE: template,
        "recipe.yaml": "train: {rank: 8}\n",
        "gate.json": json.dumps({"passed": True}),
        "README.md": "# A student\n",
    }
    texts["evidence/report.md"] = "It was measured.\n"
    for file, text in texts.items():
        (folder / file).write_text(text)
    (folder / "adapter.gguf").write_bytes(weights)
    said = Declaration(
        name=name,
        kind="adapter",
        weights="adapter.gguf",
        files={
            "adapter.gguf": "weights",
            declaration.TEMPLATE: "template",
            "recipe.yaml": "recipe",
            "gate.json": "evaluation",
            "README.md": "card",
            "evidence/report.md": "evidence",
        },
        base=Base(name="qwen2.5-coder-0.5b-instruct", sha256=base, licence="Apache-2.0"),
        template=hashlib.sha256(template.encode()).hexdigest(),
        licence="Apache-2.0",
        datasets=(Dataset(name="tickets", sha256="cd" * 32),),
        recipe=hashlib.sha256(texts["recipe.yaml"].encode()).hexdigest(),
        teachers=(Teacher(provider="vpc", model="glm", surface="self-hosted", terms="MIT 2026-10-01"),),
        evaluations=(Evaluation(dataset="held-out", scores={"accuracy": 0.865}, report="gate.json"),),
    )
    (folder / declaration.FILE).write_bytes(said.dump())
    return folder


def sign(path: Path, private: str) -> Path:
    """Sign an artefact with a key in PEM; the signature's path."""
    with opened(path) as files:
        content = signed(path.name, digests(files), keys.private_key(private, "the test's key"))
    signature_path(path).write_bytes(content)
    return signature_path(path)


def pair(algorithm: keys.Algorithm = "ed25519", file: str = "release.pub") -> tuple[str, Signer]:
    """A private key in PEM, and who trusts it."""
    private, public = keys.generate(algorithm)
    return private, keys.signer(public, file)


def hash_of(name: str) -> str:
    """A hash that stands for whatever has that name."""
    return hashlib.sha256(name.encode()).hexdigest()


def known(name: str, base: str | None = None, **said: Any) -> Known:
    """An artefact at hand, by name, made from the weights of another name."""
    parent = Base(name=base, sha256=hash_of(base)) if base is not None else None
    return Known(
        folder=name,
        identity=hash_of(f"identity of {name}"),
        weights=hash_of(name),
        said=Declaration(
            name=name, kind="model", weights="w.gguf", files={"w.gguf": "weights"}, base=parent, **said
        ),
    )
