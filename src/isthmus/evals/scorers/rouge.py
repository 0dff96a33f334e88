"""`rouge`: how many words of a text are a target's, as the library rouge-score counts them."""

from __future__ import annotations

import re
from typing import Literal

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import best
from isthmus.evals.scorers.spec import library

_WORD = re.compile(r"[^\W_]+")


class Rouge:
    """The F-measure of ROUGE (https://aclanthology.org/W04-1013/), of which `kind`: by default rougeL."""

    binary = False

    def __init__(
        self,
        *,
        name: str = "rouge",
        kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL",
    ) -> None:
        self.name = name
        self._kind = kind
        self._scorer = library("rouge_score.rouge_scorer", "evals").RougeScorer([kind], tokenizer=_Words())

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """The F-measure beside the nearest target, without stemming."""
        return best(sample, answered, self._measure)

    def _measure(self, said: str, target: str) -> float:
        return float(self._scorer.score(target, said)[self._kind].fmeasure)


class _Words:
    """Words of any script; the library itself knows a to z and digits only, and drops all others."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())
