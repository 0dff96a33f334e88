"""Writes a Call as a Responses request that leaves nothing behind: `store` is false.

Calls of other dialects are said by these rules:

- A first system message of plain text is `instructions`; others stay where they are.
- Functions are not strict unless the caller said so: Responses would make them strict by itself.
- `n` above 1 and stop sequences do not exist here: UNSUPPORTED. Seeds, penalties and top_k are dropped.
- Fewer than 16 tokens cannot be asked for, and an end user's name is at most 64 characters.
- Reasoning of other dialects is left out; what Responses itself encrypted goes back byte for byte.
"""

from __future__ import annotations

import hashlib
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
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import Encoded
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.responses.decode_call import DIALECT, LOGPROBS, is_item
from isthmus.dialects.writing import RequestWriter, effort_of, written

Json = dict[str, Any]

ENCRYPTED = "reasoning.encrypted_content"

_LEAST_TOKENS = 16
_LONGEST_USER = 64
_NO_WORD_FOR = ("top_k", "seed", "frequency_penalty", "presence_penalty", "logit_bias")
# Fields that Chat Completions and Responses have in common.
_SHARED = frozenset(["prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier"])


def encode_call(call: Call, model_id: str) -> Encoded:
    """The request for the endpoint; raises IsthmusError(UNSUPPORTED, param=path) for what cannot be said."""
    return _Writer(call, DIALECT).write(model_id)


