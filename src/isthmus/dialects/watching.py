"""What the watches over passed-through streams of typed events share (core.codec.Watch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from isthmus.core.codec import Reading
from isthmus.core.errors import IsthmusError
from isthmus.dialects import sse
from isthmus.dialects.faults import not_a_stream


class EventWatch(ABC):
    """Forwards a stream's bytes as they came, and reads only the events that matter.

    Until the first content every event is read and held back. After it, only events that hold one of `MARKS`
    are: those that can tell usage, an end or an error. What is between them is forwarded unread. A mark that
    a text happens to hold costs the reading of its event, and nothing else. Which events are read does not
    depend on how the network cut the stream.
    """

    MARKS: ClassVar[tuple[bytes, ...]]

    def __init__(self) -> None:
        self.reading = Reading()
        self._gatherer = sse.Gatherer()
        self._held: list[bytes] = []
        self._seen_event = False

    @abstractmethod
    def _note(self, event: sse.Event) -> None:
        """Takes one event into `reading`; raises the IsthmusError that it tells of."""

    def feed(self, data: bytes) -> bytes:
        """What may be forwarded now: whole events, up to one that tells of an error."""
        if self.reading.error is not None:
            return b""
        try:
            whole = self._gatherer.feed(data)
        except IsthmusError as error:
            self.reading.error = error
            return b""
        return self._look(whole) if whole else b""

    def close(self) -> bytes:
        """The last event, where it is whole and lacks only its blank line."""
        rest = self._gatherer.close()
        if self.reading.error is not None or self.reading.ended:
            return b""
        if any(event is not None and event.is_whole for _, event in sse.parse(rest)):
            last = self._look(rest)
            return last + b"\n\n" if last else b""
        if not self._seen_event:
            self.reading.error = page_error(b"".join(self._held) + rest)
        return b""

    def _look(self, whole: bytes) -> bytes:
        self._held.append(whole[: self._sound(whole)])
        if not self.reading.committed:
            return b""
        said = b"".join(self._held)
        self._held.clear()
        return said

    def _sound(self, whole: bytes) -> int:
        """How many bytes of `whole` precede an error."""
        at = 0
        while not self.reading.committed:
            if at == len(whole):
                return at
            end = sse.end_of_event(whole, at)
            if not self._reads(whole[at:end]):
                return at
            at = end
        for begin, end in sse.marked(whole, at, self.MARKS):
            if not self._reads(whole[begin:end]):
                return begin
        return len(whole)

    def _reads(self, raw: bytes) -> bool:
        """Reads one event; False where it tells of an error. What follows the end is not read."""
        try:
            for _, event in sse.parse(raw):
                if event is not None and not self.reading.ended:
                    self._seen_event = True
                    self._note(event)
        except IsthmusError as error:
            self.reading.error = error
        return self.reading.error is None


def page_error(received: bytes) -> IsthmusError | None:
    """The error for a page or a JSON error that came in place of any event; None where nothing did."""
    splitter = sse.Splitter()
    splitter.feed(received)
    splitter.close()
    return not_a_stream(splitter.stray) if splitter.stray else None
