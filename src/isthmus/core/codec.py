"""What a dialect can do: the protocols that codecs implement and the rest of the house relies on.

A dialect is spoken by clients (`ClientWire`: it decodes requests and encodes answers), by endpoints
(`EndpointWire`: it encodes requests and decodes answers), or by both (`Wire`: then bytes can also pass
through). All of it is pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol, get_args

import msgspec

from isthmus.core.call import Call, Envelope, Operation
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import FinishReason, Piece
from isthmus.core.usage import Usage

_OURS = frozenset(get_args(FinishReason))
_WORD = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """A request's body for an endpoint. `dropped` names hints of the caller that this dialect cannot say.

    Only hints are dropped (seed, penalties, metadata...). What would change the answer's meaning (n > 1,
    log-probabilities, a schema, an image) raises IsthmusError(Fault.UNSUPPORTED) with `param` instead.
    """

    body: bytes
    dropped: tuple[str, ...] = ()


class Reading(msgspec.Struct):
    """What was read along the way of a passed-through answer.

    `committed` turns True with the first content (text, reasoning, a tool call, or an end): until then
    nothing was forwarded, and another attempt may still replace this one. `ended` is True once the dialect's
    terminal event was seen. `error` is the failure that the endpoint reported inside the stream. Of several
    choices `finish` is that of the last one, or of the first that was `interrupted`.
    """

    committed: bool = False
    ended: bool = False
    usage: Usage | None = None
    finish: FinishReason | None = None
    finish_raw: str | None = None
    error: IsthmusError | None = None

    @property
    def interrupted(self) -> bool:
        """True where the provider says that it did not bring its answer to an end."""
        return self.finish == "interrupted"

    @property
    def why(self) -> str | None:
        """Why the answer ended, as records tell it: for `other`, the provider's own word where it is one,
        and none of ours."""
        raw = self.finish_raw
        if self.finish != "other" or raw is None or raw in _OURS or not _WORD.fullmatch(raw):
            return self.finish
        return raw

    def finished(self, reason: FinishReason, raw: str | None) -> None:
        """Note the end of a choice."""
        if not self.interrupted:
            self.finish, self.finish_raw = reason, raw


class Watch(Protocol):
    """Reads a passed-through stream as bytes and lets whole events through.

    `feed` returns what may be forwarded now: always whole server-sent events, so that a cut stream can still
    be followed by a well-formed error event; nothing before the first content; not the usage chunk that the
    client did not ask for. An error event of the endpoint is not forwarded: it stands in `reading.error`.
    `close` is called at the end of the connection and returns the rest; where the terminal event is missing
    `reading.ended` stays False.
    """

    reading: Reading

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bytes: ...


class StreamDecoder(Protocol):
    """Turns a stream's bytes, however they are cut, into pieces.

    `close` is called at the end of the connection. Both raise IsthmusError: the endpoint's own error event,
    MALFORMED_ANSWER for bytes that are not of the dialect, BROKEN_STREAM from `close` where the terminal
    event is missing. Pieces decoded before the fault in the same `feed` are not lost: they are in `salvage`.

    `ended` turns True with the dialect's terminal event, where it has one: nothing of the answer follows
    then, whatever the connection does.
    """

    salvage: list[Piece]
    ended: bool

    def feed(self, data: bytes) -> list[Piece]: ...

    def close(self) -> list[Piece]: ...


class StreamEncoder(Protocol):
    """Turns pieces into the bytes of a stream in the client's dialect.

    `error` ends the stream with an error event, `close` with the terminal event; one of them is called, once.
    """

    def feed(self, pieces: Iterable[Piece]) -> bytes: ...

    def close(self) -> bytes: ...

    def error(self, error: IsthmusError) -> bytes: ...


class ClientWire(Protocol):
    """One dialect of one operation (Chat Completions, Messages, embeddings...), as clients speak it.

    `name` is what config and records call it.
    """

    name: ClassVar[str]
    operation: ClassVar[Operation]

    def peek(self, body: bytes) -> Envelope:
        """The envelope of a request; raises IsthmusError(INVALID_REQUEST) for what is not a request."""
        ...

    def decode_call(self, envelope: Envelope) -> Call:
        """The whole request; raises IsthmusError(INVALID_REQUEST, param=...) for wrong types and impossible
        values.
        """
        ...

    def encode_answer(self, pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
        """The body of a whole answer. `created` is in seconds since the epoch."""
        ...

    def stream_encoder(self, call: Call, request_id: str, created: int) -> StreamEncoder:
        """An encoder for one streamed answer."""
        ...

    def status_of(self, error: IsthmusError) -> int:
        """The HTTP status that goes with `encode_error`, as this dialect's official clients expect it."""
        ...

    def encode_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error's body, as this dialect's official clients expect it."""
        ...

    def stream_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error as an event that ends a passed-through stream."""
        ...


class EndpointWire(Protocol):
    """One dialect of one operation, as endpoints speak it; `name` is the same word as the client's side
    has.
    """

    name: ClassVar[str]
    operation: ClassVar[Operation]

    def target(self, model_id: str, stream: bool) -> str:
        """The path (and query) below the provider's base URL, percent-encoded."""
        ...

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint; raises IsthmusError(UNSUPPORTED, param=...) for what cannot be
        said.
        """
        ...

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer; raises IsthmusError(MALFORMED_ANSWER)."""
        ...

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        ...

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed; header names are lower case. Keeps status and body, honours
        Retry-After.
        """
        ...


class Wire(ClientWire, EndpointWire, Protocol):
    """A dialect that both sides speak: where client and endpoint agree, bytes pass through it unparsed."""

    def patch(self, envelope: Envelope, model_id: str) -> bytes:
        """The client's own bytes with the model's id in place, and usage asked for in streams."""
        ...

    def watch(self, strip_usage: bool) -> Watch:
        """A watch over one passed-through stream; `strip_usage` where the client did not ask for usage."""
        ...

    def read_answer(self, body: bytes) -> Reading:
        """Usage and finish reason of a whole passed-through body, read and not rewritten."""
        ...
