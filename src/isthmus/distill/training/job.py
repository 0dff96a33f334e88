"""What one training is, and the folder that it works in; both processes read them from here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.recipe import Training

Device: TypeAlias = Literal["cpu", "cuda"]
Numbers: TypeAlias = Literal["float32", "bfloat16"]

T = TypeVar("T")


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """Weights to start from: a GGUF file or a folder of safetensors; `sha256` is of all that is loaded."""

    name: str
    form: Literal["gguf", "folder"]
    path: str
    sha256: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A training, decided before it begins. `threads` are those that compute: the last bits depend on them.

    `cache` is the folder of the forms that can be trained of GGUF files. `storage` is where a cluster keeps
    its checkpoints.
    """

    name: str
    recipe_sha256: str
    dataset_sha256: str
    base: Base
    teacher: Base | None
    train: Training
    threads: int
    cache: str
    storage: str | None = None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that the trained numbers depend on: a checkpoint of another is of no use."""
        train = msgspec.structs.replace(self.train, limits=Training().limits, checkpoint_every=1, ray=None)
        bases = [it and it.sha256 for it in (self.base, self.teacher)]
        meaning = msgspec.json.encode([self.dataset_sha256, bases, train], order="deterministic")
        return hashlib.sha256(meaning).hexdigest()


class Ask(msgspec.Struct, frozen=True):
    """A sample as it is taught: the request's messages, and the good answer."""

    id: str
    messages: list[dict[str, object]]
    answer: str


class Lesson(msgspec.Struct, frozen=True):
    """A sample in the model's tokens."""

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many tokens the model reads."""
        return len(self.prompt) + len(self.answer)


class Imprint(msgspec.Struct, frozen=True):
    """What is kept of a prompt's tokens, to be compared: how many, and the SHA-256 of their ids."""

    id: str
    tokens: int
    sha256: str


def imprint_of(id: str, tokens: list[int] | tuple[int, ...]) -> Imprint:
    """The imprint of these token ids, hashed as decimal numbers with commas between."""
    return Imprint(id, len(tokens), hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest())


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What the preparation has come to. `model` and `teacher` are folders that transformers can load."""

    model: str
    teacher: str | None
    device: Device
    dtype: Numbers
    gpus: int
    template_sha256: str
    lessons: int
    left_out: dict[str, int]
    versions: dict[str, str]


class Workplace:
    """The folder of one training: what it is made from, how far it is, and what comes out.

    `student` alone is to be signed and served; the rest is for going on and for looking back.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / ".lock"
        self.job = folder / "job.json"
        self.asks = folder / "asks.jsonl"
        self.lessons = folder / "lessons.jsonl"
        self.imprints = folder / "imprints.json"
        self.prepared = folder / "prepared.json"
        self.checkpoints = folder / "checkpoints"
        self.steps = folder / "steps.jsonl"
        self.curve = folder / "loss.html"
        self.student = folder / "student"

    def read(self, path: Path, kind: type[T]) -> T:
        """A file of this folder as a struct. Raises IsthmusError (`damaged_training`)."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.MsgspecError as fault:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"{path} is not what this version of Isthmus has written.",
                code="damaged_training",
                hint="Name another folder with --out, or remove that one.",
            ) from fault

    def read_lines(self, path: Path, kind: type[T]) -> list[T]:
        """A file of this folder as structs, one a line."""
        return msgspec.json.Decoder(kind).decode_lines(path.read_bytes())
