"""The way of one request: decode → decide → run → settle → append, as folds over one stream of events."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from random import getrandbits
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from isthmus.accounting.charge import total as total_charge
from isthmus.core.call import Envelope
from isthmus.core.codec import ClientWire, StreamEncoder
from isthmus.core.decision import Decision
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded, Delta, Finished
from isthmus.core.ids import request_id
from isthmus.core.money import format_usd
from isthmus.core.pieces import Piece
from isthmus.core.record import AttemptRecord, Intent, Outcome, Record, Timings, milliseconds
from isthmus.core.usage import Usage
from isthmus.gateway.asgi import ClientGoneError, HeaderList, Receive, Scope, Send, read_body, respond
from isthmus.gateway.auth import authenticate
from isthmus.gateway.snapshot import Snapshot
from isthmus.providers.attempts import Attempts
from isthmus.routing.route import Route
from isthmus.store.keys import Key
from isthmus.strategies.plan.node import Circumstances
from isthmus.strategies.run import run

if TYPE_CHECKING:
    from isthmus.gateway.app import Gateway

log = logging.getLogger("isthmus.gateway")

WATCH_AFTER_S = 0.05
"""When to begin to listen for the client's leaving. Most of a fast exchange is over before; a slow one is
worth the task.
"""

EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
JSON = (b"content-type", b"application/json")

READ_REQUEST_ID = frozenset({"anthropic", "anthropic-count"})
"""The wires whose clients look for the request's id under `request-id`, without an x."""

LONGEST_USER = 256
"""How much of the end user's name is recorded: it is a name, and no place for texts."""

RECEIPT_HEADER = b"x-isthmus-receipt"
"""Who sends this header gets, at the end of a stream, what headers can only say of a whole answer."""

LONGEST_HEADER = 1000

clock: Callable[[], float] = time.perf_counter


