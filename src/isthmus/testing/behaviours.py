"""The model ids that the simulator answers to, as data: each a sentence and the Script that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from isthmus.testing.schema import instance
from isthmus.testing.script import Fault, RawAnswer, Refusal, Script, ToolCall, Usage, words
from isthmus.testing.wire import Asked

Says = Callable[[Asked], Script]
"""What an upstream says to a request; it may depend on all that Asked tells, as on how often it was asked."""

GIANT_ARGUMENTS = 1_000_000
"""Characters of the only argument of `sim-giant-tool-args`."""

_CALL = re.compile(r"\bcall\s+([A-Za-z0-9_.-]+)\s*")


class Behaviour(Struct, frozen=True):
    """A model id of the simulator: what it does, in a sentence, and in a Script."""

    model: str
    summary: str
    says: Says


def echo(asked: Asked) -> Script:
    """The last text of the request again, word by word; or a tool call, or JSON, where that was asked for.

    A tool is called where tool_choice forces one, or where the text says `call NAME` (with `{...}` after it
    for the arguments) and the tool is offered. Without such arguments they are made from the tool's schema.
    """
    named = _CALL.search(asked.text)
    wanted = named[1] if named else None
    if asked.forced not in (None, "*"):
        wanted = asked.forced
    tools = {tool.name: tool for tool in asked.tools}
    if wanted in tools:
        given = _json_at(asked.text, named.end()) if named else None
        return Script(tools=(ToolCall(wanted, given or _filled(tools[wanted].schema)),))
    if asked.forced is not None:
        return Script(tools=_calls(asked, 1))
    if asked.schema is not None:
        return Script(text=fragments_of(_filled(asked.schema)))
    return Script(text=words(asked.text) or ("ok",))


def settled(asked: Asked, script: Script) -> Script:
    """The script as far as the request lets it be said: cut at a stop sequence and at max_tokens.

    A script that tells why it ends is left as it is.
    """
    if script.finish is not None or script.tools:
        return script
    text = "".join(script.text)
    found = min(((text.index(stop), stop) for stop in asked.stop if stop in text), default=None)
    if found is not None:
        position, stop = found
        script = replace(script, text=words(text[:position]), finish="sequence", stop_sequence=stop)
    if asked.max_tokens is not None and len(script.text) > asked.max_tokens:
        script = replace(script, text=script.text[: asked.max_tokens], finish="length", stop_sequence=None)
    return script


def fragments_of(text: str) -> tuple[str, ...]:
    """JSON in pieces of four characters, so that no piece is whole."""
    return tuple(text[start : start + 4] for start in range(0, len(text), 4))


def _filled(schema: dict[str, Any]) -> str:
    return msgspec.json.encode(instance(schema) if schema else {}).decode()


def _json_at(text: str, position: int) -> str | None:
    """The JSON object that begins at the position, as it is written; None where none does."""
    closing = [found.end() for found in re.finditer("}", text) if found.end() > position]
    for end in closing if text[position : position + 1] == "{" else []:
        try:
            msgspec.json.decode(text[position:end], type=dict[str, Any])
        except msgspec.DecodeError:
            continue
        return text[position:end]
    return None


def _calls(asked: Asked, count: int) -> tuple[ToolCall, ...]:
    """Calls of the tools that are offered, in turn; of a tool of our own where none is."""
    offered = [ToolCall(tool.name, _filled(tool.schema)) for tool in asked.tools]
    offered = offered or [ToolCall("get_weather", '{"city":"Zürich","unit":"celsius"}')]
    return tuple(offered[position % len(offered)] for position in range(count))


def _faulty(**fields: Any) -> Says:
    return lambda asked: replace(echo(asked), fault=Fault(**fields))


def _refusing(status: int, **fields: Any) -> Says:
    return _faulty(refuse=Refusal(status=status, **fields))


def _ending(finish: str) -> Says:
    return lambda asked: replace(echo(asked), finish=finish)


def _telling(**fields: Any) -> Says:
    return lambda asked: replace(echo(asked), **fields)


def _calling(count: int, fragment_bytes: int = 8, **faults: Any) -> Says:
    return lambda asked: Script(
        tools=_calls(asked, count), fragment_bytes=fragment_bytes, fault=Fault(**faults)
    )


def _giant(asked: Asked) -> Script:
    name = asked.tools[0].name if asked.tools else "store"
    arguments = '{"text":"' + "x" * GIANT_ARGUMENTS + '"}'
    return Script(tools=(ToolCall(name, arguments),), fragment_bytes=4096)


def _flaky(asked: Asked) -> Script:
    fault = Fault(refuse=Refusal(status=503)) if asked.nth % 2 == 0 else Fault()
    return replace(echo(asked), fault=fault)


def _refusal(asked: Asked) -> Script:
    return Script(refusal=words("I cannot help with that."), finish="refusal")


_THOUGHTS = words("The question is plain. I answer it.")
_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_CACHED = Usage(uncached=10, cache_read=100, cache_write_5m=20, cache_write_1h=5, output=7, reasoning=3)

BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(
        "sim-echo", "repeats the last text, word by word; so does any id that is not in this table", echo
    ),
    Behaviour("sim-tools", "calls the first tool that is offered", _calling(1)),
    Behaviour("sim-parallel-tools", "calls three tools in one answer", _calling(3)),
    Behaviour(
        "sim-tools-whole", "sends each tool call in a single delta", _calling(2, fragment_bytes=1 << 30)
    ),
    Behaviour(
        "sim-tools-index-zero",
        "OpenAI Chat: gives every parallel delta index 0",
        _calling(2, tool_index_zero=True),
    ),
    Behaviour(
        "sim-tools-repeat-id",
        "OpenAI Chat: repeats id and name in each delta",
        _calling(2, tool_repeat_id=True),
    ),
    Behaviour("sim-giant-tool-args", "calls a tool with a megabyte of arguments", _giant),
    Behaviour(
        "sim-empty-tool-calls",
        "OpenAI Chat: puts tool_calls: [] beside the text",
        _faulty(empty_tool_calls=True),
    ),
    Behaviour("sim-signed-tools", "Gemini: calls a tool, and wants its signature back", _calling(1)),
    Behaviour("sim-reasoning", "reasons before it answers", _telling(reasoning=_THOUGHTS)),
    Behaviour(
        "sim-reasoning-field",
        "OpenAI Chat: reasons in the field `reasoning`",
        _telling(reasoning=_THOUGHTS, fault=Fault(reasoning_field="reasoning")),
    ),
    Behaviour(
        "sim-redacted",
        "reasons, and redacts a part of it",
        _telling(reasoning=_THOUGHTS, redacted=("hidden",)),
    ),
    Behaviour(
        "sim-cached",
        "tells usage with tokens read from and written to a prompt cache",
        _telling(usage=_CACHED),
    ),
    Behaviour("sim-length", "ends because of a token limit", _ending("length")),
    Behaviour("sim-filter", "ends because of a content filter", _ending("filter")),
    Behaviour("sim-refusal", "refuses, in the field that the wire has for it", _refusal),
    Behaviour(
        "sim-blocked", "says nothing, for the prompt is blocked", lambda asked: Script(finish="blocked")
    ),
    Behaviour("sim-pause-turn", "ends with pause_turn where the wire knows it", _ending("pause")),
    Behaviour("sim-context-full", "ends because the context window is full", _ending("context")),
    Behaviour("sim-unknown-finish", "ends with a reason that nobody documents", _ending("because")),
    Behaviour("sim-400", "refuses the request as invalid", _refusing(400)),
    Behaviour("sim-400-context", "refuses a prompt that is too long", _refusing(400, reason="context")),
    Behaviour("sim-400-filter", "refuses a prompt because of its content", _refusing(400, reason="filter")),
    Behaviour("sim-401", "refuses the key", _refusing(401)),
    Behaviour("sim-402", "wants to be paid first", _refusing(402)),
    Behaviour("sim-403", "refuses permission", _refusing(403)),
    Behaviour("sim-404", "does not know the model", _refusing(404)),
    Behaviour("sim-408", "gave up waiting for the request", _refusing(408)),
    Behaviour("sim-409", "sees a conflict", _refusing(409)),
    Behaviour("sim-413", "finds the request too large", _refusing(413)),
    Behaviour("sim-422", "cannot process the request", _refusing(422)),
    Behaviour("sim-429", "limits the rate; Retry-After: 1", _refusing(429, retry_after_s=1)),
    Behaviour(
        "sim-429-date",
        "limits the rate; Retry-After is an HTTP date half a minute ahead",
        _refusing(429, retry_after_s=30, retry_after_as="date"),
    ),
    Behaviour(
        "sim-429-ms",
        "limits the rate; retry-after-ms: 1000",
        _refusing(429, retry_after_s=1, retry_after_as="milliseconds"),
    ),
    Behaviour("sim-429-quota", "has no quota left: waiting does not help", _refusing(429, reason="quota")),
    Behaviour("sim-500", "fails", _refusing(500)),
    Behaviour("sim-502", "fails behind a proxy, in the vendor's error shape", _refusing(502)),
    Behaviour("sim-503", "is overloaded; Retry-After: 2", _refusing(503, retry_after_s=2)),
    Behaviour("sim-504", "timed out", _refusing(504)),
    Behaviour("sim-529", "is overloaded, as Anthropic says it", _refusing(529)),
    Behaviour("sim-flaky", "answers 503 to every first request of two", _flaky),
    Behaviour(
        "sim-html-502",
        "answers with a proxy's HTML page",
        _faulty(raw=RawAnswer(status=502, content_type="text/html", body=_PAGE)),
    ),
    Behaviour(
        "sim-redirect",
        "redirects with 307 to /elsewhere",
        _faulty(raw=RawAnswer(status=307, content_type="text/plain", location="/elsewhere")),
    ),
    Behaviour("sim-empty-body", "answers 200 with no body", _faulty(raw=RawAnswer())),
    Behaviour("sim-not-json", "answers with something that is no JSON", _faulty(bad_json=True)),
    Behaviour("sim-bad-utf8", "answers with bytes that are no UTF-8", _faulty(bad_utf8=True)),
    Behaviour(
        "sim-wrong-content-type",
        "calls its answer application/octet-stream",
        _faulty(content_type="application/octet-stream"),
    ),
    Behaviour(
        "sim-slow-first-token",
        "sends the head at once, and the first piece after a second",
        _telling(first_delay_s=1.0),
    ),
    Behaviour("sim-stall", "says one piece, then nothing until it is released", _faulty(stall_after=1)),
    Behaviour(
        "sim-stall-before-first", "sends the head, then nothing until it is released", _faulty(stall_after=0)
    ),
    Behaviour("sim-disconnect", "closes the connection without a word", _faulty(disconnect=True)),
    Behaviour("sim-cut-before-first", "closes the connection after the head", _faulty(cut_after=0)),
    Behaviour("sim-cut", "closes the connection inside the second piece", _faulty(cut_after=1)),
    Behaviour("sim-reset", "resets the connection inside the second piece", _faulty(cut_after=1, reset=True)),
    Behaviour(
        "sim-truncated",
        "ends the stream in order, but too early: no finish, no usage",
        _faulty(truncate_after=1),
    ),
    Behaviour("sim-no-done", "leaves out the last event of the wire", _faulty(no_terminal=True)),
    Behaviour("sim-error-mid-stream", "sends an error event after the first piece", _faulty(error_after=1)),
    Behaviour("sim-close", "closes the connection that it promised to keep", _faulty(close_after=True)),
    Behaviour("sim-missing-usage", "tells no usage", _faulty(usage="missing")),
    Behaviour("sim-usage-every-chunk", "tells usage again and again", _faulty(usage="every-chunk")),
    Behaviour("sim-crlf", "ends its lines with CR LF", _faulty(newline="\r\n")),
    Behaviour("sim-one-byte-writes", "sends each byte by itself", _faulty(write_size=1)),
    Behaviour(
        "sim-spaced-json", "writes JSON with spaces and escapes, as Python does", _faulty(spaced_json=True)
    ),
    Behaviour("sim-tight-fields", "writes data:{...} without the space", _faulty(tight_fields=True)),
    Behaviour("sim-heartbeats", "sends comment lines between its events", _faulty(heartbeats=True)),
    Behaviour(
        "sim-strange-events", "sends events and fields that nobody documents", _faulty(strange_events=True)
    ),
)

MODELS: dict[str, Behaviour] = {behaviour.model: behaviour for behaviour in BEHAVIOURS}


def behaviour_of(model: str) -> Says:
    """What the model with this id says; an id that is not in the table echoes."""
    known = MODELS.get(model)
    return known.says if known else echo


def table() -> str:
    """The models and what they do, in aligned lines."""
    width = max(map(len, MODELS))
    return "\n".join(f"{one.model:<{width}}  {one.summary}" for one in BEHAVIOURS)
