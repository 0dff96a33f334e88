"""The attempts of one request: each calls one model once, and tells its story."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from types import TracebackType
from typing import Protocol

import msgspec

from isthmus.accounting.bounds import Bound, bound, most_said
from isthmus.accounting.charge import charge
from isthmus.confidence.assess import assess
from isthmus.confidence.beginnings import Beginning, beginning
from isthmus.core.amendment import Amendment, amended, uses_tools
from isthmus.core.call import Call, Envelope
from isthmus.core.codec import ClientWire, EndpointWire, Reading, StreamDecoder, Watch, Wire
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
from isthmus.core.record import MS, AttemptRecord, Outcome, Purpose
from isthmus.core.state import State
from isthmus.core.usage import Charge, Usage
from isthmus.dialects.constrained_tools import ToolReader, constrain
from isthmus.dialects.counting import BYTES_PER_TOKEN, estimate_tokens
from isthmus.dialects.faults import interrupted
from isthmus.dialects.issuers import Marker, MarkingWatch, holds_marks, marked_body, told_to
from isthmus.perimeter.restore import Restorer
from isthmus.providers.transport import (
    DEFAULT_MAX_BODY_BYTES,
    FirstByteTimeoutError,
    ResponseTooLargeError,
    Stream,
    TransportError,
)
from isthmus.providers.upstream import Upstream, as_error
from isthmus.strategies.plan import node as plan

log = logging.getLogger("isthmus.providers")

LINGER_S = 1.0
"""How long a stream that has said its last word may take to close: its connection is worth keeping, not
waiting for.
"""

_UNJUDGED = Beginning("short")

_lingering: set[asyncio.Task[None]] = set()

_WORKED_IN_VAIN = frozenset({Fault.TIMEOUT, Fault.TOOK_TOO_LONG, Fault.BROKEN_STREAM, Fault.MALFORMED_ANSWER})
"""An endpoint that fails so, and not by a status, has taken the request and may bill what nobody got to see.