class _Writer(RequestWriter):
    """One request in the making."""

    def write(self, model_id: str) -> Encoded:
        call = self._call
        self._refuse()
        instructions, rest = _instructions(call.messages)
        extra = self._top_extra()
        reasoning = extra.pop("reasoning", {}) | self._reasoning(call.thinking)
        text = _format(call.response_format) | extra.pop("text", {})
        include = self._include(extra.pop("include", []), reasoning)
        hints = {
            "instructions": instructions,
            "tools": [self._tool(tool, at) for at, tool in enumerate(call.tools)] or None,
            "tool_choice": self._tool_choice(call.tool_choice),
            "parallel_tool_calls": call.parallel_tool_calls if call.tools else None,
            "text": text or None,
            "reasoning": reasoning or None,
            "include": include or None,
            "max_output_tokens": self._max_tokens(call.max_tokens),
            "temperature": call.temperature,
            "top_p": call.top_p,
            "top_logprobs": call.top_logprobs,
            "user": self._user(call.user),
            "metadata": call.metadata,
            "stream": call.stream or None,
        }
        body: Json = {"model": model_id, "input": self._input(rest, len(call.messages) - len(rest))}
        body.update((name, value) for name, value in hints.items() if value is not None)
        return Encoded(
            body=written({**body, "store": False, **extra}), dropped=tuple(dict.fromkeys(self.dropped))
        )

    def _refuse(self) -> None:
        call = self._call
        if call.n is not None and call.n > 1:
            raise _unsupported("n", "more than one answer to a call")
        if call.stop:
            raise _unsupported("stop", "stop sequences")
        self.dropped += [name for name in _NO_WORD_FOR if getattr(call, name) is not None]

    def _input(self, messages: tuple[Message, ...], before: int) -> list[Json]:
        items = [
            item
            for position, message in enumerate(messages, before)
            for item in self._items(message, f"messages[{position}]")
        ]
        return items if self._native else self._without_idle_thoughts(items)

    def _without_idle_thoughts(self, items: list[Json]) -> list[Json]:
        """Reasoning must be followed by what it led to; where that was left out, it is too."""
        kept: list[Json] = []
        for item in reversed(items):
            after = kept[-1] if kept else {}
            led_somewhere = after.get("role") == "assistant" or after.get("type") in (
                "reasoning",
                "function_call",
            )
            if item["type"] != "reasoning" or led_somewhere:
                kept.append(item)
            else:
                self.dropped.append("messages.reasoning")
        return kept[::-1]

    def _items(self, message: Message, at: str) -> list[Json]:
        """The items of a turn, in the order of its parts; neighbouring texts and pictures are one message."""
        if message.name is not None:
            self.dropped.append("messages.name")
        items: list[Json] = []
        content: list[Json] = []
        fields = common = self._extra(message.extra, "messages.")
        for position, part in enumerate(message.parts):
            own = getattr(part, "extra", {}).get("message") if self._native else None
            if content and (own is not None or _stands_alone(part)):
                items.append(_message(message.role, content, fields))
                content, fields = [], common
            if _stands_alone(part):
                items += self._item(part, f"{at}.content[{position}]")
                continue
            fields = fields if own is None else own
            content += self._content(part, message.role, f"{at}.content[{position}]")
        if content or not message.parts:
            items.append(_message(message.role, content, fields))
        return items

    def _item(self, part: Part, at: str) -> list[Json]:
        match part:
            case ToolUse():
                if part.signature is not None:
                    self.dropped.append("messages.reasoning")
                call = {"call_id": part.id, "name": part.name, "arguments": part.arguments}
                extra = self._extra(part.extra, "messages.tool_calls.")
                return [{"type": "function_call"} | call | extra]
            case ToolResult():
                return [self._tool_result(part, at)]
            case Reasoning():
                return self._thought(part)
            case Opaque(dialect="responses", value=dict(value)):
                return [value]
            case Opaque():
                self.dropped.append(f"messages.{part.kind}")
        return []

    def _tool_result(self, result: ToolResult, at: str) -> Json:
        if result.is_error:
            self.dropped.append("messages.tool_result.is_error")
        content = [item for part in result.parts for item in self._content(part, "user", at)]
        item = {"type": "function_call_output", "call_id": result.id, "output": _shortest(content)}
        if result.name is not None and self._native:
            item["name"] = result.name
        return item | self._extra(result.extra, "messages.")

    def _thought(self, part: Reasoning) -> list[Json]:
        """Reasoning of Responses itself: sealed, since nothing is stored by which it could be found again."""
        if part.dialect != DIALECT or not (part.encrypted or self._native):
            self.dropped.append("messages.reasoning")
            return []
        item: Json = {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": part.text}] if part.text else [],
        }
        if part.id is not None:
            item["id"] = part.id
        if part.encrypted is not None:
            item["encrypted_content"] = part.encrypted
        return [item | self._extra(part.extra, "messages.reasoning.")]

    def _content(self, part: Part, role: str, at: str) -> list[Json]:
        match part:
            case Text():
                kind = "output_text" if role == "assistant" else "input_text"
                return [{"type": kind, "text": part.text} | self._part_extra(part.extra)]
            case Refusal():
                if role != "assistant":
                    return [{"type": "input_text", "text": part.text}]
                return [{"type": "refusal", "refusal": part.text} | self._part_extra(part.extra)]
            case Image():
                url = part.url or f"data:{part.media_type or 'image/png'};base64,{part.data}"
                # The reference demands a detail; a client of its own may leave it out all the same.
                how = part.detail or (None if self._native else "auto")
                detail = {} if how is None else {"detail": how}
                return [{"type": "input_image", "image_url": url} | detail | self._part_extra(part.extra)]
            case Document():
                return [self._document(part, at) | self._part_extra(part.extra)]
            case Audio():
                audio = {"data": part.data, "format": part.format}
                return [{"type": "input_audio", "input_audio": audio} | self._part_extra(part.extra)]
            case Opaque(dialect="responses", value=dict(value)):
                return list(value["content"])
            case _:
                raise _unsupported(at, "a tool call or result in this place")

    def _document(self, part: Document, at: str) -> Json:
        if part.text is not None:
            named = part.text if part.name is None else f"{part.name}\n\n{part.text}"
            return {"type": "input_text", "text": named}
        if part.file_id is not None:
            # Files are shared by OpenAI's own dialects, and by nobody else.
            if not self._native and self._call.dialect != "openai":
                raise _unsupported(at, "a file of another provider")
            picture = (part.media_type or "").startswith("image/")
            return _named({"type": "input_image" if picture else "input_file", "file_id": part.file_id}, part)
        if part.data is not None:
            data = f"data:{part.media_type or 'application/octet-stream'};base64,{part.data}"
            # The vendor refuses file data without a name.
            name = part.name or ("document.pdf" if part.media_type == "application/pdf" else "document")
            unnamed = self._native and part.name is None
            return {"type": "input_file", "file_data": data} | ({} if unnamed else {"filename": name})
        return _named({"type": "input_file", "file_url": part.url}, part)

    def _tool(self, tool: Tool, at: int) -> Json:
        if tool.opaque is not None:
            if tool.opaque.dialect != DIALECT:
                raise _unsupported(f"tools[{at}]", f"the built-in tool `{tool.name}` of another dialect")
            return dict(tool.opaque.value)
        body: Json = {"type": "function", "name": tool.name}
        parameters, strict = tool.parameters, tool.strict
        if not self._native:
            parameters = parameters or {"type": "object", "properties": {}}
            strict = bool(strict)
        said = {"description": tool.description, "parameters": parameters, "strict": strict}
        body.update((name, value) for name, value in said.items() if value is not None)
        return body | self._extra(tool.extra, "tools.")

    def _tool_choice(self, choice: ToolChoice | None) -> str | Json | None:
        if choice is None or not self._call.tools:
            return None
        if choice.mode != "tool":
            return choice.mode
        custom = any(tool.opaque is not None and tool.name == choice.name for tool in self._call.tools)
        return {"type": "custom" if custom else "function", "name": choice.name}

    def _reasoning(self, thinking: Thinking | None) -> Json:
        if thinking is None:
            return {}
        effort = thinking.effort
        if effort is None and thinking.budget is not None:
            effort = effort_of(thinking.budget)
        if effort is None and thinking.enabled is not None:
            # Whether a model can be told to think, or not to, without an effort is its own affair.
            self.dropped.append("thinking")
        said = {"effort": effort, "summary": thinking.summary}
        return {name: value for name, value in said.items() if value is not None}

    def _include(self, others: list[str], reasoning: Json) -> list[str]:
        include = list(others)
        if self._call.logprobs:
            include.append(LOGPROBS)
        # Models that do not reason refuse the request for encrypted reasoning.
        if not self._native and reasoning.get("effort", "none") != "none":
            include.append(ENCRYPTED)
        return include

    def _max_tokens(self, limit: int | None) -> int | None:
        if limit is None or self._native or limit >= _LEAST_TOKENS:
            return limit
        self.dropped.append("max_tokens")
        return _LEAST_TOKENS

    def _user(self, user: str | None) -> str | None:
        if user is None or self._native or len(user) <= _LONGEST_USER:
            return user
        return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()

    def _top_extra(self) -> Json:
        """The caller's unknown fields where they are of this dialect; of Chat Completions, those that mean
        the same here."""
        extra = dict(self._call.extra)
        if self._native:
            return extra
        if self._call.dialect != "openai":
            return self._extra(extra, "")
        shared = {name: extra.pop(name) for name in _SHARED & extra.keys()}
        if "verbosity" in extra:
            shared["text"] = {"verbosity": extra.pop("verbosity")}
        return shared | self._extra(extra, "")

    def _part_extra(self, extra: Json) -> Json:
        """The unknown fields of a part; what it keeps for its message (see `decode_call`) is said there."""
        if self._native:
            return {name: value for name, value in extra.items() if name != "message"}
        return self._extra(extra, "messages.content.")


