"""A Messages request, as a client sent it, into a Call."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.call import (
    Call,
    Document,
    Envelope,
    Image,
    Message,
    Opaque,
    Operation,
    Part,
    Reasoning,
    ResponseFormat,
    Role,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.dialects import seals
from isthmus.dialects.fields import Fields, decode_raw, flag_of, invalid, model_of, open_body

DIALECT = "anthropic"

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_ENABLED = {"enabled": True, "adaptive": True, "disabled": False}


def peek(body: bytes, wire: str, operation: Operation) -> Envelope:
    """The envelope of a Messages request that came over a wire; raises IsthmusError(INVALID_REQUEST)."""
    fields = open_body(body)
    return Envelope(
        dialect=wire,
        operation=operation,
        model=model_of(fields),
        stream=flag_of(fields, "stream"),
        # A Messages stream always tells its usage.
        include_usage=True,
        user=_end_user(fields.get("metadata")),
        fields=fields,
    )


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_METADATA = msgspec.json.Decoder(_Metadata)


def _end_user(raw: msgspec.Raw | None) -> str | None:
    """The end user, None where it is not said well: what routing may use but must not judge."""
    try:
        return None if raw is None else _METADATA.decode(raw).user_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode(envelope: Envelope) -> Call:
    """The whole Call of an envelope; raises IsthmusError(INVALID_REQUEST, param=...)."""
    said = {name: decode_raw(raw, name) for name, raw in envelope.fields.items()}
    fields = Fields({name: said[name] for name in said if name not in ("model", "stream")}, "")
    max_tokens = fields.integer("max_tokens", 0)
    messages = _messages(fields)
    tools = tuple(_tool(tool) for tool in _objects(fields, "tools"))
    tool_choice, parallel = _tool_choice(fields)
    stop = tuple(_strings(fields, "stop_sequences"))
    temperature, top_p = _share(fields, "temperature"), _share(fields, "top_p")
    top_k = fields.integer("top_k", 0)
    extra: dict[str, Any] = {}
    thinking, response_format = _output(fields, extra)
    user = _user(fields, extra)
    return Call(
        dialect=DIALECT,
        operation=envelope.operation,
        model=envelope.model,
        messages=messages,
        stream=envelope.stream,
        include_usage=True,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        response_format=response_format,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        stop=stop,
        thinking=thinking,
        user=user,
        extra=extra | fields.rest,
    )


def _objects(fields: Fields, name: str) -> list[Fields]:
    """The field as a list of objects; empty where it is missing."""
    return [
        Fields(item, f"{fields.path(name)}[{index}]") for index, item in enumerate(fields.items(name) or ())
    ]


def _strings(fields: Fields, name: str) -> list[str]:
    items = fields.items(name) or []
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise invalid(f"{fields.path(name)}[{index}]", "a string", item)
    return items


def _share(fields: Fields, name: str) -> float | None:
    value = fields.number(name)
    if value is not None and not 0 <= value <= 1:
        raise invalid(fields.path(name), "a number from 0 to 1", value)
    return value


def _content(fields: Fields, name: str) -> str | list[Fields] | None:
    """Content in either of its spellings, a string or a list of blocks; None where it is missing."""
    value = fields.rest.get(name)
    if value is None:
        return None
    if not isinstance(value, str | list):
        raise invalid(fields.path(name), "a string or an array of content blocks", value)
    return fields.text(name) if isinstance(value, str) else _objects(fields, name)


def _messages(fields: Fields) -> tuple[Message, ...]:
    system = _content(fields, "system")
    first = () if not system else (Message(role="system", parts=_parts(system)),)
    messages = _objects(fields, "messages")
    if not messages:
        raise invalid("messages", "an array of at least one message", [])
    return first + tuple(_message(message) for message in messages)


def _message(message: Fields) -> Message:
    said = message.required_text("role")
    role = _ROLES.get(said)
    if role is None:
        raise invalid(message.path("role"), "user, assistant or system", said)
    content = _content(message, "content")
    if content is None:
        raise invalid(message.path("content"), "a string or an array of content blocks", None)
    return Message(role=role, parts=_parts(content), extra=message.rest)


def _parts(content: str | list[Fields]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    parts: list[Part] = []
    signature: str | None = None
    for block in content:
        part = _part(block)
        if isinstance(part, seals.Seal):
            signature = part.signature
        elif isinstance(part, ToolUse) and signature is not None:
            parts.append(msgspec.structs.replace(part, signature=signature))
            signature = None
        else:
            parts.append(part)
    return tuple(parts)


def _part(block: Fields) -> Part | seals.Seal:
    kind = block.required_text("type")
    match kind:
        case "text":
            return Text(block.required_text("text"), block.rest)
        case "image" | "document":
            return _media(kind, block)
        case "tool_use":
            return _tool_use(block)
        case "tool_result":
            return _tool_result(block)
        case "thinking":
            return _thought(block)
        case "redacted_thinking":
            return _redacted(block)
        case _:
            return Opaque(DIALECT, {"type": kind} | block.rest)


def _media(kind: str, block: Fields) -> Image | Document | Opaque:
    """A picture or a document; a source of an unknown form keeps the whole block opaque."""
    whole = {"type": kind} | block.rest
    source = block.fields("source")
    if source is None:
        raise invalid(block.path("source"), "an object", None)
    form = source.required_text("type")
    if form == "file":
        # The canonical Image knows no file of a provider: the media type tells the two apart.
        media_type = "image/*" if kind == "image" else None
        file_id, title = source.required_text("file_id"), _title(kind, block)
        return Document(file_id=file_id, media_type=media_type, name=title, extra=block.rest)
    if form == "base64":
        data, media_type = source.required_text("data"), source.required_text("media_type")
        if kind == "image":
            return Image(data=data, media_type=media_type, extra=block.rest)
        return Document(data=data, media_type=media_type, name=_title(kind, block), extra=block.rest)
    if form == "url":
        url = source.required_text("url")
        if kind == "image":
            return Image(url=url, extra=block.rest)
        return Document(url=url, name=_title(kind, block), extra=block.rest)
    if form == "text" and kind == "document":
        text, title = source.required_text("data"), _title(kind, block)
        return Document(text=text, media_type="text/plain", name=title, extra=block.rest)
    return Opaque(DIALECT, whole)


def _title(kind: str, block: Fields) -> str | None:
    return block.text("title") if kind == "document" else None


def _tool_use(block: Fields) -> ToolUse:
    return ToolUse(
        id=block.required_text("id"),
        name=block.required_text("name"),
        arguments=msgspec.json.encode(block.mapping("input") or {}).decode(),
        extra=block.rest,
    )


def _tool_result(block: Fields) -> ToolResult:
    identity = block.required_text("tool_use_id")
    is_error = block.flag("is_error") or False
    whole = block.rest.get("content")
    content = _content(block, "content")
    parts = () if content is None else _parts(content)
    known = tuple(part for part in parts if isinstance(part, Text | Image | Document))
    # Some parts only Anthropic understands: it gets the whole content back, others what they can read.
    opaque = {"content": whole} if len(known) < len(parts) else {}
    return ToolResult(id=identity, parts=known, is_error=is_error, extra=block.rest | opaque)


def _thought(block: Fields) -> Reasoning:
    text, signature = block.required_text("thinking"), block.text("signature")
    seal = seals.unwrap(signature) if signature else None
    if seal is not None:
        return Reasoning(text, seal.signature, seal.encrypted, seal.id, seal.dialect, block.rest)
    return Reasoning(text=text, signature=signature, dialect=DIALECT, extra=block.rest)


def _redacted(block: Fields) -> Reasoning | seals.Seal:
    data = block.required_text("data")
    seal = seals.unwrap(data)
    if seal is None:
        return Reasoning(encrypted=data, dialect=DIALECT, extra=block.rest)
    if seal.tool:
        return seal
    return Reasoning("", seal.signature, seal.encrypted, seal.id, seal.dialect, block.rest)


def _tool(tool: Fields) -> Tool:
    kind = tool.text("type")
    if kind not in (None, "custom"):
        value = {"type": kind} | tool.rest
        return Tool(name=tool.text("name") or str(kind), opaque=Opaque(DIALECT, value))
    schema = tool.mapping("input_schema")
    if schema is None:
        raise invalid(tool.path("input_schema"), "a JSON Schema", None)
    return Tool(
        name=tool.required_text("name"),
        description=tool.text("description"),
        parameters=schema,
        strict=tool.flag("strict"),
        extra=tool.rest,
    )


def _tool_choice(fields: Fields) -> tuple[ToolChoice | None, bool | None]:
    choice = fields.fields("tool_choice")
    if choice is None:
        return None, None
    disabled = choice.flag("disable_parallel_tool_use")
    parallel = None if disabled is None else not disabled
    kind = choice.required_text("type")
    match kind:
        case "auto" | "none":
            return ToolChoice(mode="auto" if kind == "auto" else "none"), parallel
        case "any":
            return ToolChoice(mode="required"), parallel
        case "tool":
            return ToolChoice(mode="tool", name=choice.required_text("name")), parallel
        case _:
            raise invalid(choice.path("type"), "auto, any, tool or none", kind)


def _output(fields: Fields, extra: dict[str, Any]) -> tuple[Thinking | None, ResponseFormat | None]:
    """Thinking and the answer's form, out of `thinking`, `output_config` and the older `output_format`.

    What the canonical form has no word for goes to `extra` under its own field.
    """
    config = fields.fields("output_config") or Fields({}, "output_config")
    effort = config.text("effort")
    response_format = _format(config, "format") or _format(fields, "output_format")
    if config.rest:
        extra["output_config"] = config.rest
    return _thinking(fields, effort, extra), response_format


def _format(fields: Fields, name: str) -> ResponseFormat | None:
    form = fields.fields(name)
    if form is None:
        return None
    kind, schema = form.required_text("type"), form.mapping("schema")
    if kind != "json_schema":
        raise invalid(form.path("type"), "json_schema", kind)
    if schema is None:
        raise invalid(form.path("schema"), "a JSON Schema", None)
    return ResponseFormat(kind="json_schema", schema=schema)


def _thinking(fields: Fields, effort: str | None, extra: dict[str, Any]) -> Thinking | None:
    config = fields.fields("thinking")
    if config is None:
        return None if effort is None else Thinking(effort=effort)
    kind = config.required_text("type")
    budget = config.integer("budget_tokens", 1) if kind == "enabled" else None
    if kind == "enabled" and budget is None:
        raise invalid(config.path("budget_tokens"), "an integer of at least 1", None)
    enabled = _ENABLED.get(kind)
    if enabled is None:
        config.rest["type"] = kind
    summarized = config.rest.get("display") == "summarized"
    if summarized:
        config.take("display")
    if config.rest:
        extra["thinking"] = config.rest
    if enabled is None and effort is None:
        return None
    return Thinking(enabled=enabled, effort=effort, budget=budget, summary="auto" if summarized else None)


def _user(fields: Fields, extra: dict[str, Any]) -> str | None:
    metadata = fields.fields("metadata")
    if metadata is None:
        return None
    user = metadata.text("user_id")
    if metadata.rest:
        extra["metadata"] = metadata.rest
    return user
