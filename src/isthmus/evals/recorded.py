"""What the ledger says of models' answers to the same requests: who was asked, by which odds, and how good
the answer was found. Pure.

Whoever answered was chosen, and the others' answers nobody knows. Where a draw chose (a `split`), its odds
tell how much an answer stands for. Where a rule did, its requests are not like the others, and teach nothing;
unless the others were asked, too, in the shadow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from isthmus.core.evaluation import Sample
from isthmus.core.feedback import Feedback, verdict
from isthmus.core.portfolio import Model
from isthmus.core.record import AttemptRecord, Record
from isthmus.evals.datasets.from_records import Opinions

_BESIDE = frozenset({"grade", "shadow"})
"""Strategies that answer as the one inside of them does."""


class Compared(NamedTuple):
    """The attempt at a candidate that was asked in the shadow, and how its answer compares: 0 is worse, 1
    better, 0.5 neither. `config_hash` is of the config that it was called by."""

    attempt: AttemptRecord
    preference: float
    config_hash: str


class Mark(NamedTuple):
    """How good a model's answer was found, how likely it was that this came to be known, and how many tokens
    the answer has, None where nobody knows."""

    score: float
    odds: float
    output: int | None


class Scored(NamedTuple):
    """A request with the marks of the models whose answers are known, by name. `judge` is the model that gave
    the score, None where people did."""

    sample: Sample
    marks: Mapping[str, Mark]
    judge: str | None


class Noted:
    """What of records counts here, kept in passing while samples are made of them."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.compared: dict[str, Compared] = {}
        self.unscored = 0

    def noting(self, records: Iterable[Record]) -> Iterator[Record]:
        """The requests as they come; of copies in the shadow only the comparison is kept."""
        for record in records:
            if record.mirrors is None:
                self.records[record.id] = msgspec.structs.replace(
                    record, request_body=None, response_body=None
                )
                yield record
                continue
            for attempt in record.attempts:
                if attempt.purpose == "shadow" and attempt.confidence is not None:
                    self.compared[record.mirrors] = Compared(attempt, attempt.confidence, record.config_hash)

    def heeding(self, opinions: Opinions) -> Opinions:
        """The same opinions; a request that nobody scored is counted, and forgotten."""

        def of(ids: Sequence[str]) -> Mapping[str, Sequence[Feedback]]:
            said = opinions(ids)
            for identity in ids:
                if verdict(said.get(identity, ())).score is None:
                    self.unscored += 1
                    del self.records[identity]
            return said

        return of


def scored(
    samples: Iterable[Sample],
    noted: Noted,
    models: Sequence[str],
    is_today: Callable[[AttemptRecord, str], bool],
    left_out: Counter[str],
) -> Iterator[Scored]:
    """The scored requests that teach a choice among these models; the others are counted, by the reason.

    `is_today` says whether an attempt, by the config of that hash, was at what bears its model's name still.
    """
    # A copy is recorded after its request, so all records are read before any is looked at.
    for sample in list(samples):
        record, score = noted.records[sample.id], float(sample.metadata["score"])
        found = _marks(record, score, noted.compared.get(record.id), models, is_today)
        if isinstance(found, str):
            left_out[found] += 1
            continue
        yield Scored(sample, found, sample.metadata.get("judge"))


def is_still(model: Model, attempt: AttemptRecord, was: Model | None) -> bool:
    """True where the attempt was at this very model; `was` is what bore its name then, as far as anybody
    knows."""
    if was is not None and was.weights != model.weights:
        # A local model keeps its id whatever it loads.
        return False
    return (model.id, model.provider) == (attempt.model_id, attempt.provider)


def _marks(
    record: Record,
    score: float,
    compared: Compared | None,
    models: Sequence[str],
    is_today: Callable[[AttemptRecord, str], bool],
) -> dict[str, Mark] | str:
    """The marks that a scored request gives; else the reason why it gives none."""
    decision = record.decision
    asked = None if decision is None else _asked(msgspec.to_builtins(decision.plan))
    if decision is None or asked is None or asked != record.model:
        return "answered by more than one call of one model"
    if asked not in models:
        return "answered by a model that is not chosen from"
    if not set(models) <= set(decision.allowed):
        return "not all models were allowed"
    if not is_today(record.attempts[-1], record.config_hash):
        return "answered by a model that is another one now"
    output = _output(record.attempts[-1])
    if decision.propensity < 1:
        return {asked: Mark(score, decision.propensity, output)}
    if compared is not None and {asked, compared.attempt.model} == set(models):
        attempt = compared.attempt
        if not is_today(attempt, compared.config_hash):
            return "compared with a model that is another one now"
        return {
            asked: Mark(score, 1.0, output),
            attempt.model: Mark(_by_comparison(score, compared.preference), 1.0, _output(attempt)),
        }
    return "no draw chose who was asked, and no shadow answered"


def _asked(plan: Any) -> str | None:
    """The one model that a settled plan calls for the client; None where it may call several."""
    while isinstance(plan, Mapping) and plan.get("strategy") in _BESIDE:
        plan = plan.get("of")
    if isinstance(plan, Mapping) and plan.get("strategy") == "call":
        model = plan.get("model")
        return model if isinstance(model, str) else None
    return None


def _by_comparison(score: float, preference: float) -> float:
    """The score of an answer that is worse than one of that score, as good, or better.

    A comparison tells the order only: the middle of what it leaves open is the guess.
    """
    if preference == 0.5:
        return score
    return score / 2 if preference < 0.5 else (score + 1) / 2


def _output(attempt: AttemptRecord) -> int | None:
    return attempt.usage.output if attempt.usage is not None else None
