"""Law 6 where it is kept: however an attempt ends, its record charges what its budgets count."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.accounting.breaker import Breaker
from isthmus.accounting.budgets import Budget, Caller
from isthmus.catalog.prices import UNKNOWN, PriceBook
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptEnded
from isthmus.core.portfolio import BreakerSettings, Model, PriceOverride, Provider
from isthmus.core.record import AttemptRecord
from isthmus.dialects import CLIENT_WIRES, endpoint_wires
from isthmus.gateway.treasury import Treasury
from isthmus.providers import transport as http
from isthmus.providers.attempts import Attempt, Question
from isthmus.providers.upstream import Upstream
from isthmus.store.memory import MemoryCounters
from tests.laws.calls import stream_of

AT_US = 1_790_000_000_000_000
ORIGIN = http.Origin(scheme="http", host="upstream", port=80)
MODEL = Model(name="m", provider="p", id="m", kind="closed", max_output=100)
KNOWN = PriceBook().price(None, "m", (PriceOverride(input=Decimal(3), output=Decimal(15)),))
BUDGETS = (
    Budget(amount=10**12, unit="tokens", per="ever"),
    Budget(amount=10**12, unit="requests", per="ever", model="*"),
    Budget(amount=10**12, unit="usd", per="ever"),
)

USAGE = {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11}
REFUSED = b'{"error":{"message":"No.","type":"server_error"}}'

# The first two never reached the endpoint; the third may have, and there is no sign of it.
NOT_HEARD: tuple[http.TransportError, ...] = (
    http.ConnectError(ORIGIN, "refused"),
    http.PoolExhaustedError(ORIGIN, "is full"),
    http.ConnectionLostError(ORIGIN, "closed", reused=False, received=0),
)
LATE: tuple[http.TransportError, ...] = (
    http.FirstByteTimeoutError(ORIGIN, 1),
    http.IdleTimeoutError(ORIGIN, 1),
    http.TotalTimeoutError(ORIGIN, 1),
    http.ConnectionLostError(ORIGIN, "closed", reused=False, received=10),
    http.ResponseTooLargeError(ORIGIN, 10),
)
failures = st.sampled_from(NOT_HEARD + LATE)
statuses = st.sampled_from([400, 401, 404, 408, 413, 429, 500, 503])
finishes = st.sampled_from(["stop", "length", "a_word_of_tomorrow", "network_error"])


def _whole(finish: str, told: bool) -> bytes:
    message = {"role": "assistant", "content": "one two three"}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return msgspec.json.encode({"id": "c", "choices": [choice], **({"usage": USAGE} if told else {})})


def _events(finish: str, told: bool) -> list[bytes]:
    deltas = [{"role": "assistant", "content": ""}, {"content": "one"}, {"content": " two"}]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks = [{"id": "c", "choices": [choice]} for choice in choices]
    chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    usage = [stream_of([{"id": "c", "choices": [], "usage": USAGE}])] if told else []
    return [*(stream_of([chunk]) for chunk in chunks), *usage, b"data: [DONE]\n\n"]


replies = st.one_of(
    failures,
    st.tuples(statuses, st.just(REFUSED)),
    st.tuples(st.just(200), st.one_of(st.builds(_whole, finishes, st.booleans()), st.just(b"<html>"))),
)
heads = st.one_of(failures, statuses, st.just(200), st.just(200))
endings = st.one_of(st.none(), failures, st.sampled_from([REFUSED, b"data: {\n\n"]))


class Played(http.Stream):
    """A stream of these chunks, which then ends, or fails."""

    def __init__(self, status: int, chunks: Sequence[bytes], failure: http.TransportError | None) -> None:
        self.origin = ORIGIN
        self.status = status
        self.headers = ((b"content-type", b"text/event-stream"),)
        self.complete = False
        self._chunks = list(chunks)
        self._failure = failure

    async def next_chunk(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._failure is not None:
            raise self._failure
        self.complete = True
        return b""

    def close(self) -> None:
        self._chunks.clear()


class Play:
    """A transport whose next answer is this one."""

    def __init__(self, answer: http.TransportError | tuple[int, bytes] | Played) -> None:
        self._answer = answer

    async def send(self, outgoing: http.Outgoing) -> http.Reply:
        assert isinstance(self._answer, tuple)
        return http.Reply(self._answer[0], (), self._answer[1])

    async def stream(self, outgoing: http.Outgoing) -> http.Stream:
        assert isinstance(self._answer, Played)
        return self._answer

    def retire(self) -> None: ...

    async def aclose(self) -> None: ...


class Failing(Play):
    """A transport that fails so."""

    def __init__(self, failure: http.TransportError) -> None:
        self._failure = failure

    async def send(self, outgoing: http.Outgoing) -> http.Reply:
        raise self._failure

    async def stream(self, outgoing: http.Outgoing) -> http.Stream:
        raise self._failure


async def _settled(
    transport: Play, dialect: str, *, stream: bool, priced: bool, leaves_after: int | None
) -> tuple[AttemptRecord, dict[str, int]]:
    """The record of one attempt, and what was counted for it, by unit. The client leaves after so many
    parts of the answer."""
    upstream = Upstream(
        MODEL,
        Provider(name="p", wires=("openai",)),
        base_url="http://upstream/v1",
        key=None,
        wires=endpoint_wires(("openai",), ()),
        transport=transport,
        breaker=Breaker(BreakerSettings()),
        price=KNOWN if priced else UNKNOWN,
    )
    wire = CLIENT_WIRES[dialect]
    asked = {"model": "r", "messages": [{"role": "user", "content": "Say it."}], "max_tokens": 50}
    envelope = wire.peek(msgspec.json.encode({**asked, "stream": stream}))
    question = Question(
        envelope=envelope, wire=wire, client_headers={}, arrived=0.0, at_us=AT_US, clock=lambda: 0.0
    )
    treasury = Treasury(MemoryCounters())
    budgets = BUDGETS if priced else BUDGETS[:2]
    purse = treasury.purse(budgets, Caller(route="r"), AT_US)
    attempt = Attempt(question, upstream, 1, purse)
    record, parts = None, 0
    while record is None:
        if parts == leaves_after:
            record = attempt.abandon("cancelled", IsthmusError(Fault.CANCELLED, "The client went away."))
            assert record is not None
            break
        event = await attempt.next()
        parts += 1
        record = event.record if isinstance(event, AttemptEnded) else None
    attempt.close()
    accounts = {name.budget: it for name, it in treasury._accounts.items()}
    await treasury.close()
    assert all(it.held == 0 for it in accounts.values()), "settled once, and wholly"
    return record, {name.split()[0]: it.spent for name, it in accounts.items()}


def _transport(
    streamed: bool,
    reply: http.TransportError | tuple[int, bytes],
    head: http.TransportError | int,
    events: list[bytes],
    kept: int,
    ending: http.TransportError | bytes | None,
) -> Play:
    if not streamed:
        return Failing(reply) if isinstance(reply, http.TransportError) else Play(reply)
    if isinstance(head, http.TransportError):
        return Failing(head)
    if head != 200:
        return Play(Played(head, [REFUSED], None))
    said = events[:kept] + ([b"data: " + ending + b"\n\n"] if isinstance(ending, bytes) else [])
    return Play(Played(200, said, ending if isinstance(ending, http.TransportError) else None))


@given(
    dialect=st.sampled_from(["openai", "anthropic"]),
    streamed=st.booleans(),
    priced=st.booleans(),
    reply=replies,
    head=heads,
    events=st.builds(_events, finishes, st.booleans()),
    kept=st.integers(0, 6),
    ending=endings,
    leaves_after=st.none() | st.integers(0, 3),
)
def test_a_record_charges_what_budgets_count(
    dialect: str,
    streamed: bool,
    priced: bool,
    reply: http.TransportError | tuple[int, bytes],
    head: http.TransportError | int,
    events: list[bytes],
    kept: int,
    ending: http.TransportError | bytes | None,
    leaves_after: int | None,
) -> None:
    transport = _transport(streamed, reply, head, events, kept, ending)
    record, counted = asyncio.run(
        _settled(transport, dialect, stream=streamed, priced=priced, leaves_after=leaves_after)
    )
    usage, charge = record.usage, record.charge
    assert (usage is None) == (charge is None)
    assert counted.get("tokens", 0) == (usage.total if usage is not None else 0)
    if charge is None or priced:
        assert counted.get("usd", 0) == (charge.nanousd if charge is not None else 0)
    else:
        assert (charge.nanousd, charge.basis) == (None, "unknown"), "and never nothing"


@given(st.sampled_from(NOT_HEARD), st.booleans(), st.booleans())
def test_what_no_endpoint_took_costs_nothing(
    failure: http.TransportError, streamed: bool, priced: bool
) -> None:
    record, counted = asyncio.run(
        _settled(Failing(failure), "openai", stream=streamed, priced=priced, leaves_after=None)
    )
    assert (record.usage, record.charge) == (None, None)
    assert (counted["tokens"], counted["requests"]) == (0, 1)


@given(statuses, st.booleans())
def test_what_an_endpoint_refuses_costs_nothing(status: int, streamed: bool) -> None:
    refusal = Play(Played(status, [REFUSED], None)) if streamed else Play((status, REFUSED))
    record, counted = asyncio.run(
        _settled(refusal, "openai", stream=streamed, priced=True, leaves_after=None)
    )
    assert (record.usage, record.charge, counted["usd"]) == (None, None, 0)


@given(st.booleans())
def test_a_lateness_that_the_endpoint_reports_costs_nothing_either(streamed: bool) -> None:
    late = b'{"error":{"message":"No.","type":"timeout_error"}}'
    refusal = Play(Played(200, [b"data: %b\n\n" % late], None)) if streamed else Play((200, late))
    record, counted = asyncio.run(
        _settled(refusal, "openai", stream=streamed, priced=True, leaves_after=None)
    )
    assert record.outcome == "error"
    assert (record.usage, record.charge, counted["usd"]) == (None, None, 0)


@given(st.sampled_from(LATE), st.booleans(), st.booleans(), st.sampled_from(["openai", "anthropic"]))
def test_what_an_endpoint_did_in_vain_is_charged_by_an_estimate(
    failure: http.TransportError, streamed: bool, begun: bool, dialect: str
) -> None:
    """Also where nothing of the answer was seen: the prompt was read."""
    silent = (
        Play(Played(200, _events("stop", False)[:1], failure)) if streamed and begun else Failing(failure)
    )
    record, counted = asyncio.run(_settled(silent, dialect, stream=streamed, priced=True, leaves_after=None))
    assert record.outcome == "error"
    assert record.usage is not None
    assert record.charge is not None
    assert (record.usage.estimated, record.charge.estimated, record.committed) == (True, True, False)
    assert record.usage.prompt > 0
    assert counted["usd"] == record.charge.nanousd
    assert counted["usd"] > 0
