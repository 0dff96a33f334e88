"""Answers of generateContent into pieces, whole or streamed: both are made of the same responses.

Source: ai.google.dev/api/generate-content (GenerateContentResponse).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import (
    Finish,
    FinishReason,
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    ReasoningSeal,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects import sse
from isthmus.dialects.faults import broken_stream, decode_stream_error, malformed, not_a_stream, not_an_answer
from isthmus.dialects.gemini.encode import DIALECT
from isthmus.dialects.reported import Count, believable, whole

_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "pause",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "ESCALATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
    # What the model said was no answer that Google could read; asked again, it mostly is.
    "MALFORMED_FUNCTION_CALL": "interrupted",
    "MALFORMED_RESPONSE": "interrupted",
    "UNEXPECTED_TOOL_CALL": "interrupted",
    "TOO_MANY_TOOL_CALLS": "interrupted",
}
_UNSPECIFIED = "FINISH_REASON_UNSPECIFIED"
_NULL = msgspec.Raw(b"null")


class _FunctionCall(msgspec.Struct):
    name: str = ""
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct):
    parts: list[msgspec.Raw] | None = None


class _Token(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _Alternatives(msgspec.Struct):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Alternatives] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int | None = None
    logprobs_result: _Logprobs | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Modality(msgspec.Struct, rename="camel"):
    modality: str = ""
    token_count: Count = None


class Counts(msgspec.Struct, rename="camel"):
    """`usageMetadata`: the prompt includes cached tokens, the candidates exclude thoughts."""

    prompt_token_count: Count = None
    cached_content_token_count: Count = None
    candidates_token_count: Count = None
    thoughts_token_count: Count = None
    tool_use_prompt_token_count: Count = None
    prompt_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None


class _Response(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Counts | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: msgspec.Raw = _NULL


_RESPONSE = msgspec.json.Decoder(_Response)
_PART = msgspec.json.Decoder(_Part)


def usage_of(counts: Counts) -> Usage | None:
    """The counts as a partition, or None where they are not `believable`.

    What tools of Google's fed into the prompt counts as input.
    """
    prompt = whole(counts.prompt_token_count)
    cached = min(whole(counts.cached_content_token_count), prompt)
    fed = whole(counts.tool_use_prompt_token_count)
    thoughts = whole(counts.thoughts_token_count)
    usage = Usage(
        input=prompt - cached + fed,
        cache_read=cached,
        output=whole(counts.candidates_token_count) + thoughts,
        reasoning=thoughts,
        input_audio=_audio(counts.prompt_tokens_details),
        output_audio=_audio(counts.candidates_tokens_details),
    )
    return believable(usage)


def _audio(details: list[_Modality] | None) -> int:
    return sum(whole(one.token_count) for one in details or () if one.modality == "AUDIO")


def finish_reason(word: str, called_tools: bool) -> FinishReason:
    """Gemini's `finishReason` in canonical form: a STOP after function calls waits for their results."""
    reason = _REASONS.get(word, "other")
    return "tool_calls" if reason == "stop" and called_tools else reason


