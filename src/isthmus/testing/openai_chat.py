"""OpenAI Chat Completions, as OpenAI documents it and as vLLM, SGLang, DeepSeek and others extend it.

Sources: platform.openai.com/docs/api-reference/chat, docs.vllm.ai (reasoning_content, extra sampling
parameters).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from isthmus.testing import openai_errors
from isthmus.testing.openai_tools import check_format, forced, function
from isthmus.testing.script import Script, ToolCall
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

CREATED = 1_700_000_000
"""Seconds since the epoch at which every answer of the simulator was made: answers are deterministic."""

_DOCUMENTED = names(
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
    "max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction "
    "presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort "
    "response_format safety_identifier seed service_tier stop store stream stream_options temperature "
    "tool_choice tools top_logprobs top_p user verbosity web_search_options"
)
_OF_OPEN_SERVERS = names(
    "add_generation_prompt chat_template chat_template_kwargs enable_thinking guided_choice guided_grammar"
    " guided_json guided_regex ignore_eos include_reasoning length_penalty min_p min_tokens priority "
    "reasoning repetition_penalty return_token_ids separate_reasoning skip_special_tokens "
    "stop_token_ids structured_outputs thinking top_k use_beam_search"
)
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = {
    "system": {"text"},
    "developer": {"text"},
    "tool": {"text"},
    "user": {"text", "image_url", "input_audio", "file", "video_url"},
    "assistant": {"text", "refusal"},
}
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tools": "tool_calls",
    "sequence": "stop",
    "filter": "content_filter",
    "refusal": "stop",
    "blocked": "content_filter",
    "pause": "stop",
    "context": "length",
}


def read(received: Received, house: House) -> Asked:
    """The request, or RefusedError with what OpenAI would say."""
    openai_errors.check_key(received.headers, house.key)
    body = received.body
    if body is None:
        raise RefusedError("We could not parse the JSON body of your request.")
    if house.strict:
        known(body, _DOCUMENTED | _OF_OPEN_SERVERS, "Unknown parameter: '{}'.".format)
    model = _required(body, "model", str)
    messages = _required(body, "messages", list)
    _check_messages(messages)
    _check_sampling(body)
    tools = tuple(_tool(tool, index) for index, tool in enumerate(objects(body.get("tools") or [], "tools")))
    choice = field(body, "tool_choice", (str, dict))
    named = field(field(choice, "function", dict, {}), "name", str) if isinstance(choice, dict) else None
    options = field(body, "stream_options", dict)
    stream = field(body, "stream", bool, False)
    require(
        options is None or stream,
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        param="stream_options",
    )
    stop = field(body, "stop", (str, list), [])
    return Asked(
        wire="openai-chat",
        model=model,
        text=_text(messages[-1].get("content")),
        prompt_tokens=count_words([messages, body.get("tools", [])]),
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
        tools=tools,
        forced=forced(choice, tools, named) if choice is not None else None,
        schema=_schema(field(body, "response_format", dict, {})),
        choices=field(body, "n", int, 1),
        logprobs=field(body, "top_logprobs", int, 0) if field(body, "logprobs", bool, False) else None,
        max_tokens=field(body, "max_completion_tokens", int) or field(body, "max_tokens", int),
        stop=(stop,) if isinstance(stop, str) else strings(body, "stop"),
        received=received,
    )


def whole(asked: Asked, script: Script) -> JsonObject:
    """The `chat.completion` object."""
    answer = _envelope(asked, "chat.completion") | {
        "choices": [
            {
                "index": index,
                "message": _message(asked, script, index),
                "logprobs": _logprobs(asked, script, script.choice(index)),
                "finish_reason": _FINISH.get(script.ending, script.ending),
            }
            for index in range(asked.choices)
        ]
    }
    return answer if script.fault.usage == "missing" else answer | {"usage": _usage(asked, script)}


def frames(asked: Asked, script: Script) -> Iterator[Frame]:
    """The `chat.completion.chunk` objects, then [DONE]."""
    told = script.fault.usage
    tail: JsonObject = {"usage": None} if asked.include_usage and told == "normal" else {}
    if told == "every-chunk":
        tail = {"usage": _usage(asked, script)}

    def chunk(index: int, delta: JsonObject, finish: str | None = None, logprobs: Any = None) -> JsonObject:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return _envelope(asked, "chat.completion.chunk") | {"choices": [choice]} | tail

    for index in range(asked.choices):
        yield Frame(chunk(index, {"role": "assistant", "content": "", "refusal": None}))
    # Choices are generated at once, so their pieces alternate.
    for row in zip_longest(*(list(_deltas(asked, script, index)) for index in range(asked.choices))):
        for index, said in enumerate(row):
            if said is not None:
                delta, logprobs = said
                yield Frame(chunk(index, delta, logprobs=logprobs), kind="piece")
    for index in range(asked.choices):
        yield Frame(chunk(index, {}, finish=_FINISH.get(script.ending, script.ending)))
    if asked.include_usage and told != "missing":
        usage = {"choices": [], "usage": _usage(asked, script)}
        yield Frame(_envelope(asked, "chat.completion.chunk") | usage)
    yield Frame("[DONE]", kind="terminal")


def interruption(asked: Asked, sent: int) -> list[Frame]:
    """An error inside a stream: a data line with the error's body, and no [DONE]."""
    error = RefusedError("The server had an error while processing your request.", status=500)
    return [Frame(openai_errors.error(error))]


