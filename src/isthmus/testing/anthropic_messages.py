"""Anthropic Messages: content blocks, thinking with signatures, and errors in an envelope.

Sources: platform.claude.com/docs/en/api/messages, .../build-with-claude/streaming, .../extended-thinking,
.../errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from isthmus.testing.script import Refusal, Script, ToolCall
from isthmus.testing.seals import seal, unseal
from isthmus.testing.wire import (
    Asked,
    Frame,
    House,
    JsonObject,
    Offered,
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
    strings,
)

_DOCUMENTED = names(
    "cache_control container context_management diagnostics inference_geo max_tokens mcp_servers messages"
    " metadata model output_config output_format service_tier speed stop_sequences stream system thinking"
    " tool_choice tools user_profile_id workspace_id"
)
_SAMPLING = names("temperature top_k top_p")
_BEFORE_2026 = ("2023-01-01", "2023-06-01")
_VERSIONS = (*_BEFORE_2026, "2026-10-21")
"""Values of anthropic-version. The last takes no sampling parameters (.../api/versioning)."""

_BLOCKS = {
    "user": {"text", "image", "document", "search_result", "tool_result", "container_upload"},
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "document"},
    "system": {"text"},
}
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_OF_THE_HOUSE = re.compile(r"[a-z_]+_\d{8}|mcp_toolset")
"""Tools that Anthropic defines: a name with the date of its version."""

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tools": "tool_use",
    "sequence": "stop_sequence",
    "filter": "refusal",
    "refusal": "refusal",
    "blocked": "refusal",
    "pause": "pause_turn",
    "context": "model_context_window_exceeded",
}
_ERRORS = {
    400: ("invalid_request_error", "The request is invalid."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model not found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}


def read(received: Received, house: House) -> Asked:
    """The request, or RefusedError with what Anthropic would say."""
    body = _body(received, house)
    limit = field(body, "max_tokens", int)
    require(limit is not None, "max_tokens: Field required")
    asked = _read(received, house, body)
    number(body, "max_tokens", 1, 2**31)
    _check_thinking(body, limit)
    return asked


def read_count(received: Received, house: House) -> Asked:
    """The request of count_tokens, which names no max_tokens."""
    body = _body(received, house)
    require("max_tokens" not in body, "max_tokens: Extra inputs are not permitted")
    return _read(received, house, body)


def whole(asked: Asked, script: Script) -> JsonObject:
    """The Message."""
    content = [_finished(block, pieces) for block, pieces in _blocks(asked, script)]
    message = _envelope(asked) | {"content": content} | _ending(script)
    return message if script.fault.usage == "missing" else message | {"usage": _usage(asked, script)}


def frames(asked: Asked, script: Script) -> Iterator[Frame]:
    """message_start, the blocks one after another, message_delta, message_stop."""
    for event, said, body in _events(asked, script):
        yield Frame({"type": event} | body, event, said)


def interruption(asked: Asked, sent: int) -> list[Frame]:
    """The `error` event, after which nothing comes."""
    body = error(RefusedError("Overloaded", status=529))
    return [Frame(body, "error")]


def error(refused: RefusedError) -> JsonObject:
    """The envelope of an error (platform.claude.com/docs/en/api/errors)."""
    fallback = ("invalid_request_error" if refused.status < 500 else "api_error", "")
    kind, _ = _ERRORS.get(refused.status, fallback)
    return {
        "type": "error",
        "error": {"type": kind, "message": refused.message},
        "request_id": "req_sim",
    }


def refusal(planned: Refusal) -> RefusedError:
    """Anthropic's words for a planned refusal."""
    if planned.reason == "context":
        return RefusedError("prompt is too long: 208310 tokens > 200000 maximum", status=planned.status)
    _, message = _ERRORS.get(planned.status, ("", "Internal server error"))
    return RefusedError(message, status=planned.status)


_Event = tuple[str, Any, JsonObject]
_Block = tuple[JsonObject, list[JsonObject]]


def _events(asked: Asked, script: Script) -> Iterator[_Event]:
    told = script.fault.usage
    started = _envelope(asked) | {"content": [], "stop_reason": None, "stop_sequence": None}
    if told != "missing":
        started["usage"] = _usage(asked, script) | {"output_tokens": 1}
        started["usage"].pop("output_tokens_details")
    yield "message_start", "frame", {"message": started}
    said = 0
    for index, (block, deltas) in enumerate(_blocks(asked, script)):
        yield "content_block_start", "frame", {"index": index, "content_block": block}
        if index == 0:
            yield "ping", "frame", {}
        for delta in deltas:
            yield "content_block_delta", "piece", {"index": index, "delta": delta}
            said += 1
            if told == "every-chunk":
                running = {
                    "delta": {"stop_reason": None, "stop_sequence": None},
                    "usage": {"output_tokens": said},
                }
                yield "message_delta", "frame", running
        yield "content_block_stop", "frame", {"index": index}
    usage = {} if told == "missing" else {"usage": _final_usage(asked, script)}
    yield "message_delta", "frame", {"delta": _ending(script)} | usage
    yield "message_stop", "terminal", {}


