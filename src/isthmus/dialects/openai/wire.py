"""The dialect `openai` as a core.codec.Wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from isthmus.core.call import Call, Envelope, Operation
from isthmus.core.codec import Encoded, Reading, StreamDecoder, StreamEncoder, Watch
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects import faults
from isthmus.dialects.fields import decode_raw, flag_of, invalid, model_of, open_body, text_of
from isthmus.dialects.openai.answer import (
    ABSENT,
    ReportedUsage,
    decode_answer,
    encode_answer,
    finish_reason,
    holds,
    read_usage,
)
from isthmus.dialects.openai.decode_call import DIALECT, decode_call
from isthmus.dialects.openai.encode_call import encode_call, short_tool_id
from isthmus.dialects.openai.errors import encode_error, error_event
from isthmus.dialects.openai.quirks import COMPATIBLE, Quirks
from isthmus.dialects.openai.stream import ChatStreamDecoder, ChatStreamEncoder, ChatWatch

_NULL = b"null"
_USAGE_WANTED = msgspec.Raw(b'{"include_usage":true}')
_encode = msgspec.json.Encoder().encode


class OpenAIChat:
    """OpenAI Chat Completions, as clients and as endpoints speak it; `quirks` say what the endpoint
    understands."""

    name: ClassVar[str] = DIALECT
    operation: ClassVar[Operation] = "chat"

    def __init__(self, quirks: Quirks = COMPATIBLE) -> None:
        self.quirks = quirks
        self._rewritten = _rewritten(quirks)

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

    def status_of(self, error: IsthmusError) -> int:
        """The HTTP status of the error: OpenAI has none of its own."""
        return error.status

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
        if not quirks.stream_options:
            fields.pop("stream_options", None)
        elif envelope.stream and not envelope.include_usage:
            fields["stream_options"] = _asking_for_usage(fields.get("stream_options"))
        for known in ("max_tokens", "max_completion_tokens"):
            if known in fields and known != quirks.max_tokens_field:
                limit, own = fields.pop(known), fields.get(quirks.max_tokens_field, _NULL)
                # As `decode_call` reads them: the newer name counts, and null says nothing.
                if bytes(own) == _NULL or (known == "max_completion_tokens" and bytes(limit) != _NULL):
                    fields[quirks.max_tokens_field] = limit
        if not quirks.top_k:
            fields.pop("top_k", None)
        if self._rewritten and "messages" in fields:
            messages = bytes(fields["messages"])
            for name in self._rewritten:
                # CPython's `rfind` is twice as fast as `in`.
                if messages.rfind(name) >= 0:
                    fields["messages"] = _rewrite(messages, quirks)
                    break
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
        return ChatStreamDecoder(self.quirks.finish_reason)

    def watch(self, strip_usage: bool) -> Watch:
        """A watch over one passed-through stream; `strip_usage` where the client did not ask for usage."""
        return ChatWatch(strip_usage, self.quirks.finish_reason)

    def read_answer(self, body: bytes) -> Reading:
        """Usage and finish reason of a whole passed-through body; `ended` is False for what is no answer."""
        try:
            answer = _read_whole(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Reading(error=faults.not_an_answer(body))
        if holds(answer.error):
            return Reading(error=faults.decode_stream_error(body))
        usage = None if answer.usage is None else read_usage(answer.usage, answer.service_tier)
        reading = Reading(committed=True, ended=bool(answer.choices), usage=usage)
        for choice in answer.choices:
            raw = choice.finish_reason
            if raw:
                reading.finished(finish_reason(raw), raw)
            else:
                reading.ended = False
        return reading if reading.ended else Reading(error=faults.not_an_answer(body))

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed; header names are lower case."""
        return faults.decode_error(status, headers, body)


class _Finished(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    """What is read of a whole answer."""

    choices: list[_Finished] = []
    usage: ReportedUsage | None = None
    service_tier: Any = None
    error: msgspec.Raw = ABSENT


_read_whole = msgspec.json.Decoder(_Whole).decode


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_read_options = msgspec.json.Decoder(_StreamOptions | None).decode


def _wants_usage(raw: msgspec.Raw) -> bool:
    try:
        options = _read_options(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(
            "stream_options", "an object with a boolean `include_usage`", decode_raw(raw, "stream_options")
        ) from None
    return options is not None and options.include_usage is True


def _asking_for_usage(raw: msgspec.Raw | None) -> msgspec.Raw:
    options = None if raw is None else decode_raw(raw, "stream_options")
    if not isinstance(options, dict):
        return _USAGE_WANTED
    return msgspec.Raw(_encode({**options, "include_usage": True}))


def _rewritten(quirks: Quirks) -> tuple[bytes, ...]:
    """The names, as they stand in JSON, at which a server's quirks change messages."""
    names: tuple[bytes, ...] = ()
    if not quirks.developer_role:
        names += (b'"developer"',)
    if quirks.reasoning_field is None:
        names += (b'"reasoning_content"', b'"reasoning"')
    if quirks.short_tool_ids:
        names += (b'"tool_calls"', b'"tool_call_id"')
    return names


def _rewrite(raw: bytes, quirks: Quirks) -> msgspec.Raw:
    """The messages as a server with these quirks wants them; what they do not concern stays as it is."""
    try:
        messages = msgspec.json.decode(raw, type=list[dict[str, msgspec.Raw]])
        for message in messages:
            _rewrite_message(message, quirks)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The endpoint says what is wrong with them.
        return msgspec.Raw(raw)
    return msgspec.Raw(_encode(messages))


def _rewrite_message(message: dict[str, msgspec.Raw], quirks: Quirks) -> None:
    role = bytes(message.get("role", b""))
    if role == b'"developer"' and not quirks.developer_role:
        message["role"] = msgspec.Raw(b'"system"')
    if role == b'"assistant"' and quirks.reasoning_field is None:
        message.pop("reasoning_content", None)
        message.pop("reasoning", None)
    if quirks.short_tool_ids:
        if role == b'"tool"' and "tool_call_id" in message:
            message["tool_call_id"] = _short_id(message["tool_call_id"])
        if role == b'"assistant"' and "tool_calls" in message:
            calls = _read_tool_calls(message["tool_calls"])
            message["tool_calls"] = msgspec.Raw(
                _encode([call | {"id": _short_id(call["id"])} if "id" in call else call for call in calls])
            )


def _short_id(raw: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(_encode(short_tool_id(_read_text(raw))))


_read_tool_calls = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_read_text = msgspec.json.Decoder(str).decode
