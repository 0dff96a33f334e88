"""Answers of Chat Completions: a whole body and a stream's chunk are read by the same code, and written
alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import (
    Finish,
    FinishReason,
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects.faults import decode_stream_error, malformed, not_an_answer
from isthmus.dialects.openai.decode_call import DIALECT, thought_signature
from isthmus.dialects.reported import Count, believable, served, wholes

ABSENT = msgspec.Raw(b"")
"""A field that is not there, where its bytes are read later."""

NOTHING = (b"", b'""', b"null", b"[]", b"{}", b"false", b"0")
"""The bytes of a field that says nothing."""

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "length": "length",
    "max_tokens": "length",
    "model_length": "context_length",
    "model_context_window_exceeded": "context_length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    # DeepSeek's, Z.ai's, that of Mistral and OpenRouter, and that of SGLang and vLLM.
    "insufficient_system_resource": "interrupted",
    "network_error": "interrupted",
    "error": "interrupted",
    "abort": "interrupted",
}
_WORDS: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "pause": "stop",
    "length": "length",
    "context_length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
_CHUNK_FIELDS = frozenset(["id", "object", "created", "model", "choices", "usage"])
_START_EXTRA = frozenset(["system_fingerprint", "service_tier"])
_DELTA_FIELDS = frozenset(
    ["role", "content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call"]
)


def holds(field: msgspec.Raw) -> bool:
    """True where a field is there and is more than nothing."""
    return field is not ABSENT and bytes(field) not in NOTHING


def finish_reason(raw: str) -> FinishReason:
    """The finish reason that a server's word means; `other` for a word that nobody knows."""
    return _FINISH.get(raw, "other")


def finish_word(finish: Finish) -> str:
    """OpenAI's word for a finish reason; where there is none, the provider's own, and never a plain end."""
    return _WORDS.get(finish.reason) or finish.raw or finish.reason


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count = None
    cache_write_tokens: Count = None
    audio_tokens: Count = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: Count = None
    audio_tokens: Count = None


_NO_PROMPT_DETAILS = _PromptDetails()
_NO_COMPLETION_DETAILS = _CompletionDetails()