def _blocks(asked: Asked, script: Script) -> list[_Block]:
    """Each block as it is announced, with its deltas."""
    blocks: list[_Block] = []
    if script.reasoning:
        text = "".join(script.reasoning)
        deltas: list[JsonObject] = [
            {"type": "thinking_delta", "thinking": piece} for piece in script.reasoning
        ]
        deltas.append({"type": "signature_delta", "signature": seal(asked.organisation, text)})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    for text in script.redacted:
        blocks.append(({"type": "redacted_thinking", "data": seal(asked.organisation, text)}, []))
    if script.ending == "blocked":
        return blocks
    if script.text or script.refusal:
        deltas = [{"type": "text_delta", "text": piece} for piece in script.text + script.refusal]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for position, call in enumerate(script.tools):
        fragments = ["", *script.fragments(call)]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in fragments]
        blocks.append((_tool_use(asked, position, call), deltas))
    return blocks


def _tool_use(asked: Asked, position: int, call: ToolCall) -> JsonObject:
    return {"type": "tool_use", "id": f"toolu_sim{asked.serial}_{position}", "name": call.name, "input": {}}


def _finished(block: JsonObject, deltas: list[JsonObject]) -> JsonObject:
    """A block with its deltas folded in."""
    folded = dict(block)
    arguments = ""
    for delta in deltas:
        match delta["type"]:
            case "text_delta":
                folded["text"] += delta["text"]
            case "thinking_delta":
                folded["thinking"] += delta["thinking"]
            case "signature_delta":
                folded["signature"] = delta["signature"]
            case _:
                arguments += delta["partial_json"]
    return folded | {"input": ToolCall("", arguments).input} if folded["type"] == "tool_use" else folded


def _ending(script: Script) -> JsonObject:
    reason = _STOP.get(script.ending, script.ending)
    ending: JsonObject = {"stop_reason": reason, "stop_sequence": script.stop_sequence}
    if reason == "refusal":
        ending["stop_details"] = {"type": "refusal", "category": None, "explanation": None}
    return ending


def _envelope(asked: Asked) -> JsonObject:
    return {"id": f"msg_sim{asked.serial}", "type": "message", "role": "assistant", "model": asked.model}


def _usage(asked: Asked, script: Script) -> JsonObject:
    usage, body = asked.usage(script), asked.received.body or {}
    searches = sum(str(tool.get("type")).startswith("web_search") for tool in body.get("tools") or ())
    return {
        "input_tokens": usage.uncached,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": "standard",
        "speed": body.get("speed", "standard"),
        "inference_geo": "global",
        "server_tool_use": {"web_search_requests": searches, "web_fetch_requests": 0},
    }


def _final_usage(asked: Asked, script: Script) -> JsonObject:
    """The cumulative usage of message_delta, which does not split the tokens written to the cache."""
    usage = _usage(asked, script)
    for name in ("cache_creation", "service_tier", "speed", "inference_geo"):
        del usage[name]
    return usage


def _body(received: Received, house: House) -> JsonObject:
    headers = received.headers
    # Where both headers are sent, the older one counts.
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if house.key is not None and given != house.key:
        raise RefusedError("invalid x-api-key", status=401)
    version = headers.get("anthropic-version")
    require(version is not None, "anthropic-version: header is required")
    require(version in _VERSIONS, f'anthropic-version: "{version}" is not a valid version')
    if received.body is None:
        raise RefusedError("The request body is not valid JSON: expected an object")
    documented = _DOCUMENTED | _SAMPLING if version in _BEFORE_2026 else _DOCUMENTED
    if house.strict:
        known(received.body, documented, "{}: Extra inputs are not permitted".format)
    if version not in _BEFORE_2026:
        _check_since_2026(objects(field(received.body, "messages", list, []), "messages"))
    return received.body


