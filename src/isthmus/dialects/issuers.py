"""Keeps reasoning with the provider that issued it, where several speak one dialect.

A signature or encrypted reasoning is bound to whoever made it: another organisation's endpoint refuses the
conversation that holds it. So it goes to clients as `isthmus:PROVIDER:TOKEN`. On its way back the provider
itself gets the token as it was; for any other one the reasoning counts as foreign, and its dialect leaves it
out and reports it. A token without the mark is passed on as it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call, Envelope, Opaque, Part, Reasoning, ToolUse
from isthmus.core.codec import Reading, Watch
from isthmus.core.pieces import Piece, ReasoningSeal, ToolCallStart
from isthmus.dialects import sse

BOUND_WIRES = frozenset({"anthropic", "responses", "gemini"})
"""The wires whose reasoning is bound to its issuer."""

_MARK = "isthmus:"
_OPENING = b'"isthmus:'
_ELSEWHERE = "another issuer"
# The fields that are opaque, by the type of the object that holds them.
_TOKENS = {
    "thinking": "signature",
    "signature_delta": "signature",
    "redacted_thinking": "data",
    "reasoning": "encrypted_content",
    "compaction": "encrypted_content",
}
_HINTS = (b'"signature"', b'"redacted_thinking"', b'"encrypted_content"')
# What the caller's own tools are called with is nobody's token.
_OF_TOOLS = frozenset({"input", "arguments"})


class Marker:
    """Marks the tokens of an answer that is translated."""

    def __init__(self, issuer: str) -> None:
        self._prefix = f"{_MARK}{issuer}:"

    def feed(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The pieces, their tokens marked."""
        return [self._marked(piece) for piece in pieces]

    def close(self) -> list[Piece]:
        """Nothing is held back."""
        return []

    def _marked(self, piece: Piece) -> Piece:
        match piece:
            case ReasoningSeal():
                tokens = {
                    "signature": self._token(piece.signature),
                    "encrypted": self._token(piece.encrypted),
                }
                return msgspec.structs.replace(piece, **tokens)
            case ToolCallStart(signature=str(signature)):
                return msgspec.structs.replace(piece, signature=self._token(signature))
        return piece

    def _token(self, token: str | None) -> str | None:
        return self._prefix + token if token else token


class MarkingWatch:
    """Marks the tokens of a stream that passes through `watch` (core.codec.Watch)."""

    def __init__(self, watch: Watch, issuer: str) -> None:
        self.reading: Reading = watch.reading
        self._watch = watch
        self._issuer = issuer

    def feed(self, data: bytes) -> bytes:
        """What may be forwarded now, its tokens marked."""
        return self._marked(self._watch.feed(data))

    def close(self) -> bytes:
        """The rest, its tokens marked."""
        return self._marked(self._watch.close())

    def _marked(self, events: bytes) -> bytes:
        if not _may_hold_tokens(events):
            return events
        return b"".join(self._event(raw, event) for raw, event in sse.parse(events))

    def _event(self, raw: bytes, event: sse.Event | None) -> bytes:
        if event is None or not _may_hold_tokens(event.data):
            return raw
        data = marked_body(event.data, self._issuer)
        return raw if data is event.data else sse.encode(event.event or None, data)


def marked_body(body: bytes, issuer: str) -> bytes:
    """A whole answer that passes through, its tokens marked; the same bytes where it has none."""
    if not _may_hold_tokens(body):
        return body
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode(value) if _mark(value, f"{_MARK}{issuer}:") else body


def holds_marks(envelope: Envelope) -> bool:
    """Whether the conversation holds marked tokens in the clear, as its own dialect does; found by bytes."""
    turns = envelope.fields.get("messages") or envelope.fields.get("input")
    # CPython's `rfind` is twice as fast as `in`.
    return turns is not None and bytes(turns).rfind(_OPENING) >= 0


def told_to(issuer: str, call: Call) -> Call:
    """The call with this issuer's tokens as it made them, and the reasoning of other issuers made foreign."""
    own = f"{_MARK}{issuer}:"
    messages = tuple(
        msgspec.structs.replace(turn, parts=tuple(told for part in turn.parts for told in _told(part, own)))
        for turn in call.messages
    )
    return msgspec.structs.replace(call, messages=messages)


def _told(part: Part, own: str) -> tuple[Part, ...]:
    match part:
        case Reasoning():
            return (_thought(part, own),)
        case ToolUse(signature=str(signature)) if signature.startswith(own):
            return (msgspec.structs.replace(part, signature=signature.removeprefix(own)),)
        case ToolUse(signature=str(signature)) if signature.startswith(_MARK):
            return Reasoning(dialect=_ELSEWHERE), msgspec.structs.replace(part, signature=None)
        case Opaque() if _OPENING in (raw := msgspec.json.encode(part.value)):
            unmarked = raw.replace(b'"' + own.encode(), b'"')
            dialect = _ELSEWHERE if _OPENING in unmarked else part.dialect
            return (Opaque(dialect, msgspec.json.decode(unmarked)),)
    return (part,)


def _thought(part: Reasoning, own: str) -> Reasoning:
    tokens = (part.signature or "", part.encrypted or "")
    if any(token.startswith(_MARK) and not token.startswith(own) for token in tokens):
        return Reasoning(text=part.text, dialect=_ELSEWHERE)
    return msgspec.structs.replace(
        part,
        signature=part.signature and part.signature.removeprefix(own),
        encrypted=part.encrypted and part.encrypted.removeprefix(own),
    )


def _mark(value: Any, prefix: str) -> bool:
    """Marks every token in the value; False where there is none."""
    marked = False
    if isinstance(value, list):
        for item in value:
            marked |= _mark(item, prefix)
    elif isinstance(value, dict):
        for name, item in value.items():
            marked |= name not in _OF_TOOLS and _mark(item, prefix)
        field = _TOKENS.get(str(value.get("type")), "")
        token = value.get(field)
        if isinstance(token, str) and token:
            value[field] = prefix + token
            marked = True
    return marked


def _may_hold_tokens(data: bytes) -> bool:
    return any(hint in data for hint in _HINTS)
