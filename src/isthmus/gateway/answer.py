"""The client's fold: what an exchange tells becomes bytes in the caller's dialect, streamed or whole."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from urllib.parse import quote

import msgspec

from isthmus.core.codec import ClientWire, StreamEncoder
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import Delta
from isthmus.core.money import format_usd
from isthmus.core.pieces import Piece
from isthmus.core.record import Record
from isthmus.core.state import State
from isthmus.core.usage import Charge
from isthmus.dialects.revisions import revision
from isthmus.gateway.request import Request
from isthmus.gateway.story import Story

EVENT_STREAM = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
JSON = b"content-type: application/json\r\n"

READ_REQUEST_ID = frozenset({"anthropic", "anthropic-count"})
"""The wires whose clients look for the request's id under `request-id`, without an x."""

RECEIPT_HEADER = b"x-isthmus-receipt"
"""Who sends this header gets, at the end of a stream, what headers can only say of a whole answer."""

LONGEST_HEADER = 1000


class Answer(State):
    """The answer to one request. A stream `started` when its head went out; nothing else can be said then
    but its rest, or that it broke.

    The bytes that end a stream are kept back until `end`: a strict ledger commits before them, and they go
    out with the end of the body, in one write.
    """

    _request: Request
    _wire: ClientWire
    _story: Story
    started: bool = False
    _encoder: StreamEncoder | None = None
    _parts: list[bytes] = msgspec.field(default_factory=list)
    _pieces: list[Piece] = msgspec.field(default_factory=list)
    _held: bytes = b""

    @property
    def relayed(self) -> bool:
        """True where what was said last are the endpoint's own bytes."""
        return bool(self._parts or self._held)

    def take(self, delta: Delta) -> Awaitable[None] | None:
        """Take a part of the answer: a stream is passed on, what is wanted whole is kept.

        As everything here that says something, it returns what to wait for where the client is slow to read.
        """
        assert self._story.envelope is not None
        if self._story.envelope.stream:
            return self._stream(delta)
        if delta.data:
            self._parts.append(delta.data)
        else:
            self._pieces.extend(delta.pieces)
        return None

    def revise(self) -> Awaitable[None] | None:
        """Take back all of a stream that was said."""
        story = self._story
        assert story.envelope is not None
        self._encoder = None
        data = revision(story.envelope.model, story.id, story.at_us // 1_000_000)
        self._keep(data)
        return self._request.write(data)

    def last(self, error: IsthmusError | None) -> bytes:
        """What is still to be said: a stream's end or its error, or all of what is wanted whole.

        What is held back for a good end is not said before a bad one, but where it tells of that itself.
        """
        assert self._story.envelope is not None
        if not self._story.envelope.stream:
            last = b"".join(self._parts) if self._parts else self._encoded_whole()
            self._story.begin_answer()
        else:
            if not self.started:
                # A stream without content, ended properly.
                self._start()
            last = self._last_of_stream(error)
        self._keep(last)
        return last

    @property
    def has_receipt(self) -> bool:
        """True where the record is said at the end of a stream."""
        return self.started and RECEIPT_HEADER in self._request.headers

    def end(self, last: bytes, record: Record | None) -> Awaitable[None] | None:
        """Say the last, and where there is a receipt, what the record says."""
        request = self._request
        if not self.started:
            return request.respond(200, last, self._headers(self._story.charge()) + JSON)
        if self.has_receipt:
            assert record is not None
            last += _receipt(record)
        return request.end(last)

    def break_stream(self, error: IsthmusError) -> Awaitable[None] | None:
        """End a stream as broken."""
        return self._request.end(self.last(error))

    def refuse(self, error: IsthmusError) -> Awaitable[None] | None:
        """Say an error instead of an answer."""
        headers = identity(self._story.id, self._wire).encode("ascii") + JSON
        if error.retry_after_s is not None:
            headers += b"retry-after: %d\r\n" % max(1, math.ceil(error.retry_after_s))
        hopeless = not error.fault.retryable and error.status >= 500 and error.retry_after_s is None
        if hopeless or error.fault is Fault.BUDGET_SPENT:
            # The official clients would ask again; here that cannot help.
            headers += b"x-should-retry: false\r\n"
        if error.fault is Fault.UNAUTHENTICATED:
            headers += b"www-authenticate: Bearer\r\n"
        status = self._wire.status_of(error)
        return self._request.respond(status, self._wire.encode_error(error, self._story.id), headers)

    def _stream(self, delta: Delta) -> Awaitable[None] | None:
        if not self.started:
            self._start()
        data = delta.data
        if not data:
            data = self._encoded(delta)
        elif delta.last:
            self._held += data
            return None
        if not data:
            return None
        self._keep(data)
        return self._request.write(data)

    def _start(self) -> None:
        self._story.begin_answer()
        self.started = True
        self._request.begin(200, self._headers() + EVENT_STREAM)

    def _last_of_stream(self, error: IsthmusError | None) -> bytes:
        if self._encoder is not None:
            return self._encoder.error(error) if error else self._encoder.close()
        if error is None or error.told:
            return self._held
        return self._wire.stream_error(error, self._story.id)

    def _encoded(self, delta: Delta) -> bytes:
        if self._encoder is None:
            story = self._story
            assert story.attempts is not None
            self._encoder = self._wire.stream_encoder(
                story.attempts.question.call, story.id, story.at_us // 1_000_000
            )
        return self._encoder.feed(delta.pieces)

    def _encoded_whole(self) -> bytes:
        story = self._story
        assert story.attempts is not None
        return self._wire.encode_answer(
            self._pieces, story.attempts.question.call, story.id, story.at_us // 1_000_000
        )

    def _keep(self, data: bytes) -> None:
        if self._story.keeps_bodies:
            self._story.said.append(data)

    def _headers(self, charge: Charge | None = None) -> bytes:
        """What headers say of an answer, and of one that is over, what it cost."""
        story = self._story
        assert story.attempts is not None
        attempt = story.attempts.answering
        assert attempt is not None
        headers = (
            f"{identity(story.id, self._wire)}x-isthmus-model: {attempt.upstream.name_in_headers}\r\n"
            f"x-isthmus-overhead-ms: {story.overhead_ms:.3f}\r\n"
        )
        if attempt.dropped:
            headers += f"x-isthmus-dropped: {_in_a_header(','.join(map(_name, attempt.dropped)))}\r\n"
        if story.warnings:
            headers += f"x-isthmus-warning: {_in_a_header('; '.join(story.warnings))}\r\n"
        if charge is not None:
            headers += f"x-isthmus-cost-usd: {format_usd(charge.nanousd)}\r\n"
            if charge.estimated:
                headers += "x-isthmus-cost-estimated: true\r\n"
        return headers.encode("ascii")


def identity(request_id: str, wire: ClientWire) -> str:
    """The headers that say a request's id, under all names by which clients of the dialect look for it."""
    if wire.name in READ_REQUEST_ID:
        return f"x-request-id: {request_id}\r\nrequest-id: {request_id}\r\n"
    return f"x-request-id: {request_id}\r\n"


def _name(field: str) -> str:
    """A field's name, which the caller chose, in a list: no comma in it ends it."""
    return quote(field, safe="[]", errors="replace")


def _in_a_header(text: str) -> str:
    """A text in which there are words of others, as a header may hold it: a percent sign for what is odd."""
    return quote(text, safe="[],; %*", errors="replace")[:LONGEST_HEADER]


def _receipt(record: Record) -> bytes:
    """A comment of the event stream, which every client of the format passes over: `: isthmus {...}`."""
    receipt = {
        "request_id": record.id,
        "model": record.model,
        "cost_usd": format_usd(record.charge.nanousd if record.charge else None),
        "cost_estimated": record.charge is not None and record.charge.estimated,
        "overhead_ms": record.timings.overhead_ms,
        "total_ms": record.timings.total_ms,
        "prompt_tokens": record.usage.prompt if record.usage else None,
        "output_tokens": record.usage.output if record.usage else None,
    }
    return b": isthmus " + msgspec.json.encode(receipt) + b"\n\n"