A connection that was never made, or that ended before a byte of an answer, says nothing of the kind, and an
error that the endpoint reports is not billed.
"""

_ENDS = (Finish, UsageReport)
"""What a client takes for the end of an answer, which is for the verdict to say."""

MAX_ERROR_BODY = 64 * 1024
EVENT_SAMPLE = 4096


class Reader(Protocol):
    """Turns the pieces of an answer into those that they mean; `close` gives what it held back."""

    def feed(self, pieces: Iterable[Piece]) -> list[Piece]: ...

    def close(self) -> list[Piece]: ...


class Held(Protocol):
    """What is held of budgets for one attempt; settled once."""

    def settle(self, usage: Usage | None, charge: Charge | None) -> None:
        """The attempt has ended, and its record says this of what it used: None for nothing."""
        ...


class Purse(Protocol):
    """What a request spends from."""

    async def hold(self, model: str, bound: Callable[[], Bound]) -> Held:
        """Holds what a call of this model may cost at most; raises IsthmusError where that is not there."""
        ...


class _Spoken(msgspec.Struct, frozen=True):
    """What is said to an endpoint: in which wire, and `shared` where that is the client's own, so that bytes
    pass.

    `readers`, in their order, turn a constrained answer back into tool calls and pseudonyms into values.
    """

    wire: EndpointWire
    body: bytes
    shared: Wire | None = None
    readers: tuple[Reader, ...] = ()


class Waiting(State):
    """The seconds in which a request could only wait, however many models it waited for at once."""

    _open: int = 0
    _since: float = 0.0
    _sum: float = 0.0

    def begin(self, now: float) -> None:
        """One more is waited for."""
        if not self._open:
            self._since = now
        self._open += 1

    def end(self, now: float) -> None:
        """One less."""
        self._open -= 1
        if not self._open:
            self._sum += now - self._since

    def seconds(self, now: float) -> float:
        """All of it until now."""
        return self._sum + now - self._since if self._open else self._sum


class Question(State, kw_only=True):
    """What one request asks, as every attempt at it needs it.

    `waiting` measures the time in which the gateway had nothing to do but wait for a model, up to the first
    content: what is left of the request's time is the gateway's own. `values` are what pseudonyms in the
    envelope stand for, None where it is what the client sent. `amended` says that `call` is not what the
    envelope says, but what a strategy asks beside it, or instead.
    """

    envelope: Envelope
    wire: ClientWire
    client_headers: Mapping[bytes, bytes]
    arrived: float
    at_us: int
    clock: Callable[[], float]
    values: Mapping[str, str] | None = None
    waiting: Waiting = msgspec.field(default_factory=Waiting)
    _amendment: Amendment | None = None
    _unamended: Question | None = None
    _call: Call | None = None

    @property
    def call(self) -> Call:
        """The whole request; it is decoded when somebody first needs more than its envelope."""
        if self._call is None:
            if self._amendment is None or self._unamended is None:
                self._call = self.wire.decode_call(self.envelope)
            else:
                self._call = amended(self._unamended.call, self._amendment)
        return self._call

    @property
    def amended(self) -> bool:
        """True for what a strategy asks beside the client's question."""
        return self._amendment is not None

    @property
    def streams(self) -> bool:
        """True where the answer is wanted as it comes."""
        return self.envelope.stream or (self._amendment is not None and self._amendment.streamed)

    @property
    def adds_logprobs(self) -> bool:
        """True where a strategy asks for log-probabilities that the client does not want."""
        added = self._amendment is not None and self._amendment.logprobs
        return added and self._unamended is not None and not self._unamended.call.logprobs

    def require_understood(self) -> None:
        """Raises IsthmusError(UNSUPPORTED) for a request that can be passed on, and only so."""
        try:
            _ = self.call
        except IsthmusError as fault:
            raise IsthmusError(
                Fault.UNSUPPORTED,
                "This request holds what the gateway passes on and does not understand: its answer cannot be "
                "judged, and nothing be added to it.",
                hint="Use a route that is bound to a call.",
                param=fault.param,
            ) from None

    def with_pseudonyms(self, envelope: Envelope, values: Mapping[str, str]) -> Question:
        """The same question with pseudonyms for these values."""
        return self._about(envelope, values)

    def _about(self, envelope: Envelope, values: Mapping[str, str] | None) -> Question:
        return Question(
            envelope=envelope,
            wire=self.wire,
            client_headers=self.client_headers,
            arrived=self.arrived,
            at_us=self.at_us,
            clock=self.clock,
            values=values,
            waiting=self.waiting,
        )

    def amended_by(self, amendment: Amendment) -> Question:
        """What a strategy asks beside the question."""
        question = self._about(self.envelope, self.values)
        question._amendment, question._unamended = amendment, self
        return question

    def again(self, arrived: float, waiting: Waiting) -> Question:
        """The same question, asked anew at that time of the clock."""
        return Question(
            envelope=self.envelope,
            wire=self.wire,
            client_headers=self.client_headers,
            arrived=arrived,
            at_us=self.at_us,
            clock=self.clock,
            values=self.values,
            waiting=waiting,
        )

    def restorers(self) -> tuple[Restorer, ...]:
        """What puts values in the place of their pseudonyms in one answer; none where there are none."""
        if self.values is None:
            return ()
        form = self.call.response_format
        return (Restorer(self.values, in_json=form is not None and form.kind != "text"),)


