"""OpenAI Responses: typed items, typed events, and reasoning that comes back encrypted.

Source: platform.openai.com/docs/api-reference/responses and .../responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isthmus.testing import openai_errors
from isthmus.testing.openai_chat import CREATED, call_id
from isthmus.testing.openai_tools import check_format, forced, function
from isthmus.testing.script import Script, ToolCall
from isthmus.testing.seals import seal, unseal
from isthmus.testing.wire import (
    Asked,
    Frame,
    House,
    JsonObject,
    Received,
    RefusedError,
    Wire,
    count_words,
    field,
    known,
    names,
    number,
    objects,
    require,
)

_DOCUMENTED = names(
    "access_programs background background_options context_management conversation image include input"
    " instructions max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls"
    " previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning"
    " safety_identifier service_tier store stream stream_options temperature text tool_choice tools "
    "top_logprobs top_p truncation user"
)
_PARTS = {
    "user": {"input_text", "input_image", "input_file", "input_audio"},
    "system": {"input_text"},
    "developer": {"input_text"},
    "assistant": {"output_text", "refusal"},
}
_INCOMPLETE = {
    "length": "max_output_tokens",
    "context": "max_output_tokens",
    "filter": "content_filter",
    "blocked": "content_filter",
}


def read(received: Received, house: House) -> Asked:
    """The request, or RefusedError with what OpenAI would say."""
    openai_errors.check_key(received.headers, house.key)
    body = received.body
    if body is None:
        raise RefusedError("We could not parse the JSON body of your request.")
    if house.strict:
        known(body, _DOCUMENTED, "Unknown parameter: '{}'.".format)
    model = field(body, "model", str)
    require(
        model is not None,
        "Missing required parameter: 'model'.",
        code="missing_required_parameter",
        param="model",
    )
    given = field(body, "input", (str, list))
    follows = any(body.get(name) for name in ("previous_response_id", "conversation", "prompt"))
    require(
        bool(given) or follows,
        "Missing required parameter: 'input'.",
        code="missing_required_parameter",
        param="input",
    )
    items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given or [], "input")
    _check_items(items, house, follows)
    number(body, "max_output_tokens", 16, 2**31)
    number(body, "temperature", 0, 2)
    number(body, "top_p", 0, 1)
    number(body, "top_logprobs", 0, 20)
    described = enumerate(objects(body.get("tools") or [], "tools"))
    tools = tuple(
        function(tool, f"tools[{index}]") for index, tool in described if tool.get("type") == "function"
    )
    choice = field(body, "tool_choice", (str, dict))
    named = field(choice, "name", str) if isinstance(choice, dict) else None
    include = field(body, "include", list, [])
    return Asked(
        wire="openai-responses",
        model=model,
        text=_text(items[-1]) if items else "",
        prompt_tokens=count_words([items, body.get("instructions"), body.get("tools")]),
        stream=field(body, "stream", bool, False),
        include_usage=True,
        tools=tools,
        forced=forced(choice, tools, named) if choice not in (None, "auto", "none") else None,
        schema=_schema(field(field(body, "text", dict, {}), "format", dict, {})),
        logprobs=field(body, "top_logprobs", int, 0) if "message.output_text.logprobs" in include else None,
        max_tokens=field(body, "max_output_tokens", int),
        seals="reasoning.encrypted_content" in include,
        organisation=house.organisation,
        received=received,
    )


def whole(asked: Asked, script: Script) -> JsonObject:
    """The `response` object."""
    reason = _INCOMPLETE.get(script.ending)
    status = "incomplete" if reason else "completed"
    answer = _envelope(asked, status) | {
        "output": [item for item, _ in _items(asked, script)],
        "incomplete_details": {"reason": reason} if reason else None,
    }
    return answer if script.fault.usage == "missing" else answer | {"usage": _usage(asked, script)}


def frames(asked: Asked, script: Script) -> Iterator[Frame]:
    """The typed events, numbered from 0; the last is response.completed or response.incomplete."""
    for position, (kind, said, body) in enumerate(_events(asked, script)):
        yield Frame({"type": kind, "sequence_number": position} | body, kind, said)


def interruption(asked: Asked, sent: int) -> list[Frame]:
    """The `error` event, and the `response.failed` that ends the stream."""
    error = {"code": "server_error", "message": "The server had an error while processing your request."}
    failed = _envelope(asked, "failed") | {"error": error, "output": []}
    return [
        Frame({"type": "error", "sequence_number": sent, "param": None} | error, "error"),
        Frame(
            {"type": "response.failed", "sequence_number": sent + 1, "response": failed}, "response.failed"
        ),
    ]


_Event = tuple[str, Any, JsonObject]


def _events(asked: Asked, script: Script) -> Iterator[_Event]:
    opening = _envelope(asked, "in_progress") | {"output": [], "usage": None}
    if script.fault.usage == "every-chunk":
        opening["usage"] = _usage(asked, script)
    yield "response.created", "frame", {"response": opening}
    yield "response.in_progress", "frame", {"response": opening}
    for index, (item, parts) in enumerate(_items(asked, script)):
        yield "response.output_item.added", "frame", {"output_index": index, "item": _begun(item)}
        for kind, said, body in _inside(asked, script, item, parts):
            yield kind, said, {"item_id": item["id"], "output_index": index} | body
        yield "response.output_item.done", "frame", {"output_index": index, "item": item}
    final = whole(asked, script)
    yield f"response.{final['status']}", "terminal", {"response": final}


def _inside(asked: Asked, script: Script, item: JsonObject, parts: tuple[str, ...]) -> Iterator[_Event]:
    """The events between an item's beginning and its end, without the item's id and index."""
    match item["type"]:
        case "reasoning":
            yield from _summary_events(item, parts)
        case "function_call":
            for part in parts:
                yield "response.function_call_arguments.delta", "piece", {"delta": part}
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield "response.function_call_arguments.done", "frame", done
        case _:
            yield from _content_events(asked, script, item, parts)


def _summary_events(item: JsonObject, parts: tuple[str, ...]) -> Iterator[_Event]:
    for part in item["summary"]:
        where = {"summary_index": 0}
        yield "response.reasoning_summary_part.added", "frame", where | {"part": part | {"text": ""}}
        for piece in parts:
            yield "response.reasoning_summary_text.delta", "piece", where | {"delta": piece}
        yield "response.reasoning_summary_text.done", "frame", where | {"text": part["text"]}
        yield "response.reasoning_summary_part.done", "frame", where | {"part": part}


def _content_events(
    asked: Asked, script: Script, item: JsonObject, parts: tuple[str, ...]
) -> Iterator[_Event]:
    for part in item["content"]:
        where = {"content_index": 0}
        refuses = part["type"] == "refusal"
        text = "refusal" if refuses else "text"
        name = "response.refusal" if refuses else "response.output_text"
        yield "response.content_part.added", "frame", where | {"part": part | {text: ""}}
        for position, piece in enumerate(parts):
            logprobs = {} if refuses else {"logprobs": _logprobs(asked, script, (piece,), position)}
            yield f"{name}.delta", "piece", where | {"delta": piece} | logprobs
        logprobs = {} if refuses else {"logprobs": part["logprobs"]}
        yield f"{name}.done", "frame", where | {text: part[text]} | logprobs
        yield "response.content_part.done", "frame", where | {"part": part}


def _begun(item: JsonObject) -> JsonObject:
    """An item as it is announced: in progress, with nothing said yet."""
    match item["type"]:
        case "reasoning":
            return item | {"summary": []}
        case "function_call":
            return item | {"arguments": "", "status": "in_progress"}
        case _:
            return item | {"content": [], "status": "in_progress"}


def _items(asked: Asked, script: Script) -> list[tuple[JsonObject, tuple[str, ...]]]:
    """The finished output items, each with the pieces that it is said in."""
    items: list[tuple[JsonObject, tuple[str, ...]]] = []
    if script.reasoning:
        items.append((_reasoning(asked, script), script.reasoning))
    if script.text:
        text = "".join(script.text)
        part = {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": _logprobs(asked, script, script.text, 0),
        }
        items.append((_message(asked, script, part), script.text))
    if script.refusal:
        part = {"type": "refusal", "refusal": "".join(script.refusal)}
        items.append((_message(asked, script, part), script.refusal))
    for position, call in enumerate(script.tools):
        items.append((_call(asked, position, call), tuple(script.fragments(call))))
    return items


def _reasoning(asked: Asked, script: Script) -> JsonObject:
    text = "".join(script.reasoning)
    item: JsonObject = {
        "id": f"rs_sim{asked.serial}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}],
    }
    return item | {"encrypted_content": seal(asked.organisation, text)} if asked.seals else item


def _message(asked: Asked, script: Script, part: JsonObject) -> JsonObject:
    return {
        "id": f"msg_sim{asked.serial}",
        "type": "message",
        "status": "incomplete" if script.ending in _INCOMPLETE else "completed",
        "role": "assistant",
        "content": [part],
    }


def _call(asked: Asked, position: int, call: ToolCall) -> JsonObject:
    return {
        "id": f"fc_sim{asked.serial}_{position}",
        "type": "function_call",
        "status": "completed",
        "call_id": call_id(asked, position),
        "name": call.name,
        "arguments": call.arguments,
    }


def _envelope(asked: Asked, status: str) -> JsonObject:
    body = asked.received.body or {}
    return {
        "id": f"resp_sim{asked.serial}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": asked.model,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None} | (body.get("reasoning") or {}),
        "service_tier": asked.openai_tier,
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def _usage(asked: Asked, script: Script) -> JsonObject:
    usage = asked.usage(script)
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def _logprobs(asked: Asked, script: Script, pieces: tuple[str, ...], start: int) -> list[JsonObject]:
    if asked.logprobs is None:
        return []
    known_ = script.logprobs[start : start + len(pieces)]
    values = known_ + (-0.1,) * (len(pieces) - len(known_))
    entries = [
        {"token": piece, "logprob": value, "bytes": list(piece.encode())}
        for piece, value in zip(pieces, values, strict=True)
    ]
    return [entry | {"top_logprobs": [entry] if asked.logprobs else []} for entry in entries]


def _check_items(items: list[JsonObject], house: House, follows: bool) -> None:
    called: set[str] = set()
    answered: set[str] = set()
    for position, item in enumerate(items):
        where = f"input[{position}]"
        match item.get("type", "message"):
            case "message":
                _check_message(item, where)
            case "function_call":
                fits = all(isinstance(item.get(name), str) for name in ("call_id", "name", "arguments"))
                require(
                    fits,
                    f"Missing required parameter: '{where}' needs call_id, name and arguments.",
                    param=where,
                )
                called.add(item["call_id"])
            case "function_call_output":
                fits = isinstance(item.get("call_id"), str) and isinstance(item.get("output"), str | list)
                require(fits, f"Missing required parameter: '{where}' needs call_id and output.", param=where)
                answered.add(item["call_id"])
            case "reasoning":
                _check_reasoning(item, items[position + 1 :], house, where)
            case str():
                continue
            case other:
                raise RefusedError(f"Invalid value: '{other}'.", code="invalid_value", param=f"{where}.type")
    orphans = sorted(answered - called)
    require(
        follows or not orphans,
        f"No tool call found for function call output with call_id {', '.join(orphans)}.",
        param="input",
    )
    missing = sorted(called - answered)
    require(not missing, f"No tool output found for function call {', '.join(missing)}.", param="input")


def _check_message(item: JsonObject, where: str) -> None:
    role = item.get("role")
    require(
        isinstance(role, str) and role in _PARTS,
        f"Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', and 'user'.",
        code="invalid_value",
        param=where,
    )
    content = field(item, "content", (str, list))
    require(content is not None, f"Missing required parameter: '{where}.content'.", param=f"{where}.content")
    if isinstance(content, list):
        for part in objects(content, f"{where}.content"):
            kind = part.get("type")
            require(
                isinstance(kind, str) and kind in _PARTS[str(role)],
                f"Invalid value: '{kind}'. Supported values are: {sorted(_PARTS[str(role)])}.",
                code="invalid_value",
                param=f"{where}.content",
            )


def _check_reasoning(item: JsonObject, rest: list[JsonObject], house: House, where: str) -> None:
    require(
        isinstance(item.get("summary"), list), f"Missing required parameter: '{where}.summary'.", param=where
    )
    follower = rest[0] if rest else {}
    produced = follower.get("type") in ("function_call", "reasoning") or follower.get("role") == "assistant"
    require(
        produced,
        f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item.",
        param="input",
    )
    sealed = field(item, "encrypted_content", str)
    require(
        sealed is None or not house.strict or unseal(house.organisation, sealed) is not None,
        f"The encrypted content for item {item.get('id')} could not be verified.",
        code="invalid_encrypted_content",
    )


def _schema(format_: JsonObject) -> JsonObject | None:
    kind = format_.get("type", "text")
    require(
        kind in ("text", "json_object", "json_schema"),
        f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'.",
        param="text.format.type",
    )
    if kind == "json_schema":
        return check_format(format_)
    return {} if kind == "json_object" else None


def _text(item: JsonObject) -> str:
    content = item.get("content", item.get("output"))
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


WIRE = Wire(
    name="openai-responses",
    read=read,
    whole=whole,
    frames=frames,
    error=openai_errors.error,
    refusal=openai_errors.refusal,
    interruption=interruption,
)
