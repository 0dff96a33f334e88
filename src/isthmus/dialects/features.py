"""What a request looks like from outside, told from its envelope. Pure.

Nothing is decoded that is not a number: messages are searched for a few words, at the speed of memory. A
quoted word such as `"role"` stands in JSON as a name or as a whole string, for inside of texts its quotes are
escaped; so texts that speak of roles and pictures are hardly ever taken for them (one must end in such a
word, with a quote before it). Arguments of tools that are JSON themselves may be: these are facts for
analyses, not grounds for refusals.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from isthmus.core.call import Envelope
from isthmus.core.record import AnswerForm, Features

SEARCHED = 1 << 18
"""Of longer messages only so many bytes are searched from the start on: the event loop waits meanwhile."""

_ATTACHED = re.compile(rb'"type"\s*:\s*"(image_url|image|input_image|file|document|input_file|input_audio)"')
_ATTACHMENT = {
    b"image_url": "pictures",
    b"image": "pictures",
    b"input_image": "pictures",
    b"file": "files",
    b"document": "files",
    b"input_file": "files",
    b"input_audio": "audio",
}
_UNSAID = (b"null", b"[]", b"{}", b"false")
_MOST_TOKENS = 2**53

_to_int = msgspec.json.Decoder(int).decode
_to_float = msgspec.json.Decoder(float).decode


def features_of(envelope: Envelope, size: int) -> Features:
    """The features of a request of that many bytes."""
    found: dict[str, Any] = {}
    for name, raw in envelope.fields.items():
        reader = _READERS.get(name)
        if reader is not None:
            reader(found, raw)
    return Features(size=size, **found)


def _messages(found: dict[str, Any], raw: msgspec.Raw) -> None:
    text = bytes(memoryview(raw)[:SEARCHED])
    if text[:1] == b"[":
        found["turns"] = text.count(b'"role"')
        # CPython's `rfind` is twice as fast as `in`, and several times as fast as an expression.
        if text.rfind(b'"type"') >= 0:
            for kind in _ATTACHED.findall(text):
                found[_ATTACHMENT[kind]] = True
    elif text[:1] == b'"':
        found["turns"] = 1


def _limit(found: dict[str, Any], raw: msgspec.Raw) -> None:
    try:
        limit = _to_int(raw)
    except msgspec.DecodeError:
        return
    if 0 <= limit < _MOST_TOKENS:
        found.setdefault("max_output", limit)


def _newer_limit(found: dict[str, Any], raw: msgspec.Raw) -> None:
    # Where both names are said, it counts.
    older = found.pop("max_output", None)
    _limit(found, raw)
    found.setdefault("max_output", older)


def _temperature(found: dict[str, Any], raw: msgspec.Raw) -> None:
    try:
        found["temperature"] = _to_float(raw)
    except msgspec.DecodeError:
        return


def _form(found: dict[str, Any], raw: msgspec.Raw) -> None:
    said = bytes(raw)
    form: AnswerForm | None = (
        "schema" if b'"json_schema"' in said else "json" if b'"json_object"' in said else None
    )
    if form is not None:
        found["form"] = form


def _flag(feature: str) -> Callable[[dict[str, Any], msgspec.Raw], None]:
    def read(found: dict[str, Any], raw: msgspec.Raw) -> None:
        if bytes(raw) not in _UNSAID:
            found[feature] = True

    return read


_READERS: dict[str, Callable[[dict[str, Any], msgspec.Raw], None]] = {
    "messages": _messages,
    "input": _messages,
    "max_tokens": _limit,
    "max_output_tokens": _limit,
    "max_completion_tokens": _newer_limit,
    "temperature": _temperature,
    "tools": _flag("tools"),
    "reasoning_effort": _flag("thinking"),
    "reasoning": _flag("thinking"),
    "thinking": _flag("thinking"),
    "logprobs": _flag("logprobs"),
    "top_logprobs": _flag("logprobs"),
    "response_format": _form,
    "text": _form,
    "output_format": _form,
    "output_config": _form,
}
"""What each field of a request tells, whichever the dialect: none means two things in two of them."""
