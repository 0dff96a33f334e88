"""Embeddings: OpenAI's `/v1/embeddings` both ways, and Gemini's batchEmbedContents as an endpoint.

Sources: developers.openai.com/api/reference/resources/embeddings, ai.google.dev/api/embeddings. Vectors come
as numbers or as base64 of little-endian float32, whatever was asked for; the encoder says them as the client
wants them.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

import msgspec

from isthmus.core.call import Call, Envelope, Operation
from isthmus.core.codec import Encoded, Reading, StreamDecoder, StreamEncoder, Watch
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import EmbeddingVector, Piece, Start, UsageReport
from isthmus.core.usage import Usage
from isthmus.dialects import faults
from isthmus.dialects.fields import Fields, decode_raw, invalid, model_of, open_body, text_of
from isthmus.dialects.openai.errors import encode_error, error_event

_encode = msgspec.json.Encoder().encode
_FORMATS = ("float", "base64")


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _ReportedUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _UsageOnly(msgspec.Struct):
    usage: _ReportedUsage | None = None


class _Answer(_UsageOnly, kw_only=True):
    data: list[_Vector]
    model: str = ""


_read_answer = msgspec.json.Decoder(_Answer).decode
_read_usage = msgspec.json.Decoder(_UsageOnly).decode


class OpenAIEmbeddings:
    """OpenAI's embeddings, as clients and as endpoints speak it. They are never streamed."""

    name: ClassVar[str] = "openai-embeddings"
    operation: ClassVar[Operation] = "embeddings"

    def peek(self, body: bytes) -> Envelope:
        """The envelope of a request; raises IsthmusError(INVALID_REQUEST) for what is not a request."""
        fields = open_body(body)
        return Envelope(
            dialect=self.name,
            operation="embeddings",
            model=model_of(fields),
            stream=False,
            include_usage=False,
            user=text_of(fields, "user"),
            fields=fields,
        )

    def decode_call(self, envelope: Envelope) -> Call:
        """The whole request; raises IsthmusError(INVALID_REQUEST, param=path) for wrong types and values."""
        top = Fields({name: decode_raw(raw, name) for name, raw in envelope.fields.items()}, "")
        top.take("model")
        form = top.text("encoding_format")
        if form is not None and form not in _FORMATS:
            raise invalid("encoding_format", '"float" or "base64"', form)
        return Call(
            dialect=self.name,
            operation="embeddings",
            model=envelope.model,
            inputs=_inputs(top.take("input")),
            dimensions=top.integer("dimensions", least=1),
            encoding_format=form,
            user=top.text("user"),
            extra=top.rest,
        )

    def encode_answer(self, pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
        """The body of a whole answer, its vectors in the format that the client asked for."""
        model, usage = call.model, Usage()
        vectors: list[EmbeddingVector] = []
        for piece in pieces:
            match piece:
                case Start():
                    model = piece.model or model
                case EmbeddingVector():
                    vectors.append(piece)
                case UsageReport():
                    usage = piece.usage
                case _:
                    continue
        written = as_base64 if call.encoding_format == "base64" else as_numbers
        body = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": vector.index, "embedding": written(vector.vector)}
                for vector in sorted(vectors, key=lambda vector: vector.index)
            ],
            "model": model,
            "usage": {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt},
        }
        return _encode(body)

    def stream_encoder(self, call: Call, request_id: str, created: int) -> StreamEncoder:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def status_of(self, error: IsthmusError) -> int:
        """The HTTP status of the error: OpenAI has none of its own."""
        return error.status

    def encode_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error's body, as OpenAI's clients expect it."""
        return encode_error(error, request_id)

    def stream_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error as an event."""
        return error_event(error, request_id)

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1 or its like."""
        return "/embeddings"

    def patch(self, envelope: Envelope, model_id: str) -> bytes:
        """The client's own fields with the model's id in place."""
        return _encode({**envelope.fields, "model": model_id})

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint."""
        said = {
            "model": model_id,
            "input": call.inputs,
            "dimensions": call.dimensions,
            "encoding_format": call.encoding_format,
            "user": call.user,
        }
        body = {name: value for name, value in said.items() if value is not None}
        if call.dialect == self.name:
            return Encoded(body=_encode(body | call.extra))
        return Encoded(body=_encode(body), dropped=tuple(call.extra))

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
        try:
            answer = _read_answer(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise faults.not_an_answer(body) from None
        pieces: list[Piece] = [Start(model=answer.model)]
        for position, vector in enumerate(answer.data):
            index = position if vector.index is None else vector.index
            pieces.append(EmbeddingVector(index=index, vector=vector.embedding))
        usage = _usage(answer.usage)
        return pieces if usage is None else [*pieces, UsageReport(usage=usage)]

    def stream_decoder(self) -> StreamDecoder:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def watch(self, strip_usage: bool) -> Watch:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def read_answer(self, body: bytes) -> Reading:
        """Usage of a whole passed-through body; `error` is set for what is no answer."""
        try:
            answer = _read_usage(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Reading(error=faults.not_an_answer(body))
        if b'"data"' not in body:
            return Reading(error=faults.not_an_answer(body))
        return Reading(committed=True, ended=True, usage=_usage(answer.usage), finish="stop")

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed; header names are lower case."""
        return faults.decode_error(status, headers, body)


class _GeminiUsage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None


class _GeminiVector(msgspec.Struct):
    values: list[float]


class _GeminiAnswer(msgspec.Struct, rename="camel"):
    embeddings: list[_GeminiVector]
    usage_metadata: _GeminiUsage | None = None


_read_gemini = msgspec.json.Decoder(_GeminiAnswer).decode


class GeminiEmbeddings:
    """Gemini's embeddings, as its endpoint speaks it: always as a batch, so that one path serves one text or
    many."""

    name: ClassVar[str] = "gemini-embeddings"
    operation: ClassVar[Operation] = "embeddings"

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1beta."""
        return f"/models/{quote(_bare(model_id), safe='')}:batchEmbedContents"

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint; raises IsthmusError(UNSUPPORTED, param="input") for token ids."""
        requests = [self._request(text, call.dimensions, model_id) for text in call.inputs]
        dropped = (*(("user",) if call.user is not None else ()), *call.extra)
        return Encoded(body=_encode({"requests": requests}), dropped=dropped)

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
        try:
            answer = _read_gemini(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise faults.not_an_answer(body) from None
        vectors = [EmbeddingVector(index=at, vector=one.values) for at, one in enumerate(answer.embeddings)]
        pieces: list[Piece] = [Start(), *vectors]
        if answer.usage_metadata is not None and answer.usage_metadata.prompt_token_count is not None:
            pieces.append(UsageReport(usage=Usage(input=max(0, answer.usage_metadata.prompt_token_count))))
        return pieces

    def stream_decoder(self) -> StreamDecoder:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed; header names are lower case."""
        return faults.decode_error(status, headers, body)

    @staticmethod
    def _request(text: str | tuple[int, ...], dimensions: int | None, model_id: str) -> dict[str, Any]:
        if not isinstance(text, str):
            raise IsthmusError(
                Fault.UNSUPPORTED,
                "`input`: Gemini embeds texts, not token ids.",
                hint="Send the text itself, or use a route to a model that takes its own token ids.",
                param="input",
            )
        request: dict[str, Any] = {
            "model": f"models/{_bare(model_id)}",
            "content": {"parts": [{"text": text}]},
        }
        if dimensions is not None:
            request["outputDimensionality"] = dimensions
        return request


def as_base64(vector: list[float] | str) -> str:
    """A vector as base64 of little-endian float32."""
    if isinstance(vector, str):
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def as_numbers(vector: list[float] | str) -> list[float]:
    """A vector as numbers; raises IsthmusError(MALFORMED_ANSWER) for text that is no base64 of float32."""
    if not isinstance(vector, str):
        return vector
    try:
        raw = base64.b64decode(vector, validate=True)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (binascii.Error, struct.error):
        raise faults.malformed("a vector that is not base64 of float32") from None


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """The texts or token ids, from any of the four forms: a text, texts, token ids, or lists of token ids."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise invalid("input", "a string, or a non-empty array of strings or token ids", value)
    if _is_token_ids(value):
        return (tuple(value),)
    for at, item in enumerate(value):
        if not isinstance(item, str) and not (isinstance(item, list) and _is_token_ids(item)):
            raise invalid(f"input[{at}]", "a string or a non-empty array of token ids", item)
    return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def _is_token_ids(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _usage(usage: _ReportedUsage | None) -> Usage | None:
    if usage is None:
        return None
    tokens = usage.prompt_tokens if usage.prompt_tokens is not None else usage.total_tokens
    return None if tokens is None else Usage(input=max(0, tokens))


def _bare(model_id: str) -> str:
    return model_id.removeprefix("models/")


def _refuse_stream() -> NoReturn:
    raise IsthmusError(Fault.UNSUPPORTED, "Embeddings are not streamed.", param="stream")
