"""A Call into the request of a Messages endpoint.

A Call that an Anthropic client made is said again as it was. One of another dialect is brought into the form
that Anthropic accepts, by these rules:

- System and developer messages all go into `system`, in their order, also those from the middle of the
  conversation: only some models take them in place. Nothing but system messages becomes one user turn.
- Neighbouring turns of one role are merged, and a turn's tool results come first.
- Blank text is left out, and white space after a final assistant turn: Anthropic refuses both.
- `max_tokens`, which Anthropic demands, is the model's default where the caller set none (`models.limits`).
- `temperature` ends at 1, and is left out where the model takes none, or thinks: both stand in `dropped`.
- An effort becomes adaptive thinking where the model has it, else a budget (`_BUDGETS`), and is dropped
  beside a forced tool, which Anthropic does not allow together.
- A JSON Schema is closed (`schema.closed`). JSON mode without a schema does not exist here: UNSUPPORTED.
- Reasoning of other dialects is left out: its signatures are worthless here.

What is left out stands in `dropped`, under the name that the field has in core.call.Call.

Source: platform.claude.com/docs/en/api/messages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Any, TypeVar

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
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.codec import Encoded
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.anthropic.decode import DIALECT
from isthmus.dialects.anthropic.models import Limits, limits
from isthmus.dialects.anthropic.schema import closed
from isthmus.dialects.arguments import as_object
from isthmus.dialects.fields import data_url, invalid
from isthmus.dialects.writing import unsupported

Json = dict[str, Any]

_Said = TypeVar("_Said", bound=Text | Image | Document | Audio | ToolUse | ToolResult | Refusal)

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_OF_ID = re.compile(r"[^a-zA-Z0-9_-]")
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
# Tokens of thinking for models that know no effort; 1,024 is the least that Anthropic takes.
_BUDGETS = {"low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
_LEAST_BUDGET = 1_024
_CHOICES = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}


def encode(call: Call, model_id: str) -> Encoded:
    """The request for an endpoint; raises IsthmusError(UNSUPPORTED, param=...) for what cannot be said."""
    body, dropped = conversation(call, model_id)
    dropped += _refuse_or_drop(call)
    able = limits(model_id)
    thinking, effort = _thinking(call, able, dropped)
    budget = 0 if thinking is None else thinking.get("budget_tokens", 0)
    body["max_tokens"] = call.max_tokens if call.max_tokens is not None else able.max_tokens + budget
    stop = [text for text in call.stop if able.blank_stop or text.strip()]
    if len(stop) < len(call.stop):
        dropped.append("stop")
    if stop:
        body["stop_sequences"] = stop
    body |= _sampling(call, able, thinking, dropped)
    _configure(body, call, thinking, effort)
    if call.stream:
        body["stream"] = True
    return Encoded(body=msgspec.json.encode(body), dropped=tuple(dict.fromkeys(dropped)))


def encode_count(call: Call, model_id: str) -> Encoded:
    """The request of count_tokens: the conversation alone, since how to answer it costs no tokens."""
    body, dropped = conversation(call, model_id)
    own = call.thinking is not None and call.dialect == DIALECT
    thinking, effort = _thinking(call, limits(model_id), dropped) if own else (None, None)
    _configure(body, call, thinking, effort)
    body.pop("metadata", None)
    return Encoded(body=msgspec.json.encode(body), dropped=tuple(dict.fromkeys(dropped)))


def conversation(call: Call, model_id: str) -> tuple[Json, list[str]]:
    """Model, system, messages and tools, with the names of what was left out."""
    dropped: list[str] = []
    own = call.dialect == DIALECT
    body: Json = {"model": model_id}
    system, messages = (_turns if own else _foreign_turns)(call.messages, dropped)
    if system:
        body["system"] = _content(system)
    if not messages:
        raise invalid("messages", "a message that is not blank", [])
    body["messages"] = messages
    if call.tools:
        body["tools"] = [_tool(tool, index, own) for index, tool in enumerate(call.tools)]
        body |= _tool_choice(call.tool_choice, call.parallel_tool_calls, own)
    return body, dropped


def _turns(messages: tuple[Message, ...], dropped: list[str]) -> tuple[list[Json], list[Json]]:
    """An Anthropic client's own turns: the first system message is the `system`, later ones stay in place."""
    first = messages[:1] if messages and messages[0].role == "system" else ()
    system = [block for message in first for block in _blocks(message, dropped)]
    turns: list[Json] = []
    for message in messages[len(first) :]:
        blocks = _blocks(message, dropped)
        if blocks or not message.parts:
            turns.append({"role": message.role, "content": _content(blocks)} | message.extra)
    return system, turns


