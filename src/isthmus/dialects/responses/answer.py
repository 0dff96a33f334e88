"""Whole answers of the Responses API, the parts that streams share with them, and their usage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call, Message, ResponseFormat, Text, Tool
from isthmus.core.codec import Reading
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import (
    Finish,
    FinishReason,
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    ReasoningSeal,
    RefusalDelta,
    Start,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    UsageReport,
)
from isthmus.core.usage import Usage
from isthmus.dialects.faults import malformed, not_an_answer
from isthmus.dialects.reported import Count, believable, served, whole
from isthmus.dialects.responses.decode_call import DIALECT
from isthmus.dialects.responses.errors import decode_failure, failure
from isthmus.dialects.responses.items import Output, Status

Json = dict[str, Any]

_CALLS = ("function_call", "custom_tool_call")
_REASONS: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_INCOMPLETE: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "context_length": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
# The items of tools that OpenAI runs and bills beside the tokens.
_PRICED_TOOLS = frozenset(
    ["web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"]
)
# Fields of a response that repeat what the caller asked for, where nothing else is known of them.
_ECHOED = ("truncation", "max_tool_calls", "prompt_cache_key", "safety_identifier")


class Details(msgspec.Struct):
    """The parts of a token count."""

    cached_tokens: Count = None
    cache_write_tokens: Count = None
    reasoning_tokens: Count = None


class Counts(msgspec.Struct):
    """Usage as a response says it; every field may be missing, or null."""

    input_tokens: Count = None
    output_tokens: Count = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


def read_usage(ending: Ending) -> Usage | None:
    """Usage in the canonical partition; None where a response told none at its end, or none `believable`.

    A response's input includes what was read from and written to a cache.
    """
    counts = ending.usage
    if counts is None:
        return None
    ran = [item.type for item in ending.output or () if item.type in _PRICED_TOOLS]
    prompt, output = whole(counts.input_tokens), whole(counts.output_tokens)
    into, out = counts.input_tokens_details or Details(), counts.output_tokens_details or Details()
    cache_read = min(whole(into.cached_tokens), prompt)
    cache_write = min(whole(into.cache_write_tokens), prompt - cache_read)
    usage = Usage(
        input=prompt - cache_read - cache_write,
        output=output,
        cache_read=cache_read,
        cache_write_5m=cache_write,
        reasoning=min(whole(out.reasoning_tokens), output),
        beyond=tuple(dict.fromkeys((*served("tier", ending.service_tier), *map(_tool_name, ran)))),
    )
    return believable(usage)


def _tool_name(item: str) -> str:
    return f"tool.{item.removesuffix('_call')}"


def reported_usage(ending: Ending) -> list[Piece]:
    """The usage that a response told at its end, if any."""
    usage = read_usage(ending)
    return [] if usage is None else [UsageReport(usage=usage)]


def write_usage(usage: Usage) -> Json:
    """Usage as a response says it."""
    written = usage.cache_write_5m + usage.cache_write_1h
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


ABSENT = msgspec.Raw(b"null")
"""The default of raw fields: a type of raw JSON or None would only take null."""


class Kind(msgspec.Struct):
    """What kind of item one is."""

    type: str = ""


class Incomplete(msgspec.Struct):
    """Why a response is incomplete."""

    reason: str | None = None


class Ending(msgspec.Struct):
    """How a response ended: all that is read of one that passes through."""

    status: str | None = None
    output: list[Kind] | None = None
    usage: Counts | None = None
    service_tier: Any = None
    incomplete_details: Incomplete | None = None
    error: msgspec.Raw = ABSENT

    @property
    def failed(self) -> bool:
        """True where it tells of an error in place of an answer."""
        return bytes(self.error) != b"null" or self.status in ("failed", "cancelled")


def finish_of(ending: Ending, called: bool = False) -> Finish:
    """Why an answer ended; `called` where tool calls were seen outside of `output`."""
    if ending.status == "incomplete":
        raw = (ending.incomplete_details or Incomplete()).reason or "incomplete"
        return Finish(reason=_REASONS.get(raw, "other"), raw=raw)
    called = called or any(item.type in _CALLS for item in ending.output or ())
    return Finish(reason="tool_calls" if called else "stop", raw=ending.status or "completed")


_ENDING = msgspec.json.Decoder(Ending)


def read_answer(body: bytes) -> Reading:
    """Usage and finish reason of a whole passed-through body; an error that a 200 hides stands in `error`."""
    try:
        ending = _ENDING.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Reading(error=not_an_answer(body))
    if ending.failed:
        return Reading(error=decode_failure(body))
    if ending.output is None:
        return Reading(error=not_an_answer(body))
    reading = Reading(committed=True, ended=True)
    reading.usage = read_usage(ending)
    # A response in the background is still on its way.
    if ending.status not in ("queued", "in_progress"):
        finish = finish_of(ending)
        reading.finish, reading.finish_raw = finish.reason, finish.raw
    return reading


class ItemReader:
    """Reads one output item, in deltas, as a whole, or both: what deltas said is not said again."""

    def __init__(self, tool: int) -> None:
        self.done = False
        self.calls = False
        self._tool = tool
        self._announced = False
        self._said: dict[tuple[str, int], int] = {}
        self._annotations: dict[int, int] = {}

    def begin(self, item: Json) -> list[Piece]:
        """The pieces of the item's announcement: a tool call's id and name."""
        self.calls = self.calls or item.get("type") in _CALLS
        name = item.get("name")
        if item.get("type") != "function_call" or self._announced or not isinstance(name, str) or not name:
            return []
        self._announced = True
        wire_id = item.get("call_id") or item.get("id") or f"call_{self._tool}"
        return [ToolCallStart(index=self._tool, id=str(wire_id), name=name)]

    def say(self, kind: str, part: int, text: Any, logprobs: Any = None) -> list[Piece]:
        """The piece of a delta; nothing for the arguments of a call whose name has not come yet."""
        if not isinstance(text, str):
            raise malformed("a delta that is not text")
        if not (text or logprobs) or (kind == "arguments" and not self._announced):
            return []
        key = (kind, part)
        follows = key not in self._said and bool(self._said)
        self._said[key] = self._said.get(key, 0) + len(text)
        match kind:
            case "text":
                return [TextDelta(text=text, logprobs=_list(logprobs) or None)]
            case "refusal":
                return [RefusalDelta(text=text)]
            case "arguments":
                return [ToolArgumentsDelta(index=self._tool, text=text)]
            case _:
                return [ReasoningDelta(text=f"\n\n{text}" if follows else text)]

    def complete(self, kind: str, part: int, whole: Any, logprobs: Any = None) -> list[Piece]:
        """What a finished text says beyond its deltas."""
        said = self._said.get((kind, part), 0)
        if not isinstance(whole, str) or (said and len(whole) <= said):
            return []
        return self.say(kind, part, whole[said:], None if said else logprobs)

    def annotate(self, part: int, annotation: Any) -> list[Piece]:
        """A source of the text before it: only a Responses client has a place for it."""
        self._annotations[part] = self._annotations.get(part, 0) + 1
        return [OpaqueBlock(dialect=DIALECT, value={"annotation": annotation})]

    def end(self, item: Json) -> list[Piece]:
        """What the finished item says beyond what was said of it."""
        if self.done:
            return []
        self.done = True
        match item.get("type"):
            case "message":
                parts = enumerate(_objects(item.get("content")))
                return [piece for at, part in parts for piece in self._end_part(at, part)]
            case "reasoning":
                return self._end_reasoning(item)
            case "function_call":
                return self.begin(item) + self.complete("arguments", 0, item.get("arguments"))
            case _:
                self.begin(item)
                return [OpaqueBlock(dialect=DIALECT, value=item)]

    def _end_part(self, at: int, part: Json) -> list[Piece]:
        match part.get("type"):
            case "output_text":
                pieces = self.complete("text", at, part.get("text"), part.get("logprobs"))
                for annotation in _list(part.get("annotations"))[self._annotations.get(at, 0) :]:
                    pieces += self.annotate(at, annotation)
                return pieces
            case "refusal":
                return self.complete("refusal", at, part.get("refusal"))
            case _:
                return []

    def _end_reasoning(self, item: Json) -> list[Piece]:
        pieces: list[Piece] = []
        for kind, name in (("thought", "content"), ("summary", "summary")):
            for at, part in enumerate(_objects(item.get(name))):
                pieces += self.complete(kind, at, part.get("text"))
        encrypted, identity = item.get("encrypted_content"), item.get("id")
        if isinstance(encrypted, str) and encrypted:
            known = identity if isinstance(identity, str) else None
            pieces.append(ReasoningSeal(dialect=DIALECT, encrypted=encrypted, id=known))
        return pieces


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[Json]:
    return [item for item in _list(value) if isinstance(item, dict)]


def start_of(response: Json) -> Start:
    """Id, model and time of a response."""
    created = response.get("created_at")
    identity, model = response.get("id"), response.get("model")
    return Start(
        id=identity if isinstance(identity, str) else "",
        model=model if isinstance(model, str) else "",
        created=int(created) if isinstance(created, int | float) else None,
    )


def ending_of(response: Json) -> Ending:
    """How a decoded response ended; raises the IsthmusError that it tells of, or MALFORMED_ANSWER."""
    try:
        ending = msgspec.convert({**response, "error": ABSENT}, Ending)
    except msgspec.ValidationError:
        raise malformed("a response whose status, output or usage is of a wrong type") from None
    if response.get("error") or ending.failed:
        raise decode_failure(msgspec.json.encode(response))
    return ending


def read_output(output: list[Json]) -> list[Piece]:
    """The pieces of finished items."""
    pieces: list[Piece] = []
    tools = 0
    for item in output:
        pieces += ItemReader(tools).end(item)
        tools += item.get("type") == "function_call"
    return pieces


def decode_answer(body: bytes) -> list[Piece]:
    """The pieces of a whole answer; raises IsthmusError: the error in the body, or MALFORMED_ANSWER."""
    try:
        response = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise not_an_answer(body) from None
    if not isinstance(response, dict):
        raise not_an_answer(body)
    try:
        ending = ending_of(response)
    except IsthmusError as error:
        error.upstream_body = error.upstream_body or body
        raise
    if ending.output is None:
        raise not_an_answer(body)
    if ending.status in ("queued", "in_progress"):
        raise malformed("a response that is not finished", body)
    pieces = [start_of(response), *read_output(_objects(response["output"])), finish_of(ending)]
    pieces += reported_usage(ending)
    return pieces


class Head:
    """What a response says beside its output: id, model, end, usage, and what the caller asked for."""

    def __init__(self, call: Call, request_id: str, created: int) -> None:
        self._call = call
        self._suffix = request_id.removeprefix("req_")
        self._created = created
        self._start = Start()
        self._finish: Finish | None = None
        self._usage: Usage | None = None

    def output(self) -> Output:
        """A new, empty output of this response."""
        return Output(self._suffix, bool(self._call.logprobs))

    def note(self, piece: Piece) -> bool:
        """Takes in a piece that is not content; False for one that is."""
        match piece:
            case Start():
                self._start = piece
            case UsageReport():
                self._usage = piece.usage
            case Finish():
                self._finish = piece if piece.choice == 0 else self._finish
            case _:
                return False
        return True

    def status(self, refused: bool) -> Status:
        """Whether the answer is complete; a refusal in words is, an end for an unknown reason is not."""
        return "incomplete" if self._reason(refused) else "completed"

    def begun(self) -> Json:
        """The response before its first item."""
        return self._envelope("in_progress", [])

    def ended(self, output: Output) -> Json:
        """The response at its end."""
        reason = self._reason(output.refused)
        response = self._envelope(self.status(output.refused), output.items)
        response["incomplete_details"] = {"reason": reason} if reason else None
        response["usage"] = None if self._usage is None else write_usage(self._usage)
        return response

    def failed(self, output: Output, error: IsthmusError) -> Json:
        """The response that an error ended."""
        return self._envelope("failed", output.items) | {"error": failure(error)}

    def _reason(self, refused: bool) -> str | None:
        end = self._finish
        if end is None or (refused and end.reason in ("refusal", "content_filter")):
            return None
        if end.reason in ("interrupted", "other"):
            return end.raw or end.reason
        return _INCOMPLETE.get(end.reason)

    def _envelope(self, status: str, output: list[Json]) -> Json:
        call, start = self._call, self._start
        thinking = call.thinking
        echoed = {name: call.extra[name] for name in _ECHOED if name in call.extra}
        return {
            "id": start.id if start.id.startswith("resp_") else f"resp_{self._suffix}",
            "object": "response",
            "created_at": self._created if start.created is None else start.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": _instructions(call),
            "max_output_tokens": call.max_tokens,
            "model": start.model or call.model,
            "output": output,
            "parallel_tool_calls": call.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {
                "effort": thinking.effort if thinking else None,
                "summary": thinking.summary if thinking else None,
            },
            "store": False,
            "temperature": call.temperature,
            "text": {"format": _format(call.response_format), **call.extra.get("text", {})},
            "tool_choice": _tool_choice(call),
            "tools": [_tool(tool) for tool in call.tools],
            "top_logprobs": call.top_logprobs or 0,
            "top_p": call.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": call.user,
            "metadata": call.metadata or {},
            **echoed,
        }


def _instructions(call: Call) -> str | None:
    match call.messages:
        case (Message(role="system", parts=(Text(text=text),)), *_):
            return text
        case _:
            return None


def _format(form: ResponseFormat | None) -> Json:
    if form is None:
        return {"type": "text"}
    if form.kind != "json_schema":
        return {"type": form.kind}
    said = {"name": form.name or "answer", "schema": form.schema or {}, "strict": form.strict}
    described = {} if form.description is None else {"description": form.description}
    return {"type": "json_schema", **said, **described}


def _tool(tool: Tool) -> Json:
    if tool.opaque is not None:
        return dict(tool.opaque.value)
    schema = {"parameters": tool.parameters, "strict": bool(tool.strict)}
    return {"type": "function", "name": tool.name, "description": tool.description, **schema, **tool.extra}


def _tool_choice(call: Call) -> Any:
    if "tool_choice" in call.extra:
        return call.extra["tool_choice"]
    choice = call.tool_choice
    if choice is None:
        return "auto"
    return choice.mode if choice.mode != "tool" else {"type": "function", "name": choice.name}


def encode_answer(pieces: Iterable[Piece], call: Call, request_id: str, created: int) -> bytes:
    """The body of a whole answer. `created` is in seconds since the epoch."""
    head = Head(call, request_id, created)
    output = head.output()
    for piece in pieces:
        if not head.note(piece):
            output.feed(piece)
    output.close(head.status(output.refused))
    return msgspec.json.encode(head.ended(output))