class ReportedUsage(msgspec.Struct):
    """The `usage` object of an answer, with the fields of OpenAI and of compatible servers."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Count = None
    cached_tokens: Count = None


def read_usage(usage: ReportedUsage, tier: Any = None) -> Usage | None:
    """Usage in the canonical partition; None where it cannot be believed (`dialects.reported`). `tier` is the
    `service_tier` that the answer tells, if any.

    A prompt includes what was read from and written to a cache. Cached tokens: OpenAI's
    `prompt_tokens_details`, DeepSeek's `prompt_cache_hit_tokens`, Moonshot's `cached_tokens`. Where the total
    shows that reasoning was not counted as completion (xAI), it is added to the output.
    """
    into = usage.prompt_tokens_details or _NO_PROMPT_DETAILS
    out = usage.completion_tokens_details or _NO_COMPLETION_DETAILS
    prompt, output, total, reasoning, cached, written, heard, spoken = wholes(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        out.reasoning_tokens,
        into.cached_tokens or usage.prompt_cache_hit_tokens or usage.cached_tokens,
        into.cache_write_tokens,
        into.audio_tokens,
        out.audio_tokens,
    )
    if reasoning and total == prompt + output + reasoning:
        output += reasoning
    cache_read = min(cached, prompt)
    cache_write = min(written, prompt - cache_read)
    return believable(
        Usage(
            input=prompt - cache_read - cache_write,
            output=output,
            cache_read=cache_read,
            cache_write_5m=cache_write,
            reasoning=min(reasoning, output),
            input_audio=heard,
            output_audio=spoken,
            beyond=() if tier is None else served("tier", tier),
        )
    )


def write_usage(usage: Usage) -> dict[str, Any]:
    """Usage as OpenAI says it."""
    into = {"cached_tokens": usage.cache_read, "audio_tokens": usage.input_audio}
    if written := usage.cache_write_5m + usage.cache_write_1h:
        into["cache_write_tokens"] = written
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": into,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.output_audio,
        },
    }


class AnswerReader:
    """Reads the chunks of one answer; a whole body is one chunk whose choices hold `message` instead of
    `delta`."""

    def __init__(self) -> None:
        self.started = False
        self._tier: Any = None
        self._choices: dict[int, _Choice] = {}

    @property
    def complete(self) -> bool:
        """True once every choice that was seen has finished."""
        return bool(self._choices) and all(choice.finished for choice in self._choices.values())

    def finish(self) -> list[Piece]:
        """The ends of the choices that have not finished: they have, but nobody says why."""
        unfinished = [index for index, choice in self._choices.items() if not choice.finished]
        return self.read({"choices": [{"index": index, "finish_reason": "stop"} for index in unfinished]})

    def read(self, chunk: dict[str, Any]) -> list[Piece]:
        """The pieces of one chunk; raises the IsthmusError that it reports, or MALFORMED_ANSWER."""
        choices = chunk.get("choices")
        if chunk.get("error") or (choices is None and _is_error(chunk)):
            raise decode_stream_error(msgspec.json.encode(chunk))
        pieces: list[Piece] = []
        if not self.started and isinstance(choices, list):
            self.started = True
            self._tier = chunk.get("service_tier")
            pieces.append(_start(chunk))
        for position, choice in enumerate(choices or ()):
            if not isinstance(choice, dict):
                raise malformed("a choice that is not an object")
            index = choice.get("index")
            index = index if isinstance(index, int) else position
            pieces += self._choices.setdefault(index, _Choice(index)).read(choice)
        reported = chunk.get("usage")
        if isinstance(reported, dict):
            usage = read_usage(_reported(reported), chunk.get("service_tier") or self._tier)
            if usage is not None:
                pieces.append(UsageReport(usage=usage))
        return pieces


class _Choice:
    """One alternative while it is read."""

    def __init__(self, index: int) -> None:
        self.finished = False
        self._index = index
        self._tools = _ToolCalls(index)

    def read(self, choice: dict[str, Any]) -> list[Piece]:
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise malformed("a delta that is not an object")
        pieces = self._content(delta, _logprobs(choice))
        pieces += self._tools.read(delta.get("tool_calls"))
        raw = choice.get("finish_reason")
        if isinstance(raw, str) and raw and not self.finished:
            self.finished = True
            self._tools.close()
            reason = finish_reason(raw)
            # Many servers say "stop" after a tool call.
            if reason == "stop" and self._tools.any:
                reason = "tool_calls"
            pieces.append(Finish(reason=reason, raw=raw, choice=self._index))
        return pieces

    def _content(self, delta: dict[str, Any], logprobs: list[Any] | None) -> list[Piece]:
        index = self._index
        pieces: list[Piece] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:
            pieces.append(ReasoningDelta(text=thought, choice=index))
        content = delta.get("content")
        if isinstance(content, list):
            pieces += self._parts(content)
        elif isinstance(content, str) or content is None:
            if content or logprobs:
                pieces.append(TextDelta(text=content or "", choice=index, logprobs=logprobs))
        else:
            raise malformed("content that is neither text nor parts")
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            pieces.append(RefusalDelta(text=refusal, choice=index))
        pieces += [
            OpaqueBlock(dialect=DIALECT, value={name: value}, choice=index)
            for name, value in delta.items()
            if name not in _DELTA_FIELDS and value
        ]
        return pieces

    def _parts(self, parts: list[Any]) -> list[Piece]:
        """Content as an array, as Mistral's reasoning models send it."""
        pieces: list[Piece] = []
        for part in parts:
            match part:
                case {"type": "text", "text": str(text)}:
                    pieces.append(TextDelta(text=text, choice=self._index))
                case {"type": "thinking", "thinking": list(thoughts)}:
                    text = "".join(_text(item.get("text")) for item in thoughts if isinstance(item, dict))
                    pieces.append(ReasoningDelta(text=text, choice=self._index))
                case {"type": str()}:
                    pieces.append(OpaqueBlock(dialect=DIALECT, value={"content": [part]}, choice=self._index))
                case _:
                    raise malformed("a content part without a type")
        return pieces


