"""Our own form: one sample as one JSON object, in inspect-ai's words, read and written.

    {"input": "What is 2 + 2?", "target": "4"}
    {"id": "q7", "input": [{"role": "user", "content": "..."}], "target": ["yes", "ja"], "label": "internal"}
    {"input": "A fruit?", "choices": ["stone", "apple"], "target": "B", "metadata": {"task": "biology"}}
    {"request": {"messages": [...], "response_format": {...}}, "target": {"total": 3}}

`input` is short for the messages of `request`, which may hold any other field of OpenAI's Chat Completions
beside it. To a question that `input` asks, its `choices` are written below, lettered; messages in `request`
are taken as they are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from isthmus.config.faults import did_you_mean
from isthmus.core.call import Call
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.core.label import BOTTOM, LEVELS, Label, Level
from isthmus.core.promises import NO_PROMISES, Promises
from isthmus.dialects.fields import Fields, invalid
from isthmus.dialects.openai import OpenAIChat
from isthmus.evals.datasets.faults import refused

FIELDS = ("id", "input", "request", "target", "choices", "label", "metadata")
"""The words of our own form."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""By these a choice is named, the first one by the first."""

_LEFT_TO_THE_RUN = ("model", "stream", "stream_options")
_canonical = msgspec.json.Encoder(order="deterministic").encode
_chat = OpenAIChat()


def read(value: Any, where: str, left_out: Counter[str]) -> Sample:
    """The sample of one decoded object. What samples cannot carry is counted in `left_out`.

    Raises IsthmusError (`bad_dataset`), which names `where` and the field.
    """
    if not isinstance(value, dict):
        raise refused(where, "A sample must be a JSON object.", 'Write one a line, such as {"input": ...}.')
    try:
        return _sample(Fields(value, ""), left_out)
    except IsthmusError as error:
        raise refused(where, error.message, error.hint) from None


def line_of(sample: Sample) -> bytes:
    """The sample as one line of our own form, with its end.

    It is the same for the same sample, byte for byte: keys stand in order, and what says nothing is left out.
    """
    return _canonical(_written(sample)) + b"\n"


def _sample(fields: Fields, left_out: Counter[str]) -> Sample:
    choices = _choices(fields.items("choices"))
    request = _request(fields, choices, left_out)
    target = _target(fields.take("target"), choices)
    given = _id(fields.take("id"))
    label = _label(fields.take("label"))
    metadata = fields.mapping("metadata") or {}
    for unknown in fields.unread:
        raise _unknown(unknown)
    return Sample(
        id=given if given is not None else made_id(request, target, choices),
        request=request,
        target=target,
        choices=choices,
        label=label,
        metadata=metadata,
    )


def _request(fields: Fields, choices: tuple[str, ...], left_out: Counter[str]) -> dict[str, Any]:
    asked = fields.take("input")
    request = {name: value for name, value in (fields.mapping("request") or {}).items() if value is not None}
    for name in _LEFT_TO_THE_RUN:
        if request.pop(name, None) is not None:
            left_out[f"`{name}` is left to the run"] += 1
    if asked is not None and "messages" in request:
        raise _wrong("input", "A sample has `input` or `request.messages`, not both.")
    if asked is not None:
        request["messages"] = _messages(asked, choices)
    if "messages" not in request:
        raise _wrong("input", "A sample needs `input`: a text, or a list of messages.")
    if len(request) > 1 or not isinstance(asked, str):
        # One text is a valid request by construction.
        call_of(request)
    return request


def call_of(request: Mapping[str, Any]) -> Call:
    """A sample's request in the canonical form. Raises IsthmusError where it is none."""
    return _chat.decode_call(_chat.peek(msgspec.json.encode({**request, "model": "any"})))