def _deltas(asked: Asked, script: Script, index: int) -> Iterator[tuple[JsonObject, Any]]:
    fault = script.fault
    beside: JsonObject = {"tool_calls": []} if fault.empty_tool_calls else {}
    for piece in script.reasoning:
        yield {fault.reasoning_field: piece} | beside, None
    for position, piece in enumerate(script.choice(index)):
        entry = _logprob(asked, script, position, piece) if asked.logprobs is not None else None
        yield {"content": piece} | beside, {"content": [entry], "refusal": None} if entry else None
    for piece in script.refusal:
        yield {"refusal": piece} | beside, None
    for number_, call in enumerate(script.tools):
        yield from ((delta, None) for delta in _tool_deltas(asked, script, number_, call))


def _tool_deltas(asked: Asked, script: Script, position: int, call: ToolCall) -> Iterator[JsonObject]:
    index = 0 if script.fault.tool_index_zero else position
    identity = {"id": call_id(asked, position), "type": "function"}
    first, *rest = script.fragments(call) or [""]
    # OpenAI opens a call with empty arguments; servers that send it whole open with all of them.
    opening, rest = (first, []) if not rest else ("", [first, *rest])
    yield {
        "tool_calls": [{"index": index, **identity, "function": {"name": call.name, "arguments": opening}}]
    }
    for fragment in rest:
        if script.fault.tool_repeat_id:
            entry = {"index": index, **identity, "function": {"name": call.name, "arguments": fragment}}
        else:
            entry = {"index": index, "function": {"arguments": fragment}}
        yield {"tool_calls": [entry]}


def call_id(asked: Asked, position: int) -> str:
    """The id of a tool call: unique in one simulator."""
    return f"call_sim{asked.serial}_{position}"


