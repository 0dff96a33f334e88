"""`exact`: the same characters."""

from __future__ import annotations

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import best


class Exact:
    """1 where the answer is one of the targets, to the character; only space around them does not count."""

    binary = True

    def __init__(self, *, name: str = "exact") -> None:
        self.name = name

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0."""
        return best(sample, answered, lambda said, target: said == target.strip())
