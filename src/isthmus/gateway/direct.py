"""Asks models from within the process, by the very way that requests from outside go.

A `Direct` makes a request as a client would and gives it to a gateway. So the perimeter, routing, budgets,
retries, breakers and the ledger are those of live traffic, and there is no second way to any model.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from isthmus.accounting.breaker import Breaker
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Answered, Embedded
from isthmus.core.label import BOTTOM, Label
from isthmus.core.pieces import Piece, text_of, tokens_of
from isthmus.core.record import Record
from isthmus.dialects.openai import OpenAIChat
from isthmus.dialects.openai.quirks import Quirks
from isthmus.gateway.app import Gateway
from isthmus.gateway.story import clock
from isthmus.routing.route import OF_EVALUATIONS
from isthmus.store.keys import Key

PREFIX = OF_EVALUATIONS
"""What the routes are called that lead to one model each."""

OPENINGS = 5
"""So often a model is waited for that is left alone after failures, or whose engine starts anew."""

ENGINE_PAUSE_S = 2.0
BREAKER_LOOK_S = 0.1

# Who relays bytes of an endpoint that never says why it ends has to be as patient as its quirks are.
_WIRE = OpenAIChat(Quirks(finish_reason=False))


def route_to(model: str) -> str:
    """The route that leads to that model alone."""
    return PREFIX + model


class DirectRequest:
    """A request from within the process, and what is answered to it; a `gateway.request.Request`."""

    method = "POST"
    client = None

    def __init__(self, path: str, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.left = False
        self.answered = False
        self.head = b""
        self.said: list[bytes] = []
        self._body = body

    def accept(self, limit: int) -> None:
        """All of it is here already."""

    async def body(self, limit: int) -> bytes:
        """The request's body. Raises IsthmusError(TOO_LARGE) beyond `limit` bytes."""
        if len(self._body) > limit:
            raise IsthmusError(
                Fault.TOO_LARGE,
                f"The request has {len(self._body):,} bytes; {limit:,} are the most.",
                hint="An operator can raise gateway.max_body_mb.",
            )
        return self._body

    def respond(self, status: int, body: bytes, headers: bytes) -> None:
        """Takes a whole answer."""
        self.begin(status, headers)
        self.end(body)

    def begin(self, status: int, headers: bytes) -> None:
        """Takes the head of an answer."""
        self.head = headers

    def write(self, data: bytes) -> None:
        """Takes a part of an answer."""
        self.said.append(data)

    def end(self, data: bytes = b"") -> None:
        """Takes the last of an answer."""
        self.said.append(data)
        self.answered = True

    @property
    def id(self) -> str:
        """The id that the gateway gave the request."""
        names = (line.partition(b": ") for line in self.head.split(b"\r\n"))
        return next(value.decode() for name, _, value in names if name == b"x-request-id")


class LabelRing:
    """Keys made for one process, one for each label: by its key, a request is at least of that label.

    All of them bear one name: that of who asks, as records and budgets know it.
    """

    empty = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._secrets: dict[Label, bytes] = {}
        self._keys: dict[bytes, Key] = {}

    def secret(self, label: Label) -> bytes:
        """The secret of the key whose floor is that label."""
        if label not in self._secrets:
            secret = secrets.token_urlsafe(32).encode()
            self._secrets[label] = secret
            self._keys[secret] = Key(id=self.name, name=self.name, routes=(), created_us=0, floor=label)
        return self._secrets[label]

    def verify(self, secret: bytes, at_us: int) -> Key:
        """The key of this secret."""
        return self._keys[secret]

    def name_of(self, key_id: str) -> str | None:
        """The name that all of them bear."""
        return self.name if key_id == self.name else None


