"""Streams of Messages: bytes into pieces, pieces into bytes, and bytes watched as they pass.

Source: platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import (
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    ReasoningSeal,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.dialects import sse
from isthmus.dialects.anthropic.answer import Content, Head, citation, finish, pieces_of, read_content
from isthmus.dialects.anthropic.blocks import Blocks
from isthmus.dialects.anthropic.decode import DIALECT
from isthmus.dialects.anthropic.errors import stream_error
from isthmus.dialects.anthropic.usage import Counts, Meter, finish_reason, usage_json
from isthmus.dialects.faults import broken_stream, decode_stream_error, malformed, not_a_stream
from isthmus.dialects.watching import EventWatch

_NULL = msgspec.Raw(b"null")


class _Start(msgspec.Struct):
    id: str = ""
    model: str = ""
    usage: Counts | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    citation: Any = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Start | None = None
    content_block: msgspec.Raw = _NULL
    delta: _Delta | None = None
    usage: Counts | None = None


_EVENT = msgspec.json.Decoder(_Event)


def _read(data: bytes) -> _Event:
    try:
        # msgspec reads over what is not asked for, be it UTF-8 or not.
        data.decode()
        return _EVENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("a stream event that is no Anthropic one", data) from None


def _is_no_stream(stray: bytes) -> bool:
    """Whether these bytes, in which no event was found, are something else than the beginning of one."""
    said = stray.strip()
    return not any(said.startswith(field) or field.startswith(said) for field in (b"event:", b"data:", b":"))


class _Growing:
    """A block whose end has not come yet."""

    def __init__(self, content: Content, raw: msgspec.Raw, tool_index: int) -> None:
        self.content = content
        self.raw = raw
        self.tool_index = tool_index
        self.signature = content.signature
        self.arguments: list[str] = []


class Decoder:
    """Turns a Messages stream into pieces (core.codec.StreamDecoder); it has ended with message_stop."""

    def __init__(self) -> None:
        self.salvage: list[Piece] = []
        self._splitter = sse.Splitter()
        self._meter = Meter()
        self._blocks: dict[int, _Growing] = {}
        self._tools = 0
        self._started = False
        self._finished = False
        self.ended = False

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that these bytes complete."""
        return self._pieces(self._splitter.feed(data))

    def close(self) -> list[Piece]:
        """The last pieces; raises IsthmusError where the end never came."""
        try:
            pieces = self._pieces(self._splitter.close())
        except IsthmusError as error:
            # Half an event is the cut itself, not a wrong dialect.
            if error.fault is not Fault.MALFORMED_ANSWER:
                raise
            pieces = self.salvage
        if self.ended:
            return pieces
        self.salvage = pieces
        if not self._started and _is_no_stream(self._splitter.stray):
            raise not_a_stream(self._splitter.stray)
        raise broken_stream()

    def _pieces(self, events: list[sse.Event]) -> list[Piece]:
        pieces: list[Piece] = []
        self.salvage = pieces
        for event in events:
            if not self.ended:
                pieces.extend(self._decode(event))
        self.salvage = []
        return pieces

    def _decode(self, event: sse.Event) -> Iterable[Piece]:
        if event.event == "error":
            raise decode_stream_error(event.data)
        said = _read(event.data)
        self._started = True
        match said.type:
            case "content_block_delta" if said.delta is not None:
                return self._grow(said.index, said.delta)
            case "content_block_start":
                return self._begin(said.index, said.content_block)
            case "content_block_stop":
                return self._end(said.index)
            case "message_start" if said.message is not None:
                start = Start(id=said.message.id, model=said.message.model)
                return [start, *self._count(said.message.usage)]
            case "message_delta":
                return self._finish(said)
            case "message_stop":
                self.ended = True
                return ()
            case "error":
                raise decode_stream_error(event.data)
            case _:
                # Pings, and events of a future version.
                return ()

    def _begin(self, index: int, raw: msgspec.Raw) -> list[Piece]:
        content = read_content(raw)
        growing = self._blocks[index] = _Growing(content, raw.copy(), self._tools)
        match content.type:
            case "text" | "redacted_thinking":
                return pieces_of(content, raw, 0)
            case "thinking":
                return [ReasoningDelta(text=content.thinking)] if content.thinking else []
            case "tool_use":
                self._tools += 1
                return [ToolCallStart(index=growing.tool_index, id=content.id, name=content.name)]
            case _:
                return []

    def _grow(self, index: int, delta: _Delta) -> list[Piece]:
        growing = self._blocks.get(index)
        match delta.type:
            case "text_delta":
                return [TextDelta(text=delta.text)] if delta.text else []
            case "thinking_delta":
                return [ReasoningDelta(text=delta.thinking)] if delta.thinking else []
            case "input_json_delta" if growing is not None and delta.partial_json:
                growing.arguments.append(delta.partial_json)
                if growing.content.type == "tool_use":
                    return [ToolArgumentsDelta(index=growing.tool_index, text=delta.partial_json)]
            case "signature_delta" if growing is not None:
                growing.signature = delta.signature
            case "citations_delta":
                return [citation(delta.citation)]
        return []

    def _end(self, index: int) -> list[Piece]:
        growing = self._blocks.pop(index, None)
        if growing is None:
            return []
        match growing.content.type:
            case "text" | "redacted_thinking":
                return []
            case "thinking":
                if not growing.signature:
                    return []
                return [ReasoningSeal(dialect=DIALECT, signature=growing.signature)]
            case "tool_use":
                # A server that sends the arguments with the block's start sends no deltas.
                whole = "" if growing.arguments else bytes(growing.content.input).decode()
                return [ToolArgumentsDelta(index=growing.tool_index, text=whole)] if whole else []
            case _:
                return self._opaque(growing)

    def _opaque(self, growing: _Growing) -> list[Piece]:
        value = msgspec.json.decode(growing.raw)
        if growing.arguments:
            try:
                value["input"] = msgspec.json.decode("".join(growing.arguments))
            except (msgspec.DecodeError, RecursionError):
                raise malformed("a block whose input is not JSON") from None
        return [OpaqueBlock(dialect=DIALECT, value=value)]

    def _finish(self, said: _Event) -> list[Piece]:
        pieces = self._count(said.usage)
        delta = said.delta
        if delta is not None and delta.stop_reason is not None and not self._finished:
            self._finished = True
            pieces.append(finish(delta.stop_reason, delta.stop_sequence))
        return pieces

    def _count(self, counts: Counts | None) -> list[Piece]:
        if counts is not None:
            self._meter.add(counts)
        usage = self._meter.usage() if counts is not None else None
        return [] if usage is None else [UsageReport(usage=usage)]


