"""The second process of a training: `python -m isthmus.distill.training.worker FOLDER`.

It trains and writes the student. Answers are imitated on a CPU by our own loop, on GPUs by TRL; a teacher's
probabilities are followed by our own loop everywhere, since TRL's trainer has no share of given answers. On a
cluster each worker runs our own loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isthmus.distill.training.checkpoint import Checkpoints, Keeper, State
from isthmus.distill.training.child import carry_out
from isthmus.distill.training.events import Event, Phase
from isthmus.distill.training.job import Job, Lesson, Prepared, Workplace
from isthmus.distill.training.loop import Loop
from isthmus.distill.training.lora import adapter_tensors, load, lora_config, require_plain_head, with_adapter
from isthmus.distill.training.objective import Imitation, Objective, OnPolicyDistillation
from isthmus.distill.training.student import write_student
from isthmus.distill.training.team import Alone, Team


def train(place: Workplace, tell: Callable[[Event], None]) -> None:
    """Train what is prepared, or go on with it, and write the folder `student`."""
    job, prepared = place.read(place.job, Job), place.read(place.prepared, Prepared)
    lessons = place.read_lines(place.lessons, Lesson)
    tensors: dict[str, Any] | None
    if job.train.ray is not None:
        from isthmus.distill.training.ray import train_by_ray

        tensors, state = train_by_ray(job, prepared, lessons, place, tell)
    elif prepared.device == "cuda" and job.train.gkd is None:
        from isthmus.distill.training.trl import train_by_trl

        tensors, state = train_by_trl(job, prepared, lessons, place, tell)
    else:
        tensors, state = train_by_loop(job, prepared, lessons, Checkpoints(place.checkpoints), tell)
    if tensors is not None:
        config = lora_config(job.train, job.base.name)
        write_student(place, job, prepared, state, tensors, config)


def train_by_loop(
    job: Job,
    prepared: Prepared,
    lessons: list[Lesson],
    checkpoints: Keeper,
    tell: Callable[[Event], None],
    team: Team | None = None,
) -> tuple[dict[str, Any], State]:
    """The trained adapter's tensors and where it ended, by our own loop; a `team` trains together."""
    import torch

    torch.set_num_threads(job.threads)
    # Some of a GPU's kernels have no deterministic twin.
    torch.use_deterministic_algorithms(True, warn_only=prepared.device == "cuda")
    tell(Phase("Loading the student"))
    model = with_adapter(load(prepared.model, prepared, job.train.bits), job.train, job.base.name)
    require_plain_head(model, lessons[0], prepared.device)
    state = State(
        step=0,
        fingerprint=job.fingerprint,
        losses=[],
        tokens=0,
        seconds=0.0,
        versions=prepared.versions,
    )
    objective = _objective(job, prepared, lessons)
    tell(Phase("Training"))
    loop = Loop(model, job.train, lessons, objective, checkpoints, state, tell, team or Alone())
    ended = loop.run()
    return adapter_tensors(model), ended


def _objective(job: Job, prepared: Prepared, lessons: list[Lesson]) -> Objective:
    if job.train.gkd is None:
        return Imitation(prepared.device)
    return OnPolicyDistillation(job.train.gkd, prepared, lessons, job.train.max_tokens, job.train.seed)


if __name__ == "__main__":
    carry_out(train)
