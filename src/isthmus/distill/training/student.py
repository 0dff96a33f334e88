"""The folder that comes out of a training: the adapter in two formats, and the evidence of how it was made.

The same training writes the same adapters, byte for byte; what tells of time stands in `training.json` alone.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.adapter import gguf_adapter, is_convertible
from isthmus.distill.parity import PROBES
from isthmus.distill.recipe import Training
from isthmus.distill.training.checkpoint import State, sync_folder, write_durably
from isthmus.distill.training.job import Imprint, Job, Prepared, Workplace
from isthmus.distill.training.template import TEMPLATE, Speech

SAFETENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""PEFT's names, by which vLLM and transformers know an adapter's folder."""

GGUF, EVIDENCE = "adapter.gguf", "training.json"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What `training.json` says: from what the adapter was made, how, and what that took.

    `train` are the recipe's settings. `files` are the SHA-256 of the folder's other files. `probes` are the
    imprints of parity's conversations, by which an engine can be asked whether it reads as the training did.
    `losses` are one a step, in nats a token. `tokens` were read in all, `seconds` taken by the steps of all
    runs. `threads`, `dtype` and `versions` are what the last bits depend on.
    """

    name: str
    recipe_sha256: str
    base: str
    base_sha256: str
    teacher: str | None
    teacher_sha256: str | None
    dataset_sha256: str
    template_sha256: str
    probes: list[Imprint]
    lessons: int
    left_out: dict[str, int]
    train: Training
    steps: int
    losses: list[float]
    tokens: int
    seconds: float
    device: str
    dtype: str
    threads: int
    python: str
    versions: dict[str, str]
    files: dict[str, str]


def write_student(
    place: Workplace, job: Job, prepared: Prepared, state: State, tensors: dict[str, Any], config: Any
) -> None:
    """Write the folder as a whole: it is there complete, or the one before is.

    Raises IsthmusError (`disk_full`).
    """
    new = place.student.with_name(".student.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        _write_adapter(new, job, prepared, tensors, config)
        template = Speech(Path(prepared.model)).template
        write_durably(new / TEMPLATE, template.encode())
        probes = [it for it in place.read(place.imprints, list[Imprint]) if it.id in PROBES]
        evidence = _evidence(job, prepared, state, probes, _hashes(new))
        write_durably(new / EVIDENCE, msgspec.json.format(msgspec.json.encode(evidence), indent=1) + b"\n")
        shutil.rmtree(place.student, ignore_errors=True)
        new.rename(place.student)
        sync_folder(place.folder)
    except OSError as fault:
        shutil.rmtree(new, ignore_errors=True)
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The student cannot be written: {fault.strerror or fault}.",
            code="disk_full",
            hint="Nothing is lost: free some space and give the same command.",
        ) from fault


def _write_adapter(folder: Path, job: Job, prepared: Prepared, tensors: dict[str, Any], config: Any) -> None:
    from safetensors.torch import save

    write_durably(folder / SAFETENSORS, save(tensors, metadata={"format": "pt"}))
    settings = {name: _plain(value) for name, value in config.to_dict().items()}
    content = msgspec.json.format(msgspec.json.encode(settings, order="sorted"), indent=1)
    write_durably(folder / CONFIG, content + b"\n")
    if is_convertible(Path(prepared.model)):
        gguf_adapter(folder, Path(prepared.model), folder / GGUF, base_sha256=job.base.sha256, name=job.name)


def _plain(value: Any) -> Any:
    """The value as JSON has it; PEFT keeps some lists as sets."""
    return sorted(value) if isinstance(value, set | frozenset) else value


def _hashes(folder: Path) -> dict[str, str]:
    return {it.name: hashlib.sha256(it.read_bytes()).hexdigest() for it in sorted(folder.iterdir())}


def _evidence(
    job: Job, prepared: Prepared, state: State, probes: list[Imprint], files: dict[str, str]
) -> Evidence:
    return Evidence(
        name=job.name,
        recipe_sha256=job.recipe_sha256,
        base=job.base.name,
        base_sha256=job.base.sha256,
        teacher=None if job.teacher is None else job.teacher.name,
        teacher_sha256=None if job.teacher is None else job.teacher.sha256,
        dataset_sha256=job.dataset_sha256,
        template_sha256=prepared.template_sha256,
        probes=probes,
        lessons=prepared.lessons,
        left_out=prepared.left_out,
        train=job.train,
        steps=state.step,
        losses=state.losses,
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
        device=prepared.device,
        dtype=prepared.dtype,
        threads=job.threads,
        python=".".join(map(str, sys.version_info[:3])),
        versions=prepared.versions,
        files=files,
    )