def _messages(asked: Any, choices: tuple[str, ...]) -> list[Any]:
    match asked:
        case "" | []:
            raise invalid("input", "a text, or a list of messages", asked)
        case str():
            return [{"role": "user", "content": with_choices(asked, choices)}]
        case [*turns]:
            return _with_choices_in_last(turns, choices)
    raise invalid("input", "a text, or a list of messages", asked)


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The question with its choices below, lettered."""
    lettered = [f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, "", *lettered]) if lettered else question


def _with_choices_in_last(turns: list[Any], choices: tuple[str, ...]) -> list[Any]:
    if not choices:
        return turns
    *before, last = turns
    if not isinstance(last, dict) or not isinstance(last.get("content"), str):
        raise _wrong(
            "choices",
            "`choices` can be written below a text only, and the last message of `input` is none.",
            "Write them into the message yourself, and give it as `request`.",
        )
    return [*before, {**last, "content": with_choices(last["content"], choices)}]


def _choices(given: list[Any] | None) -> tuple[str, ...]:
    choices = tuple(_text(choice, "choices") for choice in given or ())
    if len(choices) == 1 or len(choices) > len(LETTERS):
        raise _wrong("choices", f"`choices` must be 2 to {len(LETTERS)}, not {len(choices)}.")
    if len(set(choices)) < len(choices):
        raise _wrong("choices", "`choices` holds one choice twice.")
    return choices


def _target(given: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    answers = given if isinstance(given, list) else [] if given is None else [given]
    # inspect-ai writes an empty text where there is none.
    target = tuple(filter(None, (_text(answer, "target") for answer in answers)))
    letters = LETTERS[: len(choices)]
    if choices and not all(answer in letters or answer in choices for answer in target):
        raise _wrong(
            "target",
            "`target` is neither the letter of a choice nor a choice itself.",
            f"Write one of {', '.join(letters)}.",
        )
    return target


def _text(value: Any, at: str) -> str:
    """A text; a number, a truth value or an object is taken as its JSON."""
    match value:
        case str():
            return value
        case bool() | int() | float() | dict():
            return _canonical(value).decode()
    raise invalid(at, "a text, or a list of texts", value)


def _id(given: Any) -> str | None:
    match given:
        case None | "":
            return None
        case str():
            return given
        case int() if not isinstance(given, bool):
            return str(given)
    raise invalid("id", "a text or a whole number", given)


def made_id(request: Mapping[str, Any], target: tuple[str, ...], choices: tuple[str, ...]) -> str:
    """The id of a sample that was given none: 64 bits of the SHA-256 of what is asked and wanted."""
    return hashlib.sha256(_canonical((request, target, choices))).hexdigest()[:16]


def _label(given: Any) -> Label:
    if given is None:
        return BOTTOM
    try:
        return msgspec.convert(given if isinstance(given, dict) else {"level": given}, _Label).label
    except msgspec.ValidationError:
        raise _wrong(
            "label",
            "`label` must be a level, or an object with `level`, `categories`, `zones` and `needs`.",
            f"The levels are {', '.join(LEVELS)}. A good answer is called `target`.",
        ) from None


class _Needs(Promises, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A misspelt promise must not be one that nobody asks for."""


class _Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A label as it is written: with its level, and nothing that would be passed over."""

    level: Level
    categories: frozenset[str] = frozenset()
    zones: frozenset[str] | None = None
    needs: _Needs = _Needs()

    @property
    def label(self) -> Label:
        needs = Promises(**msgspec.structs.asdict(self.needs))
        return Label(self.level, self.categories, self.zones, needs)


def _unknown(name: str) -> IsthmusError:
    hint = did_you_mean(name, FIELDS)
    return _wrong(name, f"`{name}` is no field of a sample.", f"{hint} What is yours belongs in `metadata`.")


def _wrong(field: str, what: str, hint: str = "") -> IsthmusError:
    return IsthmusError(Fault.INVALID_REQUEST, what, code="bad_dataset", hint=hint, param=field)


# Writing


def _written(sample: Sample) -> dict[str, Any]:
    asked = _short(sample)
    request = {name: value for name, value in sample.request.items() if asked is None or name != "messages"}
    values = {
        "id": sample.id,
        "input": asked,
        "request": request,
        "target": sample.target[0] if len(sample.target) == 1 else sample.target,
        "choices": sample.choices,
        "label": _written_label(sample.label),
        "metadata": sample.metadata,
    }
    return {name: value for name, value in values.items() if value}


def _short(sample: Sample) -> Any:
    """What `input` may say for the messages: not where there are choices, for they stand in them already."""
    if sample.choices:
        return None
    messages = sample.request["messages"]
    match messages:
        case [{"role": "user", "content": str(text), **others}] if text and not others:
            return text
    return messages


def _written_label(label: Label) -> Any:
    if label == Label(label.level):
        return None if label == BOTTOM else label.level
    return {
        "level": label.level,
        **({"categories": sorted(label.categories)} if label.categories else {}),
        **({} if label.zones is None else {"zones": sorted(label.zones)}),
        **({} if label.needs == NO_PROMISES else {"needs": _written_needs(label.needs)}),
    }


def _written_needs(needs: Promises) -> dict[str, Any]:
    plain = msgspec.structs.asdict(NO_PROMISES)
    return {name: value for name, value in msgspec.structs.asdict(needs).items() if value != plain[name]}