class Exchange:
    """One request and its answer. Made for a single use: `await Exchange(...).serve()`."""

    def __init__(
        self, gateway: Gateway, wire: ClientWire, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._gateway = gateway
        self._wire = wire
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._arrived = clock()
        self._at_us = time.time_ns() // 1000
        self._id = request_id(self._at_us, getrandbits(80))
        self._snapshot: Snapshot = gateway.snapshot
        self._key: Key | None = None
        self._envelope: Envelope | None = None
        self._route: Route | None = None
        self._decision: Decision | None = None
        self._attempts: Attempts | None = None
        self._story: list[AttemptRecord] = []
        self._queued = 0.0
        self._uploading = 0.0
        self._first_out: float | None = None
        self._encoder: StreamEncoder | None = None
        self._parts: list[bytes] = []
        self._pieces: list[Piece] = []
        self._held: bytes = b""
        self._body: bytes | None = None
        self._kept: list[bytes] = []
        self._known = False
        self._started = False
        self._settled = False

    async def serve(self) -> None:
        """Answer the request, whatever happens, and record it."""
        self._snapshot.hold()
        admission = self._gateway.admission
        inside = False
        try:
            self._key = authenticate(self._scope, self._headers, self._gateway.ring, self._at_us)
            self._known = True
            if admission.free:
                admission.enter()
            else:
                began = clock()
                await admission.wait()
                self._queued = clock() - began
            inside = True
            await self._answer()
        except IsthmusError as error:
            await self._refuse(error)
        except ClientGoneError:
            self._record("cancelled", Fault.CANCELLED.status, _left())
        except asyncio.CancelledError:
            # The server ends, and waits for nothing but this last word.
            self._abandon("interrupted", _shutting_down())
            await self._refuse(_shutting_down())
        except Exception as bug:
            # The text of an exception may quote the prompt: only its kind and place are logged.
            nameless = (RuntimeError, RuntimeError(type(bug).__name__), bug.__traceback__)
            log.error("request %s failed by a bug: %s", self._id, type(bug).__name__, exc_info=nameless)
            await self._refuse(
                IsthmusError(Fault.INTERNAL, "The gateway failed at this request; its log says where.")
            )
        finally:
            if inside:
                admission.leave()
            self._snapshot.release()

    async def _answer(self) -> None:
        began = clock()
        self._body = await read_body(self._headers, self._receive, self._snapshot.max_body)
        self._uploading = clock() - began
        envelope = self._envelope = self._wire.peek(self._body)
        self._route = self._snapshot.route(envelope.model, self._key)
        decision = self._decision = self._snapshot.router.decide(
            self._route.name, envelope.operation, self._circumstances(envelope)
        )
        if decision.plan is None:
            raise _nothing_allowed(decision)
        if self._gateway.strict:
            await self._gateway.ledger.begin(self._intent(envelope))
        attempts = self._attempts = Attempts(
            envelope=envelope,
            wire=self._wire,
            upstreams=self._snapshot.upstreams,
            client_headers=self._headers,
            arrived=self._arrived,
            at_us=self._at_us,
            clock=clock,
        )
        await self._while_client_listens(self._run(decision, attempts))

    async def _run(self, decision: Decision, attempts: Attempts) -> None:
        permits = decision.allowed.__contains__
        async with aclosing(run(decision.plan, attempts, permits, self._pause)) as events:
            async for event in events:
                kind = type(event)
                if kind is Delta:
                    await self._deliver(event, attempts)  # type: ignore[arg-type]
                elif kind is AttemptEnded:
                    self._story.append(event.record)  # type: ignore[union-attr]
                elif kind is Finished:
                    await self._finish(event, attempts)  # type: ignore[arg-type]

    async def _while_client_listens(self, work: object) -> None:
        """Do the work, unless the client leaves: then the upstream is cancelled and what was used is
        recorded.
        """
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        watcher: asyncio.Task[None] | None = None
        left = False

        async def watch() -> None:
            nonlocal left
            while (await self._receive())["type"] != "http.disconnect":
                pass
            left = True
            task.cancel()

        def start() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        timer = loop.call_later(WATCH_AFTER_S, start)
        try:
            await work  # type: ignore[misc]
        except asyncio.CancelledError:
            if not left:
                raise
            task.uncancel()
            self._abandon("cancelled", _left())
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _deliver(self, delta: Delta, attempts: Attempts) -> None:
        """Pass on a part of the answer, or keep it where the whole is wanted."""
        assert self._envelope is not None
        if not self._envelope.stream:
            if delta.data:
                self._parts.append(delta.data)
            self._pieces.extend(delta.pieces)
            return
        if not self._started:
            await self._start_stream(attempts)
        if delta.data:
            data = delta.data
            if delta.last and self._gateway.strict:
                self._held += data
                return
        else:
            if self._encoder is None:
                self._encoder = self._wire.stream_encoder(attempts.call, self._id, self._at_us // 1_000_000)
            data = self._encoder.feed(delta.pieces)
        if data:
            await self._stream_out(data)

    async def _start_stream(self, attempts: Attempts) -> None:
        self._first_out = clock()
        self._started = True
        headers = self._answer_headers(attempts)
        headers.extend(EVENT_STREAM)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _stream_out(self, data: bytes) -> None:
        self._keep(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def _keep(self, data: bytes) -> None:
        if self._route is not None and self._route.record_bodies:
            self._kept.append(data)

    async def _finish(self, finished: Finished, attempts: Attempts) -> None:
        """End the answer: settle first, so that a strict ledger has it before the client does."""
        assert self._envelope is not None
        error = finished.error
        if self._started:
            last = self._last_of_stream(error)
            self._keep(last)
            record = await self._settle("error" if error else "ok", 200, error)
            if RECEIPT_HEADER in self._headers:
                last += _receipt(record)
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
        elif error is not None:
            raise error
        elif self._envelope.stream:
            # A stream without content, ended properly.
            await self._deliver(Delta(), attempts)
            await self._finish(finished, attempts)
        else:
            await self._respond_whole(attempts)

    def _last_of_stream(self, error: IsthmusError | None) -> bytes:
        """How the stream ends; what is held back for a good end is not said before a bad one."""
        if self._encoder is not None:
            return self._encoder.error(error) if error else self._encoder.close()
        return self._wire.stream_error(error, self._id) if error else self._held

    async def _respond_whole(self, attempts: Attempts) -> None:
        body = b"".join(self._parts) if self._parts else self._encode_whole(attempts)
        self._first_out = clock()
        self._keep(body)
        record = await self._settle("ok", 200, None)
        headers = self._answer_headers(attempts)
        headers.append(JSON)
        if record.charge is not None:
            headers.append((b"x-isthmus-cost-usd", format_usd(record.charge.nanousd).encode()))
        await respond(self._send, 200, body, headers)

    def _encode_whole(self, attempts: Attempts) -> bytes:
        return self._wire.encode_answer(self._pieces, attempts.call, self._id, self._at_us // 1_000_000)

    async def _refuse(self, error: IsthmusError) -> None:
        """Answer with an error in the caller's dialect; or, once an answer has begun, end it as broken."""
        if not self._known:
            # Not recorded: whoever has no key must not be able to fill the ledger.
            self._gateway.tally.unauthenticated += 1
        elif not self._settled:
            await self._settle_failure(error)
        if self._started:
            await self._send(
                {"type": "http.response.body", "body": self._last_of_stream(error), "more_body": False}
            )
            return
        headers: HeaderList = [*self._identity(), JSON]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        elif not error.fault.retryable and error.status >= 500:
            # The official clients would ask again; here that cannot help.
            headers.append((b"x-should-retry", b"false"))
        if error.fault is Fault.UNAUTHENTICATED:
            headers.append((b"www-authenticate", b"Bearer"))
        await respond(self._send, error.status, self._wire.encode_error(error, self._id), headers)

    async def _settle_failure(self, error: IsthmusError) -> None:
        self._end_story("error", error)
        status = 200 if self._started else error.status
        if self._attempts is None:
            self._record("error", status, error)
            return
        with suppress(IsthmusError):
            # A ledger that fails shows in /readyz; the caller is told of the request's own failure.
            await self._settle("error", status, error)

    def _abandon(self, outcome: Outcome, error: IsthmusError) -> None:
        """The client left, or the gateway ends: tell the story of what was running, and record."""
        self._end_story(outcome, error)
        if not self._settled:
            self._record(outcome, 200 if self._started else error.status, error)

    def _end_story(self, outcome: Outcome, error: IsthmusError) -> None:
        """End the attempt that is still running, if one is."""
        unfinished = self._attempts.abandon(outcome, error) if self._attempts is not None else None
        if unfinished is not None:
            self._story.append(unfinished)

    async def _settle(self, outcome: Outcome, status: int, error: IsthmusError | None) -> Record:
        record = self._make_record(outcome, status, error)
        self._settled = True
        if self._gateway.strict:
            try:
                await self._gateway.ledger.commit(record)
            except IsthmusError as unkept:
                failed = {"status": unkept.status, "outcome": "error", "code": unkept.code}
                self._gateway.tally.count(msgspec.structs.replace(record, **failed))
                raise
        else:
            self._gateway.ledger.append(record)
        self._gateway.tally.count(record)
        return record

    def _record(self, outcome: Outcome, status: int, error: IsthmusError | None) -> None:
        """Record without waiting, also where the ledger is strict: no answer is held back by it."""
        record = self._make_record(outcome, status, error)
        self._settled = True
        self._gateway.tally.count(record)
        self._gateway.ledger.append(record)

    def _make_record(self, outcome: Outcome, status: int, error: IsthmusError | None) -> Record:
        now = clock()
        story = self._story
        envelope, route = self._envelope, self._route
        keep = route is not None and route.record_bodies
        return Record(
            id=self._id,
            at_us=self._at_us,
            dialect=self._wire.name,
            operation=self._wire.operation,
            route=route.name if route else "",
            stream=envelope.stream if envelope else False,
            status=status,
            outcome=outcome,
            key_id=self._key.id if self._key else None,
            user=envelope.user[:LONGEST_USER] if envelope and envelope.user else None,
            model=story[-1].model if story and outcome == "ok" else None,
            code=error.code if error else None,
            message=error.message if error and error.upstream_status is None else None,
            decision=self._decision,
            attempts=tuple(story),
            usage=_total_usage(story),
            charge=total_charge(attempt.charge for attempt in story),
            timings=self._timings(now),
            config_hash=self._snapshot.config.hash,
            request_body=self._body if keep else None,
            response_body=b"".join(self._kept) if keep else None,
        )

    def _timings(self, now: float) -> Timings:
        first = self._attempts.trace.first_token if self._attempts and self._attempts.trace else None
        return Timings(
            queue_ms=milliseconds(self._queued),
            overhead_ms=self._overhead_ms(self._first_out or now),
            first_token_ms=None if first is None else milliseconds(first - self._arrived),
            total_ms=milliseconds(now - self._arrived),
        )

    def _overhead_ms(self, answered: float) -> float:
        """What of the time until `answered` was the gateway's own: not the upload, the queue or the model."""
        waited = self._attempts.waited if self._attempts else 0.0
        return max(0.0, milliseconds(answered - self._arrived - self._uploading - self._queued - waited))

    def _answer_headers(self, attempts: Attempts) -> HeaderList:
        trace = attempts.trace
        assert trace is not None
        assert self._first_out is not None
        headers: HeaderList = [
            *self._identity(),
            (b"x-isthmus-model", trace.upstream.model.name.encode()),
            (b"x-isthmus-overhead-ms", b"%.3f" % self._overhead_ms(self._first_out)),
        ]
        if trace.dropped:
            headers.append((b"x-isthmus-dropped", _in_a_header(trace.dropped)))
        return headers

    def _identity(self) -> HeaderList:
        name = self._id.encode()
        if self._wire.name in READ_REQUEST_ID:
            return [(b"x-request-id", name), (b"request-id", name)]
        return [(b"x-request-id", name)]

    def _circumstances(self, envelope: Envelope) -> Circumstances:
        return Circumstances(
            draw=getrandbits(53) / 2**53, key=self._key.id if self._key else None, user=envelope.user
        )

    def _intent(self, envelope: Envelope) -> Intent:
        assert self._route is not None
        return Intent(
            id=self._id,
            at_us=self._at_us,
            dialect=self._wire.name,
            operation=self._wire.operation,
            route=self._route.name,
            stream=envelope.stream,
            key_id=self._key.id if self._key else None,
            config_hash=self._snapshot.config.hash,
        )

    async def _pause(self, seconds: float) -> None:
        if self._attempts is not None:
            self._attempts.waited += seconds
        await asyncio.sleep(seconds)


def _in_a_header(names: tuple[str, ...]) -> bytes:
    """Names of fields, which the caller chose, as a header may hold them: a percent sign for what is odd."""
    told = ",".join(quote(name, safe="[]", errors="replace") for name in names)
    return told[:LONGEST_HEADER].encode("ascii")


def _total_usage(story: list[AttemptRecord]) -> Usage | None:
    used = [attempt.usage for attempt in story if attempt.usage is not None]
    if len(used) <= 1:
        return used[0] if used else None
    return sum(used[1:], used[0])


def _nothing_allowed(decision: Decision) -> IsthmusError:
    reasons = "; ".join(refused.reason for refused in decision.refused)
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"No model of the route {decision.route!r} can serve {decision.operation}: {reasons}.",
        code="no_model_allowed",
        hint="Ask another route, or have an operator add a model to this one.",
        param="model",
    )


def _left() -> IsthmusError:
    return IsthmusError(Fault.CANCELLED, "The client went away.")


def _shutting_down() -> IsthmusError:
    return IsthmusError(
        Fault.UNAVAILABLE,
        "The gateway is shutting down, and the time for open requests is over.",
        code="shutting_down",
        hint="Ask again: another instance, or this one when it is back.",
        retry_after_s=1.0,
    )


def _receipt(record: Record) -> bytes:
    """A comment of the event stream, which every client of the format passes over: `: isthmus {...}`."""
    receipt = {
        "request_id": record.id,
        "model": record.model,
        "cost_usd": format_usd(record.charge.nanousd if record.charge else None),
        "overhead_ms": record.timings.overhead_ms,
        "total_ms": record.timings.total_ms,
        "prompt_tokens": record.usage.prompt if record.usage else None,
        "output_tokens": record.usage.output if record.usage else None,
    }
    return b": isthmus " + msgspec.json.encode(receipt) + b"\n\n"
