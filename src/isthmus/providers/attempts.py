"""The attempts of one request: each calls one model once, and tells its story."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from email.utils import formatdate
from types import TracebackType
from typing import NamedTuple

import msgspec

from isthmus.accounting.charge import charge
from isthmus.core.call import Call, Envelope
from isthmus.core.codec import ClientWire, EndpointWire, Reading, Wire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, Delta
from isthmus.core.pieces import (
    Finish,
    Piece,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    UsageReport,
)
from isthmus.core.record import AttemptRecord, Outcome, milliseconds
from isthmus.core.usage import Usage
from isthmus.dialects.constrained_tools import ToolReader, constrain
from isthmus.dialects.counting import BYTES_PER_TOKEN, estimate_tokens
from isthmus.providers.transport import FirstByteTimeoutError, ResponseTooLargeError, Stream, TransportError
from isthmus.providers.upstream import Upstream, as_error

log = logging.getLogger("isthmus.providers")

LINGER_S = 1.0
"""How long a stream that has said its last word may take to close: its connection is worth keeping, not
waiting for.
"""

_lingering: set[asyncio.Task[None]] = set()

MAX_ERROR_BODY = 64 * 1024
EVENT_SAMPLE = 4096


class Trace:
    """An attempt while it runs: what its record will say.

    `said` estimates the tokens of the answer so far; `heard` tells that the endpoint has begun to speak.
    """

    __slots__ = (
        "_bytes_per_event",
        "_relayed",
        "committed",
        "dropped",
        "first_token",
        "heard",
        "number",
        "passthrough",
        "reading",
        "said",
        "started",
        "status",
        "upstream",
    )

    def __init__(self, upstream: Upstream, number: int, started: float) -> None:
        self.upstream = upstream
        self.number = number
        self.started = started
        self.first_token: float | None = None
        self.status: int | None = None
        self.heard = False
        self.reading = Reading()
        self.committed = False
        self.passthrough = False
        self.dropped: tuple[str, ...] = ()
        self.said = 0
        self._relayed = 0
        self._bytes_per_event = 0.0

    @property
    def tokens_said(self) -> int:
        """About how many tokens of an answer came, for where its end, and so its usage, did not."""
        return self.said + (round(self._relayed / self._bytes_per_event) if self._relayed else 0)

    def relay(self, data: bytes) -> None:
        """Note bytes that pass through unread: a token an event, and events as long as the first ones."""
        if not self._relayed:
            sample = data[:EVENT_SAMPLE]
            self._bytes_per_event = len(sample) / max(1, sample.count(b"\n\n") + sample.count(b"\r\n\r\n"))
        self._relayed += len(data)


class _Spoken(NamedTuple):
    """What is said to an endpoint: in which wire, and `shared` where that is the client's own, so that bytes
    pass.

    `reader` turns a constrained answer back into tool calls.
    """

    wire: EndpointWire
    body: bytes
    shared: Wire | None
    reader: ToolReader | None


class Attempts:
    """Calls models on behalf of one request, one attempt after the other.

    `waited` sums the seconds in which the gateway had nothing to do but wait for a model, up to the first
    content: what is left of the request's time is the gateway's own. `trace` is the attempt that runs, or ran
    last.
    """

    def __init__(
        self,
        *,
        envelope: Envelope,
        wire: ClientWire,
        upstreams: Mapping[str, Upstream],
        client_headers: Mapping[bytes, bytes],
        arrived: float,
        at_us: int,
        clock: Callable[[], float],
    ) -> None:
        self._envelope = envelope
        self._wire = wire
        self._upstreams = upstreams
        self._client_headers = client_headers
        self._arrived = arrived
        self._at_us = at_us
        self._clock = clock
        self._call: Call | None = None
        self._open = False
        self.waited = 0.0
        self.trace: Trace | None = None

    @property
    def call(self) -> Call:
        """The whole request; it is decoded when somebody first needs more than its envelope."""
        if self._call is None:
            self._call = self._wire.decode_call(self._envelope)
        return self._call

    async def attempt(self, model: str, number: int) -> AsyncGenerator[Delta | AttemptEnded, None]:
        """Call `model` once; see `strategies.run.Performer`."""
        upstream = self._upstreams[model]
        trace = self.trace = Trace(upstream, number, self._clock())
        self._open = True
        error: IsthmusError | None = None
        try:
            refusal = upstream.refusal(trace.started)
            if refusal is not None:
                error = refusal
            elif self._envelope.stream:
                async with aclosing(self._streamed(upstream, trace)) as deltas:
                    async for delta in deltas:
                        yield delta
            else:
                yield await self._whole(upstream, trace)
        except IsthmusError as fault:
            # An error outlives its attempt; with its traceback it would hold the whole request, in a cycle.
            error = fault.with_traceback(None)
            error.__context__ = None
        except TransportError as failure:
            error = as_error(failure, upstream)
        except Exception as bug:
            # The text of an exception may quote the prompt, so only its kind is logged.
            log.error("attempt at %s failed by a bug: %s", model, type(bug).__name__, exc_info=_place(bug))
            error = _bug(trace)
        self._open = False
        if error is None or error is not refusal:
            self._tell_breaker(trace, error)
        yield AttemptEnded(self._record(trace, error), error)

    def abandon(self, outcome: Outcome, error: IsthmusError) -> AttemptRecord | None:
        """The story of the attempt that was running at the request's sudden end; None where none was."""
        if not self._open or self.trace is None:
            return None
        self._open = False
        self.trace.upstream.breaker.released()
        return msgspec.structs.replace(self._record(self.trace, error), outcome=outcome)

    async def _whole(self, upstream: Upstream, trace: Trace) -> Delta:
        """An answer that is wanted in one piece."""
        spoken = self._prepare(upstream, trace)
        if spoken is None:
            trace.committed = True
            return Delta(pieces=(Start(), estimate_tokens(self.call)), last=True)
        wire, reader = spoken.wire, spoken.reader
        outgoing = upstream.outgoing(wire, spoken.body, False, self._client_headers)
        began = self._clock()
        try:
            reply = await upstream.transport.send(outgoing)
        finally:
            self.waited += self._clock() - began
        trace.status = reply.status
        if reply.status != 200:
            said = reply.body if len(reply.body) <= MAX_ERROR_BODY else b""
            raise wire.decode_error(reply.status, _dated(reply.headers), said)
        trace.first_token = self._clock()
        if spoken.shared is not None:
            self._read_whole(spoken.shared, reply.body, trace)
            trace.committed = True
            return Delta(data=reply.body, last=True)
        pieces = wire.decode_answer(reply.body)
        if reader is not None:
            pieces = [*reader.feed(pieces), *reader.close()]
        self._note(pieces, trace)
        trace.committed = True
        return Delta(pieces=pieces, last=True)

    def _read_whole(self, wire: Wire, body: bytes, trace: Trace) -> None:
        """Read what must be known of an answer that passes through."""
        reading = trace.reading = wire.read_answer(body)
        if reading.error is not None:
            raise reading.error
        if reading.usage is None and wire.operation == "chat":
            with suppress(IsthmusError):
                # Only to estimate what was said: an answer that others understand passes all the same.
                self._note(wire.decode_answer(body), trace)

    async def _streamed(self, upstream: Upstream, trace: Trace) -> AsyncGenerator[Delta, None]:
        """An answer that is wanted as it comes."""
        spoken = self._prepare(upstream, trace)
        assert spoken is not None, "only counting, which is never streamed, does without a wire"
        wire = spoken.wire
        outgoing = upstream.outgoing(wire, spoken.body, True, self._client_headers)
        began = self._clock()
        try:
            stream = await upstream.transport.stream(outgoing)
        finally:
            self.waited += self._clock() - began
        try:
            trace.status = stream.status
            await _check_stream(stream, wire)
            if spoken.shared is not None:
                deltas = self._relay(stream, spoken.shared, trace)
            else:
                deltas = self._translate(stream, wire, spoken.reader, trace)
            async for delta in deltas:
                yield delta
        finally:
            if trace.reading.ended:
                _linger(stream)
            else:
                stream.close()

    async def _relay(self, stream: Stream, wire: Wire, trace: Trace) -> AsyncIterator[Delta]:
        """The endpoint's own bytes, whole events at a time."""
        watch = wire.watch(strip_usage=not self._envelope.include_usage)
        reading = trace.reading = watch.reading
        while not reading.ended and (chunk := await self._next(stream, trace)):
            data = watch.feed(chunk)
            if data:
                self._commit(trace)
                trace.relay(data)
                yield Delta(data, last=reading.ended)
            if reading.error is not None:
                raise reading.error
        rest = watch.close()
        if reading.error is not None:
            raise reading.error
        if not reading.ended:
            raise _broken(trace)
        if rest:
            self._commit(trace)
            yield Delta(rest, last=True)

    async def _translate(
        self, stream: Stream, wire: EndpointWire, reader: ToolReader | None, trace: Trace
    ) -> AsyncIterator[Delta]:
        """The endpoint's answer as pieces, none before the first content."""
        decoder = wire.stream_decoder()
        held: list[Piece] = []
        while True:
            chunk = b"" if decoder.ended else await self._next(stream, trace)
            try:
                pieces = decoder.feed(chunk) if chunk else decoder.close()
            except IsthmusError:
                pieces = self._understood(decoder.salvage, reader, trace)
                if pieces and trace.committed:
                    yield Delta(pieces=pieces)
                raise
            pieces = self._understood(pieces, reader, trace)
            if not chunk and reader is not None:
                pieces = [*pieces, *self._understood(reader.close(), None, trace)]
            held.extend(pieces)
            if held and (trace.committed or any(_is_content(piece) for piece in held)):
                self._commit(trace)
                yield Delta(pieces=held)
                held = []
            if not chunk:
                trace.reading.ended = decoder.ended
                return

    def _understood(self, pieces: list[Piece], reader: ToolReader | None, trace: Trace) -> list[Piece]:
        if reader is not None:
            pieces = reader.feed(pieces)
        self._note(pieces, trace)
        return pieces

    async def _next(self, stream: Stream, trace: Trace) -> bytes:
        if trace.committed:
            return await stream.next_chunk()
        began = self._clock()
        try:
            if trace.heard:
                return await _next_in_time(stream, trace, began)
            # For the first byte, the transport itself waits no longer than for the first token.
            trace.heard = True
            return await stream.next_chunk()
        finally:
            self.waited += self._clock() - began

    def _commit(self, trace: Trace) -> None:
        if not trace.committed:
            trace.committed = True
            trace.first_token = self._clock()

    def _prepare(self, upstream: Upstream, trace: Trace) -> _Spoken | None:
        """What to say and in which wire; None where there is no wire, which only a count can do without."""
        envelope = self._envelope
        constrained = "constrained_tools" in upstream.provider.quirks and self._has_tools()
        shared = None if constrained else upstream.shared_wire(self._wire.name)
        if shared is not None:
            trace.passthrough = True
            return _Spoken(shared, shared.patch(envelope, upstream.model.id), shared, None)
        wire = upstream.wire_for(envelope.operation)
        if wire is None:
            return None
        encoded = wire.encode_call(constrain(self.call) if constrained else self.call, upstream.model.id)
        trace.dropped = encoded.dropped
        return _Spoken(wire, encoded.body, None, ToolReader(self.call) if constrained else None)

    def _has_tools(self) -> bool:
        # Also a conversation that used tools before must be told to such a model in plain words.
        fields = self._envelope.fields
        turns = fields.get("messages") or fields.get("input")
        return "tools" in fields or (turns is not None and b'"tool' in bytes(turns))

    def _note(self, pieces: Sequence[Piece], trace: Trace) -> None:
        for piece in pieces:
            match piece:
                case UsageReport(usage=usage):
                    trace.reading.usage = usage
                case Finish(reason=reason, raw=raw):
                    trace.reading.finish, trace.reading.finish_raw = reason, raw
                case TextDelta() | ReasoningDelta() | RefusalDelta() | ToolArgumentsDelta():
                    trace.said += 1 + len(piece.text) // BYTES_PER_TOKEN

    def _tell_breaker(self, trace: Trace, error: IsthmusError | None) -> None:
        breaker = trace.upstream.breaker
        if error is not None and error.fault.trips_breaker:
            breaker.failed(self._clock(), error.retry_after_s)
        elif trace.status is None:
            # Whatever it was, the endpoint was not heard.
            breaker.released()
        else:
            breaker.succeeded(self._clock())

    def _record(self, trace: Trace, error: IsthmusError | None) -> AttemptRecord:
        now = self._clock()
        usage = self._usage(trace, error)
        upstream = trace.upstream
        return AttemptRecord(
            number=trace.number,
            model=upstream.model.name,
            provider=upstream.provider.name,
            model_id=upstream.model.id,
            outcome=_outcome(error),
            started_ms=milliseconds(trace.started - self._arrived),
            first_token_ms=None
            if trace.first_token is None
            else milliseconds(trace.first_token - trace.started),
            total_ms=milliseconds(now - trace.started),
            fault=error.fault.value if error else None,
            code=error.code if error else None,
            upstream_status=trace.status,
            finish=trace.reading.finish,
            usage=usage,
            charge=charge(upstream.price, usage, self._at_us) if usage is not None else None,
            committed=trace.committed,
            passthrough=trace.passthrough,
            dropped=trace.dropped,
        )

    def _usage(self, trace: Trace, error: IsthmusError | None) -> Usage | None:
        """What was consumed: what the endpoint told in the end, else an estimate; None where it refused."""
        told = trace.reading.usage
        if told is not None and error is None:
            return told
        if told is not None:
            # Told on the way: the answer grew on until it broke.
            return msgspec.structs.replace(told, output=max(told.output, trace.tokens_said), estimated=True)
        refused = error is not None and error.fault is not Fault.CANCELLED and not trace.committed
        if refused or self._envelope.operation == "count_tokens":
            return None
        return Usage(input=self._prompt_tokens(), output=trace.tokens_said, estimated=True)

    def _prompt_tokens(self) -> int:
        try:
            return estimate_tokens(self.call).tokens
        except IsthmusError:
            # The endpoint took what our codec would have refused.
            return sum(map(len, self._envelope.fields.values())) // BYTES_PER_TOKEN


