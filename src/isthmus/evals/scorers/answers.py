"""What an answer says, and what every scorer does with it first."""

from __future__ import annotations

import re
from collections.abc import Callable

from isthmus.core.evaluation import Answered, Sample, Score

# Models that reason write it down before their answer, between these tags, where no parser took it out.
_REASONING = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


def text_of(answered: Answered) -> str:
    """The answer in words, without what was thought before it and without space around it."""
    return _REASONING.sub("", answered.text, count=1).strip()


def unscorable(sample: Sample, answered: Answered, *, by_target: bool = True) -> Score | None:
    """The score of what cannot be scored: no answer, or no target where one is needed. Else None."""
    if answered.code is not None:
        return Score(value=None, why=f"there is no answer: {answered.code}")
    if by_target and not any(target.strip() for target in sample.target):
        return Score(value=None, why="the sample has no target")
    return None


def best(sample: Sample, answered: Answered, mark: Callable[[str, str], float]) -> Score:
    """The highest of the marks that the answer gets beside each target: `mark(said, target)`."""
    words = text_of(answered)
    return unscorable(sample, answered) or Score(
        value=float(max(mark(words, target) for target in sample.target)), said=words
    )