def _instructions(messages: tuple[Message, ...]) -> tuple[str | None, tuple[Message, ...]]:
    """The text of a first system message that is nothing but text, and the messages after it."""
    first = messages[0].parts[0] if messages and messages[0].parts else None
    text = first.text if isinstance(first, Text) else ""
    if text and len(messages) > 1 and messages[0] == Message(role="system", parts=(Text(text),)):
        return text, messages[1:]
    return None, messages


def _stands_alone(part: Part) -> bool:
    """True for a part that is an item of its own, False for one that belongs into a message."""
    if isinstance(part, Opaque):
        return part.dialect != DIALECT or is_item(part)
    return isinstance(part, ToolUse | ToolResult | Reasoning)


def _message(role: str, content: list[Json], fields: Json) -> Json:
    return {"type": "message", "role": role, "content": _shortest(content)} | fields


def _shortest(content: list[Json]) -> str | list[Json]:
    """A lone plain text is written as a string, the shorter of the two spellings."""
    if not content:
        return ""
    first = content[0]
    if len(content) == 1 and first.keys() == {"type", "text"} and first["text"]:
        return str(first["text"])
    return content


def _named(item: Json, part: Document) -> Json:
    return item if part.name is None else item | {"filename": part.name}


def _format(form: ResponseFormat | None) -> Json:
    if form is None:
        return {}
    if form.kind != "json_schema":
        return {"format": {"type": form.kind}}
    schema = {
        "name": form.name or "answer",
        "description": form.description,
        "schema": form.schema,
        "strict": form.strict,
    }
    said = {name: value for name, value in schema.items() if value is not None}
    return {"format": {"type": "json_schema"} | said}


def _unsupported(at: str, what: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNSUPPORTED,
        f"`{at}`: the Responses API cannot say {what}.",
        hint="Route this request to a model of the dialect that it was written for.",
        param=at,
    )
