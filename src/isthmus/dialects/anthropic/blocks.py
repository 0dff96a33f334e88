"""Pieces into content blocks: what an Anthropic client receives, streamed or whole.

A Messages stream has one block open at a time, while other dialects may send the arguments of parallel tool
calls in turns. A block waits until the one before it is complete; a tool call is, when its arguments are a
JSON object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from isthmus.core.pieces import (
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    ReasoningSeal,
    RefusalDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from isthmus.dialects import seals
from isthmus.dialects.anthropic.decode import DIALECT
from isthmus.dialects.anthropic.encode import tool_id
from isthmus.dialects.arguments import as_object, is_object

Json = dict[str, Any]


class Block:
    """One content block, and its deltas that were not handed out yet.

    `tool` is the index of the tool call that the block holds. `complete` blocks grow no more.
    """

    def __init__(self, start: Json, tool: int | None = None) -> None:
        self.start = start
        self.tool = tool
        self.deltas: list[Json] = []
        self.complete = False
        self._arguments: list[str] = []

    @property
    def kind(self) -> str:
        """The block's type, such as text or tool_use."""
        kind: str = self.start["type"]
        return kind

    def grow(self, delta: Json) -> None:
        """Adds a delta."""
        self.deltas.append(delta)
        if self.tool is not None:
            self._arguments.append(delta["partial_json"])

    def has_whole_arguments(self) -> bool:
        """Whether the arguments so far are a whole JSON object."""
        if not self._arguments or not self._arguments[-1].rstrip().endswith("}"):
            return False
        return is_object("".join(self._arguments))


class Blocks:
    """Arranges the pieces of an answer's first choice into blocks, in order of their appearance.

    Choices beyond the first do not exist for an Anthropic client, who cannot ask for them.
    """

    def __init__(self) -> None:
        self.called_tools = False
        self._queue: list[Block] = []
        self._begun = False
        self._index = 0

    def feed(self, piece: Piece) -> list[Json]:
        """The stream events that a piece makes possible."""
        match piece:
            case TextDelta() | RefusalDelta() if piece.choice == 0 and piece.text:
                self._open("text", {"text": ""}).grow({"type": "text_delta", "text": piece.text})
            case ReasoningDelta() if piece.choice == 0 and piece.text:
                block = self._open("thinking", {"thinking": "", "signature": ""})
                block.grow({"type": "thinking_delta", "thinking": piece.text})
            case ReasoningSeal() if piece.choice == 0:
                self._seal(piece)
            case ToolCallStart() if piece.choice == 0:
                self._start_tool(piece)
            case ToolArgumentsDelta() if piece.choice == 0 and piece.text:
                self._grow_tool(piece)
            case OpaqueBlock() if piece.choice == 0 and piece.dialect == DIALECT:
                self._opaque(piece.value)
            case _:
                return []
        return list(self._ready())

    def close(self) -> list[Json]:
        """The events that end every block."""
        for block in self._queue:
            self._finish(block)
        return list(self._ready())

    def _open(self, kind: str, fields: Json) -> Block:
        """The last block where it is of the kind, or else a new one."""
        last = self._queue[-1] if self._queue else None
        if last is not None and last.kind == kind and not last.complete:
            return last
        return self._append(Block({"type": kind} | fields))

    def _append(self, block: Block) -> Block:
        """Puts a block at the end; the one before is complete, unless it is a tool call that still grows."""
        last = self._queue[-1] if self._queue else None
        if last is not None and (last.tool is None or last.has_whole_arguments()):
            self._finish(last)
        self._queue.append(block)
        return block

    def _start_tool(self, call: ToolCallStart) -> None:
        self.called_tools = True
        if call.signature is not None:
            # Not the gateway's to know which dialect issued it: only Gemini signs tool calls.
            token = seals.wrap(seals.Seal(dialect="gemini", signature=call.signature, tool=True))
            self._append(Block({"type": "redacted_thinking", "data": token})).complete = True
        start = {"type": "tool_use", "id": tool_id(call.id), "name": call.name, "input": {}}
        self._append(Block(start, call.index))

    def _grow_tool(self, more: ToolArgumentsDelta) -> None:
        # A call that is gone was a whole object, which only white space can follow.
        for block in self._queue:
            if block.tool == more.index:
                block.grow({"type": "input_json_delta", "partial_json": more.text})

    def _seal(self, seal: ReasoningSeal) -> None:
        last = self._queue[-1] if self._queue else None
        thinking = last if last is not None and last.kind == "thinking" and not last.complete else None
        own = seal.dialect == DIALECT
        if own and seal.encrypted is not None:
            self._append(Block({"type": "redacted_thinking", "data": seal.encrypted})).complete = True
            return
        token = seals.Seal(seal.dialect, seal.signature, seal.encrypted, seal.id)
        signature = (seal.signature or "") if own else seals.wrap(token)
        if thinking is None and not own:
            self._append(Block({"type": "redacted_thinking", "data": signature})).complete = True
            return
        block = thinking or self._append(Block({"type": "thinking", "thinking": "", "signature": ""}))
        block.grow({"type": "signature_delta", "signature": signature})
        block.complete = True

    def _opaque(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        if value.get("type") == "citations_delta":
            self._open("text", {"text": ""}).grow(value)
        else:
            self._append(Block(value)).complete = True

    def _finish(self, block: Block) -> None:
        if block.kind == "thinking" and not block.complete:
            # The field is required; an empty seal says that nobody signed.
            block.grow({"type": "signature_delta", "signature": seals.wrap(seals.Seal())})
        block.complete = True

    def _ready(self) -> Iterable[Json]:
        while self._queue:
            block = self._queue[0]
            if len(self._queue) > 1 and not block.complete and block.has_whole_arguments():
                block.complete = True
            if not self._begun:
                self._begun = True
                start = {"type": "content_block_start", "index": self._index, "content_block": block.start}
                yield start
            for delta in block.deltas:
                yield {"type": "content_block_delta", "index": self._index, "delta": delta}
            block.deltas = []
            if not block.complete:
                return
            yield {"type": "content_block_stop", "index": self._index}
            self._queue.pop(0)
            self._begun = False
            self._index += 1


def fold(events: Iterable[Json]) -> list[Json]:
    """The content of a whole Message, out of the events that would have streamed it."""
    content: list[Json] = []
    arguments = ""
    for event in events:
        match event["type"]:
            case "content_block_start":
                content.append(dict(event["content_block"]))
                arguments = ""
            case "content_block_delta":
                arguments += _fold(content[-1], event["delta"])
            case _ if content[-1]["type"] == "tool_use":
                content[-1]["input"] = as_object(arguments)
    return content


def _fold(block: Json, delta: Json) -> str:
    """Adds a delta to its block; a part of a tool's arguments is handed back to be joined first."""
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case "input_json_delta":
            partial: str = delta["partial_json"]
            return partial
    return ""
