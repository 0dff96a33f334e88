"""Rows: what was asked, a golden answer to it, who it comes from, and how good it was found. Pure.

They are made of the ledger's requests with their feedback, of pilot runs, and of datasets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import exp
from typing import Any

import msgspec

from isthmus.core.answers import plain
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.record import AttemptRecord, Record
from isthmus.distill.provenance import FIELD, Origin, Part, Provenance, provenance_of, seal_of
from isthmus.distill.terms import tells, terms_of
from isthmus.evals.datasets.dataset import Dataset
from isthmus.evals.datasets.near_duplicates import near, pairs_of
from isthmus.evals.replay.boundary import Portfolio
from isthmus.evals.scorers import models_of
from isthmus.store.runs import Candidate, Kept, Place, Run

LONGEST_METADATA = 200
"""A value of the metadata with more characters is a text, and left out."""

_OF_THE_SOURCE = frozenset(
    {FIELD, "answer", "tool_calls", "comment", "score", "judge", "at_us", "model", "rejected", "split"}
)


class Marks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How good an answer was found, from 0 to 1 each; None where nobody has said.

    `human` is the score that people gave, `score` that of a scorer, `agreement` the share of all answers to
    the same that say this, `confidence` the geometric mean of the probabilities of its tokens. `gold` says
    that people wrote it.
    """

    gold: bool = False
    human: float | None = None
    score: float | None = None
    agreement: float | None = None
    confidence: float | None = None

    @property
    def seen(self) -> bool:
        """True where somebody or something has looked at it."""
        return self.gold or self.human is not None or self.score is not None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A sample whose target is the golden answer. `message` is that answer as OpenAI's dialect writes it.

    `finish` is how the answer ended, where that is known. `relabelled` says that it carried a provenance
    which is not about it.
    """

    sample: Sample
    message: dict[str, Any]
    origins: tuple[Origin, ...]
    ancestors: tuple[str, ...] = ()
    marks: Marks = Marks()
    finish: str | None = None
    relabelled: bool = False

    @property
    def answer(self) -> str:
        """The golden answer, as a target says it."""
        return self.sample.target[0] if self.sample.target else ""


class Makers:
    """Who made outputs, on which terms, by the config that was in force when they were made.

    `then` has the configs by the hashes that stand on records and runs: of what another one decided nobody
    knows the terms. `today` is heeded only where the config of then leaves open which terms govern a model,
    and today's has the very same model at the same place.
    """

    def __init__(self, then: Mapping[str, Portfolio], today: Portfolio) -> None:
        self._then = then
        self._today = today

    def of_attempt(self, attempt: AttemptRecord, part: Part, record: Record) -> Origin:
        """The origin of what an attempt put out."""
        return Origin(
            part=part,
            maker="model",
            terms=self._terms(record.config_hash, attempt.model, attempt.provider, attempt.model_id),
            provider=attempt.provider,
            model=attempt.model_id,
            weights=attempt.weights,
            source=record.id,
            at_us=record.at_us,
        )

    def of_kept(self, candidate: Candidate, kept: Kept, part: Part, config_hash: str) -> Origin:
        """The origin of an answer that a model gave to a run of that config, or that the run found known."""
        return Origin(
            part=part,
            maker="model",
            terms=self._terms(config_hash, candidate.name, candidate.provider, candidate.id),
            provider=candidate.provider,
            model=candidate.id,
            weights=candidate.weights,
            source=kept.id,
            run=kept.run,
            at_us=kept.at_us,
        )

    def of_judge(self, name: str, source: str, at_us: int, config_hash: str, run: str = "") -> Origin:
        """The origin of the mark that this model of that config has given to an answer."""
        then = self._then.get(config_hash)
        model = then.models.get(name) if then is not None else None
        return Origin(
            part="mark",
            maker="model",
            terms=self._terms(config_hash, name, model.provider, model.id) if model is not None else "",
            provider=model.provider if model is not None else "",
            model=model.id if model is not None else name,
            source=source,
            run=run,
            at_us=at_us,
        )

    def _terms(self, config_hash: str, name: str, provider: str, model_id: str) -> str:
        then = self._then.get(config_hash)
        model = then.models.get(name) if then is not None else None
        if then is None or model is None or (model.provider, model.id) != (provider, model_id):
            return ""
        said = _terms_in(then, name)
        if tells(said) or name not in self._today.models or not self._today.is_the_same(name, then):
            return said
        return _terms_in(self._today, name)


def _terms_in(portfolio: Portfolio, name: str) -> str:
    model = portfolio.models[name]
    return terms_of(model, portfolio.providers[model.provider])


# Of the ledger


def noting(records: Iterable[Record], noted: dict[str, Record]) -> Iterator[Record]:
    """The records as they come, each kept in `noted` without its texts."""
    for record in records:
        noted[record.id] = msgspec.structs.replace(record, request_body=None, response_body=None)
        yield record


def rows_of_records(
    samples: Iterable[Sample],
    noted: dict[str, Record],
    makers: Makers,
    left_out: Counter[str],
    *,
    by_score: bool = False,
) -> Iterator[Row]:
    """A row for each sample that was made of a record (`evals.datasets.from_records`): its answer, or what
    somebody has put in its place. `by_score` says that the samples were chosen by their scores: whoever gave
    those has chosen.

    Whoever puts an answer right leaves much of it: then both have written it, and so it is taken to be where
    nobody knows the answer any more.
    """
    for sample in samples:
        record = noted.pop(sample.id)
        if any(turn.get("role") == "assistant" for turn in sample.request["messages"]):
            left_out["earlier_turns"] += 1
            continue
        said = sample.metadata.get("answer")
        correction = sample.target[0] if sample.target else None
        message = _message(said, sample.metadata.get("tool_calls"), correction)
        if message is None:
            left_out["no_answer"] += 1
            continue
        by_models = tuple(_of_attempts(record, makers))
        people = () if correction is None else (_people("answer", record.id, record.at_us),)
        origins = people if correction is not None and _is_anew(correction, sample) else (*people, *by_models)
        score, judge = sample.metadata.get("score"), sample.metadata.get("judge")
        # Of what somebody has put right, no mark is heeded; it may be one of those that it was chosen by.
        heeded = score if correction is None else None
        marks = Marks(
            gold=correction is not None,
            human=heeded if judge is None else None,
            score=heeded if judge is not None else None,
        )
        judges: tuple[Origin, ...] = ()
        if judge is not None and (correction is None or by_score):
            judges = (makers.of_judge(judge, record.id, record.at_us, record.config_hash),)
        yield Row(
            sample=_with_answer(sample, message),
            message=message,
            origins=(*origins, *judges, _people("input", record.id, record.at_us)),
            marks=marks,
            finish=record.attempts[-1].finish if record.attempts and correction is None else None,
        )


def _is_anew(correction: str, sample: Sample) -> bool:
    """True where a correction is seen to have little of the answer that was given."""
    said = sample.metadata.get("answer")
    if not isinstance(said, str):
        return "tool_calls" in sample.metadata
    return not near(*pairs_of([said, correction]))


def _of_attempts(record: Record, makers: Makers) -> Iterator[Origin]:
    """All that had a part in the answer: who gave it, drafts that others saw, judges that chose."""
    parts: dict[str, Part] = {"answer": "answer", "draft": "answer", "judge": "mark"}
    for attempt in record.attempts:
        if attempt.outcome == "ok" and attempt.purpose in parts:
            yield makers.of_attempt(attempt, parts[attempt.purpose], record)


# Of runs


def rows_of_run(
    run: Run,
    samples: Sequence[Sample],
    answers: Mapping[Place, Kept],
    scores: Mapping[Place, Score],
    model: str,
    scorer: str | None,
    makers: Makers,
    left_out: Counter[str],
    through: Sequence[str] = (),
) -> Iterator[Row]:
    """A row for each sample that this model of the run has answered: where it was asked several times, the
    first of the answers that most agree with. `through` are hashes of datasets that its samples came through,
    besides its own."""
    candidate = next(it for it in run.models if it.name == model)
    judges = models_of(scorer) if scorer else ()
    for sample in samples:
        places = [Place(model, sample.id, nth) for nth in range(run.repeat)]
        said = [(it, answers[it]) for it in places if it in answers and answers[it].answered.code is None]
        if not said:
            left_out["not_answered"] += 1
            continue
        (place, kept), share = _most_agreed(said)
        answered = kept.answered
        message = _message(answered.text, answered.message.get("tool_calls"), None)
        if message is None:
            left_out["no_answer"] += 1
            continue
        told = provenance_of(sample)
        score = scores.get(place)
        yield Row(
            sample=_with_answer(
                msgspec.structs.replace(sample, label=sample.label.join(answered.label)), message
            ),
            message=message,
            origins=(
                makers.of_kept(candidate, kept, "answer", run.config_hash),
                *(makers.of_judge(name, kept.id, kept.at_us, run.config_hash, kept.run) for name in judges),
                *(_left_of(told, compared=scorer is not None) if told is not None else ()),
            ),
            ancestors=(run.dataset_hash, *through, *(told.ancestors if told is not None else ())),
            marks=Marks(
                score=score.value if score is not None else None,
                agreement=share if run.repeat > 1 else None,
                confidence=_confidence(answered),
            ),
            finish=answered.finish,
        )


def _left_of(told: Provenance, *, compared: bool) -> Iterator[Origin]:
    """What of a sample's origins has a part in a new answer to it: the request's, and where answers are
    `compared` with its target, those of the target. It chooses among them as a judge does."""
    for origin in told.origins:
        if origin.part == "input":
            yield origin
        elif compared:
            yield msgspec.structs.replace(origin, part="mark")


def _most_agreed(said: Sequence[tuple[Place, Kept]]) -> tuple[tuple[Place, Kept], float]:
    """The first of the answers that most others say, too, and the share of those."""
    sayings = [_saying(kept.answered) for _, kept in said]
    best, count = Counter(sayings).most_common(1)[0]
    return said[sayings.index(best)], count / len(said)


def _saying(answered: Answered) -> str:
    calls = answered.message.get("tool_calls")
    return plain(answered.text) + (msgspec.json.encode(calls, order="sorted").decode() if calls else "")


def _confidence(answered: Answered) -> float | None:
    told = answered.logprobs
    return exp(sum(told) / len(told)) if told else None


# Of datasets


def rows_of_dataset(
    dataset: Dataset, known_by: Sequence[str], by_people: bool, left_out: Counter[str]
) -> Iterator[Row]:
    """A row for each sample with a target. What it says of its own origin counts, and nobody's word takes it
    away; `by_people` says who wrote it, and no more. `known_by` are the hashes of the dataset, through which
    it comes."""
    for sample in dataset.samples:
        if not sample.target:
            left_out["no_answer"] += 1
            continue
        told = provenance_of(sample)
        written = (_people("answer", dataset.hash), _people("input", dataset.hash)) if by_people else ()
        origins = (*(told.origins if told is not None else ()), *written)
        message = {"role": "assistant", "content": sample.target[0]}
        yield Row(
            sample=_with_answer(sample, message),
            message=message,
            origins=origins,
            ancestors=(*known_by, *(told.ancestors if told is not None else ())),
            marks=Marks(gold=by_people),
            relabelled=_is_relabelled(sample, told, by_people),
        )


def _is_relabelled(sample: Sample, told: Provenance | None, by_people: bool) -> bool:
    """True where it carries a provenance that is not about it, or one that nobody can read."""
    if told is None:
        return FIELD in sample.metadata
    return told.seal != seal_of(sample) and not by_people


def rewritten(row: Row, request: Mapping[str, Any], message: dict[str, Any], metadata: Any) -> Row:
    """The row with other texts in place of its own."""
    sample = msgspec.structs.replace(row.sample, request=dict(request), metadata=metadata)
    return msgspec.structs.replace(row, sample=_with_answer(sample, message), message=message)


def _people(part: Part, source: str, at_us: int = 0) -> Origin:
    return Origin(part=part, maker="people", source=source, at_us=at_us)


def _message(text: Any, tool_calls: Any, correction: str | None) -> dict[str, Any] | None:
    """The assistant's message; None where nothing is said in it."""
    if correction is not None:
        return {"role": "assistant", "content": correction}
    if tool_calls:
        return {"role": "assistant", "content": text or None, "tool_calls": tool_calls}
    return {"role": "assistant", "content": text} if isinstance(text, str) and text.strip() else None


def _with_answer(sample: Sample, message: Mapping[str, Any]) -> Sample:
    calls = message.get("tool_calls")
    target = msgspec.json.encode(calls).decode() if calls else str(message["content"])
    return msgspec.structs.replace(sample, target=(target,), metadata=_carried(sample.metadata))


def _carried(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What of the metadata goes along: short facts, no texts."""
    return {
        name: value
        for name, value in metadata.items()
        if name not in _OF_THE_SOURCE
        and isinstance(value, str | int | float | bool)
        and not (isinstance(value, str) and len(value) > LONGEST_METADATA)
    }


Look = Callable[[Row], Row | str]
"""Looks into a row for what is sensitive: the row with its label, or the reason why it cannot go along."""