def _check_since_2026(messages: list[JsonObject]) -> None:
    """Refuses what version 2026-10-21 no longer takes: an assistant's documents, a user's citations."""
    for position, message in enumerate(messages):
        content = message.get("content")
        blocks = objects(content, f"messages.{position}.content") if isinstance(content, list) else []
        for index, block in enumerate(blocks):
            spot = f"messages.{position}.content.{index}"
            document = message.get("role") == "assistant" and block.get("type") == "document"
            require(not document, f"{spot}: `document` blocks are not permitted in `assistant` messages")
            cited = message.get("role") == "user" and bool(block.get("citations"))
            require(
                not (cited and block.get("type") == "text"),
                f"{spot}.text.citations: citations are not permitted in `user` messages",
            )


def _read(received: Received, house: House, body: JsonObject) -> Asked:
    model = field(body, "model", str)
    require(model is not None, "model: Field required")
    messages = objects(field(body, "messages", list), "messages")
    _check_messages(messages, house)
    _check_cache_marks(body)
    number(body, "temperature", 0, 1)
    number(body, "top_p", 0, 1)
    system = field(body, "system", (str, list), [])
    if isinstance(system, list):
        _check_blocks("system", system, "system")
    tools = tuple(
        offered
        for index, tool in enumerate(objects(body.get("tools") or [], "tools"))
        if (offered := _tool(tool, index)) is not None
    )
    format_ = field(field(body, "output_config", dict, {}), "format", dict, {})
    return Asked(
        wire="anthropic",
        model=model,
        text=_text(messages[-1]["content"]),
        prompt_tokens=count_words([messages, system, body.get("tools")]),
        stream=field(body, "stream", bool, False),
        include_usage=True,
        tools=tools,
        forced=_forced(field(body, "tool_choice", dict), tools),
        schema=field(format_, "schema", dict, {}) if format_ else None,
        max_tokens=field(body, "max_tokens", int),
        stop=strings(body, "stop_sequences"),
        organisation=house.organisation,
        received=received,
    )


def _check_messages(messages: list[JsonObject], house: House) -> None:
    require(bool(messages), "messages: at least one message is required")
    require(messages[0].get("role") != "assistant", 'messages: first message must use the "user" role')
    called: set[str] = set()
    for position, message in enumerate(messages):
        where = f"messages.{position}"
        role = message.get("role")
        require(
            isinstance(role, str) and role in _BLOCKS,
            f'messages: Unexpected role "{role}". Allowed roles are "user", "assistant" or "system". '
            "The Messages "
            "API accepts a top-level `system` parameter for the first instructions.",
        )
        blocks = _content(message, where, final=position == len(messages) - 1)
        _check_blocks(str(role), blocks, where)
        _check_results(called, blocks, where)
        _check_thoughts(blocks, house, where)
        called = {str(block["id"]) for block in blocks if block.get("type") == "tool_use"}
    require(not called, _unanswered(len(messages) - 1, called))


def _content(message: JsonObject, where: str, *, final: bool) -> list[JsonObject]:
    """The blocks of a message; a plain string is one block of text.

    Only a final assistant message may be empty.
    """
    content = field(message, "content", (str, list))
    require(content is not None, f"{where}.content: Field required")
    require(
        bool(content) or (final and message["role"] == "assistant"),
        f"{where}: all messages must have non-empty content except for the optional final assistant message",
    )
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return objects(content, f"{where}.content")


