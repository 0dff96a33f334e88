"""Samples out of the ledger: what was really asked, with its label, and what people said of the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from isthmus.core.call import Call
from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.core.feedback import Feedback, Verdict, verdict
from isthmus.core.label import TOP, Label
from isthmus.core.record import Record
from isthmus.dialects import CLIENT_WIRES, WIRES
from isthmus.dialects.openai import OpenAIChat

Opinions: TypeAlias = Callable[[Sequence[str]], Mapping[str, Sequence[Feedback]]]
"""Finds the feedback on records, by their ids."""

Look: TypeAlias = Callable[[bytes, Label], Label]
"""Looks into JSON by the rules of today; the label is at least the given one."""

_AT_ONCE = 500
_OF_THE_RUN = ("model", "stream", "stream_options")
_chat = OpenAIChat()


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which judged requests are wanted: with a score of at least `score`, with a correction; else all."""

    score: float | None = None
    corrected: bool = False

    def holds(self, said: Verdict) -> bool:
        """True where such a verdict is wanted."""
        enough = self.score is None or (said.score is not None and said.score >= self.score)
        return enough and (said.correction is not None or not self.corrected)


def samples_of(
    records: Iterable[Record], opinions: Opinions, look: Look, wish: Wish, left_out: Counter[str]
) -> Iterator[Sample]:
    """A sample for each record that has its request's text, in flat memory; the others are counted.

    Its label is that of the record's decision, raised by a fresh look at all of its texts. A correction is
    its target; the answer that was given, the score, the model that gave it, and the comment are metadata.
    """
    remaining = iter(records)
    while some := list(islice(remaining, _AT_ONCE)):
        said = opinions([record.id for record in some])
        for record in some:
            judged = verdict(said.get(record.id, ()))
            if not wish.holds(judged):
                continue
            try:
                yield _sample(record, judged, look, left_out)
            except _UnusableError as reason:
                left_out[f"left out: {reason}"] += 1


class _UnusableError(Exception):
    """A record gives no sample, for this reason."""


def _sample(record: Record, judged: Verdict, look: Look, left_out: Counter[str]) -> Sample:
    if record.operation != "chat":
        raise _UnusableError("no chat")
    if record.request_body is None:
        raise _UnusableError("the texts were not kept (record_bodies)")
    try:
        call, request = _asked(record, left_out)
    except IsthmusError as error:
        raise _UnusableError(f"it cannot be said in OpenAI's form ({error.param or error.code})") from None
    metadata = {
        **_answered(record, call, left_out),
        "route": record.route,
        "model": record.model,
        "at_us": record.at_us,
        "score": judged.score,
        "judge": judged.judge,
        "comment": judged.comment,
    }
    known = {name: value for name, value in metadata.items() if value is not None}
    target = () if judged.correction is None else (judged.correction,)
    # What was not decided was not looked at.
    least = TOP if record.decision is None else record.decision.label
    # Times and names of ours are no texts: a number might be taken for somebody's.
    texts = [request, target, *(known.get(name) for name in ("answer", "tool_calls", "comment"))]
    label = look(msgspec.json.encode(texts), least)
    return Sample(id=record.id, request=request, target=target, label=label, metadata=known)


def _asked(record: Record, left_out: Counter[str]) -> tuple[Call, dict[str, Any]]:
    """What was asked, in the canonical form and in OpenAI's."""
    wire = CLIENT_WIRES[record.dialect]
    envelope = wire.peek(record.request_body or b"")
    call = wire.decode_call(envelope)
    if record.dialect == _chat.name:
        # As the client wrote it, with what only OpenAI's dialect knows.
        written: dict[str, Any] = msgspec.json.decode(record.request_body or b"")
    else:
        encoded = _chat.encode_call(call, "any")
        left_out.update(f"`{name}` is left out: OpenAI's form does not have it" for name in encoded.dropped)
        written = msgspec.json.decode(encoded.body)
    request = {name: it for name, it in written.items() if name not in _OF_THE_RUN and it is not None}
    return call, request


def _answered(record: Record, call: Call, left_out: Counter[str]) -> dict[str, Any]:
    """What was answered, where it can be read: its text, and its calls of tools."""
    if not record.response_body:
        return {}
    wire = WIRES[record.dialect]()
    try:
        if record.stream:
            decoder = wire.stream_decoder()
            pieces = [*decoder.feed(record.response_body), *decoder.close()]
        else:
            pieces = wire.decode_answer(record.response_body)
        answer = msgspec.json.decode(_chat.encode_answer(pieces, call, record.id, 0))
    except IsthmusError:
        left_out["the answer is left out: it broke off, or is none"] += 1
        return {}
    message = answer["choices"][0]["message"]
    return {"answer": message.get("content"), "tool_calls": message.get("tool_calls")}