def _message(asked: Asked, script: Script, index: int) -> JsonObject:
    message: JsonObject = {
        "role": "assistant",
        "content": "".join(script.choice(index)) or None,
        "refusal": "".join(script.refusal) or None,
        "annotations": [],
    }
    if script.reasoning:
        message[script.fault.reasoning_field] = "".join(script.reasoning)
    if script.tools or script.fault.empty_tool_calls:
        message["tool_calls"] = [
            {
                "id": call_id(asked, position),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for position, call in enumerate(script.tools)
        ]
    return message


def _envelope(asked: Asked, kind: str) -> JsonObject:
    return {
        "id": f"chatcmpl-sim{asked.serial}",
        "object": kind,
        "created": CREATED,
        "model": asked.model,
        "service_tier": asked.openai_tier,
        "system_fingerprint": "fp_sim",
    }


def _usage(asked: Asked, script: Script) -> JsonObject:
    usage = asked.usage(script)
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _logprobs(asked: Asked, script: Script, text: tuple[str, ...]) -> JsonObject | None:
    if asked.logprobs is None:
        return None
    entries = [_logprob(asked, script, position, piece) for position, piece in enumerate(text)]
    return {"content": entries, "refusal": None}


def _logprob(asked: Asked, script: Script, position: int, piece: str) -> JsonObject:
    """The log-probability of one piece, with made-up alternatives that are ever less likely."""
    own = script.logprobs[position] if position < len(script.logprobs) else -0.1
    ranked = [(piece, own)] + [(f"{piece}~{rank}", own - rank) for rank in range(1, asked.logprobs or 0)]
    return _token(piece, own) | {"top_logprobs": [_token(*one) for one in ranked[: asked.logprobs]]}


def _token(token: str, logprob: float) -> JsonObject:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _required(body: JsonObject, name: str, kind: type) -> Any:
    value = field(body, name, kind)
    require(
        value is not None,
        f"Missing required parameter: '{name}'.",
        code="missing_required_parameter",
        param=name,
    )
    return value


def _check_messages(messages: list[JsonObject]) -> None:
    require(
        bool(messages), "Invalid 'messages': empty array. Expected a minimum length 1.", code="empty_array"
    )
    unanswered: set[str] = set()
    for position, message in enumerate(objects(messages, "messages")):
        where = f"messages[{position}]"
        role = message.get("role")
        require(
            role in _ROLES,
            f"Invalid value: '{role}'. Supported values are: {_ROLES}.",
            code="invalid_value",
            param=f"{where}.role",
        )
        if role == "tool":
            unanswered.discard(_answered(message, unanswered, where))
        else:
            _check_answered(unanswered)
            unanswered = _called(message, where)
        _check_content(message, where)
    _check_answered(unanswered)


def _check_answered(unanswered: set[str]) -> None:
    require(
        not unanswered,
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        "'tool_call_id'. The following tool_call_ids did not have response messages: "
        + ", ".join(sorted(unanswered)),
        param="messages",
    )


def _answered(message: JsonObject, unanswered: set[str], where: str) -> str:
    answers = message.get("tool_call_id")
    require(isinstance(answers, str), f"Missing required parameter: '{where}.tool_call_id'.", param=where)
    require(
        answers in unanswered,
        "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
        "'tool_calls'.",
        param=f"{where}.role",
    )
    return str(answers)


def _called(message: JsonObject, where: str) -> set[str]:
    """The ids of the calls in a message, each checked; an empty list of calls is refused as OpenAI does."""
    calls = field(message, "tool_calls", list)
    if calls is None:
        return set()
    require(message["role"] == "assistant", f"'{where}.tool_calls' needs the role 'assistant'.", param=where)
    require(
        bool(calls),
        f"Invalid '{where}.tool_calls': empty array. Expected an array with minimum length 1.",
        code="empty_array",
        param=f"{where}.tool_calls",
    )
    ids: set[str] = set()
    for call in objects(calls, f"{where}.tool_calls"):
        described = field(call, "function", dict, {})
        fits = (
            call.get("type") == "function"
            and isinstance(call.get("id"), str)
            and isinstance(described.get("name"), str)
            and isinstance(described.get("arguments"), str)
        )
        require(
            fits,
            f"Invalid '{where}.tool_calls': a call has an id, the type 'function', a name and arguments.",
        )
        require(call["id"] not in ids, f"Duplicate value for 'tool_call_id' of '{call['id']}' in '{where}'.")
        ids.add(call["id"])
    return ids


def _check_content(message: JsonObject, where: str) -> None:
    content = message.get("content")
    role = message["role"]
    if content is None:
        speaks = role == "function" or (
            role == "assistant" and any(map(message.get, ("tool_calls", "refusal")))
        )
        require(
            speaks,
            f"Invalid value for 'content': expected a string, got null. ({where}.content)",
            param=f"{where}.content",
        )
    elif isinstance(content, list):
        require(bool(content), f"Invalid '{where}.content': empty array.", code="empty_array")
        for part in objects(content, f"{where}.content"):
            kind = str(part.get("type"))
            require(
                kind in _PARTS.get(role, {"text"}) and isinstance(part.get(kind), str | dict),
                f"Invalid value: '{kind}'. This part is not allowed in a message of role '{role}'.",
                code="invalid_value",
                param=f"{where}.content",
            )
    else:
        require(isinstance(content, str), f"Invalid type for '{where}.content'.", code="invalid_type")


def _check_sampling(body: JsonObject) -> None:
    number(body, "temperature", 0, 2)
    number(body, "top_p", 0, 1)
    number(body, "n", 1, 128)
    number(body, "frequency_penalty", -2, 2)
    number(body, "presence_penalty", -2, 2)
    number(body, "max_tokens", 1, 2**31)
    number(body, "max_completion_tokens", 1, 2**31)
    number(body, "top_logprobs", 0, 20)
    require(
        body.get("top_logprobs") is None or body.get("logprobs") is True,
        "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
        param="top_logprobs",
    )
    require(
        body.get("max_tokens") is None or body.get("max_completion_tokens") is None,
        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
        param="max_tokens",
    )
    stop = field(body, "stop", (str, list), [])
    require(len(stop) <= 4 or isinstance(stop, str), "Invalid 'stop': array too long.", param="stop")
    require(
        body.get("parallel_tool_calls") is None or bool(body.get("tools")),
        "Invalid value for 'parallel_tool_calls': only allowed when 'tools' are specified.",
        param="parallel_tool_calls",
    )
    require(
        body.get("tools") != [],
        "Invalid 'tools': empty array. Expected a minimum length 1.",
        code="empty_array",
    )


def _tool(tool: JsonObject, index: int) -> Offered:
    where = f"tools[{index}]"
    require(
        tool.get("type") == "function" and isinstance(tool.get("function"), dict),
        f"Invalid '{where}': expected the type 'function' and a 'function'.",
        param=where,
    )
    return function(tool["function"], f"{where}.function")


def _schema(format_: JsonObject) -> JsonObject | None:
    kind = format_.get("type", "text")
    require(
        kind in ("text", "json_object", "json_schema"),
        f"Invalid value: '{kind}'. Supported values are: 'text', 'json_object', and 'json_schema'.",
        param="response_format.type",
    )
    if kind == "json_schema":
        return check_format(field(format_, "json_schema", dict, {}))
    return {} if kind == "json_object" else None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


WIRE = Wire(
    name="openai-chat",
    read=read,
    whole=whole,
    frames=frames,
    error=openai_errors.error,
    refusal=openai_errors.refusal,
    interruption=interruption,
)