def _check_blocks(role: str, blocks: list[Any], where: str) -> None:
    for index, block in enumerate(objects(blocks, where)):
        kind = block.get("type")
        spot = f"{where}.content.{index}"
        known_ = isinstance(kind, str) and (kind in _BLOCKS[role] or kind.endswith("_tool_result"))
        require(
            known_, f"{spot}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        )
        if kind == "text":
            require(isinstance(block.get("text"), str), f"{spot}.text.text: Field required")
            require(block["text"] != "", "messages: text content blocks must be non-empty")
        if kind == "tool_use":
            _check_tool_use(block, spot)


def _check_tool_use(block: JsonObject, spot: str) -> None:
    fits = isinstance(block.get("id"), str) and _ID.fullmatch(block["id"]) is not None
    require(fits, f"{spot}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    require(isinstance(block.get("name"), str), f"{spot}.tool_use.name: Field required")
    require(
        isinstance(block.get("input"), dict), f"{spot}.tool_use.input: Input should be a valid dictionary"
    )


def _check_results(called: set[str], blocks: list[JsonObject], where: str) -> None:
    answered: set[str] = set()
    for index, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            identity = str(block.get("tool_use_id"))
            require(
                identity in called,
                f"{where}.content.{index}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{identity}. Each `tool_result` block must have a corresponding `tool_use` block in "
                "the previous message.",
            )
            require(identity not in answered, f"{where}: each tool_use must have a single result. {identity}")
            content = block.get("content")
            require(
                content is None or isinstance(content, str | list),
                f"{where}.content.{index}.content: invalid",
            )
            answered.add(identity)
    missing = called - answered
    require(not missing, _unanswered(int(where.removeprefix("messages.")) - 1, missing))


def _unanswered(position: int, called: set[str]) -> str:
    return (
        f"messages.{position}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(called))}. Each `tool_use` block must have a corresponding `tool_result` "
        "block in the next message."
    )


def _check_thoughts(blocks: list[JsonObject], house: House, where: str) -> None:
    """Refuses thinking that was edited, dropped from its place, or made by somebody else."""
    kinds = [block.get("type") for block in blocks]
    thoughtful = {"thinking", "redacted_thinking"}
    require(
        not thoughtful & set(kinds) or kinds[0] in thoughtful,
        f"{where}.content.0: If an assistant message contains any thinking blocks, the first block must be "
        f"`thinking` or `redacted_thinking`. Found `{kinds[0] if kinds else None}`.",
    )
    for index, block in enumerate(blocks):
        spot = f"{where}.content.{index}"
        if block.get("type") == "thinking":
            text, signature = field(block, "thinking", str), field(block, "signature", str)
            require(text is not None and signature is not None, f"{spot}.thinking.signature: Field required")
            genuine = not house.strict or unseal(house.organisation, signature) == text
            require(genuine, f"{spot}: Invalid `signature` in `thinking` block")
        if block.get("type") == "redacted_thinking":
            genuine = (
                not house.strict or unseal(house.organisation, field(block, "data", str, "")) is not None
            )
            require(genuine, f"{spot}: Invalid `data` in `redacted_thinking` block")


def _check_cache_marks(value: Any) -> None:
    marks = _cache_marks(value)
    require(marks <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {marks}.")


def _cache_marks(value: Any) -> int:
    match value:
        case dict():
            own = 1 if value.get("cache_control") else 0
            return own + sum(_cache_marks(part) for name, part in value.items() if name != "input_schema")
        case list():
            return sum(_cache_marks(part) for part in value)
        case _:
            return 0


def _check_thinking(body: JsonObject, limit: int) -> None:
    thinking = field(body, "thinking", dict, {"type": "disabled"})
    kind = thinking.get("type")
    require(
        kind in ("enabled", "disabled", "adaptive", "between_tools"),
        f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags",
    )
    if kind != "enabled":
        return
    budget = field(thinking, "budget_tokens", int)
    require(budget is not None, "thinking.enabled.budget_tokens: Field required")
    require(budget >= 1024, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    require(budget < limit, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    choice = field(body, "tool_choice", dict, {}).get("type")
    require(choice not in ("any", "tool"), "Thinking may not be enabled when tool_choice forces tool use.")
    require(
        body.get("temperature") in (None, 1), "`temperature` may only be set to 1 when thinking is enabled."
    )


def _tool(tool: JsonObject, index: int) -> Offered | None:
    """A tool of the client's own; None for one that Anthropic runs, which the client only names."""
    where = f"tools.{index}"
    name = field(tool, "name", str)
    kind = field(tool, "type", str, "custom")
    if _OF_THE_HOUSE.fullmatch(kind):
        return None
    require(
        kind == "custom",
        f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags",
    )
    require(name is not None, f"{where}.custom.name: Field required")
    require(
        _NAME.fullmatch(name) is not None,
        f"{where}.custom.name: String should match pattern '{_NAME.pattern}'",
    )
    schema = field(tool, "input_schema", dict)
    require(schema is not None, f"{where}.custom.input_schema: Field required")
    require(schema.get("type") == "object", f"{where}.custom.input_schema.type: Input should be 'object'")
    return Offered(name, schema)


def _forced(choice: JsonObject | None, tools: tuple[Offered, ...]) -> str | None:
    if choice is None:
        return None
    kind = choice.get("type")
    require(
        kind in ("auto", "any", "tool", "none"),
        f"tool_choice: Input tag '{kind}' found using 'type' does not match any of the expected tags",
    )
    require(bool(tools) or kind == "none", "tool_choice: may only be specified while providing tools")
    if kind != "tool":
        return "*" if kind == "any" else None
    name = field(choice, "name", str)
    require(any(tool.name == name for tool in tools), f"Tool '{name}' not found in provided tools")
    return str(name)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text") or _text(block.get("content") or "")) for block in content)


WIRE = Wire(
    name="anthropic",
    read=read,
    whole=whole,
    frames=frames,
    error=error,
    refusal=refusal,
    interruption=interruption,
)
