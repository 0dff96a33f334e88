"""Streams of Chat Completions: decoded into pieces, encoded from pieces, and watched while they pass
through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call
from isthmus.core.codec import Reading
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import (
    Finish,
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects import sse
from isthmus.dialects.faults import broken_stream, decode_stream_error, malformed, not_a_stream
from isthmus.dialects.openai.answer import (
    ABSENT,
    AnswerReader,
    ReportedUsage,
    finish_reason,
    finish_word,
    head,
    holds,
    read_usage,
    write_tool_call,
    write_usage,
)
from isthmus.dialects.openai.errors import error_event
from isthmus.dialects.watching import page_error

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class ChatStreamDecoder:
    """Turns a stream into pieces (core.codec.StreamDecoder).

    The stream has ended well once every choice has its finish reason; a `[DONE]` alone is no proof, and its
    absence no fault. Without `says_reason`, as from a server that gives none, `[DONE]` ends it.
    """

    def __init__(self, says_reason: bool = True) -> None:
        self._says_reason = says_reason
        self.salvage: list[Piece] = []
        self.ended = False
        self._splitter = sse.Splitter()
        self._reader = AnswerReader()

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        self.salvage = []
        return self._read(self._splitter.feed(data))

    def close(self) -> list[Piece]:
        """The last pieces; raises BROKEN_STREAM where a choice has no finish reason."""
        self.salvage = []
        self._read([event for event in self._splitter.close() if _is_whole(event)])
        if self._splitter.stray and not self._reader.started:
            raise not_a_stream(self._splitter.stray)
        if not self._reader.complete:
            raise broken_stream()
        return self.salvage

    def _read(self, events: list[sse.Event]) -> list[Piece]:
        for event in events:
            data = event.data.strip()
            if data == b"[DONE]" and not self._says_reason:
                self.salvage += self._reader.finish()
            if data in (b"[DONE]", b""):
                self.ended = self.ended or (data != b"" and self._reader.complete)
                continue
            if event.event == "error":
                raise decode_stream_error(event.data)
            self.salvage += self._reader.read(event.value())
        return self.salvage


def _is_whole(event: sse.Event) -> bool:
    return event.data.strip() == b"[DONE]" or event.is_whole


class ChatStreamEncoder:
    """Turns pieces into chunks (core.codec.StreamEncoder): the role first, usage and `[DONE]` last."""

    def __init__(self, call: Call, request_id: str, created: int) -> None:
        self._call = call
        self._request_id = request_id
        self._created = created
        self._head: dict[str, Any] = {}
        self._roles: set[int] = set()
        self._usage: Usage | None = None

    def feed(self, pieces: Iterable[Piece]) -> bytes:
        """The chunks that say `pieces`."""
        return b"".join([self._say(piece) for piece in pieces])

    def close(self) -> bytes:
        """The usage chunk, where the client asked for it and it is known, and the terminal event."""
        if not self._call.include_usage or self._usage is None:
            return DONE
        return self._event({"choices": [], "usage": write_usage(self._usage)}) + DONE

    def error(self, error: IsthmusError) -> bytes:
        """An error event; nothing follows it."""
        return error_event(error, self._request_id)

    def _say(self, piece: Piece) -> bytes:
        match piece:
            case TextDelta():
                return self._text(piece)
            case ReasoningDelta():
                return self._delta(piece.choice, {"reasoning_content": piece.text})
            case RefusalDelta():
                return self._delta(piece.choice, {"refusal": piece.text})
            case ToolCallStart():
                call = {"index": piece.index, **write_tool_call(piece)}
                return self._delta(piece.choice, {"tool_calls": [call]})
            case ToolArgumentsDelta():
                more = {"index": piece.index, "function": {"arguments": piece.text}}
                return self._delta(piece.choice, {"tool_calls": [more]})
            case OpaqueBlock(dialect="openai", value=dict(value)):
                return self._delta(piece.choice, value)
            case Finish():
                return self._delta(piece.choice, {}, finish=finish_word(piece))
            case Start():
                self._head = head(piece, self._call, self._request_id, self._created, "chat.completion.chunk")
            case UsageReport():
                self._usage = piece.usage
            case _:
                return b""
        return b""

    def _text(self, piece: TextDelta) -> bytes:
        if piece.logprobs is None or not self._call.logprobs:
            return self._delta(piece.choice, {"content": piece.text}) if piece.text else b""
        logprobs = {"content": piece.logprobs, "refusal": None}
        return self._delta(piece.choice, {"content": piece.text}, logprobs=logprobs)

    def _delta(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        role = b""
        if choice not in self._roles:
            self._roles.add(choice)
            role = self._delta(choice, {"role": "assistant", "content": ""})
        alternative = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return role + self._event({"choices": [alternative]})

    def _event(self, body: dict[str, Any]) -> bytes:
        if not self._head:
            self._head = head(Start(), self._call, self._request_id, self._created, "chat.completion.chunk")
        if self._call.include_usage:
            body.setdefault("usage", None)
        return b"data: %b\n\n" % _encode({**self._head, **body})


class _GlanceDelta(msgspec.Struct):
    content: msgspec.Raw = ABSENT
    reasoning_content: msgspec.Raw = ABSENT
    reasoning: msgspec.Raw = ABSENT
    refusal: msgspec.Raw = ABSENT
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT
    audio: msgspec.Raw = ABSENT

    @property
    def says_something(self) -> bool:
        """True where any field holds more than nothing."""
        fields = (
            self.content,
            self.reasoning_content,
            self.reasoning,
            self.refusal,
            self.tool_calls,
            self.function_call,
            self.audio,
        )
        return any(map(holds, fields))


class _GlanceChoice(msgspec.Struct):
    index: Any = None
    delta: _GlanceDelta | None = None
    finish_reason: str | None = None


class _Glance(msgspec.Struct):
    """What a watch reads of a chunk."""

    choices: list[_GlanceChoice] | None = None
    usage: ReportedUsage | None = None
    service_tier: Any = None
    error: msgspec.Raw = ABSENT
    object: str | None = None
    detail: msgspec.Raw = ABSENT
    message: msgspec.Raw = ABSENT

    @property
    def is_error(self) -> bool:
        """True for an error in any of the shapes that compatible servers use."""
        if holds(self.error):
            return True
        stray = self.object == "error" or self.detail is not ABSENT or self.message is not ABSENT
        return stray and self.choices is None


_glance = msgspec.json.Decoder(_Glance).decode


class ChatWatch:
    """Watches a passed-through stream (core.codec.Watch) by byte search; events are parsed only where they
    matter.

    After the first content a read costs a few searches. `ended` needs a finish reason: a `[DONE]` without one
    is not forwarded, since it would make a dead stream look whole. Without a `[DONE]` every choice that was
    seen needs its own. A server that never `says_reason` is taken at its `[DONE]`.
    """

    def __init__(self, strip_usage: bool, says_reason: bool = True) -> None:
        self._says_reason = says_reason
        self.reading = Reading()
        self._strip_usage = strip_usage
        self._gatherer = sse.Gatherer()
        self._held: list[bytes] = []
        self._seen_event = False
        self._several = False
        self._tier: Any = None
        self._choices: set[int] = set()
        self._finished: set[int] = set()

    def feed(self, data: bytes) -> bytes:
        """What may be forwarded now."""
        reading = self.reading
        if reading.error is not None:
            return b""
        try:
            data = self._gatherer.feed(data)
        except IsthmusError as error:
            reading.error = error
            return b""
        if not reading.committed:
            data = self._look_for_content(data)
            if not reading.committed:
                return b""
        kept = self._look_at_end(data)
        if self._held:
            kept = [*self._held, *kept]
            self._held.clear()
        return b"".join(kept)

    def close(self) -> bytes:
        """The rest, where it is a whole event that lacks only its blank line."""
        reading = self.reading
        rest = self._gatherer.close()
        if reading.error is not None:
            return b""
        last = b""
        if any(event is not None and _is_whole(event) for _, event in sse.parse(rest)):
            self._held.extend(self._look(rest))
            last = b"".join(self._held) if reading.committed else b""
        elif not self._seen_event:
            reading.error = page_error(b"".join(self._held) + rest)
        if self._finished and self._finished >= self._choices and reading.error is None:
            reading.ended = True
        return last + b"\n\n" if last else b""

    def _look_for_content(self, block: bytes) -> bytes:
        """Reads and holds the events up to the first content; returns those after it."""
        start = 0
        while start < len(block) and not self.reading.committed and self.reading.error is None:
            end = sse.end_of_event(block, start)
            self._held.extend(self._look(block[start:end]))
            start = end
        return block[start:]

    def _look_at_end(self, block: bytes) -> list[bytes]:
        """What of `block` may be forwarded, in parts. Only what follows its plain events is read, and all of
        it where there are several choices."""
        start = 0 if self._several else _plain_until(block)
        if start > 0:
            self._choices.add(0)
        if start == len(block):
            return [block]
        return [block[:start], *self._look(block[start:])]

    def _look(self, block: bytes) -> list[bytes]:
        """Reads every event of `block`; those that may be forwarded, up to the first that is an error."""
        kept: list[bytes] = []
        for raw, event in sse.parse(block):
            if event is None or self._keeps(event):
                kept.append(raw)
            if self.reading.error is not None:
                break
        return kept

    def _keeps(self, event: sse.Event) -> bool:
        """Reads one event; False where it must not be forwarded."""
        self._seen_event = True
        reading = self.reading
        data = event.data.strip()
        if data == b"[DONE]":
            reading.ended = reading.finish is not None or not self._says_reason
            reading.committed = reading.committed or reading.ended
            return reading.ended
        if event.event == "error":
            reading.error = decode_stream_error(data)
            return False
        if not data:
            return True
        try:
            glance = _glance(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            reading.error = malformed("a stream event that is not a chunk of Chat Completions")
            return False
        if glance.is_error:
            reading.error = decode_stream_error(data)
            return False
        return self._read(glance)

    def _read(self, glance: _Glance) -> bool:
        reading = self.reading
        if not reading.committed:
            # Before the first content every event is read; later ones, as the network happens to cut them.
            self._tier = glance.service_tier or self._tier
        for position, choice in enumerate(glance.choices or ()):
            index = choice.index if isinstance(choice.index, int) else position
            self._choices.add(index)
            self._several = self._several or index > 0
            if choice.finish_reason:
                reading.finished(finish_reason(choice.finish_reason), choice.finish_reason)
                reading.committed = True
                self._finished.add(index)
            elif not reading.committed and choice.delta is not None:
                reading.committed = choice.delta.says_something
        if glance.usage is None:
            return True
        reading.usage = read_usage(glance.usage, glance.service_tier or self._tier)
        return bool(glance.choices) or not self._strip_usage


class _Spelling(msgspec.Struct, frozen=True):
    """How a server's JSON writes what tells plain events from others: with a space behind a colon, or
    without."""

    unfinished: bytes
    finished: bytes
    second_choice: bytes


_COMPACT = _Spelling(b'"finish_reason":null', b'"finish_reason":"', b'"index":1')
_SPACED = _Spelling(b'"finish_reason": null', b'"finish_reason": "', b'"index": 1')


def _plain_until(block: bytes) -> int:
    """How many bytes of `block` are surely plain events: such that hold neither an end nor an error, usage or
    a choice but the first. 0 where any other stands before the last plain one.

    A plain event has one line, and says once, and says null, what its finish reason is. Quotes inside a text
    are escaped, so text cannot look like a field. A usage object always holds a name that ends in `_tokens`.
    A second tool call looks like a second choice.
    """
    # Searches run from the end where they can: CPython's `rfind` is the fastest, and mostly nothing is found.
    spelling = _COMPACT
    last = block.rfind(spelling.unfinished)
    if last < 0:
        spelling = _SPACED
        last = block.rfind(spelling.unfinished)
    if last < 0 or block.rfind(spelling.second_choice) >= 0:
        return 0
    end = sse.end_of_event(block, last)
    if (
        block.rfind(spelling.finished, 0, end) >= 0
        or block.rfind(b'_tokens"', 0, end) >= 0
        or block.rfind(b'"error"', 0, end) >= 0
    ):
        return 0
    events = block.count(spelling.unfinished, 0, end)
    return end if block.count(b"\n", 0, end) == 2 * events else 0
