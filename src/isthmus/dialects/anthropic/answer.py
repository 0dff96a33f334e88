"""Whole answers of Messages: a body into pieces, pieces into a body, and a body read in passing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call
from isthmus.core.codec import Reading
from isthmus.core.pieces import (
    Finish,
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
from isthmus.core.usage import Usage
from isthmus.dialects.anthropic.blocks import Blocks, fold
from isthmus.dialects.anthropic.decode import DIALECT
from isthmus.dialects.anthropic.usage import Counts, finish_reason, stop_reason, usage_json, usage_of
from isthmus.dialects.faults import malformed, not_an_answer


class Content(msgspec.Struct):
    """One content block of an answer, with the fields of all blocks that have a canonical form."""

    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    citations: list[Any] | None = None


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Counts | None = None


class _Ending(msgspec.Struct):
    type: str = ""
    stop_reason: str | None = None
    usage: Counts | None = None


_MESSAGE = msgspec.json.Decoder(_Message)
_ENDING = msgspec.json.Decoder(_Ending)
_CONTENT = msgspec.json.Decoder(Content)


def decode_answer(body: bytes) -> list[Piece]:
    """The pieces of a Message; raises IsthmusError(MALFORMED_ANSWER), or the error that a 200 may hide."""
    try:
        message = _MESSAGE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise not_an_answer(body) from None
    if message.content is None:
        raise not_an_answer(body)
    pieces: list[Piece] = [Start(id=message.id, model=message.model)]
    tools = 0
    for raw in message.content:
        block = read_content(raw)
        pieces += pieces_of(block, raw, tools)
        tools += block.type == "tool_use"
    usage = usage_of(message.usage)
    if usage is not None:
        pieces.append(UsageReport(usage=usage))
    pieces.append(finish(message.stop_reason, message.stop_sequence))
    return pieces


def finish(word: str | None, stop_sequence: str | None) -> Finish:
    """The end of an answer, in canonical form."""
    reason = "other" if word is None else finish_reason(word)
    return Finish(reason=reason, raw=word, stop_sequence=stop_sequence)


def read_content(raw: msgspec.Raw) -> Content:
    """A content block; raises IsthmusError(MALFORMED_ANSWER)."""
    try:
        return _CONTENT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("a content block that is no Anthropic one", bytes(raw)) from None


def pieces_of(block: Content, raw: msgspec.Raw, tool_index: int) -> list[Piece]:
    """The pieces of a whole content block; `raw` is kept for blocks without a canonical form."""
    match block.type:
        case "text":
            said: list[Piece] = [TextDelta(text=block.text)] if block.text else []
            return said + [citation(one) for one in block.citations or ()]
        case "thinking":
            thought: list[Piece] = [ReasoningDelta(text=block.thinking)] if block.thinking else []
            if block.signature:
                thought.append(ReasoningSeal(dialect=DIALECT, signature=block.signature))
            return thought
        case "redacted_thinking":
            return [ReasoningSeal(dialect=DIALECT, encrypted=block.data)]
        case "tool_use":
            start = ToolCallStart(index=tool_index, id=block.id, name=block.name)
            # The bytes of the object itself, so that no number is rounded on its way.
            return [start, ToolArgumentsDelta(index=tool_index, text=bytes(block.input).decode())]
        case _:
            return [OpaqueBlock(dialect=DIALECT, value=msgspec.json.decode(raw))]


def citation(value: Any) -> OpaqueBlock:
    """A source of the text before it: only an Anthropic client has a place for it."""
    return OpaqueBlock(dialect=DIALECT, value={"type": "citations_delta", "citation": value})


def encode_answer(pieces: Iterable[Piece], call: Call, request_id: str) -> bytes:
    """The body of a Message."""
    blocks = Blocks()
    events: list[dict[str, Any]] = []
    head = Head(call, request_id)
    for piece in pieces:
        head.note(piece)
        events += blocks.feed(piece)
    events += blocks.close()
    message = head.message(fold(events)) | head.ending(blocks.called_tools)
    return msgspec.json.encode(message | {"usage": usage_json(head.usage)})


class Head:
    """What an answer says beside its content: id, model, end and usage."""

    def __init__(self, call: Call, request_id: str) -> None:
        self.usage = Usage()
        self._id = f"msg_{request_id.removeprefix('req_')}"
        self._model = call.model
        self._finish: Finish | None = None

    def note(self, piece: Piece) -> None:
        """Takes in a piece that is not content."""
        match piece:
            case Start():
                self._id = piece.id if piece.id.startswith("msg_") else self._id
                self._model = piece.model or self._model
            case UsageReport():
                self.usage = piece.usage
            case Finish() if piece.choice == 0:
                self._finish = piece

    def message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The Message around its content, without an end."""
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def ending(self, called_tools: bool) -> dict[str, Any]:
        """Why the answer ended."""
        end = self._finish
        if end is None:
            return {"stop_reason": None, "stop_sequence": None}
        return {"stop_reason": stop_reason(end, called_tools), "stop_sequence": end.stop_sequence}


def read_answer(body: bytes) -> Reading:
    """Usage and end of a passed-through Message; an error that a 200 hides stands in `error`."""
    try:
        ending = _ENDING.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Reading(error=not_an_answer(body))
    if ending.type != "message":
        return Reading(error=not_an_answer(body))
    reason = None if ending.stop_reason is None else finish_reason(ending.stop_reason)
    return Reading(
        committed=True,
        ended=True,
        usage=usage_of(ending.usage),
        finish=reason,
        finish_raw=ending.stop_reason,
    )