class Direct:
    """Asks the models of a gateway that has a route `pilot/MODEL` for each: an `Ask` of `core.evaluation`.

    `places` bound how many calls of a model, or of several together, run at once. `heard` gets each request's
    record, by its id, from the gateway's ledger. Where a budget refuses, what is still held for running calls
    may come back to it: the refused call is tried again by itself before it counts as refused.
    """

    def __init__(
        self,
        gateway: Gateway,
        ring: LabelRing,
        heard: dict[str, Record],
        places: Mapping[str, asyncio.Semaphore],
    ) -> None:
        self._gateway = gateway
        self._ring = ring
        self._heard = heard
        self._places = places
        self._alone = asyncio.Lock()
        self._running = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def __call__(self, model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        """See `core.evaluation.Ask`."""
        body = msgspec.json.encode({**request, "model": route_to(model), "stream": True})
        told = await self._told("/v1/chat/completions", model, body, label)
        return answered_of(model, body, *told)

    async def embed(self, model: str, texts: Sequence[str], label: Label = BOTTOM) -> Embedded:
        """See `core.evaluation.Embed`."""
        body = msgspec.json.encode({"model": route_to(model), "input": list(texts)})
        record, said = await self._told("/v1/embeddings", model, body, label)
        told = Embedded(model=model, usage=record.usage, charge=record.charge)
        if record.outcome != "ok":
            error = _error_text(said) or record.message or ""
            return msgspec.structs.replace(told, code=record.code or record.outcome, error=error)
        try:
            vectors = _vectors(said)
        except (msgspec.DecodeError, UnicodeDecodeError):
            said_what = "The endpoint's vectors are none."
            return msgspec.structs.replace(told, code="malformed_answer", error=said_what)
        return msgspec.structs.replace(told, vectors=vectors)

    async def _told(self, path: str, model: str, body: bytes, label: Label) -> tuple[Record, bytes]:
        """The record of the request and the bytes of its answer, once waiting helps no more."""
        for opening in range(1, OPENINGS + 1):
            record, said = await self._once(path, model, body, label)
            if record.code == "budget_spent":
                async with self._alone:
                    while self._running:
                        await self._quiet.wait()
                    record, said = await self._once(path, model, body, label)
            if opening == OPENINGS or not _is_away(record.code):
                break
            await self._until_back(model, record.code)
        return record, said

    async def _once(self, path: str, model: str, body: bytes, label: Label) -> tuple[Record, bytes]:
        headers = {b"authorization": b"Bearer " + self._ring.secret(label)}
        request = DirectRequest(path, headers, body)
        async with self._places[model]:
            self._running += 1
            self._quiet.clear()
            try:
                await self._serve(request)
            finally:
                self._running -= 1
                if not self._running:
                    self._quiet.set()
        return self._heard.pop(request.id), b"".join(request.said)

    async def _serve(self, request: DirectRequest) -> None:
        """Serve it in a task of its own, as the server does: who leaves is told of by a flag."""
        serving = asyncio.ensure_future(self._gateway.serve(request))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            request.left = True
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            raise

    async def _until_back(self, model: str, code: str | None) -> None:
        if code != "breaker_open":
            await asyncio.sleep(ENGINE_PAUSE_S)
            return
        breaker: Breaker = self._gateway.snapshot.upstreams[model].breaker
        # It says when it may be asked again; a probe by somebody else may end sooner than that.
        while breaker.wait_s(clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(BREAKER_LOOK_S)


def answered_of(model: str, body: bytes, record: Record, said: bytes) -> Answered:
    """The answer to that request, of its record and the bytes that were streamed.

    Its times are those of the attempt that answered: waiting for others is no property of the model.
    """
    last = record.attempts[-1] if record.attempts else None
    answered = Answered(
        model=model,
        finish=last.finish if last else None,
        usage=record.usage,
        charge=record.charge,
        first_token_ms=last.first_token_ms if last else None,
        total_ms=last.total_ms if last else record.timings.total_ms,
        record_id=record.id,
        label=record.decision.label if record.decision else BOTTOM,
    )
    pieces: list[Piece] = []
    failure: tuple[str, str] | None = None
    if record.outcome != "ok":
        failure = (record.code or record.outcome, _error_text(said) or record.message or "")
    else:
        try:
            pieces = _pieces(said)
        except IsthmusError as error:
            failure = (error.code, error.text)
    if failure is not None:
        return msgspec.structs.replace(answered, code=failure[0], error=failure[1])
    call = _WIRE.decode_call(_WIRE.peek(body))
    whole = msgspec.json.decode(_WIRE.encode_answer(pieces, call, record.id, record.at_us // 1_000_000))
    return msgspec.structs.replace(
        answered,
        text=text_of(pieces),
        message=whole["choices"][0]["message"],
        logprobs=tuple(logprob for _, logprob in tokens_of(pieces)) or None,
    )


def _is_away(code: str | None) -> bool:
    """True where the model was not asked, and may be back soon."""
    return code == "breaker_open" or (code or "").startswith("engine_")


def _pieces(said: bytes) -> list[Piece]:
    decoder = _WIRE.stream_decoder()
    return [*decoder.feed(said), *decoder.close()]


def _error_text(said: bytes) -> str:
    """The message of an error in OpenAI's form, alone or as the last event of a stream; empty where none."""
    last = said.rpartition(b"data: ")[2] if b"data: " in said else said
    with suppress(msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return msgspec.json.decode(last, type=_Failed).error.message
    return ""


def _vectors(said: bytes) -> tuple[tuple[float, ...], ...]:
    rows = msgspec.json.decode(said, type=_Vectors).data
    return tuple(row.embedding for row in sorted(rows, key=lambda row: row.index))


class _Vector(msgspec.Struct):
    index: int
    embedding: tuple[float, ...]


class _Vectors(msgspec.Struct):
    data: list[_Vector]


class _Message(msgspec.Struct):
    message: str


class _Failed(msgspec.Struct):
    error: _Message
