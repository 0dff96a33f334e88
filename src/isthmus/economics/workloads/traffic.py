"""Recorded traffic, whoever recorded it, as one kind of thing.

A line of a log may hold a request alone or with its answer, in the forms of OpenAI (bodies, and the lines
of its batch files), LiteLLM (StandardLoggingPayload, and rows of its spend log), Langfuse (observations as
exported), OpenTelemetry's GenAI conventions (OTLP as JSON, or spans one by one), and of our own records.

Sources: platform.openai.com/docs/api-reference, docs.litellm.ai/docs/proxy/logging_spec,
langfuse.com/docs/api-and-data-platform, opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Source: TypeAlias = Literal["openai", "batch", "litellm", "langfuse", "opentelemetry", "isthmus"]
Json: TypeAlias = Mapping[str, Any]

BYTES_PER_TOKEN = 4


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a model, as far as somebody recorded it.

    `asked` is all that was sent, to be looked at for what is sensitive; `system` and `words` are the system
    text and the last words of a user. Counts of tokens are what was recorded, else None; so is `usd`, the
    money, and `at_us`, the time in microseconds since the epoch. `app` names the caller: a key, a team or a
    service.
    """

    source: Source
    model: str
    asked: Any
    system: str = ""
    words: str = ""
    answer: str = ""
    turns: int = 1
    tools: int = 0
    schema: bool = False
    embeds: bool = False
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    usd: float | None = None
    at_us: int | None = None
    app: str = ""

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens in and out: as recorded, else one for four bytes of JSON or text."""
        prompt, output = self.prompt_tokens, self.output_tokens
        if prompt is None:
            prompt = -(-len(msgspec.json.encode(self.asked)) // BYTES_PER_TOKEN)
        if output is None:
            output = 0 if self.embeds else -(-len(self.answer.encode()) // BYTES_PER_TOKEN)
        return prompt, output


def read(value: Any) -> Iterator[Interaction]:
    """The interactions in one decoded line or element of a log; none where it is of no form that is known."""
    if not isinstance(value, dict):
        return
    for recognise in (_isthmus, _opentelemetry, _litellm, _langfuse, _batch, _openai):
        found = list(recognise(value))
        if found:
            yield from found
            return


# The forms


def _openai(value: Json) -> Iterator[Interaction]:
    request, response = value.get("request", value), value.get("response")
    if isinstance(request, dict) and _is_body(request):
        yield _interaction("openai", request, response if isinstance(response, dict) else {})


def _batch(value: Json) -> Iterator[Interaction]:
    body = value.get("body")
    if "custom_id" in value and isinstance(body, dict) and _is_body(body):
        yield _interaction("batch", body, {})


def _litellm(value: Json) -> Iterator[Interaction]:
    if "call_type" not in value or "messages" not in value:
        return
    metadata = _mapping(value.get("metadata"))
    sent = _mapping(_decoded(value.get("proxy_server_request")))
    parameters = _mapping(value.get("model_parameters"))
    body = {**parameters, **sent, "model": value.get("model") or "", "messages": _decoded(value["messages"])}
    if not _is_body(body):
        # Spend logs keep no texts unless they are told to: what is left counts all the same.
        body["messages"] = []
    told = {
        "usage": {
            "prompt_tokens": value.get("prompt_tokens"),
            "completion_tokens": value.get("completion_tokens"),
        }
    }
    answer = _decoded(value.get("response"))
    known = {
        "usd": _number(value.get("response_cost", value.get("spend"))),
        "at_us": _time_us(value.get("startTime")),
        "app": _first(
            metadata.get("user_api_key_alias"),
            metadata.get("user_api_key_team_alias"),
            value.get("team_id"),
            value.get("api_key"),
        ),
    }
    yield _interaction("litellm", body, {**_mapping(answer), **told}, **known)


def _langfuse(value: Json) -> Iterator[Interaction]:
    if value.get("type") != "GENERATION" or "input" not in value:
        return
    asked = _decoded(value["input"])
    body = dict(asked) if isinstance(asked, dict) and _is_body(asked) else {"messages": _as_messages(asked)}
    usage = _mapping(value.get("usageDetails") or value.get("usage"))
    cost = _mapping(value.get("costDetails"))
    known = {
        "usd": _number(cost.get("total", value.get("calculatedTotalCost"))),
        "at_us": _time_us(value.get("startTime")),
        "app": _first(value.get("traceName"), value.get("name")),
    }
    told = {"usage": {"prompt_tokens": usage.get("input"), "completion_tokens": usage.get("output")}}
    answer = _decoded(value.get("output"))
    body["model"] = value.get("model") or body.get("model") or ""
    yield _interaction("langfuse", body, {"said": answer, **told}, **known)


def _opentelemetry(value: Json) -> Iterator[Interaction]:
    for resource in map(_mapping, _list(value.get("resourceSpans"))):
        service = _attributes(_mapping(resource.get("resource")).get("attributes")).get("service.name")
        for scope in map(_mapping, _list(resource.get("scopeSpans"))):
            for span in map(_mapping, _list(scope.get("spans"))):
                yield from _span(span, str(service or ""))
    if "attributes" in value:
        yield from _span(value, "")


def _span(span: Json, service: str) -> Iterator[Interaction]:
    known = _attributes(span.get("attributes"))
    if "gen_ai.request.model" not in known and "gen_ai.response.model" not in known:
        return
    system = [_said(part) for part in _list(_decoded(known.get("gen_ai.system_instructions")))]
    turns = [
        {
            "role": turn.get("role", "user"),
            "content": "\n".join(_said(part) for part in _list(turn.get("parts"))),
        }
        for turn in _list(_decoded(known.get("gen_ai.input.messages")))
        if isinstance(turn, dict)
    ]
    said = [
        _said(part)
        for turn in _list(_decoded(known.get("gen_ai.output.messages")))
        for part in _list(_mapping(turn).get("parts"))
    ]
    body = {
        "model": known.get("gen_ai.request.model") or known.get("gen_ai.response.model"),
        "messages": [*({"role": "system", "content": text} for text in system if text), *turns],
        "tools": _list(_decoded(known.get("gen_ai.tool.definitions"))),
    }
    usage = {
        "prompt_tokens": known.get("gen_ai.usage.input_tokens"),
        "completion_tokens": known.get("gen_ai.usage.output_tokens"),
    }
    nanoseconds = _number(span.get("startTimeUnixNano"))
    yield _interaction(
        "opentelemetry",
        body,
        {"said": "\n".join(said), "usage": usage},
        at_us=None if nanoseconds is None else int(nanoseconds // 1000),
        app=service,
        embeds=known.get("gen_ai.operation.name") == "embeddings",
    )


def _isthmus(value: Json) -> Iterator[Interaction]:
    if "config_hash" not in value or "route" not in value or "outcome" not in value:
        return
    body = _mapping(_decoded(_unwrapped(value.get("request_body"))))
    answer = _mapping(_decoded(_unwrapped(value.get("response_body"))))
    nanousd = _whole(value.get("charge_nanousd"))
    classes = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    counts = [_whole(value.get(name)) for name in classes]
    known = {
        "usd": None if nanousd is None else nanousd / 1e9,
        "at_us": _whole(value.get("at_us")),
        "app": _first(value.get("key_id"), value.get("route")),
        "embeds": value.get("operation") == "embeddings",
    }
    usage = {
        "prompt_tokens": None if counts[0] is None else sum(it or 0 for it in counts),
        "completion_tokens": value.get("output_tokens"),
    }
    body = {**body, "model": value.get("model") or ""}
    yield _interaction("isthmus", body, {**answer, "usage": usage}, **known)


# What they have in common


def _interaction(source: Source, body: Json, answer: Json, **known: Any) -> Interaction:
    turns = _turns(body)
    system = [_text(turn.get("content")) for turn in turns if turn.get("role") in ("system", "developer")]
    asked = [_text(turn.get("content")) for turn in turns if turn.get("role") == "user"]
    usage = _mapping(answer.get("usage"))
    form = _mapping(body.get("response_format") or _mapping(body.get("text")).get("format"))
    values: dict[str, Any] = {
        "model": str(body.get("model") or ""),
        "asked": body,
        "system": "\n".join([_text(body.get("system") or body.get("instructions")), *system]).strip(),
        "words": asked[-1] if asked else "",
        "answer": _answer(answer),
        "turns": max(1, len(asked)),
        "tools": len(_list(body.get("tools"))),
        "schema": form.get("type") in ("json_object", "json_schema"),
        "embeds": "input" in body and "messages" not in body and "encoding_format" in body,
        "prompt_tokens": _count(usage, "prompt_tokens", "input_tokens"),
        "output_tokens": _count(usage, "completion_tokens", "output_tokens"),
        "app": str(body.get("user") or ""),
    }
    return Interaction(
        source=source, **{**values, **{name: it for name, it in known.items() if it is not None}}
    )


def _is_body(value: Json) -> bool:
    return isinstance(value.get("messages"), list) or (
        "model" in value and isinstance(value.get("input"), str | list)
    )


def _turns(body: Json) -> list[Json]:
    asked = body.get("messages")
    if asked is None:
        asked = body.get("input")
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    return [turn if isinstance(turn, dict) else {"role": "user", "content": turn} for turn in _list(asked)]


def _answer(answer: Json) -> str:
    said = answer.get("said")
    if said is not None:
        return _text(said)
    body = _mapping(answer.get("body")) or answer
    choices = [
        _mapping(choice.get("message")) for choice in _list(body.get("choices")) if isinstance(choice, dict)
    ]
    if choices:
        return "\n".join(_text(choice.get("content")) for choice in choices)
    return _text(body.get("content") or body.get("output"))


def _text(value: Any) -> str:
    """All words of a content: a text, its parts, or whatever holds them."""
    match value:
        case str():
            return value
        case list():
            return "\n".join(filter(None, map(_text, value)))
        case dict():
            return _text(value.get("text") or value.get("content") or value.get("input_text"))
    return ""


def _said(part: Any) -> str:
    return _text(part.get("content", part.get("text"))) if isinstance(part, dict) else _text(part)


def _as_messages(asked: Any) -> list[Json]:
    if isinstance(asked, list) and all(isinstance(turn, dict) for turn in asked):
        return list(asked)
    return [
        {"role": "user", "content": asked if isinstance(asked, str) else msgspec.json.encode(asked).decode()}
    ]


def _attributes(given: Any) -> dict[str, Any]:
    """OTLP's list of keys with typed values, or a plain mapping of them."""
    if isinstance(given, dict):
        return given
    typed = {
        it["key"]: _mapping(it.get("value")) for it in _list(given) if isinstance(it, dict) and "key" in it
    }
    return {key: _untyped(value) for key, value in typed.items()}