def _foreign_turns(messages: tuple[Message, ...], dropped: list[str]) -> tuple[list[Json], list[Json]]:
    system: list[Json] = []
    turns: list[tuple[str, list[Json]]] = []
    for index, message in enumerate(messages):
        blocks = list(_foreign_blocks(message, f"messages[{index}]", dropped))
        if message.role in ("system", "developer"):
            system += blocks
        elif turns and turns[-1][0] == message.role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((message.role, blocks))
    if system and not turns:
        return [], [{"role": "user", "content": _content(system)}]
    if turns and turns[-1][0] == "assistant":
        _trim(turns[-1][1])
    return system, [{"role": role, "content": _content(_results_first(blocks))} for role, blocks in turns]


def _results_first(blocks: list[Json]) -> list[Json]:
    return sorted(blocks, key=lambda block: block["type"] != "tool_result")


def _trim(blocks: list[Json]) -> None:
    last = blocks[-1]
    if last["type"] == "text":
        blocks[-1] = last | {"text": last["text"].rstrip()}


def _content(blocks: list[Json]) -> str | list[Json]:
    """A lone text is written as a string, the shorter of the two spellings."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


def _foreign_blocks(message: Message, where: str, dropped: list[str]) -> Iterable[Json]:
    if message.name is not None:
        dropped.append("messages.name")
    for index, part in enumerate(message.parts):
        at = f"{where}.content[{index}]"
        match part:
            case Reasoning():
                if _is_own(part):
                    yield _block(part)
                else:
                    dropped.append("messages.reasoning")
            case Opaque() if part.dialect != DIALECT:
                dropped.append("messages.opaque")
            case Text() | Refusal() if not part.text.strip():
                continue
            case Opaque():
                yield _block(part)
            case Document() if part.file_id is not None:
                raise unsupported("A file of another provider cannot be read by Anthropic.", at)
            case ToolResult():
                inner = tuple(_bare(one) for one in part.parts)
                yield _block(msgspec.structs.replace(_bare(part), parts=inner), at)
            case _:
                yield _block(_bare(part), at)


def _bare(part: _Said) -> _Said:
    """The part without what only its own dialect says beside it, save for marks of the prompt cache.

    Clients of gateways write those marks into OpenAI's parts as well.
    """
    kept = {name: value for name, value in part.extra.items() if name == "cache_control"}
    return msgspec.structs.replace(part, extra=kept)


def _blocks(message: Message, dropped: list[str]) -> list[Json]:
    """The blocks of an Anthropic client's message, without empty text and the thinking that others signed."""
    blocks: list[Json] = []
    for part in message.parts:
        if isinstance(part, Reasoning) and not _is_own(part):
            dropped.append("messages.reasoning")
        elif not isinstance(part, Text) or part.text:
            blocks.append(_block(part))
    return blocks


