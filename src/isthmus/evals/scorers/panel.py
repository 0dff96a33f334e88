"""`panel`: several judges, whose faults differ (https://arxiv.org/abs/2404.18796)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import fmean
from typing import Literal

from isthmus.core.evaluation import Answered, Ask, Sample, Score
from isthmus.evals.scorers.answers import unscorable
from isthmus.evals.scorers.judge import Judge, Scale
from isthmus.evals.scorers.spec import invalid


class Panel:
    """The mean of several judges' grades, or with `combine=majority` whether most of them approve."""

    binary = False

    def __init__(
        self,
        *,
        ask: Ask,
        models: tuple[str, ...],
        name: str = "panel",
        rubric: Path | None = None,
        scale: Scale = 5,
        combine: Literal["mean", "majority"] = "mean",
    ) -> None:
        """Each of `models` judges as `Judge` does; to approve is to grade above the scale's middle."""
        if len(set(models)) < 2 or len(set(models)) < len(models):
            raise invalid("A panel needs two different models or more.", "Write panel:models=A+B+C")
        self.name = name
        self._combine = combine
        self._judges = [Judge(ask=ask, model=model, rubric=rubric, scale=scale) for model in models]

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """The grade, where most judges gave one; `said` is how far apart they are, `why` what each says."""
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        scores = await asyncio.gather(*(judge.score(sample, answered) for judge in self._judges))
        values = [score.value for score in scores if score.value is not None]
        why = "; ".join(map(_told, self._judges, scores))
        if len(values) * 2 <= len(scores):
            return Score(value=None, why=f"too few judges gave a grade: {why}")
        return Score(value=self._combined(values), said=f"{max(values) - min(values):.2g} apart", why=why)

    def _combined(self, values: list[float]) -> float:
        if self._combine == "mean":
            return fmean(values)
        approve, reject = sum(value > 0.5 for value in values), sum(value < 0.5 for value in values)
        return 0.5 if approve == reject else float(approve > reject)


def _told(judge: Judge, score: Score) -> str:
    return (
        f"{judge.model}: {score.why}"
        if score.value is None
        else f"{judge.model} {score.value:.2g}: {score.why}"
    )