async def _check_stream(stream: Stream, wire: EndpointWire) -> None:
    if stream.status != 200:
        raise wire.decode_error(stream.status, _dated(stream.headers), await _error_body(stream))
    content_type = (stream.header("content-type") or "").lower()
    if not content_type.startswith("text/event-stream"):
        raise IsthmusError(
            Fault.MALFORMED_ANSWER,
            f"The endpoint streamed {content_type or 'no content type'!r} where an event stream was asked.",
            code="wrong_content_type",
            hint="Check the provider's base_url and dialect.",
        )


async def _error_body(stream: Stream) -> bytes:
    """What the endpoint said; nothing of it where it said too much to be an error's explanation."""
    try:
        return await stream.read(MAX_ERROR_BODY)
    except ResponseTooLargeError:
        return b""


def _linger(stream: Stream) -> None:
    """Let a stream that has said its last word reach its clean end, so that its connection can be used again.

    Nobody waits for it: the answer is complete, and its attempt is over.
    """

    async def drain() -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while await stream.next_chunk():
                    pass
        except (TimeoutError, TransportError):
            pass
        finally:
            stream.close()

    task = asyncio.get_running_loop().create_task(drain())
    _lingering.add(task)
    task.add_done_callback(_lingering.discard)


async def _next_in_time(stream: Stream, trace: Trace, now: float) -> bytes:
    """The next chunk of a stream that has begun and said nothing yet: roles, pings and the like."""
    bound = trace.upstream.provider.timeouts.first_token
    try:
        async with asyncio.timeout(trace.started + bound - now):
            return await stream.next_chunk()
    except TimeoutError:
        raise IsthmusError(
            Fault.TIMEOUT,
            f"The model {trace.upstream.model.name} said nothing within {bound:g} s.",
            code=FirstByteTimeoutError.code,
            hint="It is overloaded or thinks for long; raise timeouts.first_token if that is its way.",
        ) from None


def _bug(trace: Trace) -> IsthmusError:
    """A failure of our own; once the endpoint has answered, its answer had a part in it."""
    fault = Fault.INTERNAL if trace.status is None else Fault.MALFORMED_ANSWER
    return IsthmusError(fault, "The gateway failed at this request; its log says where.")


def _broken(trace: Trace) -> IsthmusError:
    return IsthmusError(
        Fault.BROKEN_STREAM,
        f"The stream of {trace.upstream.model.name} ended before the answer did.",
        hint="What was received is incomplete; ask again.",
    )


def _is_content(piece: Piece) -> bool:
    return not isinstance(piece, Start | UsageReport)


def _outcome(error: IsthmusError | None) -> Outcome:
    if error is None:
        return "ok"
    return "cancelled" if error.fault is Fault.CANCELLED else "error"


def _dated(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers, with the time of arrival where they do not say when they were sent (RFC 9110, 6.6.1)."""
    said = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return {"date": formatdate(usegmt=True), **said}


def _place(bug: Exception) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Where it happened, without the exception's own words."""
    return RuntimeError, RuntimeError(type(bug).__name__), bug.__traceback__