def _block(part: Part, where: str = "messages") -> Json:
    match part:
        case Text() | Refusal():
            return {"type": "text", "text": part.text} | part.extra
        case Image():
            return {"type": "image", "source": _image_source(part, where)} | part.extra
        case Document():
            return _document(part, where)
        case ToolUse():
            named = {"type": "tool_use", "id": tool_id(part.id), "name": part.name}
            return named | {"input": as_object(part.arguments)} | part.extra
        case ToolResult():
            return _tool_result(part, where)
        case Reasoning() if part.encrypted is not None:
            return {"type": "redacted_thinking", "data": part.encrypted} | part.extra
        case Reasoning():
            thought = {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
            return thought | part.extra
        case Opaque():
            value: Json = part.value
            return value
        case Audio():
            raise unsupported("Anthropic models take no audio.", where)


def _image_source(image: Image, where: str) -> Json:
    if image.data is not None:
        return _base64(image.media_type or "image/png", image.data)
    url = image.url or ""
    if (found := data_url(url)) is not None:
        return _base64(*found)
    if not url.startswith(("https://", "http://")):
        raise unsupported("The image has neither data nor an HTTP URL.", where)
    return {"type": "url", "url": url}


def _base64(media_type: str, data: str) -> Json:
    # A common misspelling that Anthropic refuses.
    media_type = "image/jpeg" if media_type == "image/jpg" else media_type
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(document: Document, where: str) -> Json:
    # The decoder marks a picture among the provider's files so.
    kind = "image" if (document.media_type or "").startswith("image/") else "document"
    title = {} if document.name is None else {"title": document.name}
    return {"type": kind, "source": _document_source(document, where)} | title | document.extra


def _document_source(document: Document, where: str) -> Json:
    if document.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": document.text}
    if document.file_id is not None:
        return {"type": "file", "file_id": document.file_id}
    if document.url is not None and not document.url.startswith("data:"):
        return {"type": "url", "url": document.url}
    media_type, data = document.media_type, document.data or ""
    if (found := data_url(document.url or data)) is not None:
        media_type, data = found
    if (media_type or "").startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decoded(data, where)}
    if not data:
        raise unsupported("The document has no data.", where)
    return _base64(media_type or "application/pdf", data)


