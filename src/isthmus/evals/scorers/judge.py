"""`judge`: a model grades an answer by a rubric (LLM-as-a-judge, https://arxiv.org/abs/2306.05685)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from isthmus.core.evaluation import Answered, Ask, Sample, Score
from isthmus.evals.scorers.answers import unscorable
from isthmus.evals.scorers.judging import NoVerdictError, in_words, material, rubric_of, verdict
from isthmus.strategies.plan.grade import RUBRIC

Scale = Annotated[int, Meta(ge=2, le=100)]


class Grade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a judge is asked for: the reasons first, so that the grade follows from them."""

    reasons: str
    grade: int


class Judge:
    """A model's grade by a rubric: 0 for the lowest on a scale from 1 to `scale`, 1 for the highest."""

    def __init__(
        self,
        *,
        ask: Ask,
        model: str,
        name: str = "judge",
        rubric: Path | None = None,
        scale: Scale = 5,
    ) -> None:
        """`rubric` is a file of text that says what each grade means."""
        self.name = name
        self.binary = scale == 2
        self.model = model
        self._ask = ask
        self._scale = scale
        self._rules = _RULES.format(scale=scale, rubric=rubric_of(rubric, _usual(scale)))

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """The grade from 0 to 1; `said` is the grade as it was given, `why` the judge's reasons."""
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        try:
            given = await verdict(
                self._ask,
                self.model,
                rules=self._rules,
                fenced=material(sample, {"The answer": in_words(answered)}),
                form=Grade,
                holds=lambda it: 1 <= it.grade <= self._scale,
                label=sample.label,
            )
        except NoVerdictError as error:
            return Score(value=None, why=str(error))
        return Score(value=(given.grade - 1) / (self._scale - 1), said=str(given.grade), why=given.reasons)


_RULES = """\
You grade an answer to a task, on a scale from 1 (worst) to {scale} (best), by this rubric and nothing else:

{rubric}

A longer answer is not a better one. Where there is a good answer for reference, other words for the same are
as good. Answer with one JSON object and nothing before or after it, first your reasons in at most three
sentences:
{{"reasons": "...", "grade": N}}"""


def _usual(scale: int) -> str:
    if scale != 5:
        return (
            f"{scale}: right, complete, and as the task asks for it.\n1: wrong, useless, or no answer at all."
        )
    return RUBRIC
