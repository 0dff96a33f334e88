"""`pairwise`: a model says which of two answers is better, asked twice with their places swapped.

Judges prefer the first answer, or the second, whatever it says (https://arxiv.org/abs/2305.17926): only what
a judge says in both orders counts.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import msgspec

from isthmus.core.evaluation import Answered, Ask, Sample, Score
from isthmus.evals.scorers.answers import unscorable
from isthmus.evals.scorers.judging import NoVerdictError, in_words, material, rubric_of, verdict

_VALUES = {"A": 1.0, "tie": 0.5, "B": 0.0}
_WORDS = {1.0: "better", 0.5: "as good", 0.0: "worse"}


class Preference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a judge is asked for: the reasons first, so that the preference follows from them."""

    reasons: str
    better: Literal["A", "B", "tie"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge says of one answer beside another: 1 where it is better, 0 where it is worse.

    `first` is what it says of the answer when that comes first, `second` when it comes second. Where they
    differ, the `value` is 0.5 as for a tie.
    """

    first: float
    second: float
    why: str

    @property
    def consistent(self) -> bool:
        """True where the places of the answers made no difference."""
        return self.first == self.second

    @property
    def value(self) -> float:
        """1, 0.5 or 0."""
        return self.first if self.consistent else 0.5


class Pairwise:
    """A model's choice between the answer and the first target: 1 better, 0 worse, 0.5 neither."""

    binary = False

    def __init__(self, *, ask: Ask, model: str, name: str = "pairwise", rubric: Path | None = None) -> None:
        """`rubric` is a file of text that says what makes an answer better."""
        self.name = name
        self.model = model
        self._ask = ask
        self._rules = _RULES.format(rubric=rubric_of(rubric, _USUAL))

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1, 0.5 or 0 beside the first target, be that what a person or what another model has answered."""
        if missing := unscorable(sample, answered):
            return missing
        # What it is compared with is no reference for the judge: it would know which of the two that is.
        blind = msgspec.structs.replace(sample, target=())
        other = Answered(model="", text=next(target for target in sample.target if target.strip()))
        try:
            found = await self.compare(blind, answered, other)
        except NoVerdictError as error:
            return Score(value=None, why=str(error))
        return Score(value=found.value, said=_WORDS[found.value], why=found.why)

    async def compare(self, sample: Sample, answered: Answered, other: Answered) -> Comparison:
        """What the judge says of `answered` beside `other`. Raises NoVerdictError."""
        one, two = in_words(answered), in_words(other)
        if one == two:
            return Comparison(first=0.5, second=0.5, why="the answers are the same")
        first, second = await asyncio.gather(
            self._preference(sample, one, two), self._preference(sample, two, one)
        )
        swapped = 1.0 - _VALUES[second.better]
        return Comparison(
            first=_VALUES[first.better],
            second=swapped,
            why=f"As A: {first.reasons} As B: {second.reasons}",
        )

    async def _preference(self, sample: Sample, a: str, b: str) -> Preference:
        return await verdict(
            self._ask,
            self.model,
            rules=self._rules,
            fenced=material(sample, {"Answer A": a, "Answer B": b}),
            form=Preference,
            holds=lambda _: True,
            label=sample.label,
        )


_USUAL = "Better is what is right, complete, and as the task asks for it."

_RULES = """\
You compare two answers, A and B, to the same task, by this rubric and nothing else:

{rubric}

Neither length nor which of the two comes first makes an answer better. Where both are as good, say tie.
Answer with one JSON object and nothing before or after it, first your reasons in at most three sentences:
{{"reasons": "...", "better": "A" or "B" or "tie"}}"""
