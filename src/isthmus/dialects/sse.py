"""Server-sent events as bytes: split, measured and written, however the network cut them.

Source: the WHATWG HTML standard, "Server-sent events", sections 9.2.5 (parsing) and 9.2.6 (interpreting).
Only `event` and `data` matter to the dialects; `id`, `retry` and comments are read over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.faults import malformed

MAX_EVENT_BYTES = 16 * 1024 * 1024
MAX_STRAY_BYTES = 64 * 1024

_BOM = b"\xef\xbb\xbf"
# Atomic groups: a lone CRLF is one line end and must not be read as CR and then LF.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


class Event(msgspec.Struct, frozen=True):
    """One event: its name ("" where none was given), and its data with lines joined by LF."""

    event: str
    data: bytes

    @property
    def is_whole(self) -> bool:
        """True for JSON to its end: of a stream's last bytes, an event that lacks only its blank line, and
        False for half an event, which is the cut itself."""
        try:
            msgspec.json.decode(self.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def value(self) -> dict[str, Any]:
        """The data as a JSON object; raises IsthmusError(MALFORMED_ANSWER) where it is none."""
        try:
            value = msgspec.json.decode(self.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise malformed("a stream event that is not JSON in UTF-8") from None
        if not isinstance(value, dict):
            raise malformed("a stream event that is not a JSON object")
        return value


class Splitter:
    """Cuts a stream into events; the same bytes give the same events however they are chunked.

    `stray` keeps the first lines that are no field of an event stream (at most 64 KiB): an HTML page or a
    JSON error that came where a stream was expected. An event longer than `limit` bytes raises
    IsthmusError(MALFORMED_ANSWER), once the events before it were handed out.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self.stray = b""
        self._limit = limit
        self._pending = bytearray()
        self._at_start = True
        self._after_cr = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        searched = len(self._pending)
        self._pending += self._with_line_feeds(data)
        if self._at_start and not self._skip_bom():
            return []
        end = self._pending.rfind(b"\n\n", max(0, searched - 1))
        if end < 0:
            _bound(len(self._pending), self._limit)
            return []
        whole = bytes(self._pending[: end + 1])
        del self._pending[: end + 2]
        return self._events(whole)

    def close(self) -> list[Event]:
        """The event that the end of the stream left without its blank line, if any.

        The standard discards it; it is handed out here so that a dialect can accept a last `[DONE]` without
        one.
        """
        rest = bytes(self._pending)
        self._pending.clear()
        return self._events(rest)

    def _with_line_feeds(self, data: bytes) -> bytes:
        """`data` with CR and CRLF as LF, also where a CRLF was cut in two."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" not in data:
            return data
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _skip_bom(self) -> bool:
        """False while the first bytes may still become a byte order mark."""
        head = bytes(self._pending[:3])
        if len(head) < 3 and _BOM.startswith(head):
            return False
        if head == _BOM:
            del self._pending[:3]
        self._at_start = False
        return True

    def _events(self, whole: bytes) -> list[Event]:
        events: list[Event] = []
        blocks = whole.split(b"\n\n")
        for position, block in enumerate(blocks):
            if len(block) > self._limit and events:
                # Keep the oversized block in front: the next call meets it first and raises.
                self._pending[:0] = b"\n\n".join(blocks[position:]) + b"\n\n"
                return events
            _bound(len(block), self._limit)
            event = _interpret(block)
            if event is not None:
                events.append(event)
            elif len(self.stray) < MAX_STRAY_BYTES:
                self.stray = (self.stray + _foreign(block))[:MAX_STRAY_BYTES]
        return events


def _bound(size: int, limit: int) -> None:
    if size > limit:
        raise IsthmusError(
            Fault.MALFORMED_ANSWER,
            f"The provider sent a stream event of more than {limit} bytes.",
            code="event_too_large",
            hint="Ask for a shorter answer, or look at what the endpoint really sends.",
        )


def _interpret(block: bytes) -> Event | None:
    """The event that the lines of `block` (LF between them) mean; None for comments and foreign lines."""
    if block.startswith(b"data: ") and block.find(b"\n", 0, -1) < 0:
        return Event("", block[6:].rstrip(b"\n"))
    name, data = "", None
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data = value if data is None else data + b"\n" + value
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return None if data is None else Event(name, data)


def _foreign(block: bytes) -> bytes:
    """The lines of `block` that are neither a field nor a comment of an event stream, nor the beginning of
    one."""
    return b"".join(line + b"\n" for line in block.split(b"\n") if not _may_be_field(line.partition(b":")[0]))


def _may_be_field(name: bytes) -> bool:
    return any(known.startswith(name) for known in (b"data", b"event", b"retry", b"id"))


def whole_events(buffer: bytes) -> int:
    """The length of the longest prefix of `buffer` that ends with a complete event; 0 where there is none.

    A CR at the very end that follows an LF is taken for half a CRLF: the event waits for the other half.
    """
    end = buffer.rfind(b"\n\n")
    end = end + 2 if end >= 0 else 0
    if b"\r" not in buffer:
        return end
    for blank, searched in ((b"\n\r", len(buffer) - 1), (b"\r\r", len(buffer))):
        found = buffer.rfind(blank, 0, searched)
        if found >= 0:
            after = found + 2
            end = max(end, after + 1 if buffer[after : after + 1] == b"\n" else after)
    return end


class Gatherer:
    """Cuts a stream behind its whole events, and keeps the rest until it is whole.

    Each byte is searched once, however many reads an event takes. A rest longer than `limit` bytes raises
    IsthmusError(MALFORMED_ANSWER).
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` completes, as they came."""
        # A blank line takes up to 3 bytes, and at least one of them is new.
        end = whole_events(self._tail + data) - len(self._tail) if self._tail else whole_events(data)
        whole = b""
        if end > 0 or (end == 0 and self._tail):
            whole = b"".join((*self._parts, data[:end])) if self._parts else data[:end]
            self._parts.clear()
            self._size, self._tail = 0, b""
            data = data[end:]
        if data:
            self._parts.append(data)
            self._size += len(data)
            self._tail = (self._tail + data[-2:])[-2:]
            _bound(self._size, self._limit)
        return whole

    def close(self) -> bytes:
        """What was left without its blank line."""
        rest = b"".join(self._parts)
        self._parts.clear()
        self._size, self._tail = 0, b""
        return rest


def marked(block: bytes, start: int, marks: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Where those events of `block` begin and end, from `start` on, that hold one of `marks`.

    Found by byte search: the events between are never looked at one by one.
    """
    # CPython's `rfind` is the faster one, and mostly there is nothing to find.
    found = {mark: block.find(mark, start) for mark in marks if block.rfind(mark, start) >= 0}
    while found:
        begin = start + whole_events(block[start : min(found.values())])
        start = end_of_event(block, begin)
        yield begin, start
        found = {
            mark: later
            for mark, at in found.items()
            if (later := at if at >= start else block.find(mark, start)) >= 0
        }


def end_of_event(block: bytes, start: int) -> int:
    """Where the event that begins at `start` ends, its blank line included; the end where it has none."""
    end = block.find(b"\n\n", start)
    if end >= 0 and block.find(b"\r", start, end) < 0:
        return end + 2
    match = _BLANK_LINE.search(block, start)
    return match.end() if match else len(block)


def parse(block: bytes) -> list[tuple[bytes, Event | None]]:
    """The events of `block`, each beside its own bytes (blank line included), so that one can be left out.

    The bytes joined give `block` again. None stands for a comment. A last event without its blank line is
    read too.
    """
    parsed: list[tuple[bytes, Event | None]] = []
    start = 0
    while start < len(block):
        end = end_of_event(block, start)
        raw = block[start:end]
        start = end
        lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in raw else raw
        parsed.append((raw, _interpret(lines.removeprefix(_BOM).rstrip(b"\n"))))
    return parsed


def encode(event: str | None, data: bytes) -> bytes:
    """One event as bytes, with its name where it has one; each line of `data` becomes a `data` field."""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
    if event:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return b"data: %b\n\n" % data
