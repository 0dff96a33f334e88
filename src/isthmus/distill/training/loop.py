"""Our own training: one short loop over PEFT, AdamW and an objective.

On a CPU it is deterministic: the same job on the same machine, with the same number of threads, gives the
same bits, however often it was stopped and went on. Several processes come to the numbers of one, but for
rounding.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.recipe import Limits, Training
from isthmus.distill.training.checkpoint import Keeper, State
from isthmus.distill.training.events import Event, Note, Step
from isthmus.distill.training.job import Lesson
from isthmus.distill.training.objective import Objective
from isthmus.distill.training.schedule import batch_of, pieces_of, rate_of, steps_per_epoch
from isthmus.distill.training.team import Team

LARGEST_GRADIENT = 1.0
"""Gradients whose norm is larger are scaled down to it."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Loop:
    """One training of a model with an adapter, from its first step or from a checkpoint to its last."""

    def __init__(
        self,
        model: Any,
        train: Training,
        lessons: Sequence[Lesson],
        objective: Objective,
        checkpoints: Keeper,
        state: State,
        tell: Callable[[Event], None],
        team: Team,
    ) -> None:
        import torch

        self._model, self._train, self._lessons = model, train, lessons
        self._objective, self._checkpoints, self._tell, self._team = objective, checkpoints, tell, team
        self._trained = {name: it for name, it in sorted(model.named_parameters()) if it.requires_grad}
        self._optimiser = torch.optim.AdamW(self._trained.values(), lr=0.0, weight_decay=0.0)
        self._steps = train.epochs * steps_per_epoch(len(lessons), train.batch)
        self._state = state
        self._began = time.monotonic()

    def run(self) -> State:
        """Train to the end; the state there.

        Raises IsthmusError: `loss_not_finite`, `time_limit`, `memory_limit`, `disk_full`.
        """
        self._go_on()
        self._model.train()
        while self._state.step < self._steps:
            self._step()
            done = self._state.step
            stop = None if done == self._steps else beyond(self._train.limits, time.monotonic() - self._began)
            if stop is not None or done == self._steps or done % self._train.checkpoint_every == 0:
                self._keep()
            if stop is not None:
                raise stop
        return self._state

    def _step(self) -> None:
        import torch

        number, began = self._state.step, time.monotonic()
        picked = batch_of(number, len(self._lessons), self._train.batch, self._train.seed)
        batch = [self._lessons[it] for it in picked]
        lessons = self._objective.lessons(self._model, self._team.share(batch), number)
        answers, tokens = self._team.total(
            sum(len(lesson.answer) for lesson in lessons), sum(lesson.length for lesson in lessons)
        )
        rate = rate_of(number, self._steps, self._train.learning_rate)
        total = 0.0
        for piece in pieces_of(lessons):
            loss = self._objective.loss(self._model, piece) / answers
            loss.backward()
            total += float(loss)
        (total,) = self._team.total(total)
        self._team.add_up(self._trained.values())
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), LARGEST_GRADIENT)
        if not (math.isfinite(total) and math.isfinite(float(norm))):
            raise not_finite(number + 1, rate)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        seconds = time.monotonic() - began
        self._state = State(
            step=number + 1,
            fingerprint=self._state.fingerprint,
            losses=[*self._state.losses, total],
            tokens=self._state.tokens + int(tokens),
            seconds=self._state.seconds + seconds,
            versions=self._state.versions,
        )
        self._tell(
            Step(
                step=number + 1,
                steps=self._steps,
                loss=total,
                learning_rate=rate,
                tokens=int(tokens),
                seconds=seconds,
            )
        )

    def _go_on(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = self._checkpoints.newest(self._state.fingerprint)
        if found is None:
            return
        state, tensors = found
        if state.versions != self._state.versions:
            self._tell(Note("It was begun with other versions of its packages: the last bits may differ."))
        for name, parameter in self._trained.items():
            parameter.data.copy_(tensors[f"adapter.{name}"])
            self._optimiser.state[parameter] = {it: tensors[f"{it}.{name}"].clone() for it in _MOMENTS}
        self._state = state
        self._tell(Note(f"Going on behind step {state.step} of {self._steps}."))

    def _keep(self) -> None:
        tensors: dict[str, Any] = {}
        for name, parameter in self._trained.items():
            tensors[f"adapter.{name}"] = parameter.detach().contiguous()
            tensors |= {f"{it}.{name}": self._optimiser.state[parameter][it] for it in _MOMENTS}
        try:
            self._checkpoints.save(self._state, tensors)
        except OSError as fault:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"The checkpoint of step {self._state.step} cannot be written: {fault.strerror or fault}.",
                code="disk_full",
                hint="The one before is kept. Free some space and give the same command: it goes on there.",
            ) from fault


def beyond(limits: Limits, took_s: float) -> IsthmusError | None:
    """Why to stop now, None while within the limits: `time_limit` or `memory_limit`."""
    if limits.time is not None and took_s > limits.time:
        return _stopped("time_limit", f"This run took longer than {limits.time:g} s")
    if limits.memory_gb is not None and memory_bytes() > limits.memory_gb * 1e9:
        return _stopped("memory_limit", f"The training held more than {limits.memory_gb:g} GB of memory")
    return None


def memory_bytes() -> int:
    """The most memory that this process has held so far, in bytes."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def _stopped(code: str, what: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNAVAILABLE,
        f"{what}: it has stopped, with a checkpoint.",
        code=code,
        hint="Raise it under `limits` and give the same command: it goes on there.",
    )


def not_finite(step: int, rate: float) -> IsthmusError:
    """The error (`loss_not_finite`) that ends a training which has lost its way."""
    return IsthmusError(
        Fault.UNAVAILABLE,
        f"The loss of step {step} is no finite number, at a learning rate of {rate:.2g}: "
        "what was learned is lost from there.",
        code="loss_not_finite",
        hint="Take a lower `learning_rate`, in another folder. The last good checkpoint is kept.",
    )