class Encoder:
    """Turns pieces into a Messages stream (core.codec.StreamEncoder).

    Nothing is said before the first content, so that message_start tells all that was known by then.
    """

    def __init__(self, call: Call, request_id: str) -> None:
        self._head = Head(call, request_id)
        self._blocks = Blocks()
        self._request_id = request_id
        self._started = False

    def feed(self, pieces: Iterable[Piece]) -> bytes:
        """The events that these pieces make possible."""
        said: list[bytes] = []
        for piece in pieces:
            self._head.note(piece)
            for event in self._blocks.feed(piece):
                said += (self._start(), _encode(event))
        return b"".join(said)

    def close(self) -> bytes:
        """The end of every block, then message_delta and message_stop."""
        said = self._start() + b"".join(_encode(event) for event in self._blocks.close())
        ending = {
            "type": "message_delta",
            "delta": self._head.ending(self._blocks.called_tools),
            "usage": usage_json(self._head.usage),
        }
        return said + _encode(ending) + _encode({"type": "message_stop"})

    def error(self, error: IsthmusError) -> bytes:
        """The `error` event, after which Anthropic's clients expect nothing."""
        return stream_error(error, self._request_id)

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = self._head.message([]) | {"usage": usage_json(self._head.usage)}
        return _encode({"type": "message_start", "message": message})


def _encode(event: dict[str, Any]) -> bytes:
    return sse.encode(event["type"], msgspec.json.encode(event))


class Watch(EventWatch):
    """Watches a passed-through Messages stream (core.codec.Watch)."""

    # Few and short: each is a search of every read.
    MARKS = (b'"message_', b"error")

    def __init__(self) -> None:
        super().__init__()
        self._meter = Meter()

    def _note(self, event: sse.Event) -> None:
        if event.event == "error":
            raise decode_stream_error(event.data)
        self._read(_read(event.data), event.data)

    def _read(self, said: _Event, data: bytes) -> None:
        reading = self.reading
        match said.type:
            case "message_start" if said.message is not None:
                self._count(said.message.usage)
            case "content_block_start":
                reading.committed = reading.committed or not _is_empty(said.content_block)
            case "content_block_delta":
                reading.committed = True
            case "message_delta":
                self._count(said.usage)
                if said.delta is not None and said.delta.stop_reason is not None:
                    reading.committed = True
                    reading.finish_raw = said.delta.stop_reason
                    reading.finish = finish_reason(said.delta.stop_reason)
            case "message_stop":
                reading.committed = reading.ended = True
            case "error":
                raise decode_stream_error(data)

    def _count(self, counts: Counts | None) -> None:
        if counts is not None:
            self._meter.add(counts)
            self.reading.usage = self._meter.usage()


def _is_empty(raw: msgspec.Raw) -> bool:
    """Whether a block begins without content: text and thinking only come with their deltas."""
    content = read_content(raw)
    return content.type in ("text", "thinking") and not content.text + content.thinking
