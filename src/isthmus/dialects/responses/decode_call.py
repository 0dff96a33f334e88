"""Reads a Responses request into a Call.

Items become turns: what the assistant produced between two inputs (reasoning, messages, calls) is one turn,
and so are the results of the tools that it called. `id` and `status` of items are left out, since they speak
of stored items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

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
from isthmus.dialects import seals
from isthmus.dialects.fields import Fields, data_url, decode_raw, invalid

DIALECT = "responses"
LOGPROBS = "message.output_text.logprobs"

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
}
_STATEFUL = ("previous_response_id", "conversation", "prompt", "background", "store")


def decode_call(envelope: Envelope) -> Call:
    """The whole request; raises IsthmusError: INVALID_REQUEST with `param` for what cannot be one,
    UNSUPPORTED for what needs stored state."""
    top = Fields({name: decode_raw(raw, name) for name, raw in envelope.fields.items()}, "")
    for read in ("model", "stream"):
        top.take(read)
    for name in _STATEFUL:
        if top.take(name) not in (None, False):
            raise _needs_memory(name)
    messages = _instructions(top) + _input(top)
    tools, choice = _tools(top)
    extra: dict[str, Any] = {}
    response_format = _text(top, extra)
    thinking = _thinking(top, extra)
    logprobs = _include(top, extra)
    return Call(
        dialect=DIALECT,
        operation="chat",
        model=envelope.model,
        messages=messages,
        stream=envelope.stream,
        include_usage=True,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=top.flag("parallel_tool_calls"),
        response_format=response_format,
        max_tokens=top.integer("max_output_tokens", least=1),
        temperature=top.number("temperature"),
        top_p=top.number("top_p"),
        logprobs=logprobs,
        top_logprobs=top.integer("top_logprobs", least=0) if logprobs else None,
        thinking=thinking,
        user=_user(top),
        metadata=top.mapping("metadata"),
        extra=top.unread | extra,
    )


def _instructions(top: Fields) -> tuple[Message, ...]:
    text = top.text("instructions")
    return (Message(role="system", parts=(Text(text),)),) if text else ()


def _input(top: Fields) -> tuple[Message, ...]:
    value = top.take("input")
    if not value or not isinstance(value, str | list):
        raise invalid("input", "a non-empty string or array of items", value)
    if isinstance(value, str):
        return (Message(role="user", parts=(Text(value),)),)
    turns = (_turn(Fields(item, f"input[{position}]")) for position, item in enumerate(value))
    return tuple(_signed(turn) for turn in _joined(turns))


def _joined(turns: Iterable[Message]) -> list[Message]:
    """The turns, with those that continue the one before merged into it."""
    joined: list[Message] = []
    for turn in turns:
        before = joined[-1] if joined else None
        if before is not None and _continues(before, turn):
            joined[-1] = msgspec.structs.replace(before, parts=before.parts + turn.parts)
        else:
            joined.append(turn)
    return joined


def _continues(before: Message, turn: Message) -> bool:
    if before.role == turn.role == "assistant":
        return True
    return all(message.role == "user" and _are_results(message.parts) for message in (before, turn))


def _are_results(parts: tuple[Part, ...]) -> bool:
    return bool(parts) and all(isinstance(part, ToolResult) or is_item(part) for part in parts)


def is_item(part: Part) -> bool:
    """True for a whole item that only Responses knows; an unknown part of a message's content is kept as a
    message."""
    return isinstance(part, Opaque) and isinstance(part.value, dict) and part.value.get("type") != "message"


def _signed(turn: Message) -> Message:
    """The turn with seals of tool calls moved to the calls that they stand before."""
    parts: list[Part] = []
    signature: str | None = None
    for part in turn.parts:
        if isinstance(part, Reasoning) and part.extra.get("tool"):
            signature = part.signature
        elif isinstance(part, ToolUse) and signature is not None:
            parts.append(msgspec.structs.replace(part, signature=signature))
            signature = None
        else:
            parts.append(part)
    return msgspec.structs.replace(turn, parts=tuple(parts))


def _turn(item: Fields) -> Message:
    """One item as a turn of its own."""
    kind = item.text("type") or ("message" if "role" in item.rest else "item_reference")
    match kind:
        case "message":
            return _message(item)
        case "function_call":
            return Message(role="assistant", parts=(_tool_use(item),))
        case "function_call_output":
            return Message(role="user", parts=(_tool_result(item),))
        case "reasoning":
            return Message(role="assistant", parts=(_reasoning(item),))
        case "item_reference":
            raise _needs_memory(item.path("id"))
        case _:
            answers = kind.endswith(("_output", "_response"))
            part = Opaque(DIALECT, {"type": kind} | item.rest)
            return Message(role="user" if answers else "assistant", parts=(part,))


def _message(item: Fields) -> Message:
    said = item.required_text("role")
    role = _ROLES.get(said)
    if role is None:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"`{item.path('role')}` must be one of system, developer, user and assistant.",
            code="invalid_request",
            param=item.path("role"),
        )
    parts = _content(item, "content")
    extra = _fields_of(item)
    if role != "assistant" or not extra or not parts:
        return Message(role=role, parts=parts, extra={} if role == "assistant" else extra)
    # Several messages may become one turn: each keeps its own fields with its first part.
    first = parts[0]
    if not isinstance(first, Opaque):
        first = msgspec.structs.replace(first, extra=first.extra | {"message": extra})
    return Message(role=role, parts=(first, *parts[1:]))


def _content(item: Fields, name: str) -> tuple[Part, ...]:
    value = item.take(name)
    path = item.path(name)
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if isinstance(value, list):
        return tuple(_part(Fields(part, f"{path}[{position}]")) for position, part in enumerate(value))
    raise invalid(path, "a string or an array of parts", value)


def _part(part: Fields) -> Part:
    match kind := part.required_text("type"):
        case "input_text" | "output_text" | "text":
            return Text(part.required_text("text"), extra=_said(part.rest))
        case "refusal":
            return Refusal(part.required_text("refusal"), extra=part.rest)
        case "input_image":
            return _image(part)
        case "input_file":
            return _document(part)
        case "input_audio":
            return _audio(part)
        case _:
            return Opaque(DIALECT, {"type": "message", "content": [{"type": kind} | part.rest]})


def _image(part: Fields) -> Image | Document:
    url, file_id, detail = part.text("image_url"), part.text("file_id"), part.text("detail")
    extra = part.unread
    if url is None:
        if file_id is None:
            raise invalid(part.path("image_url"), "a string where `file_id` is missing", None)
        # The canonical Image knows no file of a provider: the media type tells the two apart.
        extra |= {} if detail is None else {"detail": detail}
        return Document(file_id=file_id, media_type="image/*", extra=extra)
    inline = data_url(url)
    if inline is None:
        return Image(url=url, detail=detail, extra=extra)
    return Image(data=inline[1], media_type=inline[0], detail=detail, extra=extra)


def _document(part: Fields) -> Document:
    data, url, file_id = part.text("file_data"), part.text("file_url"), part.text("file_id")
    name = part.text("filename")
    extra = part.unread
    if data is None:
        if url is None and file_id is None:
            raise invalid(part.path("file_data"), "a string where `file_url` and `file_id` are missing", None)
        return Document(url=url, file_id=file_id, name=name, extra=extra)
    inline = data_url(data)
    if inline is None:
        raise invalid(part.path("file_data"), "a data: URL in base64", data)
    return Document(data=inline[1], media_type=inline[0], name=name, extra=extra)


def _audio(part: Fields) -> Audio:
    audio = part.fields("input_audio")
    if audio is None:
        raise invalid(part.path("input_audio"), "an object", None)
    return Audio(audio.required_text("data"), audio.required_text("format"), extra=part.rest)


def _tool_use(item: Fields) -> ToolUse:
    return ToolUse(
        id=item.required_text("call_id"),
        name=item.required_text("name"),
        arguments=item.text("arguments") or "",
        extra=_fields_of(item),
    )


def _tool_result(item: Fields) -> ToolResult:
    whole = item.rest.get("output")
    parts = _content(item, "output")
    known = tuple(part for part in parts if isinstance(part, Text | Image | Document))
    # Some parts only Responses understands: it gets the whole output back, others what they can read.
    opaque = {"output": whole} if len(known) < len(parts) else {}
    return ToolResult(
        id=item.required_text("call_id"),
        parts=known,
        name=item.text("name"),
        extra=_fields_of(item) | opaque,
    )


def _reasoning(item: Fields) -> Reasoning:
    summary = item.items("summary") or []
    encrypted, identity = item.text("encrypted_content"), item.text("id")
    text = "\n\n".join(_summary(part, item, position) for position, part in enumerate(summary))
    extra = _fields_of(item)
    seal = None if encrypted is None else seals.unwrap(encrypted)
    if seal is not None:
        extra |= {"tool": True} if seal.tool else {}
        return Reasoning(text, seal.signature, seal.encrypted, seal.id, seal.dialect, extra)
    if summary not in ([], [{"type": "summary_text", "text": text}]):
        extra["summary"] = summary
    return Reasoning(text=text, encrypted=encrypted, id=identity, dialect=DIALECT, extra=extra)


def _summary(part: Any, item: Fields, position: int) -> str:
    return Fields(part, f"{item.path('summary')}[{position}]").required_text("text")


def _fields_of(item: Fields) -> dict[str, Any]:
    """The fields of an item that nobody has read, without those that speak of its storage."""
    for name in ("id", "status"):
        item.take(name)
    return item.unread


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """Clients send back whole output texts, whose annotations and log-probabilities are mostly empty."""
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _tools(top: Fields) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    tools = tuple(
        _tool(Fields(item, f"tools[{position}]")) for position, item in enumerate(top.items("tools") or [])
    )
    choice = top.rest.get("tool_choice")
    if not isinstance(choice, str | dict | None):
        raise invalid("tool_choice", "a string or an object", choice)
    match choice:
        case "auto" | "none" | "required":
            top.take("tool_choice")
            return tools, ToolChoice(mode=choice)
        case str():
            raise invalid("tool_choice", '"auto", "none", "required" or an object', choice)
        case {"type": "function" | "custom", "name": str(name)}:
            top.take("tool_choice")
            return tools, ToolChoice(mode="tool", name=name)
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(some)}:
            top.take("tool_choice")
            allowed = {tool_name(item) for item in some if isinstance(item, dict)}
            return tuple(tool for tool in tools if tool.name in allowed), ToolChoice(mode=mode)
        case _:
            # A choice of a built-in tool: only this dialect has the tool.
            return tools, None


def _tool(tool: Fields) -> Tool:
    whole = dict(tool.rest)
    if tool.required_text("type") != "function":
        return Tool(name=tool_name(whole), opaque=Opaque(DIALECT, whole))
    return Tool(
        name=tool.required_text("name"),
        description=tool.text("description"),
        parameters=tool.mapping("parameters"),
        strict=tool.flag("strict"),
        extra=tool.unread,
    )


def tool_name(tool: dict[str, Any]) -> str:
    """What tells a tool from the others: its name, its server's label, or its type."""
    said = (tool.get(field) for field in ("name", "server_label", "type"))
    return next((name for name in said if isinstance(name, str)), "")