class Attempts(State):
    """Calls models on behalf of one request.

    `hidden` is the question for those models that may see it only with pseudonyms. `purse` is what they are
    paid from, None where nothing bounds that.
    """

    # An attempt knows the question, and not these: a cycle would keep each request until the next collection.
    question: Question
    _upstreams: Mapping[str, Upstream]
    _hidden: Mapping[str, Question] = {}
    _purse: Purse | None = None
    _made: list[Attempt] = msgspec.field(default_factory=list)
    _delivered: Attempt | None = None
    _shown: int | None = None

    def attempt(self, effect: plan.Attempt | plan.Draft, number: int) -> Attempt:
        """The model, about to be called once; see `strategies.run.Performer`."""
        question = self._hidden.get(effect.model, self.question)
        if effect.amendment is not None:
            question = question.amended_by(effect.amendment)
        purpose: Purpose = "answer" if type(effect) is plan.Attempt else effect.purpose  # type: ignore[union-attr]
        attempt = Attempt(question, self._upstreams[effect.model], number, self._purse, purpose)
        self._made.append(attempt)
        return attempt

    def again(self, arrived: float) -> Attempts:
        """The same question to be asked anew, and paid from the same purse."""
        waiting = Waiting()
        hidden = {name: question.again(arrived, waiting) for name, question in self._hidden.items()}
        return Attempts(self.question.again(arrived, waiting), self._upstreams, hidden, self._purse)

    def assess(self, effect: plan.Assess) -> plan.Verdict:
        """See `strategies.run.Performer`."""
        return assess(effect, self.question.call)

    def begun(self, number: int, by: plan.Early, pieces: Sequence[Piece]) -> plan.Opening:
        """See `strategies.run.Performer`."""
        found = beginning(pieces, by)
        if found.why is not None:
            self._numbered(number).judged = found
        return found.opening

    def show(self, number: int, pieces: Sequence[Piece]) -> Delta:
        """See `strategies.run.Performer`."""
        self._shown = number
        return Delta(pieces=self._wanted(it for it in pieces if not isinstance(it, _ENDS)))

    def release(self, number: int, pieces: Sequence[Piece]) -> Delta:
        """See `strategies.run.Performer`."""
        attempt = self._delivered = self._numbered(number)
        attempt.released = True
        return Delta(pieces=self._wanted(self._unseen(number, pieces)))

    def deliver(self, kept: plan.Kept) -> Delta:
        """See `strategies.run.Performer`."""
        self._delivered = self._numbered(kept.number)
        return Delta(pieces=self._wanted(self._unseen(kept.number, kept.pieces)), last=True)

    def _numbered(self, number: int) -> Attempt:
        return next(it for it in self._made if it.number == number)

    def _unseen(self, number: int, pieces: Sequence[Piece]) -> Iterable[Piece]:
        """Those that the client has not been shown."""
        return (it for it in pieces if isinstance(it, _ENDS)) if self._shown == number else pieces

    def _wanted(self, pieces: Iterable[Piece]) -> tuple[Piece, ...]:
        """Those, as the client wants them."""
        return tuple(pieces) if self.question.call.logprobs else _without_logprobs(pieces)

    def load(self, model: str) -> int:
        """See `strategies.run.Performer`."""
        return self._upstreams[model].breaker.under_way

    @property
    def answering(self) -> Attempt | None:
        """The attempt whose answer the client gets, or would have got: None before there is one."""
        if self._delivered is not None:
            return self._delivered
        if len(self._made) == 1:
            return self._made[0]
        for attempt in reversed(self._made):
            if attempt.committed and attempt.purpose == "answer":
                return attempt
        return self._made[-1] if self._made else None

    def waited(self, now: float) -> float:
        """The seconds in which the gateway only waited for models; see `Question`."""
        return self.question.waiting.seconds(now)

    def abandon(self, outcome: Outcome, error: IsthmusError) -> list[AttemptRecord]:
        """The stories of the attempts that were running at the request's sudden end."""
        told = (it.abandon(outcome, error) for it in self._made)
        return [record for record in told if record is not None]