class Reader:
    """Reads the responses of one answer, one after another.

    Some models repeat the finish reason in every response, so `finishes` tells the ends when no more come.
    """

    def __init__(self) -> None:
        self.started = False
        self._id = ""
        self._tools: dict[int, int] = {}
        self._ends: dict[int, str | None] = {}
        self._blocked: str | None = None
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether every candidate that was begun has its finish reason, or the prompt was blocked."""
        ends = self._ends.values()
        return self._blocked is not None or (bool(ends) and None not in ends)

    def read(self, data: bytes) -> Iterable[Piece]:
        """The pieces of one response; raises IsthmusError: the error in it, or MALFORMED_ANSWER."""
        try:
            # msgspec reads over what is not asked for, be it UTF-8 or not.
            data.decode()
            response = _RESPONSE.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise not_an_answer(data) from None
        if response.error != _NULL:
            raise decode_stream_error(data)
        if not self.started:
            self.started = True
            self._id = response.response_id or ""
            yield Start(id=self._id, model=response.model_version or "")
        for position, candidate in enumerate(response.candidates or ()):
            yield from self._candidate(position if candidate.index is None else candidate.index, candidate)
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason:
            self._blocked = response.prompt_feedback.block_reason
        if response.usage_metadata is not None:
            usage = usage_of(response.usage_metadata)
            if usage is not None and usage != self._usage:
                self._usage = usage
                yield UsageReport(usage=usage)

    def finishes(self) -> list[Piece]:
        """How each candidate ended; a blocked prompt ends the only one."""
        if not self._ends and self._blocked is not None:
            return [Finish(reason="content_filter", raw=self._blocked)]
        return [
            Finish(reason=finish_reason(word, choice in self._tools), raw=word, choice=choice)
            for choice, word in sorted(self._ends.items())
            if word is not None
        ]

    def _candidate(self, choice: int, candidate: _Candidate) -> Iterable[Piece]:
        self._ends.setdefault(choice, None)
        for raw in (candidate.content.parts if candidate.content is not None else None) or ():
            yield from self._part(choice, raw)
        logprobs = _logprobs(candidate.logprobs_result)
        if logprobs:
            # They belong to the text of this response, which may have come in several parts.
            yield TextDelta(text="", choice=choice, logprobs=logprobs)
        if candidate.finish_reason and candidate.finish_reason != _UNSPECIFIED:
            self._ends[choice] = candidate.finish_reason

    def _part(self, choice: int, raw: msgspec.Raw) -> Iterable[Piece]:
        try:
            part = _PART.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise malformed("a content part that is no Gemini one") from None
        if part.function_call is not None:
            yield from self._call(choice, part.function_call, part.thought_signature)
            return
        if part.text is None:
            yield OpaqueBlock(dialect=DIALECT, value=msgspec.json.decode(raw), choice=choice)
            return
        if part.text:
            yield (ReasoningDelta if part.thought else TextDelta)(text=part.text, choice=choice)
        if part.thought_signature is not None:
            yield ReasoningSeal(dialect=DIALECT, signature=part.thought_signature, choice=choice)

    def _call(self, choice: int, call: _FunctionCall, signature: str | None) -> Iterable[Piece]:
        index = self._tools.get(choice, 0)
        self._tools[choice] = index + 1
        # Older models name no ids; the answer's own keeps those of different turns apart.
        made = f"call_{self._id}_{index}" if self._id else f"call_{index}"
        yield ToolCallStart(
            index=index, id=call.id or made, name=call.name, choice=choice, signature=signature
        )
        arguments = bytes(call.args).decode()
        text = "{}" if arguments == "null" else arguments
        yield ToolArgumentsDelta(index=index, text=text, choice=choice)


def _logprobs(result: _Logprobs | None) -> list[Any]:
    """Log-probabilities in OpenAI's form; Gemini tells no bytes, so they are those of the token's text."""
    if result is None or not result.chosen_candidates:
        return []
    tops = [top.candidates or [] for top in result.top_candidates or ()]
    tops += [[]] * (len(result.chosen_candidates) - len(tops))
    return [
        _token(chosen) | {"top_logprobs": [_token(one) for one in top]}
        for chosen, top in zip(result.chosen_candidates, tops, strict=False)
    ]


def _token(token: _Token) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.log_probability, "bytes": list(token.token.encode())}


def decode_answer(body: bytes) -> list[Piece]:
    """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
    reader = Reader()
    pieces = [*reader.read(body), *reader.finishes()]
    if not reader.complete:
        raise not_an_answer(body)
    return pieces


class Decoder:
    """Turns a stream into pieces (core.codec.StreamDecoder).

    The wire has no terminal event: a stream has ended well when every candidate has its finish reason.
    """

    def __init__(self) -> None:
        self.salvage: list[Piece] = []
        self.ended = False
        self._splitter = sse.Splitter()
        self._reader = Reader()

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that these bytes complete."""
        self.salvage = []
        for event in self._splitter.feed(data):
            self._read(event)
        return self.salvage

    def close(self) -> list[Piece]:
        """The last pieces and the ends; raises BROKEN_STREAM where an end is missing."""
        self.salvage = []
        try:
            for event in self._splitter.close():
                self._read(event)
        except IsthmusError as error:
            # Half an event is the cut itself, not a wrong dialect.
            if error.fault is not Fault.MALFORMED_ANSWER:
                raise
        if not self._reader.started and self._splitter.stray:
            raise not_a_stream(self._splitter.stray)
        if not self._reader.complete:
            raise broken_stream()
        return self.salvage + self._reader.finishes()

    def _read(self, event: sse.Event) -> None:
        if event.data.strip():
            for piece in self._reader.read(event.data):
                self.salvage.append(piece)
