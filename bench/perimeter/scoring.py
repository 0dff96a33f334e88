"""How found spans are scored against marked ones: per span, per direct identifier, and per prompt.

A marked span is found where a prediction of its kind overlaps it with IoU >= 0.5, or where the predictions of
its kind together cover at least half of it. A prediction is false where it touches no marked span of its
kind. Precision is found / (found + false), recall is found / marked. Kinds are Isthmus' own on both sides:
`load` translates the names of a data set, and what it is not told to translate is not scored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FOUND_OVERLAP = 0.5
MASKED_SHARE = 0.9

STRUCTURED: Mapping[str, str] = {
    "CREDIT_CARD": "pii.card",
    "PHONE_NUMBER": "pii.phone",
    "EMAIL_ADDRESS": "pii.email",
    "IBAN_CODE": "pii.iban",
    "US_SSN": "pii.ssn",
    "IP_ADDRESS": "pii.ip",
    "US_DRIVER_LICENSE": "pii.licence",
    "DOMAIN_NAME": "pii.url",
    "URL": "pii.url",
}
"""The structured types of presidio-research's sets, and the kinds that they are."""

DIRECT_STRUCTURED = frozenset(STRUCTURED.values()) - {"pii.url"}
"""The structured kinds that point to one person."""


class Span(NamedTuple):
    """A kind at `start:end`, in code points."""

    kind: str
    start: int
    end: int


class Sample(NamedTuple):
    """A prompt and what is marked in it."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Score:
    """Counts of spans, and the shares that follow. Shares of nothing are 0."""

    found: int = 0
    missed: int = 0
    false: int = 0

    @property
    def precision(self) -> float:
        """The share of what was found or falsely predicted that is right."""
        return _share(self.found, self.found + self.false)

    @property
    def recall(self) -> float:
        """The share of the marked spans that was found."""
        return _share(self.found, self.found + self.missed)

    @property
    def f2(self) -> float:
        """The F measure that weighs recall four times as much as precision (beta = 2)."""
        return _share(5 * self.found, 5 * self.found + 4 * self.missed + self.false)

    def __add__(self, other: Score) -> Score:
        return Score(self.found + other.found, self.missed + other.missed, self.false + other.false)


@dataclass(frozen=True)
class PromptScore:
    """How often a prompt that holds something is suspected, and one that holds nothing."""

    recall: float
    false_positive_rate: float


def load(path: Path, kinds: Mapping[str, str]) -> list[Sample]:
    """The samples of a set in presidio-research's JSON format, with the types that `kinds` translates."""
    return [
        Sample(
            row["full_text"],
            tuple(
                sorted(
                    Span(kinds[span["entity_type"]], span["start_position"], span["end_position"])
                    for span in row["spans"]
                    if span["entity_type"] in kinds
                )
            ),
        )
        for row in json.loads(path.read_text("utf-8"))
    ]


def by_kind(
    samples: Sequence[Sample], predictions: Sequence[Iterable[Span]], kinds: Collection[str]
) -> dict[str, Score]:
    """The score of each of `kinds`; predictions of other kinds are left out."""
    scores = dict.fromkeys(sorted(kinds), Score())
    for sample, predicted in zip(samples, predictions, strict=True):
        spans = list(predicted)
        for kind in kinds:
            marked = [span for span in sample.spans if span.kind == kind]
            scores[kind] += _score(marked, [span for span in spans if span.kind == kind])
    return scores


def total(scores: Mapping[str, Score]) -> Score:
    """All kinds together, each span counted once."""
    return sum(scores.values(), Score())


def masked_share(
    samples: Sequence[Sample], predictions: Sequence[Iterable[Span]], direct: Collection[str]
) -> float:
    """The share of the direct identifiers that predictions of whatever kind cover by 90 % or more."""
    masked = marked = 0
    for sample, predicted in zip(samples, predictions, strict=True):
        spans = list(predicted)
        for span in sample.spans:
            if span.kind in direct:
                marked += 1
                masked += _covered(span, spans) >= MASKED_SHARE * (span.end - span.start)
    return _share(masked, marked)


def by_prompt(
    samples: Sequence[Sample],
    predictions: Sequence[Iterable[Span]],
    direct: Collection[str],
    suspicious: Collection[str],
) -> PromptScore:
    """The prompt-level score: a prompt counts as marked where it holds a span of a `direct` kind, and as
    suspected where a prediction of a `suspicious` kind was made, wherever in it."""
    seen = [
        (
            any(span.kind in direct for span in sample.spans),
            any(span.kind in suspicious for span in predicted),
        )
        for sample, predicted in zip(samples, predictions, strict=True)
    ]
    of_marked = [suspected for marked, suspected in seen if marked]
    of_others = [suspected for marked, suspected in seen if not marked]
    return PromptScore(_share(sum(of_marked), len(of_marked)), _share(sum(of_others), len(of_others)))


def _score(marked: list[Span], predicted: list[Span]) -> Score:
    found = sum(_is_found(span, predicted) for span in marked)
    false = sum(not any(_overlap(span, guess) for span in marked) for guess in predicted)
    return Score(found, len(marked) - found, false)


def _is_found(marked: Span, predicted: list[Span]) -> bool:
    if any(_iou(marked, guess) >= FOUND_OVERLAP for guess in predicted):
        return True
    return _covered(marked, predicted) >= FOUND_OVERLAP * (marked.end - marked.start)


def _overlap(one: Span, other: Span) -> int:
    return max(0, min(one.end, other.end) - max(one.start, other.start))


def _iou(one: Span, other: Span) -> float:
    both = _overlap(one, other)
    return _share(both, (one.end - one.start) + (other.end - other.start) - both)


def _covered(marked: Span, predicted: Iterable[Span]) -> int:
    """How many code points of `marked` the predictions cover together."""
    covered, reached = 0, marked.start
    for guess in sorted(predicted, key=lambda span: span.start):
        begin, end = max(guess.start, reached), min(guess.end, marked.end)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