class Attempt(State):
    """One call of one model: an `Answering` of `strategies.run`, and the facts that its record will say.

    `queued` are the seconds that it waited for a free connection. `released` is a draft that has become the
    client's, and `judged` what its beginning decided. `heard` tells that the endpoint has begun
    to speak, `said` estimates the tokens of the answer so far.
    """

    question: Question
    upstream: Upstream
    number: int
    _purse: Purse | None = None
    purpose: Purpose = "answer"
    started: float = 0.0
    first_token: float | None = None
    status: int | None = None
    queued: float = 0.0
    heard: bool = False
    reading: Reading = msgspec.field(default_factory=Reading)
    committed: bool = False
    passthrough: bool = False
    released: bool = False
    judged: Beginning = _UNJUDGED
    dropped: tuple[str, ...] = ()
    said: int = 0
    _holding: Held | None = None
    _asked: bool = False
    _sent: bool = False
    _open: bool = True
    _relayed: int = 0
    _taken: int = 0
    _sample: bytes = b""
    _stream: Stream | None = None
    _watch: Watch | None = None
    _decoder: StreamDecoder | None = None
    _readers: tuple[Reader, ...] = ()
    _held: list[Piece] = msgspec.field(default_factory=list)
    _next: Callable[[], Awaitable[Delta | None]] | None = None
    """What there is to do next, until there is nothing more: it gives a part of the answer, or None."""

    def __post_init__(self) -> None:
        self.started = self.question.clock()
        self._next = self._begin

    async def next(self) -> Delta | AttemptEnded:
        """See `strategies.run.Answering`."""
        error: IsthmusError | None = None
        try:
            delta = await self._next() if self._next is not None else None
            if delta is not None:
                return self._told(delta) if self.released else delta
        except IsthmusError as fault:
            # An error outlives its attempt; with its traceback it would hold the whole request, in a cycle.
            error = fault.with_traceback(None)
            error.__context__ = None
        except TransportError as failure:
            error = as_error(failure, self.upstream)
        except Exception as bug:
            # The text of an exception may quote the prompt, so only its kind is logged.
            name = self.upstream.model.name
            log.error("attempt at %s failed by a bug: %s", name, type(bug).__name__, exc_info=_place(bug))
            error = self._bug()
        self._open = False
        if self._asked:
            self.upstream.breaker.under_way -= 1
            self._tell_breaker(error)
        return AttemptEnded(self._record(error), error)

    @property
    def seen(self) -> bool:
        """True where the client gets the answer as it comes."""
        return self.purpose == "answer" or self.released

    def _told(self, delta: Delta) -> Delta:
        """A part of a draft that has become the client's, as the client is to have it."""
        if self.question.adds_logprobs:
            return Delta(pieces=_without_logprobs(delta.pieces), last=delta.last)
        return delta

    def cut_off(self) -> AttemptEnded | None:
        """See `strategies.run.Answering`."""
        error = IsthmusError(Fault.CANCELLED, "Another answer was taken, or nobody waits any more.")
        self.committed = False
        record = self.abandon("cancelled", error)
        return None if record is None else AttemptEnded(record, error)

    def close(self) -> None:
        """See `strategies.run.Answering`."""
        # A bound method: it would hold its own attempt.
        self._next = None
        stream, self._stream = self._stream, None
        if stream is None or stream.complete:
            return
        if self.reading.ended:
            _linger(stream)
        else:
            stream.close()

    def abandon(self, outcome: Outcome, error: IsthmusError) -> AttemptRecord | None:
        """The story of an attempt that was running at the request's sudden end; None where it had ended."""
        if not self._open:
            return None
        self._open = False
        if self._asked:
            self.upstream.breaker.under_way -= 1
            self.upstream.breaker.released()
        return msgspec.structs.replace(self._record(error, cut_off=True), outcome=outcome)

    # -- what is done, step by step

    async def _begin(self) -> Delta | None:
        refusal = self.upstream.refusal(self.started)
        if refusal is not None:
            raise refusal
        self._asked = True
        self.upstream.breaker.under_way += 1
        spoken = self._prepare()
        if (
            self._purse is not None
            and spoken is not None
            and self.question.envelope.operation != "count_tokens"
        ):
            self._holding = await self._purse.hold(
                self.upstream.model.family, lambda: self._bound(spoken.body)
            )
        self._sent = True
        if self.question.streams:
            assert spoken is not None, "only counting, which is never streamed, does without a wire"
            return await self._begin_stream(spoken)
        self._next = None
        if spoken is None:
            self.committed = True
            return Delta(pieces=(Start(), estimate_tokens(self.question.call)), last=True)
        return await self._whole(spoken)

    async def _whole(self, spoken: _Spoken) -> Delta:
        """An answer that is wanted in one piece."""
        question, wire = self.question, spoken.wire
        outgoing = self.upstream.outgoing(wire, spoken.body, False, question.client_headers, self._queued)
        question.waiting.begin(question.clock())
        try:
            reply = await self.upstream.transport.send(outgoing)
        finally:
            now = question.clock()
            question.waiting.end(now)
        self.status = reply.status
        if reply.status != 200:
            said = reply.body if len(reply.body) <= MAX_ERROR_BODY else b""
            raise wire.decode_error(reply.status, _dated(reply.headers), said)
        self.first_token = now
        if spoken.shared is not None:
            self._read_whole(spoken.shared, reply.body)
            self._require_end()
            self.committed = True
            body = marked_body(reply.body, self.upstream.provider.name) if self.upstream.marks else reply.body
            return Delta(data=body, last=True)
        pieces = wire.decode_answer(reply.body)
        pieces = _last(spoken.readers, pieces)
        self._note(pieces)
        self.reading.ended = True
        self._require_end()
        self.committed = True
        return Delta(pieces=pieces, last=True)

    def _read_whole(self, wire: Wire, body: bytes) -> None:
        """Read what must be known of an answer that passes through."""
        reading = self.reading = wire.read_answer(body)
        if reading.error is not None:
            raise reading.error
        if reading.usage is None and wire.operation == "chat":
            with suppress(IsthmusError):
                # Only to estimate what was said: an answer that others understand passes all the same.
                self._note(wire.decode_answer(body))

    async def _begin_stream(self, spoken: _Spoken) -> Delta | None:
        """An answer that is wanted as it comes."""
        question, wire = self.question, spoken.wire
        outgoing = self.upstream.outgoing(wire, spoken.body, True, question.client_headers, self._queued)
        question.waiting.begin(question.clock())
        try:
            stream = self._stream = await self.upstream.transport.stream(outgoing)
        finally:
            question.waiting.end(question.clock())
        self.status = stream.status
        await _check_stream(stream, wire)
        if spoken.shared is not None:
            watch = spoken.shared.watch(strip_usage=not question.envelope.include_usage)
            self._watch = MarkingWatch(watch, self.upstream.provider.name) if self.upstream.marks else watch
            self.reading = watch.reading
            self._next = self._relay
        else:
            self._decoder, self._readers = wire.stream_decoder(), spoken.readers
            self._next = self._translate
        return await self._next()

    async def _relay(self) -> Delta | None:
        """The endpoint's own bytes, whole events at a time."""
        watch, reading = self._watch, self.reading
        assert watch is not None, "it has begun to stream"
        while reading.error is None and not reading.ended and (chunk := await self._chunk()):
            data = watch.feed(chunk)
            # What broke off before anybody saw any of it is read to its end, for its usage, and not shown.
            if data and (self.committed or not reading.interrupted):
                self._pass(data)
                return Delta(data, last=reading.ended)
        rest = watch.close()
        if reading.error is not None:
            raise reading.error
        if not reading.ended:
            raise self._broken()
        self._next = None
        if reading.interrupted:
            fault = interrupted(reading.finish_raw, told=self.committed)
            if not (rest and self.committed):
                raise fault
            self._fail_next(fault)
        if not rest:
            return None
        self._commit()
        return Delta(rest, last=True)

    def _require_end(self) -> None:
        """Raises IsthmusError(BROKEN_STREAM) for an answer that the provider says it broke off, as long as
        nobody has seen any of it."""
        if self.reading.interrupted:
            raise interrupted(self.reading.finish_raw)

    def _fail_next(self, fault: IsthmusError) -> None:
        """What there is to do next is to fail so."""

        async def fail() -> None:
            raise fault

        self._next = fail

    def _pass(self, data: bytes) -> None:
        """Note bytes that pass through unread."""
        self._commit()
        if not self._relayed:
            self._sample = data[:EVENT_SAMPLE]
        self._relayed += len(data)

    async def _translate(self) -> Delta | None:
        """The endpoint's answer as pieces, none before the first content."""
        decoder, held = self._decoder, self._held
        assert decoder is not None, "it has begun to stream"
        while True:
            chunk = b"" if decoder.ended else await self._chunk()
            self._take(len(chunk))
            try:
                pieces = decoder.feed(chunk) if chunk else decoder.close()
            except IsthmusError as fault:
                return self._salvage(fault)
            held.extend(self._noted(_read(self._readers, pieces) if chunk else _last(self._readers, pieces)))
            if not chunk:
                self.reading.ended = decoder.ended
                self._next = None
            if held and (self.committed or self._begins(held)):
                self._commit()
                self._held = []
                if not chunk and self.reading.interrupted:
                    self._fail_next(interrupted(self.reading.finish_raw))
                return Delta(pieces=held)
            if not chunk:
                self._require_end()
                return None

    def _begins(self, held: Iterable[Piece]) -> bool:
        """True where there is something to show; of what has broken off before, nothing is shown."""
        return not self.reading.interrupted and any(_is_content(piece) for piece in held)

    def _take(self, size: int) -> None:
        """Note that so much of an answer is kept; a stream that is passed on is not."""
        if not self.seen:
            self._taken += size
            if self._taken > DEFAULT_MAX_BODY_BYTES:
                assert self._stream is not None
                raise ResponseTooLargeError(self._stream.origin, DEFAULT_MAX_BODY_BYTES)

    def _salvage(self, fault: IsthmusError) -> Delta:
        """What was understood before the fault, which is raised after it; at once where nothing was."""
        assert self._decoder is not None, "it has begun to stream"
        pieces = self._noted(_read(self._readers, self._decoder.salvage))
        if not pieces or not self.committed:
            raise fault
        self._fail_next(fault)
        return Delta(pieces=pieces)

    def _noted(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces without the end of a choice that has broken off: an encoder has no end for that."""
        self._note(pieces)
        return [it for it in pieces if not (isinstance(it, Finish) and it.reason == "interrupted")]

    async def _chunk(self) -> bytes:
        stream, question = self._stream, self.question
        assert stream is not None
        if self.committed and self.seen:
            return await stream.next_chunk()
        # Nobody reads a draft while it comes: all of its time is waiting.
        began = question.clock()
        question.waiting.begin(began)
        try:
            if self.heard and not self.committed:
                return await self._chunk_in_time(stream, began)
            # For the first byte, the transport itself waits no longer than for the first token.
            self.heard = True
            return await stream.next_chunk()
        finally:
            question.waiting.end(question.clock())

    async def _chunk_in_time(self, stream: Stream, now: float) -> bytes:
        """The next chunk of a stream that has begun and said nothing yet: roles, pings and the like."""
        bound = self.upstream.provider.timeouts.first_token
        try:
            async with asyncio.timeout(self.started + bound - now):
                return await stream.next_chunk()
        except TimeoutError:
            raise IsthmusError(
                Fault.TIMEOUT,
                f"The model {self.upstream.model.name} said nothing within {bound:g} s.",
                code=FirstByteTimeoutError.code,
                hint="It is overloaded or thinks for long; raise timeouts.first_token if that is its way.",
            ) from None

    def _commit(self) -> None:
        if not self.committed:
            self.committed = True
            self.first_token = self.question.clock()

    def _prepare(self) -> _Spoken | None:
        """What to say and in which wire; None where there is no wire, which only a count can do without."""
        question, upstream = self.question, self.upstream
        envelope, amended = question.envelope, question.amended
        if amended or self.purpose != "answer":
            question.require_understood()
        constrained = "constrained_tools" in upstream.provider.quirks and self._has_tools()
        restorers = question.restorers() if question.values is not None else ()
        shared = None if constrained or amended else upstream.shared_wire(question.wire.name)
        if shared is not None:
            # Bytes pass on the way there. On the way back they do where nothing must be put in place of them,
            # and nobody but the client reads them.
            self.passthrough = not restorers and self.purpose == "answer"
            marked = holds_marks(envelope)
            body = self._encoded(shared) if marked else shared.patch(envelope, upstream.model.id)
            if self.passthrough:
                return _Spoken(shared, body, shared)
            return _Spoken(shared, body, None, (*restorers, *self._markers()))
        wire = upstream.wire_for(envelope.operation)
        if wire is None:
            return None
        body = self._encoded(wire, constrained=constrained)
        readers: tuple[Reader, ...] = (*restorers, *self._markers())
        return _Spoken(wire, body, readers=(ToolReader(question.call), *readers) if constrained else readers)

    def _encoded(self, wire: EndpointWire, *, constrained: bool = False) -> bytes:
        """The request as the wire says it; what it cannot say is noted."""
        upstream = self.upstream
        call = told_to(upstream.provider.name, self.question.call)
        if constrained:
            call = constrain(call)
        try:
            encoded = wire.encode_call(call, upstream.model.id)
        except IsthmusError as fault:
            if fault.fault is not Fault.UNSUPPORTED or not self.question.adds_logprobs:
                raise
            # They were asked for by a strategy, which does without them where they are not to be had.
            encoded = wire.encode_call(msgspec.structs.replace(call, logprobs=None), upstream.model.id)
        self.dropped = encoded.dropped
        return encoded.body

    def _markers(self) -> tuple[Marker, ...]:
        return (Marker(self.upstream.provider.name),) if self.upstream.marks else ()

    def _bound(self, body: bytes) -> Bound:
        question, upstream = self.question, self.upstream
        call: Call | None = None
        with suppress(IsthmusError):
            # What passes as bytes may be more than our codec takes: texts that the endpoint has, say.
            call = question.call
        return bound(call, len(body), upstream.model, upstream.price, question.at_us)

    def _has_tools(self) -> bool:
        if self.question.amended:
            call = self.question.call
            return bool(call.tools) or uses_tools(call)
        # Also a conversation that used tools before must be told to such a model in plain words.
        fields = self.question.envelope.fields
        turns = fields.get("messages") or fields.get("input")
        return "tools" in fields or (turns is not None and b'"tool' in bytes(turns))

    # -- what is told of it

    def _queued(self, seconds: float) -> None:
        self.queued += seconds

    def _note(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            match piece:
                case UsageReport(usage=usage):
                    self.reading.usage = usage
                case Finish(reason=reason, raw=raw):
                    self.reading.finished(reason, raw)
                case TextDelta() | ReasoningDelta() | RefusalDelta() | ToolArgumentsDelta():
                    self.said += 1 + len(piece.text) // BYTES_PER_TOKEN

    def _tell_breaker(self, error: IsthmusError | None) -> None:
        breaker, now = self.upstream.breaker, self.question.clock
        if error is None and breaker.is_well and not self.reading.interrupted:
            # Nearly every attempt: there is nothing to tell.
            return
        if self.reading.interrupted:
            # Some prompts lead some models to it each time: it says too little of the endpoint.
            breaker.released()
        elif error is not None and error.fault.trips_breaker:
            breaker.failed(now(), error.retry_after_s)
        elif self.status is None:
            # Whatever it was, the endpoint was not heard.
            breaker.released()
        else:
            breaker.succeeded(now())

    def _record(self, error: IsthmusError | None, *, cut_off: bool = False) -> AttemptRecord:
        question, upstream, reading = self.question, self.upstream, self.reading
        usage = self._usage(error, cut_off)
        charged = charge(upstream.price, usage, question.at_us) if usage is not None else None
        if self._holding is not None:
            self._holding.settle(usage, charged)
        started, first = self.started, self.first_token
        return AttemptRecord(
            number=self.number,
            model=upstream.model.name,
            provider=upstream.provider.name,
            model_id=upstream.model.id,
            outcome="ok" if error is None else _outcome(error),
            started_ms=(started - question.arrived) * MS,
            queue_ms=self.queued * MS,
            first_token_ms=None if first is None else (first - started) * MS,
            total_ms=(question.clock() - started) * MS,
            fault=error.fault.value if error else None,
            code=error.code if error else None,
            upstream_status=self.status,
            finish=reading.why,
            usage=usage,
            charge=charged,
            committed=self.committed and (self.purpose == "answer" or self.released),
            passthrough=self.passthrough,
            dropped=self.dropped,
            purpose=self.purpose,
            confidence=self.judged.confidence,
            verdict=self.judged.why,
            weights=None if upstream.weights is None else upstream.weights(),
        )

    def _usage(self, error: IsthmusError | None, cut_off: bool) -> Usage | None:
        """What was consumed: what the endpoint told in the end, else an estimate; None where it did no work,
        or was not asked yet."""
        if not self._sent:
            return None
        told = self.reading.usage
        if told is not None and (error is None or self.reading.interrupted):
            return told
        if told is not None:
            # Told on the way: the answer grew on until it broke.
            return msgspec.structs.replace(told, output=max(told.output, self._tokens_said), estimated=True)
        in_vain = not cut_off and error is not None and self._worked_in_vain(error)
        worked = error is None or self.committed or cut_off or in_vain
        if not worked or self.question.envelope.operation == "count_tokens":
            return None
        output = max(self._tokens_said, self._most_said()) if in_vain else self._tokens_said
        return Usage(input=self._prompt_tokens(), output=output, estimated=True)

    def _worked_in_vain(self, error: IsthmusError) -> bool:
        """True where the endpoint may have worked on an answer of which nothing came."""
        reported = error.upstream_status is not None or self.status not in (None, 200)
        return error.fault in _WORKED_IN_VAIN and not self.committed and not reported

    def _most_said(self) -> int:
        """What an answer that nobody saw may have come to: a bill for all of it breaks no budget then."""
        try:
            return most_said(self.question.call, self.upstream.model) or 0
        except IsthmusError:
            return 0

    @property
    def _tokens_said(self) -> int:
        """About how many tokens of an answer came, for where its end, and so its usage, did not: of what
        passed through unread a token an event, and events as long as the first ones."""
        if not self._relayed:
            return self.said
        sample = self._sample
        events = max(1, sample.count(b"\n\n") + sample.count(b"\r\n\r\n"))
        return self.said + round(self._relayed * events / len(sample))

    def _prompt_tokens(self) -> int:
        try:
            return estimate_tokens(self.question.call).tokens
        except IsthmusError:
            # The endpoint took what our codec would have refused.
            pass
        except Exception as bug:
            # A record that says less of a request is better than none, which nobody would know of.
            name = self.upstream.model.name
            log.error("a prompt of %s was not counted: %s", name, type(bug).__name__, exc_info=_place(bug))
        return sum(map(len, self.question.envelope.fields.values())) // BYTES_PER_TOKEN

    def _bug(self) -> IsthmusError:
        """A failure of our own; once the endpoint has answered, its answer had a part in it."""
        fault = Fault.INTERNAL if self.status is None else Fault.MALFORMED_ANSWER
        return IsthmusError(fault, "The gateway failed at this request; its log says where.")

    def _broken(self) -> IsthmusError:
        return IsthmusError(
            Fault.BROKEN_STREAM,
            f"The stream of {self.upstream.model.name} ended before the answer did.",
            hint="What was received is incomplete; ask again.",
        )


def _without_logprobs(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """What a client gets that did not ask for them."""
    return tuple(
        msgspec.structs.replace(it, logprobs=None) if isinstance(it, TextDelta) and it.logprobs else it
        for it in pieces
        if not (isinstance(it, TextDelta) and not it.text)
    )


def _read(readers: Sequence[Reader], pieces: Iterable[Piece]) -> list[Piece]:
    """What the pieces mean to the last of the readers."""
    for reader in readers:
        pieces = reader.feed(pieces)
    return list(pieces)


def _last(readers: Sequence[Reader], pieces: Iterable[Piece]) -> list[Piece]:
    """What the last pieces of an answer mean, with what each reader held back."""
    for reader in readers:
        pieces = [*reader.feed(pieces), *reader.close()]
    return list(pieces)


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


def _is_content(piece: Piece) -> bool:
    return not isinstance(piece, Start | UsageReport)


def _outcome(error: IsthmusError) -> Outcome:
    return "cancelled" if error.fault is Fault.CANCELLED else "error"


def _dated(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers, with the time of arrival where they do not say when they were sent (RFC 9110, 6.6.1)."""
    said = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return {"date": formatdate(usegmt=True), **said}


def _place(bug: Exception) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Where it happened, without the exception's own words."""
    return RuntimeError, RuntimeError(type(bug).__name__), bug.__traceback__
