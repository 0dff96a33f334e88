"""Reads a Chat Completions request into a Call."""

from __future__ import annotations

from typing import Any

from isthmus.core.call import (
    Audio,
    Call,
    Document,
    Envelope,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    ResponseFormat,
    Role,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.fields import Fields, data_url, decode_raw, invalid

DIALECT = "openai"

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
}


def decode_call(envelope: Envelope) -> Call:
    """The whole request; raises IsthmusError(INVALID_REQUEST, param=path) for what cannot be one."""
    top = Fields({name: decode_raw(raw, name) for name, raw in envelope.fields.items()}, "")
    for legacy in ("functions", "function_call"):
        if top.take(legacy) is not None:
            raise _legacy(legacy)
    for read in ("model", "stream"):
        top.take(read)
    messages = top.items("messages")
    if not messages:
        raise invalid("messages", "a non-empty array", messages)
    tools, choice = _tools(top)
    stream_options = top.mapping("stream_options")
    limit = top.integer("max_completion_tokens", least=0)
    older_limit = top.integer("max_tokens", least=0)
    return Call(
        dialect=DIALECT,
        operation="chat",
        model=envelope.model,
        messages=_messages(messages),
        stream=envelope.stream,
        include_usage=envelope.include_usage,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=top.flag("parallel_tool_calls"),
        response_format=_response_format(top),
        max_tokens=older_limit if limit is None else limit,
        temperature=top.number("temperature"),
        top_p=top.number("top_p"),
        top_k=top.integer("top_k"),
        stop=_stop(top),
        seed=top.integer("seed"),
        n=top.integer("n", least=1),
        logprobs=top.flag("logprobs"),
        top_logprobs=top.integer("top_logprobs", least=0),
        frequency_penalty=top.number("frequency_penalty"),
        presence_penalty=top.number("presence_penalty"),
        logit_bias=_logit_bias(top),
        thinking=_thinking(top),
        user=top.text("user"),
        metadata=top.mapping("metadata"),
        extra=top.rest | _further_stream_options(stream_options),
    )


def _messages(items: list[Any]) -> tuple[Message, ...]:
    """The turns; consecutive `tool` messages are one `user` turn of results."""
    turns: list[Message] = []
    results: list[ToolResult] = []
    for position, item in enumerate(items):
        message = Fields(item, f"messages[{position}]")
        role = message.required_text("role")
        if role == "tool":
            results.append(_tool_result(message))
            continue
        if results:
            turns.append(Message(role="user", parts=tuple(results)))
            results = []
        turns.append(_message(message, role))
    if results:
        turns.append(Message(role="user", parts=tuple(results)))
    return tuple(turns)


def _message(message: Fields, role: str) -> Message:
    if role == "function" or message.rest.get("function_call") is not None:
        raise _legacy(message.path("role" if role == "function" else "function_call"))
    if role not in _ROLES:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"`{message.path('role')}` must be one of system, developer, user, assistant and tool.",
            code="invalid_request",
            param=message.path("role"),
        )
    parts = _assistant_parts(message) if role == "assistant" else _content(message, required=True)
    return Message(role=_ROLES[role], parts=parts, name=message.text("name"), extra=message.unread)


def _assistant_parts(message: Fields) -> tuple[Part, ...]:
    thinking = message.text("reasoning_content") or ""
    other_name = message.text("reasoning") or ""
    content = _content(message, required=False)
    refusal = message.text("refusal")
    uses = [
        _tool_use(Fields(item, message.path(f"tool_calls[{position}]")))
        for position, item in enumerate(message.items("tool_calls") or [])
    ]
    parts: list[Part] = []
    if thinking or other_name:
        parts.append(Reasoning(text=thinking or other_name, dialect=DIALECT))
    parts += content
    if refusal is not None:
        parts.append(Refusal(refusal))
    return (*parts, *uses)


def _content(message: Fields, *, required: bool) -> tuple[Part, ...]:
    value = message.take("content")
    path = message.path("content")
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if isinstance(value, list):
        return tuple(_part(item, f"{path}[{position}]") for position, item in enumerate(value))
    if value is None and not required:
        return ()
    raise invalid(path, "a string or an array of parts", value)


def _part(item: Any, at: str) -> Part:
    part = Fields(item, at)
    match part.required_text("type"):
        case "text":
            return Text(part.required_text("text"), extra=part.rest)
        case "refusal":
            return Refusal(part.required_text("refusal"), extra=part.rest)
        case "image_url":
            return _image(part)
        case "input_audio":
            audio = _inner(part, "input_audio")
            data, form = audio.required_text("data"), audio.required_text("format")
            return Audio(data, form, extra=_beside(part, "input_audio", audio))
        case "file":
            return _document(part)
        case _:
            return Opaque(DIALECT, item)


def _image(part: Fields) -> Image:
    image = _inner(part, "image_url")
    url, detail = image.required_text("url"), image.text("detail")
    extra = _beside(part, "image_url", image)
    inline = data_url(url)
    if inline is None:
        return Image(url=url, detail=detail, extra=extra)
    return Image(data=inline[1], media_type=inline[0], detail=detail, extra=extra)


