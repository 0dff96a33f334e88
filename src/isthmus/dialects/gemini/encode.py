"""A Call into a generateContent request.

No client speaks this dialect to the gateway, so every Call comes from another one, and is brought over by
these rules:

- All system and developer messages become the `systemInstruction`. Nothing but system messages becomes one
  user turn. Neighbouring turns of one role are merged, and a turn's tool results come first.
- A tool's result is `{"output": text}`, or `{"error": text}` where the tool failed; its name is that of the
  call with the same id.
- Tool schemas go out as JSON Schema (`parametersJsonSchema`, `responseJsonSchema`), not in Google's older
  subset of OpenAPI.
- Newer models refuse a tool call of this turn without the signature that they gave it. Where a client lost
  it, or another model made the call, the word that Google documents for that stands in its place
  (`_UNSIGNED`).
- Reasoning of other dialects is left out.

Sources: ai.google.dev/api/generate-content, .../gemini-api/docs/thought-signatures, and the types of the
package google-genai 3.4.
"""

from __future__ import annotations

from typing import Any

import msgspec

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
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import Encoded
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.arguments import as_object
from isthmus.dialects.fields import data_url, invalid
from isthmus.dialects.gemini.models import is_older, thinking_config
from isthmus.dialects.writing import unsupported

Json = dict[str, Any]

DIALECT = "gemini"

_UNSIGNED = "skip_thought_signature_validator"
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}
_SEEDS = 2**31
_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "txt": "text/plain",
}


def encode(call: Call, model_id: str) -> Encoded:
    """The request for an endpoint; raises IsthmusError(UNSUPPORTED, param=...) for what cannot be said."""
    body, dropped = conversation(call, model_id)
    config = _generation_config(call, model_id)
    if config:
        body["generationConfig"] = config
    hints = ("logit_bias", "user", "metadata")
    dropped += [name for name in hints if getattr(call, name) is not None]
    if call.parallel_tool_calls is False:
        dropped.append("parallel_tool_calls")
    dropped += call.extra
    return Encoded(body=msgspec.json.encode(body), dropped=tuple(dict.fromkeys(dropped)))


def conversation(call: Call, model_id: str) -> tuple[Json, list[str]]:
    """System instruction, contents and tools, with the names of what was left out."""
    turns = _Turns(model_id)
    for index, message in enumerate(call.messages):
        turns.add(message, f"messages[{index}]")
    body = turns.body()
    if call.tools:
        declarations = [_declaration(tool, index) for index, tool in enumerate(call.tools)]
        body["tools"] = [{"functionDeclarations": declarations}]
        body |= _tool_config(call.tool_choice)
        if any(tool.strict for tool in call.tools):
            turns.dropped.append("tools.strict")
    return body, turns.dropped


class _Turns:
    """The conversation in the making."""

    def __init__(self, model_id: str) -> None:
        self.dropped: list[str] = []
        self._older = is_older(model_id)
        self._system: list[Json] = []
        self._turns: list[tuple[str, list[Json]]] = []
        self._names: dict[str, str] = {}

    def add(self, message: Message, where: str) -> None:
        """Takes in one message."""
        if message.name is not None:
            self.dropped.append("messages.name")
        parts: list[Json] = []
        for index, part in enumerate(message.parts):
            parts += self._part(part, f"{where}.content[{index}]")
        if message.role in ("system", "developer"):
            self._system += parts
        elif parts:
            self._append("model" if message.role == "assistant" else "user", parts)

    def body(self) -> Json:
        """What was taken in, as the request says it."""
        if not self._turns and self._system:
            return {"contents": [{"role": "user", "parts": self._system}]}
        if not self._turns:
            raise invalid("messages", "a message that is not empty", [])
        body: Json = {"systemInstruction": {"parts": self._system}} if self._system else {}
        for role, parts in self._turns:
            parts.sort(key=lambda part: "functionResponse" not in part)
            if role == "model" and not self._older:
                _sign(parts)
        body["contents"] = [{"role": role, "parts": parts} for role, parts in self._turns]
        return body

    def _append(self, role: str, parts: list[Json]) -> None:
        if self._turns and self._turns[-1][0] == role:
            self._turns[-1][1].extend(parts)
        else:
            self._turns.append((role, parts))

    def _part(self, part: Part, where: str) -> list[Json]:
        match part:
            case Text() | Refusal():
                return [{"text": part.text}] if part.text else []
            case Image() | Document() | Audio():
                return [_media(part, where)]
            case ToolUse():
                return [self._call(part)]
            case ToolResult():
                return self._result(part, where)
            case Reasoning() if part.dialect == DIALECT and part.signature is not None:
                thought = {"thought": True} if part.text else {}
                return [{"text": part.text} | thought | {"thoughtSignature": part.signature}]
            case Reasoning():
                self.dropped.append("messages.reasoning")
            case Opaque():
                self.dropped.append("messages.opaque")
        return []

    def _call(self, use: ToolUse) -> Json:
        self._names[use.id] = use.name
        said: Json = {"functionCall": {"id": use.id, "name": use.name, "args": as_object(use.arguments)}}
        return said if use.signature is None else said | {"thoughtSignature": use.signature}

    def _result(self, result: ToolResult, where: str) -> list[Json]:
        name = self._names.get(result.id) or result.name
        if name is None:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"`{where}` is the result of a tool call that is not in the conversation.",
                code="unknown_tool_call",
                hint="Send the assistant's message with the call before it.",
                param=where,
            )
        text = "\n".join(part.text for part in result.parts if isinstance(part, Text))
        said: Json = {
            "id": result.id,
            "name": name,
            "response": {"error" if result.is_error else "output": text},
        }
        media = [_media(part, where) for part in result.parts if not isinstance(part, Text)]
        if media and not self._older:
            said["parts"] = media
            media = []
        return [{"functionResponse": said}, *media]


