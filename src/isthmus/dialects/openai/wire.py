"""The dialect `openai` as a core.codec.Wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import msgspec

from isthmus.core.call import Call, Envelope, Operation
from isthmus.core.codec import Encoded, Reading, StreamDecoder, StreamEncoder, Watch
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects import faults
from isthmus.dialects.fields import decode_raw, flag_of, invalid, model_of, open_body, text_of
from isthmus.dialects.openai.answer import (
    ReportedUsage,
    decode_answer,
    encode_answer,
    finish_reason,
    read_usage,
)
from isthmus.dialects.openai.decode_call import DIALECT, decode_call
from isthmus.dialects.openai.encode_call import encode_call
from isthmus.dialects.openai.errors import encode_error, error_event
from isthmus.dialects.openai.quirks import COMPATIBLE, Quirks
from isthmus.dialects.openai.stream import ChatStreamDecoder, ChatStreamEncoder, ChatWatch

_USAGE_WANTED = msgspec.Raw(b'{"include_usage":true}')
_encode = msgspec.json.Encoder().encode


class OpenAIChat:
    """OpenAI Chat Completions, as clients and as endpoints speak it; `quirks` say what the endpoint
    understands."""

    name: ClassVar[str] = DIALECT
    operation: ClassVar[Operation] = "chat"

    def __init__(self, quirks: Quirks = COMPATIBLE) -> None:
        self.quirks = quirks

    def peek(self, body: bytes) -> Envelope:
        """The envelope of a request; raises IsthmusError(INVALID_REQUEST) for what is not a request."""
        fields = open_body(body)
        return Envelope(
            dialect=DIALECT,
            operation="chat",
            model=model_of(fields),
            stream=flag_of(fields, "stream"),
            include_usage="stream_options" in fields and _wants_usage(fields["stream_options"]),
            user=text_of(fields, "user"),
            fields=fields,
        )

    def decode_call(self, envelope: Envelope) -> Call:
        """The whole request; raises IsthmusError(INVALID_REQUEST, param=path) for wrong types and values."""
        return decode_call(envelope)

    def encode_answer(self, pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
        """The body of a whole answer. `created` is in seconds since the epoch."""
        return encode_answer(pieces, call, request_id, created)

    def stream_encoder(self, call: Call, request_id: str, created: int) -> StreamEncoder:
        """An encoder for one streamed answer. `created` is in seconds since the epoch."""
        return ChatStreamEncoder(call, request_id, created)

    def encode_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error's body, as OpenAI's clients expect it."""
        return encode_error(error, request_id)

    def stream_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error as the last event of a passed-through stream."""
        return error_event(error, request_id)

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1 or its like."""
        return "/chat/completions"

    def patch(self, envelope: Envelope, model_id: str) -> bytes:
        """The client's own fields with the model's id in place, usage asked for in streams, and quirks
        minded."""
        quirks = self.quirks
        fields = dict(envelope.fields)
        fields["model"] = msgspec.Raw(_encode(model_id))
        if envelope.stream and quirks.stream_options and not envelope.include_usage:
            fields["stream_options"] = _asking_for_usage(fields.get("stream_options"))
        for known in ("max_tokens", "max_completion_tokens"):
            if known in fields and known != quirks.max_tokens_field:
                limit = fields.pop(known)
                fields.setdefault(quirks.max_tokens_field, limit)
        messages = fields.get("messages")
        if messages is not None and not quirks.developer_role and b'"developer"' in bytes(messages):
            fields["messages"] = _without_developers(messages)
        return _encode(fields)

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint; raises IsthmusError(UNSUPPORTED, param=path) for what cannot be
        said."""
        return encode_call(call, model_id, self.quirks)

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
        return decode_answer(body)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        return ChatStreamDecoder()

    def watch(self, strip_usage: bool) -> Watch:
        """A watch over one passed-through stream; `strip_usage` where the client did not ask for usage."""
        return ChatWatch(strip_usage)

    def read_answer(self, body: bytes) -> Reading:
        """Usage and finish reason of a whole passed-through body; `ended` is False for what is no answer."""
        try:
            answer = _read_whole(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Reading(error=faults.not_an_answer(body))
        if not answer.choices:
            return Reading(error=faults.not_an_answer(body))
        raw = answer.choices[-1].finish_reason
        return Reading(
            committed=True,
            ended=True,
            usage=None if answer.usage is None else read_usage(answer.usage),
            finish=None if raw is None else finish_reason(raw),
            finish_raw=raw,
        )

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed; header names are lower case."""
        return faults.decode_error(status, headers, body)


class _Finished(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    """What is read of a whole answer."""

    choices: list[_Finished] = []
    usage: ReportedUsage | None = None


_read_whole = msgspec.json.Decoder(_Whole).decode


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_read_options = msgspec.json.Decoder(_StreamOptions | None).decode


def _wants_usage(raw: msgspec.Raw) -> bool:
    try:
        options = _read_options(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid(
            "stream_options", "an object with a boolean `include_usage`", decode_raw(raw, "stream_options")
        ) from None
    return options is not None and options.include_usage is True


def _asking_for_usage(raw: msgspec.Raw | None) -> msgspec.Raw:
    options = None if raw is None else decode_raw(raw, "stream_options")
    if not isinstance(options, dict):
        return _USAGE_WANTED
    return msgspec.Raw(_encode({**options, "include_usage": True}))


def _without_developers(raw: msgspec.Raw) -> msgspec.Raw:
    """The messages with the role `system` for `developer`; each message's other fields stay as they are."""
    try:
        messages = msgspec.json.decode(raw, type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw
    for message in messages:
        if bytes(message.get("role", b"")) == b'"developer"':
            message["role"] = msgspec.Raw(b'"system"')
    return msgspec.Raw(_encode(messages))
