"""The dialect `responses` as a core.codec.Wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from isthmus.core.call import Call, Envelope, Operation
from isthmus.core.codec import Encoded, Reading, StreamDecoder, StreamEncoder, Watch
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects import faults, seals
from isthmus.dialects.fields import flag_of, model_of, open_body, text_of
from isthmus.dialects.responses.answer import decode_answer, encode_answer, read_answer
from isthmus.dialects.responses.decode_call import DIALECT, decode_call
from isthmus.dialects.responses.encode_call import encode_call
from isthmus.dialects.responses.errors import encode_error, error_event
from isthmus.dialects.responses.stream import (
    ResponsesStreamDecoder,
    ResponsesStreamEncoder,
    ResponsesWatch,
)

_encode = msgspec.json.Encoder().encode


class OpenAIResponses:
    """OpenAI Responses, as clients and as endpoints speak it: POST /v1/responses."""

    name: ClassVar[str] = DIALECT
    operation: ClassVar[Operation] = "chat"

    def peek(self, body: bytes) -> Envelope:
        """The envelope of a request; raises IsthmusError(INVALID_REQUEST) for what is not a request."""
        fields = open_body(body)
        return Envelope(
            dialect=DIALECT,
            operation="chat",
            model=model_of(fields),
            stream=flag_of(fields, "stream"),
            # The last event of a stream always tells its usage.
            include_usage=True,
            user=text_of(fields, "user") or text_of(fields, "safety_identifier"),
            fields=fields,
        )

    def decode_call(self, envelope: Envelope) -> Call:
        """The whole request; raises IsthmusError: INVALID_REQUEST for wrong types and values, UNSUPPORTED for
        what needs stored responses."""
        return decode_call(envelope)

    def encode_answer(self, pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
        """The body of a whole answer. `created` is in seconds since the epoch."""
        return encode_answer(pieces, call, request_id, created)

    def stream_encoder(self, call: Call, request_id: str, created: int) -> StreamEncoder:
        """An encoder for one streamed answer. `created` is in seconds since the epoch."""
        return ResponsesStreamEncoder(call, request_id, created)

    def status_of(self, error: IsthmusError) -> int:
        """The HTTP status of the error: OpenAI has none of its own."""
        return error.status

    def encode_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error's body, as OpenAI's clients expect it."""
        return encode_error(error, request_id)

    def stream_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error as the last event of a passed-through stream; its number there is not known, and 0."""
        return error_event(error, request_id)

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1 or its like."""
        return "/responses"

    def patch(self, envelope: Envelope, model_id: str) -> bytes:
        """The client's own fields with the model's id in place.

        Reasoning that other dialects sealed (`items`) is left out: the endpoint would refuse it.
        """
        fields = dict(envelope.fields)
        fields["model"] = msgspec.Raw(_encode(model_id))
        given = fields.get("input")
        if given is not None and seals.holds_foreign(given):
            fields["input"] = _without_foreign_thoughts(given)
        return _encode(fields)

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint; raises IsthmusError(UNSUPPORTED, param=path) for what cannot be
        said."""
        return encode_call(call, model_id)

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
        return decode_answer(body)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        return ResponsesStreamDecoder()

    def watch(self, strip_usage: bool) -> Watch:
        """A watch over one passed-through stream; usage is part of its last event and is never stripped."""
        return ResponsesWatch()

    def read_answer(self, body: bytes) -> Reading:
        """Usage and finish reason of a whole passed-through body."""
        return read_answer(body)

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed; header names are lower case."""
        return faults.decode_error(status, headers, body)


class _Thought(msgspec.Struct):
    type: Any = None
    encrypted_content: Any = None

    @property
    def is_foreign(self) -> bool:
        """True for reasoning that the gateway sealed for another dialect."""
        sealed = self.encrypted_content
        return self.type == "reasoning" and isinstance(sealed, str) and sealed.startswith(seals.PREFIX)


_read_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_thought = msgspec.json.Decoder(_Thought).decode


def _without_foreign_thoughts(given: msgspec.Raw) -> msgspec.Raw:
    """The items as they came, without the reasoning of other dialects."""
    try:
        items = _read_items(given)
        return msgspec.Raw(_encode([item for item in items if not _read_thought(item).is_foreign]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not items: the endpoint will say so.
        return given