def _text(top: Fields, extra: dict[str, Any]) -> ResponseFormat | None:
    text = top.fields("text")
    if text is None:
        return None
    form = text.fields("format")
    if rest := text.unread:
        extra["text"] = rest
    return None if form is None else _format(form)


def _format(form: Fields) -> ResponseFormat:
    match form.required_text("type"):
        case "text":
            return ResponseFormat(kind="text")
        case "json_object":
            return ResponseFormat(kind="json_object")
        case "json_schema":
            return ResponseFormat(
                kind="json_schema",
                name=form.text("name"),
                description=form.text("description"),
                schema=form.mapping("schema"),
                strict=form.flag("strict"),
            )
        case _:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                "`text.format.type` must be one of text, json_object and json_schema.",
                code="invalid_request",
                param="text.format.type",
            )


def _thinking(top: Fields, extra: dict[str, Any]) -> Thinking | None:
    reasoning = top.fields("reasoning")
    if reasoning is None:
        return None
    effort, summary = reasoning.text("effort"), reasoning.text("summary")
    if rest := reasoning.unread:
        extra["reasoning"] = rest
    if effort is None and summary is None:
        return None
    return Thinking(enabled=None if effort is None else effort != "none", effort=effort, summary=summary)


def _include(top: Fields, extra: dict[str, Any]) -> bool | None:
    """Whether log-probabilities are wanted; what else is to be included goes to `extra`."""
    include = top.items("include") or []
    if rest := [name for name in include if name != LOGPROBS]:
        extra["include"] = rest
    return True if LOGPROBS in include else None


def _user(top: Fields) -> str | None:
    """The end user, by the older name or the newer one; where both are said the newer stays in `extra`."""
    user = top.text("user")
    return top.text("safety_identifier") if user is None else user


def _needs_memory(name: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNSUPPORTED,
        f"`{name}` needs stored responses: the gateway stores none, and this model's endpoint has none.",
        code="stateless",
        hint="Send the whole conversation in `input`, with `store` false; or ask a route of models that"
        " speak Responses.",
        param=name,
    )
