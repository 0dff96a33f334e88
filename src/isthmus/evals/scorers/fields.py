"""`fields`: how many of the target's fields an answer in JSON has right."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable
from isthmus.evals.scorers.structured import NoJsonError, equal, json_of, leaves

TOLD = 20
"""So many fields that are wrong are named; of more, how many."""


class Fields:
    """The share of the fields of the target's JSON that are equal; with `strict=true` others are wrong."""

    binary = False

    def __init__(self, *, name: str = "fields", strict: bool = False) -> None:
        self.name = name
        self._strict = strict

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """The share beside the target that is nearest, and which fields are wrong."""
        if missing := unscorable(sample, answered):
            return missing
        try:
            targets = [json_of(target) for target in sample.target]
        except NoJsonError as error:
            return Score(value=None, why=f"the target: {error}")
        try:
            document = json_of(text_of(answered))
        except NoJsonError as error:
            return Score(value=0.0, said=text_of(answered), why=str(error))
        scores = [self._beside(document, target) for target in targets]
        return max(scores, key=lambda score: score.value or 0.0)

    def _beside(self, document: Any, target: Any) -> Score:
        wanted, given = dict(leaves(target)), dict(leaves(document))
        extra = [path for path in given if path not in wanted] if self._strict else []
        wrong = [path for path in wanted if path not in given or not equal(given[path], wanted[path])]
        right = len(wanted) - len(wrong)
        faults = [_fault(path, path in given) for path in wrong] + [
            f"`{path}` is not asked for" for path in extra
        ]
        return Score(
            value=right / (len(wanted) + len(extra)),
            said=msgspec.json.encode(document).decode(),
            why=_in_words(faults),
        )


def _fault(path: str, given: bool) -> str:
    return f"`{path or 'the whole'}` {'differs' if given else 'is missing'}"


def _in_words(faults: list[str]) -> str | None:
    more = f"; and {len(faults) - TOLD} more" if len(faults) > TOLD else ""
    return "; ".join(faults[:TOLD]) + more if faults else None
