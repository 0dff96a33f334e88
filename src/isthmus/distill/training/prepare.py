"""The first process of a training: `python -m isthmus.distill.training.prepare FOLDER`.

It makes of the job's weights what can be trained, and of its samples what the model reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from isthmus.cluster import ray_package
from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.adapter import is_convertible, require_convertible
from isthmus.distill.parity import PROBES
from isthmus.distill.recipe import Training
from isthmus.distill.training.base import trainable
from isthmus.distill.training.checkpoint import replace_durably
from isthmus.distill.training.child import carry_out
from isthmus.distill.training.events import Event, Note, Phase
from isthmus.distill.training.job import (
    Ask,
    Base,
    Device,
    Job,
    Lesson,
    Numbers,
    Prepared,
    Workplace,
    imprint_of,
)
from isthmus.distill.training.objective import require_one_vocabulary
from isthmus.distill.training.template import Speech

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors")
"""Those that the trained numbers may depend on."""

_CPU_FLAGS = Path("/proc/cpuinfo")
_LONGER = "longer than `max_tokens`"


def prepare(place: Workplace, tell: Callable[[Event], None]) -> None:
    """Write `lessons.jsonl`, `imprints.json` and, last, `prepared.json`."""
    import torch

    job = place.read(place.job, Job)
    if job.train.ray is not None:
        ray_package()
    device = _device(job.train, torch.cuda.is_available())
    dtype: Numbers = "bfloat16" if device == "cuda" or _multiplies_bfloat16() else "float32"
    cache = Path(job.cache)

    def folder_of(base: Base) -> Path:
        return trainable(base, dtype, cache, lambda what: tell(Phase(what)))

    model = folder_of(job.base)
    teacher = None if job.teacher is None else folder_of(job.teacher)
    if job.base.form == "gguf":
        require_convertible(model)
    elif not is_convertible(model):
        tell(Note("No GGUF adapter will be written, since its architecture is not known: vLLM can serve it."))
    speech = Speech(model)
    if teacher is not None:
        require_one_vocabulary(speech.vocabulary_sha256, Speech(teacher).vocabulary_sha256)
    tell(Phase("Reading the samples"))
    asks = place.read_lines(place.asks, Ask)
    left_out: Counter[str] = Counter()
    lessons = _fitting([speech.lesson(ask) for ask in asks], job.train.max_tokens, left_out)
    probes = [imprint_of(id, speech.prompt(messages)) for id, messages in PROBES.items()]
    imprints = [*probes, *(imprint_of(lesson.id, lesson.prompt) for lesson in lessons)]
    replace_durably(place.lessons, b"".join(msgspec.json.encode(lesson) + b"\n" for lesson in lessons))
    replace_durably(place.imprints, msgspec.json.encode(imprints))
    prepared = Prepared(
        model=str(model),
        teacher=None if teacher is None else str(teacher),
        device=device,
        dtype=dtype,
        gpus=torch.cuda.device_count() if device == "cuda" else 0,
        template_sha256=speech.template_sha256,
        lessons=len(lessons),
        left_out=dict(left_out),
        versions={name: version(name) for name in PACKAGES},
    )
    replace_durably(place.prepared, msgspec.json.encode(prepared))


def _fitting(lessons: list[Lesson], most: int, left_out: Counter[str]) -> list[Lesson]:
    """The lessons that are no longer than `most`, in the order of their ids."""
    fitting = sorted((it for it in lessons if it.length <= most), key=lambda it: it.id)
    if len(fitting) < len(lessons):
        left_out[_LONGER] += len(lessons) - len(fitting)
    if not fitting:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"Every sample is longer than {most:,} tokens.",
            code="nothing_to_learn",
            hint="Raise `max_tokens` under `train`.",
        )
    return fitting


def _device(train: Training, has_gpu: bool) -> Device:
    if train.ray is not None and train.device == "cuda":
        # The GPUs are the cluster's: this machine may have none.
        return "cuda"
    if train.device == "cuda" and not has_gpu:
        raise IsthmusError(
            Fault.UNAVAILABLE,
            "The recipe says `device: cuda`, and PyTorch finds no GPU.",
            code="no_gpu",
            hint="Say `device: auto` or `cpu`; or install PyTorch for CUDA.",
        )
    return "cuda" if has_gpu and train.device != "cpu" else "cpu"


def _multiplies_bfloat16() -> bool:
    """True where the CPU multiplies bfloat16 itself; elsewhere that is slower than float32."""
    try:
        flags = _CPU_FLAGS.read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


if __name__ == "__main__":
    carry_out(prepare)