def _decoded(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        message = "The document is said to be text, but is not UTF-8 in base64."
        raise IsthmusError(Fault.INVALID_REQUEST, message, param=where) from None


def _tool_result(result: ToolResult, where: str) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": tool_id(result.id)}
    blocks = [_block(part, where) for part in result.parts if not (isinstance(part, Text) and not part.text)]
    if blocks:
        block["content"] = _content(blocks)
    if result.is_error:
        block["is_error"] = True
    return block | result.extra


def tool_id(identity: str) -> str:
    """The id of a tool call as Anthropic takes it (`[a-zA-Z0-9_-]+`): unchanged where it fits.

    Else every other character becomes `_`, and 8 hexadecimal digits of a BLAKE2 digest keep ids apart.
    """
    if _ID.fullmatch(identity):
        return identity
    digest = hashlib.blake2s(identity.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{_NOT_OF_ID.sub('_', identity)}_{digest}"


def _tool(tool: Tool, index: int, own: bool) -> Json:
    where = f"tools[{index}]"
    if tool.opaque is not None:
        if tool.opaque.dialect != DIALECT:
            raise unsupported(f"Anthropic has no built-in tool {tool.name!r}.", where)
        value: Json = tool.opaque.value
        return value
    body: Json = {"name": tool.name}
    if tool.description is not None:
        body["description"] = tool.description
    schema = tool.parameters or {}
    if tool.strict is not None:
        body["strict"] = tool.strict
    if own:
        return body | {"input_schema": schema} | tool.extra
    if tool.strict:
        schema = closed(schema, where)
    return body | {"input_schema": {"type": "object"} | schema}


def _tool_choice(choice: ToolChoice | None, parallel: bool | None, own: bool) -> Json:
    if choice is None and (parallel is None or (parallel and not own)):
        return {}
    mode = "auto" if choice is None else choice.mode
    said: Json = {"type": _CHOICES[mode]}
    if choice is not None and choice.name is not None:
        said["name"] = choice.name
    # Where no tool may be called there is nothing to forbid, and Anthropic refuses the field.
    if mode != "none" and (parallel is False or (parallel and own)):
        said["disable_parallel_tool_use"] = not parallel
    return {"tool_choice": said}


def _refuse_or_drop(call: Call) -> list[str]:
    """The names of hints that Messages has no field for; raises for what is more than a hint."""
    if call.n is not None and call.n > 1:
        raise unsupported("Anthropic gives one answer to a call, so `n` cannot be more than 1.", "n")
    if call.logprobs or call.top_logprobs:
        raise unsupported("Anthropic tells no log-probabilities.", "logprobs")
    hints = ("seed", "frequency_penalty", "presence_penalty", "logit_bias", "metadata")
    dropped = [name for name in hints if getattr(call, name) is not None]
    return dropped if call.dialect == DIALECT else dropped + list(call.extra)


def _sampling(call: Call, able: Limits, thinking: Json | None, dropped: list[str]) -> Json:
    said = {
        name: value
        for name in ("temperature", "top_p", "top_k")
        if (value := getattr(call, name)) is not None
    }
    if call.dialect == DIALECT:
        return said
    thinks = thinking is not None and thinking["type"] != "disabled"
    refused = set(said) if not able.sampling else {"temperature", "top_k"} if thinks else set()
    if not able.both_samplers and "temperature" in said:
        refused.add("top_p")
    dropped += [name for name in said if name in refused]
    kept = {name: value for name, value in said.items() if name not in refused}
    if kept.get("temperature", 0) > 1:
        kept["temperature"] = 1
        dropped.append("temperature")
    return kept


def _thinking(call: Call, able: Limits, dropped: list[str]) -> tuple[Json | None, str | None]:
    """The `thinking` object and the effort for `output_config`."""
    asked = call.thinking
    if asked is None:
        return None, None
    if call.dialect == DIALECT:
        # What the client kept may be another dialect's thoughts, and they cannot stand before the tool call.
        lost = "messages.reasoning" in dropped and not able.adaptive
        if lost and asked.enabled is not False and _continues_without_thoughts(call.messages):
            dropped.append("thinking")
            return None, asked.effort
        return _said_thinking(call), asked.effort
    if asked.enabled is False or asked.effort == "none":
        return {"type": "disabled"}, None
    effort = _effort(asked.effort)
    forced = call.tool_choice is not None and call.tool_choice.mode in ("required", "tool")
    if forced or (not able.adaptive and _continues_without_thoughts(call.messages)):
        dropped.append("thinking")
        return None, None
    display = {} if asked.summary is None else {"display": "summarized"}
    if able.adaptive:
        return {"type": "adaptive"} | display, effort
    budget = asked.budget or _BUDGETS[effort or "medium"]
    if call.max_tokens is not None:
        budget = min(budget, call.max_tokens - 1)
    if budget < _LEAST_BUDGET:
        dropped.append("thinking")
        return None, None
    return {"type": "enabled", "budget_tokens": budget}, None


def _continues_without_thoughts(messages: tuple[Message, ...]) -> bool:
    """Whether tool results answer a turn whose thinking the client did not keep.

    With a budget, Anthropic then demands that the turn begins with its thinking.
    """
    if len(messages) < 2 or not any(isinstance(part, ToolResult) for part in messages[-1].parts):
        return False
    thoughts = (part for part in messages[-2].parts if isinstance(part, Reasoning))
    return not any(_is_own(thought) for thought in thoughts)


def _is_own(thought: Reasoning) -> bool:
    """Whether Anthropic signed it; some servers of this dialect sign with an empty string."""
    return thought.dialect == DIALECT and bool(thought.signature or thought.encrypted)


def _effort(word: str | None) -> str | None:
    if word is None or word in _EFFORTS:
        return word
    return "low" if word == "minimal" else "medium"


def _said_thinking(call: Call) -> Json | None:
    """What an Anthropic client said of thinking, word for word."""
    asked = call.thinking or Thinking()
    said: Json = {}
    if asked.enabled is not None:
        said["type"] = "disabled" if not asked.enabled else "adaptive" if asked.budget is None else "enabled"
    if asked.budget is not None:
        said["budget_tokens"] = asked.budget
    if asked.summary is not None:
        said["display"] = "summarized"
    return said or None


def _configure(body: Json, call: Call, thinking: Json | None, effort: str | None) -> None:
    """Adds `thinking`, `output_config` and `metadata`, with what an Anthropic client said beside them."""
    config: Json = {} if effort is None else {"effort": effort}
    if call.response_format is not None and call.response_format.kind != "text":
        config["format"] = _format(call.response_format, call.dialect == DIALECT)
    said = {
        "thinking": thinking or {},
        "output_config": config,
        "metadata": {} if call.user is None else {"user_id": call.user},
    }
    extra = call.extra if call.dialect == DIALECT else {}
    for name, value in said.items():
        if merged := value | extra.get(name, {}):
            body[name] = merged
    body |= {name: value for name, value in extra.items() if name not in said}


def _format(form: ResponseFormat, own: bool) -> Json:
    if form.schema is None:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            "Anthropic has no JSON mode without a schema.",
            hint="Ask for a json_schema, or choose a model of an OpenAI-compatible provider or of Gemini.",
            param="response_format",
        )
    return {"type": "json_schema", "schema": form.schema if own else closed(form.schema, "response_format")}
