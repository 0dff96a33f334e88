"""JSON that is well-formed and odd: numbers of a thousand digits, half characters, nests without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.core.call import Call
from isthmus.core.codec import ClientWire, Wire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import CLIENT_WIRES, WIRES
from isthmus.dialects.constrained_tools import constrain
from isthmus.dialects.counting import estimate_tokens
from isthmus.dialects.features import features_of
from isthmus.dialects.openai import OpenAIChat, Quirks
from isthmus.gateway.feedback import read

DEMANDING = OpenAIChat(Quirks(developer_role=False, reasoning_field=None, short_tool_ids=True))
"""A server for which messages are rewritten on their way."""

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "enum": ["b"]}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
CHAT: dict[str, Any] = {
    "model": "r",
    "messages": [
        {"role": "system", "content": "s", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "t"}, PICTURE]},
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}],
        },
        {
            "role": "assistant",
            "content": "c",
            "reasoning_content": "w",
            "tool_calls": [{"id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "i", "content": "done"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
    },
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "stop": ["s"],
    "seed": 1,
    "n": 1,
    "logprobs": True,
    "top_logprobs": 1,
    "frequency_penalty": 1,
    "presence_penalty": 1,
    "logit_bias": {"5": 1},
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "user": "u",
    "metadata": {"a": "b"},
    "other": 1,
}
RESPONSES: dict[str, Any] = {
    "model": "r",
    "instructions": "i",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "w"}]},
        {"type": "function_call", "call_id": "i", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "i", "output": "done"},
    ],
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "stream": True,
    "max_output_tokens": 5,
    "temperature": 1,
    "top_p": 1,
    "top_logprobs": 1,
    "parallel_tool_calls": True,
    "store": False,
    "user": "u",
    "metadata": {"a": "b"},
    "other": 1,
}
COUNT: dict[str, Any] = {
    "model": "r",
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "t"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "w", "signature": "s"},
                {"type": "tool_use", "id": "i", "name": "f", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": "done"}]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "other": 1,
}
MESSAGES: dict[str, Any] = {
    **COUNT,
    "max_tokens": 5,
    "stop_sequences": ["s"],
    "stream": True,
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "metadata": {"user_id": "u"},
}
EMBEDDINGS: dict[str, Any] = {
    "model": "r",
    "input": ["a", "b"],
    "dimensions": 3,
    "encoding_format": "float",
    "user": "u",
    "other": 1,
}
BODIES: dict[str, dict[str, Any]] = {
    "openai": CHAT,
    "responses": RESPONSES,
    "anthropic": MESSAGES,
    "anthropic-count": COUNT,
    "openai-embeddings": EMBEDDINGS,
}
FEEDBACK: dict[str, Any] = {
    "request_id": "req_1",
    "score": 0.5,
    "correction": "c",
    "comment": "d",
    "metadata": {"a": "b"},
}

numbers = st.one_of(
    st.integers(309, 4000).map(lambda digits: "1" * digits),
    st.sampled_from(["-" + "9" * 400, "1" * 5000, "1e400", "1e308", "-0", "1.0", "0.5e-999"]),
)
texts = st.sampled_from(
    ['"\\ud800"', '"a\\udc00b"', '"\\u0000"', '""', '"\\ud83d\\ude00"', '"data:;base64,"']
)
nests = st.builds(
    lambda depth, pair, inner: pair[0] * depth + inner + pair[1] * depth,
    st.integers(1, 990),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"type":"object","properties":', "}]")]),
    st.sampled_from(["0", '""', "{}"]),
)
odds = st.one_of(numbers, texts, nests, st.sampled_from(["null", "true", "{}", "[]"])).map(
    lambda text: msgspec.Raw(text.encode())
)

Path = tuple[str | int, ...]


def _paths(tree: Any, here: Path = ()) -> Iterator[Path]:
    for step, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*here, step)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*here, step))


def _with(tree: Any, path: Path, odd: msgspec.Raw) -> Any:
    if not path:
        return odd
    if isinstance(tree, dict):
        return {name: _with(it, path[1:], odd) if name == path[0] else it for name, it in tree.items()}
    return [_with(it, path[1:], odd) if step == path[0] else it for step, it in enumerate(tree)]


def _everywhere(sound: dict[str, Any], odd: msgspec.Raw) -> Iterator[bytes]:
    """The sound request with something odd in each of its places in turn."""
    return (msgspec.json.encode(_with(sound, path, odd)) for path in _paths(sound))


@contextmanager
def _refused_for(*faults: Fault) -> Iterator[None]:
    """It may be refused for one of these reasons."""
    try:
        yield
    except IsthmusError as error:
        if error.fault not in faults:
            raise


def _from_below(frames: int, do: Callable[[], object]) -> object:
    """Do it from so much deeper in the stack: the way of a request has steps of its own."""
    return do() if not frames else _from_below(frames - 1, do)


@pytest.mark.parametrize("wire", CLIENT_WIRES.values(), ids=lambda wire: wire.name)
@settings(max_examples=30)
@given(odds)
def test_odd_requests_are_read_or_refused(wire: ClientWire, odd: msgspec.Raw) -> None:
    for body in _everywhere(BODIES[wire.name], odd):
        with _refused_for(Fault.INVALID_REQUEST, Fault.UNSUPPORTED):
            envelope = wire.peek(body)
            features_of(envelope, len(body))
            call = wire.decode_call(envelope)
            # Each of them may be the one that a budget, a ledger or an endpoint needs.
            _from_below(100, partial(estimate_tokens, call))
            _from_below(100, partial(_say_everywhere, call))


def _say_everywhere(call: Call) -> None:
    for wire in WIRES.values():
        if wire.operation == call.operation:
            with suppress(IsthmusError):
                wire().encode_call(call, "m")
    if call.operation == "chat":
        with suppress(IsthmusError):
            constrain(call)


@pytest.mark.parametrize("wire", [*CLIENT_WIRES.values(), DEMANDING], ids=lambda wire: wire.name)
@settings(max_examples=30)
@given(odds)
def test_odd_requests_pass_or_are_refused(wire: Wire, odd: msgspec.Raw) -> None:
    for body in _everywhere(BODIES[wire.name], odd):
        with suppress(IsthmusError):
            envelope = wire.peek(body)
            _from_below(100, partial(wire.patch, envelope, "m"))


@given(odds)
def test_odd_feedback_is_read_or_refused(odd: msgspec.Raw) -> None:
    for body in _everywhere(FEEDBACK, odd):
        with _refused_for(Fault.INVALID_REQUEST):
            read(body, None, 0)


@pytest.mark.parametrize("name", BODIES)
def test_the_requests_are_sound_until_something_odd_is_in_them(name: str) -> None:
    wire = CLIENT_WIRES[name]
    estimate_tokens(wire.decode_call(wire.peek(msgspec.json.encode(BODIES[name]))))