def _untyped(value: Json) -> Any:
    return next((turn(value[kind]) for kind, turn in _TYPES.items() if kind in value), None)


def _integer(value: Any) -> int | None:
    """OTLP writes integers as text."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else _whole(value)


_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "stringValue": str,
    "intValue": _integer,
    "doubleValue": lambda value: _number(value),
    "boolValue": bool,
    "arrayValue": lambda array: [_untyped(_mapping(it)) for it in _list(_mapping(array).get("values"))],
    "kvlistValue": lambda pairs: _attributes(_mapping(pairs).get("values")),
}


def _decoded(value: Any) -> Any:
    """The value, or what it says where it is JSON in a string."""
    if isinstance(value, str | bytes) and value[:1] in ("{", "[", b"{", b"["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


def _unwrapped(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _first(*values: Any) -> str | None:
    return next((str(value) for value in values if value), None)


def _number(value: Any) -> float | None:
    """A finite number that is not negative, also where it stands as text; else None."""
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(usage: Json, *names: str) -> int | None:
    return next((count for name in names if (count := _whole(usage.get(name))) is not None), None)


def _time_us(value: Any) -> int | None:
    """Microseconds since the epoch, of seconds or of a time in ISO 8601."""
    seconds = _number(value)
    if seconds is not None:
        return int(seconds * 1_000_000)
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1_000_000)