def _document(part: Fields) -> Document:
    file = _inner(part, "file")
    data, file_id, name = file.text("file_data"), file.text("file_id"), file.text("filename")
    if data is None and file_id is None:
        raise invalid(file.path("file_data"), "a string where `file_id` is missing", None)
    inline = data_url(data or "")
    if data is not None and inline is None:
        raise invalid(file.path("file_data"), "a data: URL in base64", data)
    media_type, content = inline or (None, None)
    return Document(
        data=content, media_type=media_type, file_id=file_id, name=name, extra=_beside(part, "file", file)
    )


def _inner(part: Fields, name: str) -> Fields:
    inner = part.fields(name)
    if inner is None:
        raise invalid(part.path(name), "an object", None)
    return inner


def _beside(outer: Fields, name: str, inner: Fields) -> dict[str, Any]:
    """Unknown fields of a part, those of its inner object under the inner object's name."""
    return {**outer.rest, name: inner.rest} if inner.rest else outer.rest


def _tool_use(call: Fields) -> ToolUse | Opaque:
    if call.rest.get("type", "function") != "function":
        return Opaque(DIALECT, call.rest)
    call.take("type")
    function = _inner(call, "function")
    signature = thought_signature(call.rest)
    if signature is not None:
        call.take("extra_content")
    return ToolUse(
        id=call.required_text("id"),
        name=function.required_text("name"),
        arguments=function.text("arguments") or "",
        signature=signature,
        extra=_beside(call, "function", function),
    )


def thought_signature(call: dict[str, Any]) -> str | None:
    """Gemini's opaque token, where Google's own Chat Completions endpoint puts it."""
    match call.get("extra_content"):
        case {"google": {"thought_signature": str(signature)}}:
            return signature
        case _:
            return None


def _tool_result(message: Fields) -> ToolResult:
    at = message.path("content")
    parts: list[Text | Image | Document] = []
    for part in _content(message, required=True):
        if not isinstance(part, Text | Image | Document):
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"`{at}` of a tool message must hold text parts.",
                code="invalid_request",
                param=at,
            )
        parts.append(part)
    return ToolResult(
        id=message.required_text("tool_call_id"),
        parts=tuple(parts),
        name=message.text("name"),
        extra=message.unread,
    )


def _tools(top: Fields) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    tools = tuple(_tool(item, f"tools[{position}]") for position, item in enumerate(top.items("tools") or []))
    choice = top.take("tool_choice")
    if choice is None:
        return tools, None
    if choice in ("auto", "none", "required"):
        return tools, ToolChoice(mode=choice)
    if isinstance(choice, dict):
        match choice:
            case {"type": "function", "function": {"name": str(name)}}:
                return tools, ToolChoice(mode="tool", name=name)
            case {"type": "custom", "custom": {"name": str(name)}}:
                return tools, ToolChoice(mode="tool", name=name)
            case {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(some)},
            }:
                names = {
                    _tool(item, f"tool_choice.allowed_tools.tools[{i}]").name for i, item in enumerate(some)
                }
                return tuple(tool for tool in tools if tool.name in names), ToolChoice(mode=mode)
    raise invalid("tool_choice", '"auto", "none", "required", or an object that names a tool', choice)


def _tool(item: Any, at: str) -> Tool:
    tool = Fields(item, at)
    kind = tool.required_text("type")
    if kind != "function":
        named = item.get(kind)
        name = named.get("name") if isinstance(named, dict) else None
        return Tool(name=name if isinstance(name, str) else kind, opaque=Opaque(DIALECT, item))
    function = _inner(tool, "function")
    return Tool(
        name=function.required_text("name"),
        description=function.text("description"),
        parameters=function.mapping("parameters"),
        strict=function.flag("strict"),
        extra=_beside(tool, "function", function),
    )


def _response_format(top: Fields) -> ResponseFormat | None:
    form = top.fields("response_format")
    if form is None:
        return None
    match form.required_text("type"):
        case "text":
            return ResponseFormat(kind="text")
        case "json_object":
            return ResponseFormat(kind="json_object")
        case "json_schema":
            schema = _inner(form, "json_schema")
            return ResponseFormat(
                kind="json_schema",
                name=schema.text("name"),
                description=schema.text("description"),
                schema=schema.mapping("schema"),
                strict=schema.flag("strict"),
            )
        case _:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                "`response_format.type` must be one of text, json_object and json_schema.",
                code="invalid_request",
                param="response_format.type",
            )


def _stop(top: Fields) -> tuple[str, ...]:
    value = top.take("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise invalid("stop", "a string or an array of strings", value)


def _logit_bias(top: Fields) -> dict[str, float] | None:
    bias = top.fields("logit_bias")
    if bias is None:
        return None
    values = {name: bias.number(name) for name in list(bias.rest)}
    return {name: value for name, value in values.items() if value is not None}


def _thinking(top: Fields) -> Thinking | None:
    effort = top.text("reasoning_effort")
    if effort is None:
        return None
    return Thinking(enabled=effort != "none", effort=effort)


def _further_stream_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """What `stream_options` says besides `include_usage`, under the name it came with."""
    further = {name: value for name, value in (options or {}).items() if name != "include_usage"}
    return {"stream_options": further} if further else {}


def _legacy(at: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"`{at}` is the form of 2023 and is not understood here.",
        code="legacy_functions",
        hint="Send `tools` and `tool_choice`, and `tool` messages with a `tool_call_id`.",
        param=at,
    )