def _sign(parts: list[Json]) -> None:
    """Sees to it that the first tool call of a turn is signed: of parallel calls only that one is."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None:
        first.setdefault("thoughtSignature", _UNSIGNED)


def _media(part: Image | Document | Audio, where: str) -> Json:
    match part:
        case Audio():
            return _inline(f"audio/{part.format}", part.data)
        case Document() if part.text is not None:
            return {"text": part.text}
        case Document() if part.file_id is not None:
            raise unsupported("A file of another provider cannot be read by Gemini.", where)
    fallback = "image/png" if isinstance(part, Image) else "application/pdf"
    if (found := data_url(part.url or part.data or "")) is not None:
        return _inline(*found)
    if part.data:
        return _inline(part.media_type or fallback, part.data)
    if part.url is None or "://" not in part.url:
        raise unsupported("The part has neither data nor a URL.", where)
    ending = part.url.partition("?")[0].rpartition(".")[2].lower()
    media_type = part.media_type or _MEDIA_TYPES.get(ending)
    typed = {} if media_type is None else {"mimeType": media_type}
    return {"fileData": typed | {"fileUri": part.url}}


def _inline(media_type: str, data: str) -> Json:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _declaration(tool: Tool, index: int) -> Json:
    if tool.opaque is not None:
        raise unsupported(f"Gemini has no built-in tool {tool.name!r} of that form.", f"tools[{index}]")
    said: Json = {"name": tool.name}
    if tool.description is not None:
        said["description"] = tool.description
    # A function without parameters is declared without a schema: an object without properties is refused.
    if tool.parameters and tool.parameters.get("properties") != {}:
        said["parametersJsonSchema"] = _schema(tool.parameters)
    return said


def _schema(schema: Json) -> Json:
    return {name: value for name, value in schema.items() if name != "$schema"}


def _tool_config(choice: ToolChoice | None) -> Json:
    if choice is None:
        return {}
    calling: Json = {"mode": _MODES[choice.mode]}
    if choice.name is not None:
        calling["allowedFunctionNames"] = [choice.name]
    return {"toolConfig": {"functionCallingConfig": calling}}


def _generation_config(call: Call, model_id: str) -> Json:
    said: Json = {
        "maxOutputTokens": call.max_tokens,
        "temperature": call.temperature,
        "topP": call.top_p,
        "topK": call.top_k,
        "stopSequences": call.stop or None,
        # Google's seeds have 31 bits.
        "seed": None if call.seed is None else call.seed % _SEEDS,
        "candidateCount": call.n,
        "presencePenalty": call.presence_penalty,
        "frequencyPenalty": call.frequency_penalty,
        "responseLogprobs": call.logprobs or None,
        "logprobs": call.top_logprobs or None,
        "thinkingConfig": _thinking(call, model_id),
    }
    return {name: value for name, value in said.items() if value is not None} | _format(call.response_format)


def _thinking(call: Call, model_id: str) -> Json | None:
    asked = call.thinking
    if asked is None:
        return None
    enabled = asked.enabled is not False and asked.effort != "none"
    return thinking_config(model_id, enabled, asked.effort, asked.budget)


def _format(form: ResponseFormat | None) -> Json:
    if form is None or form.kind == "text":
        return {}
    said: Json = {"responseMimeType": "application/json"}
    return said if form.schema is None else said | {"responseJsonSchema": _schema(form.schema)}
