"""Writes a Call as a Chat Completions request, in the variant that a server's Quirks ask for."""

from __future__ import annotations

import hashlib
import string
from typing import Any

from isthmus.core.call import (
    Audio,
    Call,
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import Encoded
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.openai.decode_call import DIALECT
from isthmus.dialects.openai.quirks import Quirks
from isthmus.dialects.writing import RequestWriter, effort_of, written

_ALPHANUMERIC = string.ascii_letters + string.digits


def encode_call(call: Call, model_id: str, quirks: Quirks) -> Encoded:
    """The request for the endpoint; raises IsthmusError(UNSUPPORTED, param=path) for what cannot be said."""
    return _Writer(call, quirks).write(model_id)


def short_tool_id(tool_id: str) -> str:
    """`tool_id` where it is nine ASCII letters and digits already, else nine that are always the same for
    it."""
    if len(tool_id) == 9 and tool_id.isascii() and tool_id.isalnum():
        return tool_id
    number = int.from_bytes(hashlib.sha256(tool_id.encode("utf-8", "surrogatepass")).digest()[:8])
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_ALPHANUMERIC))
        digits.append(_ALPHANUMERIC[digit])
    return "".join(digits)


class _Writer(RequestWriter):
    """One request in the making."""

    def __init__(self, call: Call, quirks: Quirks) -> None:
        super().__init__(call, DIALECT)
        self._quirks = quirks

    def write(self, model_id: str) -> Encoded:
        call, quirks = self._call, self._quirks
        body: dict[str, Any] = {"model": model_id, "messages": self._messages()}
        hints = {
            quirks.max_tokens_field: call.max_tokens,
            "temperature": call.temperature,
            "top_p": call.top_p,
            "top_k": self._top_k(),
            "stop": call.stop or None,
            "seed": call.seed,
            "n": call.n,
            "logprobs": call.logprobs,
            "top_logprobs": call.top_logprobs,
            "frequency_penalty": call.frequency_penalty,
            "presence_penalty": call.presence_penalty,
            "logit_bias": call.logit_bias,
            "tools": [self._tool(tool, at) for at, tool in enumerate(call.tools)] or None,
            "tool_choice": self._tool_choice(),
            "parallel_tool_calls": call.parallel_tool_calls if call.tools else None,
            "response_format": _response_format(call.response_format),
            "reasoning_effort": self._effort(call.thinking),
            "user": call.user,
            "metadata": call.metadata,
        }
        body.update((name, value) for name, value in hints.items() if value is not None)
        body.update(self._extra(call.extra, ""))
        if call.stream:
            body["stream"] = True
            body["stream_options"] = {**call.extra.get("stream_options", {}), "include_usage": True}
        if not quirks.stream_options:
            body.pop("stream_options", None)
        return Encoded(body=written(body), dropped=tuple(dict.fromkeys(self.dropped)))

    def _messages(self) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        for position, message in enumerate(self._call.messages):
            at = f"messages[{position}]"
            if message.role == "assistant":
                wire.append(self._assistant(message, at))
            else:
                wire += self._turn(message, at)
        return wire

    def _turn(self, message: Message, at: str) -> list[dict[str, Any]]:
        """A system, developer or user turn: its tool results first, each as a message, then the rest."""
        role = message.role
        if role == "developer" and not self._quirks.developer_role:
            role = "system"
        wire: list[dict[str, Any]] = []
        others: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                wire.append(self._tool_result(part, at))
                others += [item for item in part.parts if not isinstance(item, Text)]
            else:
                others.append(part)
        if others or not wire:
            turn = {"role": role, "content": self._content(others, at)}
            if message.name is not None:
                turn["name"] = message.name
            wire.append(turn | self._extra(message.extra, "messages."))
        return wire

    def _tool_result(self, result: ToolResult, at: str) -> dict[str, Any]:
        """A tool's text; its pictures and files follow in a user turn, since a `tool` message holds only
        text."""
        texts: list[Part] = [part for part in result.parts if isinstance(part, Text)]
        if result.is_error:
            self.dropped.append("messages.tool_result.is_error")
        if not texts and result.parts:
            texts = [Text("The result follows in the next message.")]
        wire = {
            "role": "tool",
            "tool_call_id": self._tool_id(result.id),
            "content": self._content(texts, at),
        }
        if result.name is not None and self._native:
            wire["name"] = result.name
        return wire | self._extra(result.extra, "messages.")

    def _assistant(self, message: Message, at: str) -> dict[str, Any]:
        content: list[Part] = []
        calls: list[dict[str, Any]] = []
        refusals: list[str] = []
        thoughts: list[str] = []
        for part in message.parts:
            match part:
                case ToolUse():
                    calls.append(self._tool_use(part))
                case Opaque(dialect="openai", value={"id": str(tool_id), "type": str()} as value):
                    calls.append(value | {"id": self._tool_id(tool_id)})
                case Refusal(text=text):
                    refusals.append(text)
                case Reasoning(text=text):
                    if self._quirks.reasoning_field and part.dialect in (DIALECT, ""):
                        thoughts.append(text)
                    else:
                        self.dropped.append("messages.reasoning")
                case _:
                    content.append(part)
        wire: dict[str, Any] = {"role": "assistant", "content": self._content(content, at)}
        if not content and (calls or refusals):
            wire["content"] = None
        if refusals:
            wire["refusal"] = "".join(refusals)
        if thoughts and self._quirks.reasoning_field:
            wire[self._quirks.reasoning_field] = "".join(thoughts)
        if calls:
            wire["tool_calls"] = calls
        if message.name is not None:
            wire["name"] = message.name
        return wire | self._extra(message.extra, "messages.")

    def _tool_use(self, use: ToolUse) -> dict[str, Any]:
        extra = dict(self._extra(use.extra, "messages.tool_calls."))
        function = {"name": use.name, "arguments": use.arguments, **extra.pop("function", {})}
        wire = {"id": self._tool_id(use.id), "type": "function", "function": function, **extra}
        if use.signature is not None:
            if self._native:
                wire["extra_content"] = {"google": {"thought_signature": use.signature}}
            else:
                self.dropped.append("messages.reasoning")
        return wire

    def _tool_id(self, tool_id: str) -> str:
        return short_tool_id(tool_id) if self._quirks.short_tool_ids else tool_id

    def _content(self, parts: list[Part], at: str) -> str | list[dict[str, Any]]:
        """A string where the parts are at most one plain text, else an array."""
        if not parts:
            return ""
        wire = [
            item
            for position, part in enumerate(parts)
            if (item := self._part(part, f"{at}.content[{position}]")) is not None
        ]
        if len(wire) == 1 and wire[0].keys() == {"type", "text"} and isinstance(wire[0]["text"], str):
            return wire[0]["text"]
        return wire

    def _part(self, part: Part, at: str) -> dict[str, Any] | None:
        match part:
            case Text():
                return {"type": "text", "text": part.text} | self._extra(part.extra, "messages.content.")
            case Image():
                url = part.url or f"data:{part.media_type};base64,{part.data}"
                image = {"url": url} if part.detail is None else {"url": url, "detail": part.detail}
                return self._nested("image_url", image, part.extra)
            case Audio():
                return self._nested("input_audio", {"data": part.data, "format": part.format}, part.extra)
            case Document():
                return self._document(part, at)
            case Refusal():
                return {"type": "refusal", "refusal": part.text}
            case Opaque(dialect="openai"):
                return dict(part.value)
            case Reasoning():
                self.dropped.append("messages.reasoning")
            case Opaque():
                self.dropped.append(f"messages.{part.kind}")
            case _:
                raise _unsupported(at, "a tool call or result in this place")
        return None

    def _document(self, part: Document, at: str) -> dict[str, Any]:
        if part.text is not None:
            return {"type": "text", "text": part.text if part.name is None else f"{part.name}\n\n{part.text}"}
        if part.data is None and part.file_id is None:
            raise _unsupported(at, "a document by URL")
        file: dict[str, Any] = {}
        if part.data is not None:
            file["file_data"] = f"data:{part.media_type or 'application/octet-stream'};base64,{part.data}"
            # The vendor refuses file data without a name.
            file["filename"] = part.name or "document"
        else:
            file["file_id"] = part.file_id
            if part.name is not None:
                file["filename"] = part.name
        return self._nested("file", file, part.extra)

    def _nested(self, name: str, inner: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        """A part whose fields stand in an object of the part's own name."""
        beside = dict(self._extra(extra, "messages.content."))
        return {"type": name, name: inner | beside.pop(name, {}), **beside}

    def _tool(self, tool: Tool, at: int) -> dict[str, Any]:
        if tool.opaque is not None:
            if tool.opaque.dialect != DIALECT:
                raise _unsupported(f"tools[{at}]", f"the built-in tool `{tool.name}`")
            return dict(tool.opaque.value)
        extra = dict(self._extra(tool.extra, "tools."))
        function = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        said = {name: value for name, value in function.items() if value is not None}
        return {"type": "function", "function": said | extra.pop("function", {}), **extra}

    def _tool_choice(self) -> str | dict[str, Any] | None:
        choice = self._call.tool_choice
        if choice is None:
            return None
        if choice.mode != "tool":
            return choice.mode if self._call.tools else None
        custom = any(tool.opaque is not None and tool.name == choice.name for tool in self._call.tools)
        kind = "custom" if custom else "function"
        return {"type": kind, kind: {"name": choice.name}}

    def _effort(self, thinking: Thinking | None) -> str | None:
        if thinking is None:
            return None
        if thinking.effort is not None:
            return thinking.effort
        if not thinking.enabled or thinking.budget is None:
            self.dropped.append("thinking")
            return None
        return effort_of(thinking.budget)

    def _top_k(self) -> int | None:
        if self._quirks.top_k or self._call.top_k is None:
            return self._call.top_k
        self.dropped.append("top_k")
        return None


def _response_format(form: ResponseFormat | None) -> dict[str, Any] | None:
    if form is None:
        return None
    if form.kind != "json_schema":
        return {"type": form.kind}
    schema = {
        "name": form.name or "answer",
        "description": form.description,
        "schema": form.schema,
        "strict": form.strict,
    }
    said = {name: value for name, value in schema.items() if value is not None}
    return {"type": "json_schema", "json_schema": said}


def _unsupported(at: str, what: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNSUPPORTED,
        f"`{at}`: Chat Completions cannot say {what}.",
        hint="Route this request to a model of the dialect that it was written for.",
        param=at,
    )