class _OpenCall:
    """One tool call while its deltas arrive. It is announced once its name is known."""

    def __init__(self, index: int, wire_id: str) -> None:
        self.index = index
        self.wire_id = wire_id
        self.name = ""
        self.signature: str | None = None
        self.announced = False
        self.arguments: list[str] = []

    @property
    def whole(self) -> bool:
        """True where the arguments are complete JSON already."""
        try:
            msgspec.json.decode("".join(self.arguments))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class _ToolCalls:
    """The tool calls of one choice, keyed by what servers send: an index, an id, both, or neither."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._calls: list[_OpenCall] = []
        self._by_id: dict[tuple[str, int | None], _OpenCall] = {}
        self._by_index: dict[int, _OpenCall] = {}
        self._opaque = False

    @property
    def any(self) -> bool:
        return bool(self._calls) or self._opaque

    def read(self, deltas: Any) -> list[Piece]:
        if not deltas:
            return []
        if not isinstance(deltas, list):
            raise malformed("tool calls that are not an array")
        pieces: list[Piece] = []
        for position, delta in enumerate(deltas):
            if not isinstance(delta, dict):
                raise malformed("a tool call that is not an object")
            pieces += self._read_one(delta, position)
        return pieces

    def close(self) -> None:
        """Raises MALFORMED_ANSWER for a call whose name never came."""
        if not all(call.announced for call in self._calls):
            raise malformed("a tool call without a name")

    def _read_one(self, delta: dict[str, Any], position: int) -> list[Piece]:
        function = delta.get("function")
        if not isinstance(function, dict):
            # A custom tool's call: only this dialect knows it.
            self._opaque = True
            return [OpaqueBlock(dialect=DIALECT, value={"tool_calls": [delta]}, choice=self._choice)]
        name, arguments = function.get("name") or "", function.get("arguments")
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        if not isinstance(name, str) or not isinstance(arguments, str | None):
            raise malformed("a tool call whose name or arguments are not text")
        wire_id = delta.get("id") or ""
        if not isinstance(wire_id, str):
            raise malformed("a tool call whose id is not text")
        index = delta.get("index")
        index = index if isinstance(index, int) else None
        call = self._call_of(wire_id, index, position, name, arguments or "")
        call.signature = call.signature or thought_signature(delta)
        if not call.name:
            call.name = name
        if arguments:
            call.arguments.append(arguments)
        if call.announced:
            return self._more(call, arguments)
        return self._announce(call) if call.name else []

    def _call_of(
        self, wire_id: str, index: int | None, position: int, name: str, arguments: str
    ) -> _OpenCall:
        """The call that a delta belongs to. A new id with a name means a new call, even under an index that
        is in use; an id counts only under its own index, or where none is sent."""
        known = self._by_id.get((wire_id, index)) if wire_id else None
        if known is not None:
            return known
        place = position if index is None else index
        current = self._by_index.get(place)
        if current is not None and not _begins_another(current, wire_id, name, arguments):
            return current
        call = _OpenCall(len(self._calls), wire_id)
        self._calls.append(call)
        self._by_index[place] = call
        self._by_id[wire_id, place] = self._by_id[wire_id, None] = call
        return call

    def _announce(self, call: _OpenCall) -> list[Piece]:
        call.announced = True
        start = ToolCallStart(
            index=call.index,
            id=call.wire_id or f"call_{self._choice}_{call.index}",
            name=call.name,
            choice=self._choice,
            signature=call.signature,
        )
        return [start, *self._more(call, "".join(call.arguments))]

    def _more(self, call: _OpenCall, arguments: str | None) -> list[Piece]:
        if not arguments:
            return []
        return [ToolArgumentsDelta(index=call.index, text=arguments, choice=self._choice)]


def _begins_another(current: _OpenCall, wire_id: str, name: str, arguments: str) -> bool:
    if not name:
        return False
    if wire_id:
        return bool(current.wire_id) or current.announced
    return (bool(current.name) and name != current.name) or (arguments.startswith("{") and current.whole)


def _start(chunk: dict[str, Any]) -> Start:
    created = chunk.get("created")
    return Start(
        id=_text(chunk.get("id")),
        model=_text(chunk.get("model")),
        created=int(created) if isinstance(created, int | float) else None,
        extra={
            name: value for name, value in chunk.items() if name not in _CHUNK_FIELDS and value is not None
        },
    )


def _is_error(chunk: dict[str, Any]) -> bool:
    """True for an error without an `error` object, as vLLM, Mistral and FastAPI send it."""
    return chunk.get("object") == "error" or "detail" in chunk or ("message" in chunk and "code" in chunk)


def _logprobs(choice: dict[str, Any]) -> list[Any] | None:
    match choice.get("logprobs"):
        case {"content": list(content)} if content and all(map(_is_logprob, content)):
            return content
        case _:
            return None


def _is_logprob(token: Any) -> bool:
    match token:
        case {"token": str(), "logprob": int() | float()}:
            others = token.get("top_logprobs") or []
            return isinstance(others, list) and all(map(_is_logprob, others))
        case _:
            return False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _reported(usage: dict[str, Any]) -> ReportedUsage:
    try:
        return msgspec.convert(usage, ReportedUsage)
    except msgspec.ValidationError:
        raise malformed("usage that is not made of numbers") from None


def decode_answer(body: bytes) -> list[Piece]:
    """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise not_an_answer(body) from None
    if not isinstance(value, dict):
        raise not_an_answer(body)
    reader = AnswerReader()
    try:
        pieces = reader.read(value)
    except IsthmusError as error:
        error.upstream_body = error.upstream_body or body
        raise
    if not reader.complete:
        raise not_an_answer(body)
    return pieces


