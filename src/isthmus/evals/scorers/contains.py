"""`contains`: the targets stand somewhere in the answer."""

from __future__ import annotations

from typing import Literal

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable


class Contains:
    """1 where a target stands in the answer, or with `need=all` each of them; `case=false` ignores case."""

    binary = True

    def __init__(
        self, *, name: str = "contains", need: Literal["any", "all"] = "any", case: bool = True
    ) -> None:
        self.name = name
        self._need = need
        self._case = case

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0, and which targets are missing."""
        return unscorable(sample, answered) or self._of(text_of(answered), sample.target)

    def _of(self, words: str, targets: tuple[str, ...]) -> Score:
        held = self._folded(words)
        # A blank target stands in every answer.
        wanted = [target.strip() for target in targets if target.strip()]
        missing = [target for target in wanted if self._folded(target) not in held]
        enough = len(missing) < len(wanted) if self._need == "any" else not missing
        why = None if enough else f"not in the answer: {', '.join(map(repr, missing))}"
        return Score(value=float(enough), said=words, why=why)

    def _folded(self, text: str) -> str:
        return text if self._case else text.casefold()
