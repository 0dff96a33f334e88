"""Pieces into output items: what a Responses client receives, streamed or whole.

Every item is told by the same events, in the order that the vendor keeps: added, parts, deltas, done. A whole
answer is made of the items that those events describe, so that it cannot differ from the stream.

Reasoning of other dialects travels as reasoning items whose `encrypted_content` wraps the foreign seal (see
`seals`): a client returns it unchanged, and it reaches its own dialect byte for byte.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

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
from isthmus.dialects.arguments import is_object
from isthmus.dialects.faults import malformed
from isthmus.dialects.responses.decode_call import DIALECT

Json = dict[str, Any]
Status = Literal["completed", "incomplete"]


class _Item:
    """One output item while it grows; `item` is what it has become once `end` was called."""

    def __init__(self, index: int, item: Json) -> None:
        self.index = index
        self.item = item
        self.open = True

    def added(self) -> Json:
        """The event that announces it."""
        return {"type": "response.output_item.added", "output_index": self.index, "item": dict(self.item)}

    def end(self, status: Status) -> list[Json]:
        """The events that complete it."""
        self.open = False
        return [{"type": "response.output_item.done", "output_index": self.index, "item": self.item}]

    def event(self, kind: str, **fields: Any) -> Json:
        """An event about a part of it."""
        place = {"item_id": self.item["id"], "output_index": self.index}
        return {"type": f"response.{kind}", **place, **fields}


class _Thought(_Item):
    """A reasoning item: one part of summary, and its seal."""

    def __init__(self, index: int, identity: str) -> None:
        super().__init__(index, {"id": identity, "type": "reasoning", "summary": []})
        self.encrypted: str | None = seals.wrap(seals.Seal())
        self._texts: list[str] = []

    def grow(self, text: str) -> list[Json]:
        begun = [] if self._texts else [self._part_event("added", "")]
        self._texts.append(text)
        return [*begun, self.event("reasoning_summary_text.delta", summary_index=0, delta=text)]

    def end(self, status: Status) -> list[Json]:
        events: list[Json] = []
        if self._texts:
            text = "".join(self._texts)
            self.item["summary"] = [{"type": "summary_text", "text": text}]
            done = self.event("reasoning_summary_text.done", summary_index=0, text=text)
            events = [done, self._part_event("done", text)]
        if self.encrypted is not None:
            self.item["encrypted_content"] = self.encrypted
        return events + super().end(status)

    def _part_event(self, ending: str, text: str) -> Json:
        part = {"type": "summary_text", "text": text}
        return self.event(f"reasoning_summary_part.{ending}", summary_index=0, part=part)


class _Message(_Item):
    """A message: parts of text and refusal, the last of which grows."""

    def __init__(self, index: int, identity: str) -> None:
        head = {"id": identity, "type": "message", "status": "in_progress", "role": "assistant"}
        super().__init__(index, {**head, "content": []})
        self._content: list[Json] = []
        self._kind = ""
        self._texts: list[str] = []
        self._logprobs: list[Json] = []
        self._annotations: list[Json] = []

    def say(self, text: str, logprobs: list[Json]) -> list[Json]:
        events = self._turn_to("output_text")
        self._texts.append(text)
        self._logprobs += logprobs
        delta = self.event("output_text.delta", content_index=self._at, delta=text, logprobs=logprobs)
        return [*events, delta]

    def refuse(self, text: str) -> list[Json]:
        events = self._turn_to("refusal")
        self._texts.append(text)
        return [*events, self.event("refusal.delta", content_index=self._at, delta=text)]

    def annotate(self, annotation: Any) -> list[Json]:
        events = self._turn_to("output_text")
        place = {"content_index": self._at, "annotation_index": len(self._annotations)}
        self._annotations.append(annotation)
        return [*events, self.event("output_text.annotation.added", **place, annotation=annotation)]

    def end(self, status: Status) -> list[Json]:
        events = self._end_part()
        self.item |= {"status": status, "content": self._content}
        return events + super().end(status)

    @property
    def _at(self) -> int:
        return len(self._content)

    def _turn_to(self, kind: str) -> list[Json]:
        """Ends the part that grew, where it is of another kind, and begins one of this kind."""
        if self._kind == kind:
            return []
        events = self._end_part()
        self._kind = kind
        part = self.event("content_part.added", content_index=self._at, part=self._part())
        return [*events, part]

    def _end_part(self) -> list[Json]:
        if not self._kind:
            return []
        part = self._part()
        if self._kind == "refusal":
            done = self.event("refusal.done", content_index=self._at, refusal=part["refusal"])
        else:
            said = {"text": part["text"], "logprobs": part["logprobs"]}
            done = self.event("output_text.done", content_index=self._at, **said)
        events = [done, self.event("content_part.done", content_index=self._at, part=part)]
        self._content.append(part)
        self._kind, self._texts, self._logprobs, self._annotations = "", [], [], []
        return events

    def _part(self) -> Json:
        text = "".join(self._texts)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        beside = {"annotations": self._annotations, "logprobs": self._logprobs}
        return {"type": "output_text", "text": text, **beside}


class _Call(_Item):
    """A function call."""

    def __init__(self, index: int, identity: str, start: ToolCallStart) -> None:
        item = {"id": identity, "type": "function_call", "status": "in_progress", "call_id": start.id}
        super().__init__(index, {**item, "name": start.name, "arguments": ""})
        self._arguments: list[str] = []

    def grow(self, text: str) -> list[Json]:
        self._arguments.append(text)
        return [self.event("function_call_arguments.delta", delta=text)]

    def is_whole(self) -> bool:
        """Whether the arguments so far are a whole JSON object."""
        ended = bool(self._arguments) and self._arguments[-1].rstrip().endswith("}")
        return ended and is_object("".join(self._arguments))

    def end(self, status: Status) -> list[Json]:
        arguments = "".join(self._arguments)
        self.item |= {"status": status, "arguments": arguments}
        done = self.event("function_call_arguments.done", name=self.item["name"], arguments=arguments)
        return [done, *super().end(status)]


class Output:
    """Arranges the pieces of an answer's first choice into items, in order of their appearance.

    Choices beyond the first do not exist for a Responses client, who cannot ask for them. Ids are made of
    `suffix` and the item's index. A text or a thought is complete when another item begins; a tool call is,
    when its arguments are a JSON object, so that calls may grow in turns.
    """

    def __init__(self, suffix: str, logprobs: bool) -> None:
        self.refused = False
        self._suffix = suffix
        self._logprobs = logprobs
        self._items: list[_Item] = []
        self._calls: dict[int, _Call] = {}

    @property
    def items(self) -> list[Json]:
        """The items so far, as they are known."""
        return [item.item for item in self._items]

    def feed(self, piece: Piece) -> list[Json]:
        """The events that a piece makes possible."""
        if getattr(piece, "choice", 0) != 0:
            return []
        match piece:
            case TextDelta() if piece.text or piece.logprobs:
                logprobs = [_logprob(one) for one in piece.logprobs or ()] if self._logprobs else []
                message, events = self._message()
                return events + message.say(piece.text, logprobs)
            case RefusalDelta() if piece.text:
                self.refused = True
                message, events = self._message()
                return events + message.refuse(piece.text)
            case ReasoningDelta() if piece.text:
                thought, events = self._thought()
                return events + thought.grow(piece.text)
            case ReasoningSeal():
                return self._seal(piece)
            case ToolCallStart():
                return self._start_call(piece)
            case ToolArgumentsDelta() if piece.text:
                call = self._calls.get(piece.index)
                # A call that is done was a whole object, which only white space can follow.
                return call.grow(piece.text) if call is not None and call.open else []
            case OpaqueBlock(dialect="responses", value=dict(value)):
                return self._opaque(value)
        return []

    def close(self, status: Status) -> list[Json]:
        """The events that complete what is still open, with the status of the whole answer."""
        return [event for item in self._items if item.open for event in item.end(status)]

    def _message(self) -> tuple[_Message, list[Json]]:
        last = self._items[-1] if self._items else None
        if isinstance(last, _Message) and last.open:
            return last, []
        message = _Message(len(self._items), self._id("msg"))
        return message, self._begin(message)

    def _thought(self) -> tuple[_Thought, list[Json]]:
        last = self._items[-1] if self._items else None
        if isinstance(last, _Thought) and last.open:
            return last, []
        thought = _Thought(len(self._items), self._id("rs"))
        return thought, self._begin(thought)

    def _seal(self, seal: ReasoningSeal) -> list[Json]:
        thought, events = self._thought()
        own = seal.dialect == DIALECT
        if own and events and seal.id:
            thought.item["id"] = seal.id
            events[-1]["item"]["id"] = seal.id
        wrapped = seals.Seal(seal.dialect, seal.signature, seal.encrypted, seal.id)
        thought.encrypted = seal.encrypted if own else seals.wrap(wrapped)
        return events + thought.end("completed")

    def _start_call(self, start: ToolCallStart) -> list[Json]:
        events: list[Json] = []
        if start.signature is not None:
            # Not the gateway's to know which dialect issued it: only Gemini signs tool calls.
            sign = _Thought(len(self._items), self._id("rs"))
            sign.encrypted = seals.wrap(seals.Seal("gemini", start.signature, tool=True))
            events = self._begin(sign) + sign.end("completed")
        call = self._calls[start.index] = _Call(len(self._items), self._id("fc"), start)
        return events + self._begin(call)

    def _opaque(self, value: Json) -> list[Json]:
        if "annotation" in value:
            message, events = self._message()
            return events + message.annotate(value["annotation"])
        item = _Item(len(self._items), value)
        return self._begin(item) + item.end("completed")

    def _begin(self, item: _Item) -> list[Json]:
        events = [
            event
            for earlier in self._items
            if earlier.open and (not isinstance(earlier, _Call) or earlier.is_whole())
            for event in earlier.end("completed")
        ]
        self._items.append(item)
        return [*events, item.added()]

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}_{len(self._items)}"


class _Token(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Logprob(_Token):
    top_logprobs: list[_Token] | None = None


def _logprob(entry: Any) -> Json:
    """A token's log-probability; Chat Completions may leave out the bytes and the alternatives."""
    try:
        said = msgspec.convert(entry, _Logprob)
    except msgspec.ValidationError:
        raise malformed("log-probabilities of a wrong form") from None
    return _token(said) | {"top_logprobs": [_token(one) for one in said.top_logprobs or ()]}


def _token(said: _Token) -> Json:
    spelled = list(said.token.encode("utf-8", "surrogatepass")) if said.bytes is None else said.bytes
    return {"token": said.token, "logprob": said.logprob, "bytes": spelled}
