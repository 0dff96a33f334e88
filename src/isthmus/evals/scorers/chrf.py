"""`chrf`: how many n-grams of characters are the targets', as the library sacrebleu counts them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable
from isthmus.evals.scorers.spec import library


class Chrf:
    """The F-score of character n-grams, chrF (https://aclanthology.org/W15-3049); chrF++ with `words=2`."""

    binary = False

    def __init__(self, *, name: str = "chrf", words: Annotated[int, Meta(ge=0, le=4)] = 0) -> None:
        self.name = name
        self._chrf = library("sacrebleu.metrics", "evals").CHRF(word_order=words)

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """From 0 to 1, where sacrebleu says 0 to 100, beside the nearest target."""
        if missing := unscorable(sample, answered):
            return missing
        said = text_of(answered)
        return Score(value=self._chrf.sentence_score(said, list(sample.target)).score / 100, said=said)
