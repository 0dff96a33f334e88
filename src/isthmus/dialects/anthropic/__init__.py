"""Anthropic Messages, as clients and as endpoints speak it.

Source: platform.claude.com/docs/en/api/messages, and the types of the package `anthropic` 2.12. The rules by
which calls of other dialects are said to an Anthropic endpoint stand in `encode`. The headers
(`anthropic-version`, `anthropic-beta`, `x-api-key`) are the provider's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import msgspec

from isthmus.core.call import Call, Envelope, Operation
from isthmus.core.codec import Encoded, Reading, StreamDecoder, StreamEncoder, Watch
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects import faults, seals
from isthmus.dialects.anthropic import answer, decode, encode, errors, stream


class AnthropicMessages:
    """The dialect `anthropic`: POST /v1/messages (core.codec.Wire)."""

    name: ClassVar[str] = decode.DIALECT
    operation: ClassVar[Operation] = "chat"

    def peek(self, body: bytes) -> Envelope:
        """The envelope of a request."""
        return decode.peek(body, self.name, self.operation)

    def decode_call(self, envelope: Envelope) -> Call:
        """The whole request."""
        return decode.decode(envelope)

    def encode_answer(self, pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
        """The body of a Message, which has no time of creation."""
        return answer.encode_answer(pieces, call, request_id)

    def stream_encoder(self, call: Call, request_id: str, created: int) -> StreamEncoder:
        """An encoder for one streamed answer."""
        return stream.Encoder(call, request_id)

    def status_of(self, error: IsthmusError) -> int:
        """The HTTP status of the error: 529 for an overload."""
        return errors.status_of(error)

    def encode_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error's body."""
        return errors.encode_error(error, request_id)

    def stream_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error as an event that ends a passed-through stream."""
        return errors.stream_error(error, request_id)

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1; the model stands in the body."""
        return "/messages"

    def patch(self, envelope: Envelope, model_id: str) -> bytes:
        """The client's own bytes with the model's id in place, without foreign thoughts (`patched`)."""
        return patched(envelope, model_id, encode.encode)

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint."""
        return encode.encode(call, model_id)

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer."""
        return answer.decode_answer(body)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        return stream.Decoder()

    def watch(self, strip_usage: bool) -> Watch:
        """A watch over one passed-through stream; usage belongs to it and is never stripped."""
        return stream.Watch()

    def read_answer(self, body: bytes) -> Reading:
        """Usage and stop reason of a whole passed-through body."""
        return answer.read_answer(body)

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed."""
        return faults.decode_error(status, headers, body)


def patched(envelope: Envelope, model_id: str, anew: Callable[[Call, str], Encoded]) -> bytes:
    """The request's fields as they came, with another model.

    A conversation that holds seals of other dialects, or thinking that nobody signed, is said `anew` without
    them: Anthropic would refuse them.
    """
    messages = envelope.fields.get("messages")
    if messages is not None and (seals.holds_foreign(messages) or _UNSIGNED.search(messages)):
        return anew(decode.decode(envelope), model_id).body
    return _ENCODER.encode({**envelope.fields, "model": model_id})


# llama.cpp and vLLM sign with an empty string.
_UNSIGNED = re.compile(rb'"signature"\s*:\s*""')
_ENCODER = msgspec.json.Encoder()
