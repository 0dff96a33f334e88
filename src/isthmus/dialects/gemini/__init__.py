"""Gemini's generateContent, as its endpoints speak it.

Source: ai.google.dev/api/generate-content. The rules by which calls are said stand in `encode`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from isthmus.core.call import Call, Operation
from isthmus.core.codec import Encoded, StreamDecoder
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.dialects import faults
from isthmus.dialects.gemini import answer, encode


class GeminiGenerateContent:
    """The dialect `gemini`: models/M:generateContent and :streamGenerateContent (core.codec.EndpointWire)."""

    name: ClassVar[str] = encode.DIALECT
    operation: ClassVar[Operation] = "chat"

    def target(self, model_id: str, stream: bool) -> str:
        """The path below the base URL, which ends in /v1beta; a stream comes as server-sent events."""
        return method(model_id, "streamGenerateContent?alt=sse" if stream else "generateContent")

    def encode_call(self, call: Call, model_id: str) -> Encoded:
        """The request for the endpoint."""
        return encode.encode(call, model_id)

    def decode_answer(self, body: bytes) -> list[Piece]:
        """The pieces of a whole answer."""
        return answer.decode_answer(body)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        return answer.Decoder()

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
        """The endpoint's error, classed."""
        return faults.decode_error(status, headers, body)


def method(model_id: str, name: str) -> str:
    """The path of a model's method; `models/` before the id, as Google writes it, is no part of the id."""
    return f"/models/{quote(model_id.removeprefix('models/'), safe='')}:{name}"
