"""What a step makes small, for each method: the loss of one piece of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.recipe import OnPolicy
from isthmus.distill.training.job import Lesson, Prepared
from isthmus.distill.training.lora import answer_logits, load, require_plain_head, rows_of
from isthmus.distill.training.losses import answer_loss, divergence


class Objective(Protocol):
    """What the student is trained for."""

    def lessons(self, model: Any, lessons: Sequence[Lesson], step: int) -> list[Lesson]:
        """What the batch of a step is taught by."""
        ...

    def loss(self, model: Any, piece: Sequence[Lesson]) -> Any:
        """The loss of a piece, summed over the answers' tokens, in nats."""
        ...


class Imitation:
    """Supervised fine-tuning: the answers of the dataset, and nothing of the prompts."""

    def __init__(self, device: str) -> None:
        self._device = device

    def lessons(self, model: Any, lessons: Sequence[Lesson], step: int) -> list[Lesson]:
        """The dataset's own."""
        return list(lessons)

    def loss(self, model: Any, piece: Sequence[Lesson]) -> Any:
        """How improbable the answers are to the student."""
        rows = rows_of(piece, self._device)
        return answer_loss(answer_logits(model, rows), rows.answers)


class OnPolicyDistillation:
    """GKD (https://arxiv.org/abs/2306.13649): what the student says itself, judged by the teacher's
    probabilities."""

    def __init__(
        self, settings: OnPolicy, prepared: Prepared, lessons: Sequence[Lesson], most: int, seed: int
    ) -> None:
        assert prepared.teacher is not None
        self._settings, self._device, self._seed = settings, prepared.device, seed
        self._ends, self._most = frozenset(lesson.answer[-1] for lesson in lessons), most
        self._teacher = load(prepared.teacher, prepared)
        require_plain_head(self._teacher, lessons[0], prepared.device)

    def lessons(self, model: Any, lessons: Sequence[Lesson], step: int) -> list[Lesson]:
        """The dataset's, or the prompts with what the student answers now: algorithm 1 of the paper."""
        if random.Random(f"{self._seed}:policy:{step}").random() >= self._settings.share:
            return list(lessons)
        return [self._answered(model, lesson, step) for lesson in lessons]

    def loss(self, model: Any, piece: Sequence[Lesson]) -> Any:
        """How far the student's probabilities are from the teacher's, at each token of the answers."""
        import torch

        rows = rows_of(piece, self._device)
        with torch.no_grad():
            teacher = answer_logits(self._teacher, rows)
        student = answer_logits(model, rows)
        # Models of one vocabulary may be filled up to different widths.
        width = min(teacher.shape[-1], student.shape[-1])
        return divergence(teacher[:, :width], student[:, :width], self._settings.beta)

    def _answered(self, model: Any, lesson: Lesson, step: int) -> Lesson:
        import torch

        most = min(self._settings.max_answer, self._most - len(lesson.prompt))
        if most < 1:
            return lesson
        prompt = torch.tensor([lesson.prompt], device=self._device)
        # Whoever answers it, and whatever was answered before.
        torch.manual_seed(random.Random(f"{self._seed}:answer:{step}:{lesson.id}").getrandbits(63))
        with torch.no_grad():
            said = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=most,
                do_sample=True,
                temperature=self._settings.temperature,
                top_k=0,
                top_p=1.0,
                eos_token_id=sorted(self._ends),
                pad_token_id=min(self._ends),
            )
        return Lesson(lesson.id, lesson.prompt, tuple(said[0, len(lesson.prompt) :].tolist()))


def require_one_vocabulary(student: str, teacher: str) -> None:
    """Pass where both vocabularies' hashes are one. Raises IsthmusError (`tokenizers_differ`)."""
    if student != teacher:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "The teacher's tokens are others than the student's: their probabilities cannot be compared.",
            code="tokenizers_differ",
            hint="Take a teacher of the student's family, or `method: sft` on the teacher's answers.",
        )
