"""Counting a prompt's tokens: Anthropic's count_tokens both ways, Gemini's :countTokens, and an estimate.

Sources: platform.claude.com/docs/en/api/messages-count-tokens, ai.google.dev/api/tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn, TypeVar

import msgspec

from isthmus.core.call import (
    Audio,
    Call,
    Document,
    Envelope,
    Image,
    Operation,
    Part,
    Reasoning,
    Refusal,
    Text,
    Tool,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import Encoded, Reading, StreamDecoder, StreamEncoder, Watch
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Piece, TokenCount
from isthmus.dialects import faults
from isthmus.dialects.anthropic import decode, encode, errors, patched
from isthmus.dialects.gemini import encode as gemini
from isthmus.dialects.gemini import method

T = TypeVar("T")

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_TOOL = 8
TOKENS_PER_IMAGE = 1_600
TOKENS_PER_DOCUMENT_BYTE = 1 / 40


def estimate_tokens(call: Call) -> TokenCount:
    """The prompt's tokens for an endpoint that cannot count, marked as estimated.

    Text is one token for 4 bytes of UTF-8, rounded up: OpenAI's rule of thumb for English
    (help.openai.com/articles/4936856), which in bytes also holds for scripts where a token is about one
    character of 3 bytes. Each message adds 4 tokens for its frame (cookbook.openai.com,
    how_to_count_tokens_with_tiktoken: 3, and 1 for the role). Our own guesses are 8 tokens around each tool,
    and one token for 40 bytes of base64 of a document or of sound. A picture counts as 1,600, about what
    Anthropic charges for a large one (platform.claude.com/docs/en/build-with-claude/vision: width times
    height over 750).
    """
    words = sum(_size(part) for message in call.messages for part in message.parts)
    tools = sum(TOKENS_PER_TOOL + _tokens(_declared(tool)) for tool in call.tools)
    return TokenCount(tokens=words + tools + TOKENS_PER_MESSAGE * len(call.messages), estimated=True)


def _declared(tool: Tool) -> bytes:
    said = (tool.name, tool.description, tool.parameters) if tool.opaque is None else tool.opaque.value
    return msgspec.json.encode(said)


def _size(part: Part) -> int:
    match part:
        case Text() | Refusal() | Reasoning():
            return _tokens(part.text.encode())
        case ToolUse():
            return _tokens(part.name.encode()) + _tokens(part.arguments.encode())
        case ToolResult():
            return sum(_size(inner) for inner in part.parts)
        case Image():
            return TOKENS_PER_IMAGE
        case Document() if part.text is not None:
            return _tokens(part.text.encode())
        case Document() | Audio():
            return int(len(part.data or "") * TOKENS_PER_DOCUMENT_BYTE)
        case _:
            return _tokens(msgspec.json.encode(part.value))


def _tokens(text: bytes) -> int:
    return -(-len(text) // BYTES_PER_TOKEN)


class _Counted(msgspec.Struct):
    input_tokens: int


class AnthropicCountTokens:
    """The wire `anthropic-count`: POST /v1/messages/count_tokens (core.codec.Wire); it is never streamed."""

    name: ClassVar[str] = "anthropic-count"
    operation: ClassVar[Operation] = "count_tokens"

    def peek(self, body: bytes) -> Envelope:
        """The envelope of a request."""
        return decode.peek(body, self.name, self.operation)

    def decode_call(self, envelope: Envelope) -> Call:
        """The whole request."""
        return decode.decode(envelope)

    def encode_answer(self, pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
        """The count; an estimate says so beside it."""
        count = next(piece for piece in pieces if isinstance(piece, TokenCount))
        said: dict[str, Any] = {"input_tokens": count.tokens}
        return msgspec.json.encode(said | {"estimated": True} if count.estimated else said)

    def stream_encoder(self, call: Call, request_id: str, created: int) -> StreamEncoder:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def status_of(self, error: IsthmusError) -> int:
        """The HTTP status of the error: 529 for an overload."""
        return errors.status_of(error)

    def encode_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error's body."""
        return errors.encode_error(error, request_id)

    def stream_error(self, error: IsthmusError, request_id: str) -> bytes:
        """The error as an event."""
        return errors.stream_error(error, request_id)

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1."""
        return "/messages/count_tokens"

    def patch(self, envelope: Envelope, model_id: str) -> bytes:
        """The client's own bytes with the model's id in place, without foreign thoughts (`patched`)."""
        return patched(envelope, model_id, encode.encode_count)

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint."""
        return encode.encode_count(call, model_id)

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The count; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
        return [TokenCount(tokens=_read(body, _COUNTED).input_tokens)]

    def stream_decoder(self) -> StreamDecoder:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def watch(self, strip_usage: bool) -> Watch:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def read_answer(self, body: bytes) -> Reading:
        """Counting consumes no tokens, so there is nothing to read but whether it is an answer."""
        try:
            _read(body, _COUNTED)
        except IsthmusError as error:
            return Reading(error=error)
        return Reading(committed=True, ended=True)

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed."""
        return faults.decode_error(status, headers, body)


class _GeminiCounted(msgspec.Struct, rename="camel"):
    total_tokens: int


class GeminiCountTokens:
    """The wire `gemini-count`: models/M:countTokens (core.codec.EndpointWire)."""

    name: ClassVar[str] = "gemini-count"
    operation: ClassVar[Operation] = "count_tokens"

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1beta."""
        return method(model_id, "countTokens")

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request; system instruction and tools are counted only inside `generateContentRequest`."""
        body, dropped = gemini.conversation(call, model_id)
        named = {"model": f"models/{model_id.removeprefix('models/')}"}
        request = msgspec.json.encode({"generateContentRequest": named | body})
        return Encoded(body=request, dropped=tuple(dict.fromkeys(dropped)))

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The count; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
        return [TokenCount(tokens=_read(body, _GEMINI_COUNTED).total_tokens)]

    def stream_decoder(self) -> StreamDecoder:
        """Raises IsthmusError(UNSUPPORTED)."""
        _refuse_stream()

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed."""
        return faults.decode_error(status, headers, body)


_COUNTED = msgspec.json.Decoder(_Counted)
_GEMINI_COUNTED = msgspec.json.Decoder(_GeminiCounted)


def _read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise faults.not_an_answer(body) from None


def _refuse_stream() -> NoReturn:
    raise IsthmusError(Fault.UNSUPPORTED, "A count of tokens is not streamed.", param="stream")
