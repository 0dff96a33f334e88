"""inspect-ai's samples and logs: the words are ours, but messages are written in another way there.

Sources: inspect.aisi.org.uk/datasets.html, .../reference/inspect_ai.dataset.html (Sample),
.../eval-logs.html, .../reference/inspect_ai.log.html (EvalLog, EvalSample) and
.../reference/inspect_ai.model.html (ChatMessage, Content).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from isthmus.evals.datasets.faults import refused

_OF_THE_SANDBOX = ("sandbox", "files", "setup")
_OF_A_MESSAGE = ("role", "content", "name", "tool_calls", "tool_call_id")


def translate(value: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """The sample in our own form; one that is in our own form already stays as it is."""
    own = {name: it for name, it in value.items() if name not in _OF_THE_SANDBOX}
    for name in _OF_THE_SANDBOX:
        if value.get(name):
            left_out[f"`{name}` is left out: nothing is run in a sandbox here"] += 1
    if isinstance(own.get("input"), list):
        own["input"] = [_message(turn, left_out) for turn in own["input"]]
    return own


def is_log(document: Any) -> bool:
    """True for the log of an evaluation, as JSON."""
    return isinstance(document, dict) and {"eval", "samples"} <= document.keys()


def of_log(
    document: Mapping[str, Any], where: str, left_out: Counter[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of a log's first epoch, each with its place; the answer that was given is metadata."""
    samples = document["samples"]
    if not isinstance(samples, list):
        raise refused(
            where, "The log holds no samples.", "Write it anew with its samples (inspect log dump)."
        )
    for number, value in enumerate(samples):
        place = f"{where}: samples[{number}]"
        if not isinstance(value, dict) or "input" not in value:
            raise refused(place, "A sample of a log must be an object with `input`.")
        if value.get("epoch", 1) != 1:
            left_out["a further epoch of a sample is left out"] += 1
            continue
        given = _answer(value)
        metadata = value.get("metadata") or {}
        if given and isinstance(metadata, dict):
            metadata = {**metadata, "answer": given}
        own = {name: value.get(name) for name in ("id", "input", "target", "choices")}
        yield place, translate({**own, "metadata": metadata}, left_out)


def _answer(value: Mapping[str, Any]) -> str:
    """The text that the model answered with, as the log has it."""
    match value.get("output"):
        case {"completion": str(text)} if text:
            return text
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
    return ""


def _message(turn: Any, left_out: Counter[str]) -> Any:
    """A message in OpenAI's form; one that is so already stays as it is."""
    if not isinstance(turn, dict):
        return turn
    message = dict(turn)
    if turn.keys() - _OF_A_MESSAGE and "source" in turn:
        # What inspect-ai keeps for itself: id, source, model, metadata, error...
        message = {name: it for name, it in turn.items() if name in _OF_A_MESSAGE and it is not None}
    if isinstance(message.get("content"), list):
        parts = (_part(part, left_out) for part in message["content"])
        message["content"] = [part for part in parts if part is not None]
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return message


def _part(part: Any, left_out: Counter[str]) -> Any:
    match part:
        case {"type": "image", "image": str(url)}:
            return {"type": "image_url", "image_url": {"url": url, "detail": part.get("detail") or "auto"}}
        case {"type": "reasoning"}:
            left_out["the reasoning in an earlier answer is left out"] += 1
            return None
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
    return part


def _tool_call(call: Any) -> Any:
    match call:
        case {"function": str(name)}:
            arguments = call.get("arguments") or {}
            text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
            return {"id": call.get("id"), "type": "function", "function": {"name": name, "arguments": text}}
    return call
