"""OpenAI's fine-tuning files: what a model was taught to say is what it is asked for.

Three forms, one JSON object a line: conversations whose last turn is the assistant's (supervised; also those
without it and with fields of one's own, for reinforcement), preferred and other outputs, and the older
prompts with completions. Sources: developers.openai.com/api/docs/guides/supervised-fine-tuning,
.../guides/direct-preference-optimization, .../guides/reinforcement-fine-tuning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_PREFERENCE = {"input", "preferred_output"}
_COMPLETION = {"prompt", "completion"}
_OF_A_REQUEST = ("messages", "tools", "parallel_tool_calls", "response_format")


def recognises(value: Mapping[str, Any]) -> bool:
    """True for a line of such a file."""
    return (
        ("messages" in value and not value.keys() & {"input", "request"})
        or value.keys() >= _PREFERENCE
        or value.keys() >= _COMPLETION
    )


def translate(value: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """The line in our own form; what it cannot carry is counted."""
    if value.keys() >= _PREFERENCE:
        return _preference(value, left_out)
    if value.keys() >= _COMPLETION:
        others = {name: it for name, it in value.items() if name not in ("prompt", "completion")}
        completion = value["completion"]
        last = completion[-1] if isinstance(completion, list) and completion else completion
        return {"input": value["prompt"], "target": _stripped(_said(last, left_out)), "metadata": others}
    request = {name: value[name] for name in _OF_A_REQUEST if name in value}
    others = {name: it for name, it in value.items() if name not in _OF_A_REQUEST}
    asked, answer = _divided(value["messages"])
    target = None if answer is None else _said(answer, left_out)
    return {
        "request": {**request, "messages": [_unweighted(turn) for turn in asked]},
        "target": target,
        "metadata": others,
    }


def _preference(value: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    preferred, other = (value.get(name) for name in ("preferred_output", "non_preferred_output"))
    known = ("input", "preferred_output", "non_preferred_output")
    metadata = {name: it for name, it in value.items() if name not in known}
    last = preferred[-1] if isinstance(preferred, list) and preferred else preferred
    target = _said(last, left_out)
    return {"request": value["input"], "target": target, "metadata": {**metadata, "rejected": other}}


def _divided(turns: Any) -> tuple[Sequence[Any], Any]:
    """What is asked, and the last turn where it is the assistant's."""
    match turns:
        case [*asked, {"role": "assistant"} as answer] if asked:
            return asked, answer
        case list():
            return turns, None
    return [turns], None


def _said(answer: Any, left_out: Counter[str]) -> Any:
    """The good answer of an assistant's turn."""
    if not isinstance(answer, dict):
        return answer
    if answer.get("weight") == 0:
        left_out["the last answer has the weight 0: it is no target"] += 1
        return None
    if answer.get("tool_calls"):
        left_out["the last answer calls tools: the calls are the target, take the scorer tools"] += 1
        return msgspec.json.encode(answer["tool_calls"]).decode()
    return answer.get("content")


def _unweighted(turn: Any) -> Any:
    """The turn as a request has it; weights say what was learned, not what was said."""
    return {name: it for name, it in turn.items() if name != "weight"} if isinstance(turn, dict) else turn


def _stripped(completion: Any) -> Any:
    # Completions began with a space, by the advice of the time.
    return completion.strip() if isinstance(completion, str) else completion
