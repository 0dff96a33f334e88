"""recipe.yaml: what is distilled, from what, and how. One file for all steps, a section for each."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from isthmus.config.load import load_as
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Seconds
from isthmus.distill.sections import Against, Collect, Gate, Promotion, Signing

T = TypeVar("T")

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a student may be called: it becomes a part of files' names."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a block that an adapter may change: four of its attention, three of its MLP."""

ATTENTION = PROJECTIONS[:4]


class OnPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a student learns from an open teacher's probabilities (GKD, https://arxiv.org/abs/2306.13649).

    `teacher` is its weights, said as `student` is; it needs the student's tokenizer. `share` is how many of
    the batches are answered by the student itself, and judged by the teacher, in place of the dataset's
    answers (the paper's lambda). `beta` leads from 0, the forward KL divergence, to 1, the reverse one.
    `temperature` is that of the student's own answers, and `max_answer` their longest, in tokens.
    """

    teacher: str
    share: Share = 0.5
    beta: Share = 0.5
    temperature: Positive = 1.0
    max_answer: Count = 128


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When a training stops, with a checkpoint from which it can go on.

    `time` is the longest that one run may take, in seconds. `memory_gb` is how much memory the process may
    hold, in GB of 10^9 bytes.
    """

    time: Seconds | None = None
    memory_gb: Positive | None = None


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The machines that train together: a Ray cluster (https://docs.ray.io/en/latest/train/train.html).

    `workers` is how many processes share every batch; each has so many `cpus`, and threads, and with
    `device: cuda` one GPU. `address` is the cluster's: host:port, `auto` for the one that this machine
    belongs to, or `local` for this machine alone. `storage` is where checkpoints are kept: a folder that all
    machines see, relative to the recipe, or an address such as s3://bucket/folder; by default the training's
    own folder. `failures` is how often it goes on by itself after a worker was lost.
    """

    workers: Annotated[int, Meta(ge=1, le=4096)]
    cpus: Annotated[int, Meta(ge=1, le=1024)] = 1
    address: str = "auto"
    storage: str | None = None
    failures: Annotated[int, Meta(ge=0, le=1000)] = 3


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How the student is trained, with LoRA (https://arxiv.org/abs/2106.09685).

    `method` is `sft`, on the dataset's answers, or `gkd`, on a teacher's probabilities. `gkd` says how.
    `rank` is the adapter's, `alpha` its scale times the rank, `targets` the matrices that it changes.
    `learning_rate` is reached after a tenth of the steps and falls to 0 by the last. `batch` is how many
    samples make one step, `epochs` how often each is seen. `max_tokens` is the longest sample with its
    answer; longer ones are left out, never cut. `seed` decides all chance. `device` is `cpu` or `cuda`;
    `auto` takes what there is. `bits` of 4 keeps the frozen weights in four bits (QLoRA,
    https://arxiv.org/abs/2305.14314), on `cuda` only. `checkpoint_every` is in steps. `limits` say when to
    stop before the end. `ray` says which machines train together, where it is more than this one.
    """

    method: Literal["sft", "gkd"] = "sft"
    gkd: OnPolicy | None = None
    rank: Annotated[int, Meta(ge=1, le=512)] = 8
    alpha: Positive = 16.0
    targets: tuple[str, ...] = ATTENTION
    learning_rate: Positive = 5e-4
    batch: Annotated[int, Meta(ge=1, le=4096)] = 16
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 3
    max_tokens: Annotated[int, Meta(ge=8)] = 2048
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bits: Annotated[int, Meta(ge=4, le=16)] = 16
    checkpoint_every: Count = 20
    limits: Limits = Limits()
    ray: Cluster | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What recipe.yaml says; each step needs its own part of it.

    `name` is what the student will be called. `student` is the weights that it starts from: a name of the
    built-in catalogue, a GGUF file, or a folder in Hugging Face's format. `dataset` is a file of samples with
    their answers, of our own form or of OpenAI's fine-tuning; `isthmus distill run` takes what it has
    collected. `by` says `people` where people have written these answers, for rows that do not say so
    themselves. Paths are relative to the recipe. `model` is the model of isthmus.yaml whose weights the
    student's are to become. `collect` says where golden answers come from, and `train` how the student
    learns them. `gate` is what it has to show, `against` whom. `sign` says who signs it, and `promote` that
    it is promoted then.
    """

    name: str | None = None
    student: str | None = None
    dataset: str | None = None
    by: Literal["people"] | None = None
    model: str | None = None
    collect: Collect | None = None
    train: Training = Training()
    gate: Gate | None = None
    against: Against | None = None
    sign: Signing | None = None
    promote: Promotion | None = None


def open_recipe(path: Path) -> Recipe:
    """The recipe of a file.

    Raises ConfigError with every fault of form and its line; IsthmusError (`bad_recipe`) where its parts do
    not go together.
    """
    recipe = load_as(path, Recipe)
    for fault in _contradictions(recipe):
        raise IsthmusError(Fault.INVALID_REQUEST, f"{path}: {fault}", code="bad_recipe")
    return recipe


def needed(value: T | None, name: str) -> T:
    """What a step needs of the recipe. Raises IsthmusError (`no_section`) where it is not said."""
    if value is None:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The recipe does not say `{name}`, which this step needs.",
            code="no_section",
            hint="See docs/how-to/distil-a-student.md.",
        )
    return value


def hash_of(recipe: Recipe) -> str:
    """The SHA-256 of all that the recipe means, defaults included, in lower-case hex."""
    return hashlib.sha256(msgspec.json.encode(recipe, order="deterministic")).hexdigest()


def _contradictions(recipe: Recipe) -> list[str]:
    train, found = recipe.train, []
    if recipe.name is not None and re.fullmatch(NAME_PATTERN, recipe.name) is None:
        found.append("`name` is made of letters, digits and . _ - only, and begins with a letter or digit.")
    if (train.method == "gkd") != (train.gkd is not None):
        found.append("`method: gkd` and the section `gkd` go together: say both or neither.")
    if unknown := [name for name in train.targets if name not in PROJECTIONS]:
        found.append(f"`targets` has {unknown[0]}. An adapter can change: {', '.join(PROJECTIONS)}.")
    if not train.targets or len(set(train.targets)) < len(train.targets):
        found.append("`targets` must name at least one matrix, and each once.")
    if train.bits not in (4, 16):
        found.append("`bits` is 4 or 16.")
    if train.bits == 4 and train.device == "cpu":
        found.append("`bits: 4` needs a GPU: leave it out, or say `device: cuda`.")
    if train.ray is not None and train.ray.workers > train.batch:
        found.append(
            f"`ray` has {train.ray.workers} workers for a `batch` of {train.batch}: some would idle."
        )
    if train.ray is not None and train.limits != Limits():
        found.append("`limits` are kept by one process alone: leave them out with `ray`.")
    return found
