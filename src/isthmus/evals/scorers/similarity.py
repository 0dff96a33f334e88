"""`similarity`: how near the meanings of two texts are, by the angle between their embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import Annotated

from msgspec import Meta

from isthmus.core.evaluation import Answered, Embed, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable


class Similarity:
    """The cosine of the embeddings of answer and nearest target; with `threshold` 1 where it is reached."""

    def __init__(
        self,
        *,
        embed: Embed,
        model: str,
        name: str = "similarity",
        threshold: Annotated[float, Meta(ge=-1, le=1)] | None = None,
    ) -> None:
        self.name = name
        self.binary = threshold is not None
        self.model = model
        self._embed = embed
        self._threshold = threshold

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """The cosine, where it is negative 0; `why` says it in full."""
        if missing := unscorable(sample, answered):
            return missing
        words = text_of(answered)
        if not words:
            return Score(value=0.0, why="the answer is empty")
        made = await self._embed(self.model, [words, *sample.target], sample.label)
        if made.code is not None:
            return Score(value=None, why=f"{self.model} gave no embeddings: {made.code}: {made.error}")
        cosine = nearest(made.vectors)
        if cosine is None:
            return Score(value=None, why=f"{self.model} gave vectors that cannot be compared")
        value = max(0.0, cosine) if self._threshold is None else float(cosine >= self._threshold)
        return Score(value=value, said=words, why=f"cosine {cosine:.4f}")


def nearest(vectors: Sequence[Sequence[float]]) -> float | None:
    """The largest cosine of the first vector with any other; None where there is none."""
    first, *others = vectors or [()]
    cosines = [cosine for other in others if (cosine := _cosine(first, other)) is not None]
    return max(cosines, default=None)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float | None:
    length = math.hypot(*one) * math.hypot(*other)
    if len(one) != len(other) or not 0 < length < math.inf:
        return None
    # Rounding may lead just beyond 1.
    return max(-1.0, min(1.0, float(sum(map(mul, one, other))) / length))
