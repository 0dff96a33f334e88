"""Streams of the Responses API: decoded into pieces, encoded from pieces, and watched while they pass
through.

Source: developers.openai.com/api/reference/resources/responses/streaming-events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects import sse
from isthmus.dialects.faults import broken_stream, malformed, not_a_stream
from isthmus.dialects.responses.answer import (
    ABSENT,
    Ending,
    Head,
    ItemReader,
    Kind,
    ending_of,
    finish_of,
    read_output,
    read_usage,
    reported_usage,
    start_of,
)
from isthmus.dialects.responses.errors import decode_failure, error_event
from isthmus.dialects.watching import EventWatch

_OPENINGS = ("response.created", "response.in_progress", "response.queued")
_ENDINGS = ("response.completed", "response.incomplete", "response.failed")
# Texts that come in deltas: their kind, the field that numbers them, and the one that holds the whole.
_TEXTS = {
    "response.output_text": ("text", "content_index", "text"),
    "response.refusal": ("refusal", "content_index", "refusal"),
    "response.reasoning_text": ("thought", "content_index", "text"),
    "response.reasoning_summary_text": ("summary", "summary_index", "text"),
    "response.function_call_arguments": ("arguments", "", "arguments"),
}

_encode = msgspec.json.Encoder().encode


class ResponsesStreamDecoder:
    """Turns a stream into pieces (core.codec.StreamDecoder).

    Items are known by their index and their id: servers that give every item one index, or an item a new id
    in every event, are understood. The stream has ended well with response.completed or response.incomplete.
    """

    def __init__(self) -> None:
        self.salvage: list[Piece] = []
        self._splitter = sse.Splitter()
        self._by_index: dict[int, ItemReader] = {}
        self._by_id: dict[str, ItemReader] = {}
        self._readers: list[ItemReader] = []
        self._tools = 0
        self._started = False
        self.ended = False

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        self.salvage = []
        return self._read(self._splitter.feed(data))

    def close(self) -> list[Piece]:
        """The last pieces; raises BROKEN_STREAM where the terminal event is missing."""
        self.salvage = []
        self._read([event for event in self._splitter.close() if event.is_whole])
        if self._splitter.stray and not self._started:
            raise not_a_stream(self._splitter.stray)
        if not self.ended:
            raise broken_stream()
        return self.salvage

    def _read(self, events: list[sse.Event]) -> list[Piece]:
        for event in events:
            if not self.ended and event.data.strip() not in (b"[DONE]", b""):
                self.salvage += self._decode(event)
        return self.salvage

    def _decode(self, event: sse.Event) -> list[Piece]:
        said = event.value()
        kind = said.get("type") or event.event
        if kind == "error" or ("error" in said and "type" not in said):
            raise decode_failure(event.data)
        if not isinstance(kind, str):
            raise malformed("a stream event without a type")
        if kind in _OPENINGS:
            return self._start(said)
        if kind in _ENDINGS:
            return self._finish(said, kind)
        match kind:
            case "response.output_item.added":
                return self._begin(said)
            case "response.output_item.done":
                return self._reader(said).end(_item(said))
            case "response.output_text.annotation.added":
                part = _number(said, "content_index")
                return self._reader(said).annotate(part, said.get("annotation"))
        text, _, ending = kind.rpartition(".")
        return self._text(said, _TEXTS[text], ending) if text in _TEXTS else []

    def _text(self, said: dict[str, Any], form: tuple[str, str, str], ending: str) -> list[Piece]:
        kind, numbered, whole = form
        reader, part = self._reader(said), _number(said, numbered)
        if ending == "delta":
            return reader.say(kind, part, said.get("delta"), said.get("logprobs"))
        return reader.complete(kind, part, said.get(whole), said.get("logprobs"))

    def _start(self, said: dict[str, Any]) -> list[Piece]:
        if self._started:
            return []
        self._started = True
        return [start_of(_response(said))]

    def _begin(self, said: dict[str, Any]) -> list[Piece]:
        item = _item(said)
        known = self._by_id.get(str(item.get("id")))
        if known is not None:
            return known.begin(item)
        reader = self._new_reader(said, item.get("id"))
        self._tools += item.get("type") == "function_call"
        return reader.begin(item)

    def _reader(self, said: dict[str, Any]) -> ItemReader:
        """The item that an event is about, by its id where that is known, else by its index."""
        item = said.get("item")
        identity = item.get("id") if isinstance(item, dict) else said.get("item_id")
        known = self._by_id.get(str(identity))
        if known is not None:
            return known
        known = self._by_index.get(_number(said, "output_index"))
        if known is not None and not known.done:
            return known
        reader = self._new_reader(said, identity)
        self._tools += isinstance(item, dict) and item.get("type") == "function_call"
        return reader

    def _new_reader(self, said: dict[str, Any], identity: Any) -> ItemReader:
        reader = ItemReader(self._tools)
        self._readers.append(reader)
        self._by_index[_number(said, "output_index")] = reader
        if isinstance(identity, str):
            self._by_id[identity] = reader
        return reader

    def _finish(self, said: dict[str, Any], kind: str) -> list[Piece]:
        response = _response(said)
        pieces = self._start(said)
        ending = ending_of({"status": kind.removeprefix("response."), **response})
        self.ended = True
        output = response.get("output")
        if not self._readers and isinstance(output, list):
            pieces += read_output([item for item in output if isinstance(item, dict)])
        pieces.append(finish_of(ending, any(reader.calls for reader in self._readers)))
        return pieces + reported_usage(ending)


def _number(said: dict[str, Any], field: str) -> int:
    value = said.get(field)
    return value if isinstance(value, int) else 0


def _item(said: dict[str, Any]) -> dict[str, Any]:
    item = said.get("item")
    if not isinstance(item, dict):
        raise malformed("an output item that is not an object")
    return item


def _response(said: dict[str, Any]) -> dict[str, Any]:
    response = said.get("response")
    if not isinstance(response, dict):
        raise malformed("a response that is not an object")
    return response


class ResponsesStreamEncoder:
    """Turns pieces into typed events (core.codec.StreamEncoder), numbered from 0.

    Nothing is said before the first content, so that response.created tells all that was known by then.
    """

    def __init__(self, call: Call, request_id: str, created: int) -> None:
        self._head = Head(call, request_id, created)
        self._output = self._head.output()
        self._request_id = request_id
        self._number = 0

    def feed(self, pieces: Iterable[Piece]) -> bytes:
        """The events that say `pieces`."""
        said = b""
        for piece in pieces:
            if self._head.note(piece):
                continue
            for event in self._output.feed(piece):
                said += self._start() + self._event(event)
        return said

    def close(self) -> bytes:
        """The end of every item, and response.completed or response.incomplete."""
        said = self._start()
        status = self._head.status(self._output.refused)
        said += b"".join([self._event(event) for event in self._output.close(status)])
        return said + self._event({"type": f"response.{status}", "response": self._head.ended(self._output)})

    def error(self, error: IsthmusError) -> bytes:
        """An `error` event, at which the official client raises, and response.failed for those who wait for
        an end."""
        said = self._start()
        failed = {"type": "response.failed", "response": self._head.failed(self._output, error)}
        said += error_event(error, self._request_id, self._number)
        self._number += 1
        return said + self._event(failed)

    def _start(self) -> bytes:
        if self._number:
            return b""
        response = self._head.begun()
        created = self._event({"type": "response.created", "response": response})
        return created + self._event({"type": "response.in_progress", "response": response})

    def _event(self, event: dict[str, Any]) -> bytes:
        numbered = {"type": event["type"], "sequence_number": self._number, **event}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode(numbered))


class _Glance(msgspec.Struct):
    """What a watch reads of an event."""

    type: str = ""
    item: Kind | None = None
    response: Ending | None = None
    error: msgspec.Raw = ABSENT


_glance = msgspec.json.Decoder(_Glance).decode
_BARE = ("message", "reasoning")


class ResponsesWatch(EventWatch):
    """Watches a passed-through stream (core.codec.Watch)."""

    MARKS = (*(kind.encode() for kind in _ENDINGS), b"error")

    def _note(self, event: sse.Event) -> None:
        reading, data = self.reading, event.data.strip()
        if data in (b"[DONE]", b""):
            return
        try:
            glance = _glance(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise malformed("a stream event that is not one of the Responses API") from None
        kind = glance.type or event.event
        if kind == "error" or (not kind and bytes(glance.error) != b"null"):
            raise decode_failure(data)
        if kind in _ENDINGS:
            self._end(kind, glance.response or Ending(), data)
        elif not reading.committed:
            reading.committed = _says_something(kind, glance.item)

    def _end(self, kind: str, ending: Ending, data: bytes) -> None:
        reading = self.reading
        ending.status = ending.status or kind.removeprefix("response.")
        if ending.failed:
            raise decode_failure(data)
        finish = finish_of(ending)
        reading.finish, reading.finish_raw = finish.reason, finish.raw
        reading.usage = read_usage(ending)
        reading.committed = reading.ended = True


def _says_something(kind: str, item: Kind | None) -> bool:
    """True for the first content: a text, a tool's call or any item but an empty message or thought."""
    if item is not None:
        return kind.endswith(".done") or item.type not in _BARE
    return kind.endswith((".delta", "_text.done", "refusal.done", "arguments.done"))