class _WholeChoice:
    """One alternative of a whole answer while its pieces are folded."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[Any] = []
        self.tools: dict[int, tuple[dict[str, Any], list[str]]] = {}
        self.opaque: dict[str, Any] = {}
        self.finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        match piece:
            case TextDelta():
                self.text.append(piece.text)
                self.logprobs += piece.logprobs or ()
            case RefusalDelta():
                self.refusal.append(piece.text)
            case ReasoningDelta():
                self.reasoning.append(piece.text)
            case ToolCallStart():
                self.tools[piece.index] = (write_tool_call(piece), [])
            case ToolArgumentsDelta():
                self.tools[piece.index][1].append(piece.text)
            case OpaqueBlock(dialect="openai", value=dict(value)):
                for name, item in value.items():
                    earlier = self.opaque.get(name)
                    both = isinstance(earlier, list) and isinstance(item, list)
                    self.opaque[name] = earlier + item if both else item
            case Finish():
                self.finish = piece
            case _:
                return

    def write(self, index: int, *, logprobs: bool) -> dict[str, Any]:
        text = "".join(self.text)
        refusal = "".join(self.refusal)
        opaque = dict(self.opaque)
        calls = self._calls() + opaque.pop("tool_calls", [])
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not (calls or refusal) else None,
            "refusal": refusal or None,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if calls:
            message["tool_calls"] = calls
        for name, value in opaque.items():
            message.setdefault(name, value)
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": self.logprobs, "refusal": None} if logprobs else None,
            "finish_reason": finish_word(self.finish) if self.finish else None,
        }

    def _calls(self) -> list[dict[str, Any]]:
        for call, arguments in self.tools.values():
            call["function"]["arguments"] = "".join(arguments)
        return [self.tools[index][0] for index in sorted(self.tools)]


def write_tool_call(start: ToolCallStart) -> dict[str, Any]:
    """A tool call with its arguments still empty."""
    call: dict[str, Any] = {
        "id": start.id,
        "type": "function",
        "function": {"name": start.name, "arguments": ""},
    }
    if start.signature is not None:
        call["extra_content"] = {"google": {"thought_signature": start.signature}}
    return call


def encode_answer(pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
    """The body of a whole answer. `created` is in seconds since the epoch."""
    start = Start()
    usage: Usage | None = None
    choices: dict[int, _WholeChoice] = {}
    for piece in pieces:
        match piece:
            case Start():
                start = piece
            case UsageReport():
                usage = piece.usage
            case (
                TextDelta()
                | RefusalDelta()
                | ReasoningDelta()
                | ToolCallStart()
                | ToolArgumentsDelta()
                | OpaqueBlock()
                | Finish()
            ):
                choices.setdefault(piece.choice, _WholeChoice()).add(piece)
            case _:
                continue
    body = head(start, call, request_id, created, "chat.completion")
    body["choices"] = [choices[index].write(index, logprobs=bool(call.logprobs)) for index in sorted(choices)]
    if usage is not None:
        body["usage"] = write_usage(usage)
    return msgspec.json.encode(body)


def head(start: Start, call: Call, request_id: str, created: int, kind: str) -> dict[str, Any]:
    """The fields that stand above the choices of an answer or a chunk."""
    return {
        **{name: value for name, value in start.extra.items() if name in _START_EXTRA},
        "id": start.id or f"chatcmpl-{request_id}",
        "object": kind,
        "created": created if start.created is None else start.created,
        "model": start.model or call.model,
    }
