"""Supervised fine-tuning on GPUs, by TRL's SFTTrainer (https://huggingface.co/docs/trl/sft_trainer).

One process a GPU, as accelerate starts them. TRL gets our token ids, so that no other template comes between;
what it keeps to go on by is its own, in `checkpoints/trl`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isthmus.core.errors import IsthmusError
from isthmus.distill.recipe import Limits
from isthmus.distill.training.checkpoint import State
from isthmus.distill.training.events import Event, Note, Phase, Step
from isthmus.distill.training.job import Job, Lesson, Prepared, Workplace
from isthmus.distill.training.loop import LARGEST_GRADIENT, beyond, not_finite
from isthmus.distill.training.lora import adapter_tensors, load, lora_config
from isthmus.distill.training.schedule import WARM_UP, steps_per_epoch

PIECE_TOKENS = 16_384
"""A GPU computes pieces of a batch of at most so many tokens, or of one lesson."""

_UNTAUGHT = -100
"""The label of a token that counts for nothing (PyTorch's `ignore_index`)."""


def train_by_trl(
    job: Job, prepared: Prepared, lessons: list[Lesson], place: Workplace, tell: Callable[[Event], None]
) -> tuple[dict[str, Any] | None, State]:
    """The trained adapter's tensors and where it ended; None in their place in all processes but the first.

    Raises IsthmusError: `loss_not_finite`, `time_limit`.
    """
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    tell(Phase("Loading the student"))
    watch = _Watch(job, lessons, prepared, tell)

    class Watching(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                watch.step(state.global_step, state.max_steps, logs["loss"], logs["learning_rate"])
            if watch.stop is not None:
                control.should_save = control.should_training_stop = True

    trainer = SFTTrainer(
        model=load(prepared.model, prepared, job.train.bits, place=False),
        args=_settings(job, prepared, lessons, place),
        train_dataset=_dataset(lessons),
        processing_class=AutoTokenizer.from_pretrained(prepared.model, local_files_only=True),
        peft_config=lora_config(job.train, job.base.name),
        callbacks=[Watching()],
    )
    last = _last(place.checkpoints / "trl")
    if last is not None:
        tell(Note(f"Going on from {last.name}."))
        watch.remember(last)
    tell(Phase("Training"))
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if watch.stop is not None:
        raise watch.stop
    model = trainer.accelerator.unwrap_model(trainer.model)
    return (adapter_tensors(model) if trainer.is_world_process_zero() else None), watch.state


def pieces(batch: int, gpus: int, longest: int) -> tuple[int, int]:
    """How many lessons a GPU computes at once, and how many times for a batch; their product is its share.

    A batch that the GPUs cannot share evenly is rounded up.
    """
    share = math.ceil(batch / gpus)
    room = max(1, PIECE_TOKENS // longest)
    at_once = max(size for size in range(1, share + 1) if share % size == 0 and size <= room)
    return at_once, share // at_once


class _Watch:
    """What the first process has seen: losses, tokens, time, and why to stop."""

    def __init__(
        self, job: Job, lessons: list[Lesson], prepared: Prepared, tell: Callable[[Event], None]
    ) -> None:
        self.stop: IsthmusError | None = None
        self.state = State(
            step=0, fingerprint=job.fingerprint, losses=[], tokens=0, seconds=0.0, versions=prepared.versions
        )
        # Several processes must stop at the same step, and each has its own clock.
        self._limits, self._tell = (Limits() if prepared.gpus > 1 else job.train.limits), tell
        if self._limits != job.train.limits:
            tell(Note("On several GPUs the recipe's `limits` are not kept."))
        tokens = sum(lesson.length for lesson in lessons)
        self._tokens = round(tokens / steps_per_epoch(len(lessons), job.train.batch))
        self._began = self._last = time.monotonic()

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Count it. Tokens are the mean of all steps: TRL does not say which lessons it took."""
        now = time.monotonic()
        if not math.isfinite(loss):
            raise not_finite(step, rate)
        seconds, self._last = now - self._last, now
        self.state = State(
            step=step,
            fingerprint=self.state.fingerprint,
            losses=[*self.state.losses, loss],
            tokens=self.state.tokens + self._tokens,
            seconds=self.state.seconds + seconds,
            versions=self.state.versions,
        )
        self._tell(
            Step(step=step, steps=steps, loss=loss, learning_rate=rate, tokens=self._tokens, seconds=seconds)
        )
        self.stop = beyond(self._limits, now - self._began)

    def remember(self, checkpoint: Path) -> None:
        """Take up the losses of earlier runs."""
        from transformers import TrainerState

        told = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        losses = [entry["loss"] for entry in told.log_history if "loss" in entry]
        self.state = State(
            step=told.global_step,
            fingerprint=self.state.fingerprint,
            losses=losses,
            tokens=self._tokens * told.global_step,
            seconds=0.0,
            versions=self.state.versions,
        )


def _settings(job: Job, prepared: Prepared, lessons: list[Lesson], place: Workplace) -> Any:
    from trl import SFTConfig

    train = job.train
    at_once, times = pieces(train.batch, max(1, prepared.gpus), max(it.length for it in lessons))
    steps = train.epochs * steps_per_epoch(len(lessons), train.batch)
    return SFTConfig(
        output_dir=str(place.checkpoints / "trl"),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=times,
        learning_rate=train.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(steps * WARM_UP),
        weight_decay=0.0,
        max_grad_norm=LARGEST_GRADIENT,
        optim="adamw_torch",
        bf16=prepared.dtype == "bfloat16",
        seed=train.seed,
        full_determinism=False,
        max_length=None,
        packing=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=train.checkpoint_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=prepared.device == "cpu",
        dataset_num_proc=None,
    )


def _dataset(lessons: list[Lesson]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [[*lesson.prompt, *lesson.answer] for lesson in lessons],
            "labels": [[_UNTAUGHT] * len(lesson.prompt) + list(lesson.answer) for lesson in lessons],
        }
    )


def _last(folder: Path) -> Path | None:
    """The newest checkpoint that TRL has finished."""
    found = [it for it in folder.glob("checkpoint-*") if (it / "trainer_state.json").exists()]
    return max(found, key=lambda it: int(it.name.partition("-")[2]), default=None)
