"""`tools`: the calls of tools that were to be made."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import unscorable
from isthmus.evals.scorers.structured import NoJsonError, equal, json_of


class Call(msgspec.Struct, frozen=True):
    """One call of a tool: its name, and its arguments as JSON, or None where they are none."""

    name: str
    arguments: Any


class Tools:
    """1 where the answer calls the target's tools and no others, with equal arguments, in any order."""

    binary = True

    def __init__(self, *, name: str = "tools") -> None:
        self.name = name

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0, and which calls differ.

        A target is JSON: a call such as `{"name": "weather", "arguments": {"city": "Oslo"}}`, or a list of
        them; OpenAI's own form will do, too. `[]` says that no tool is to be called.
        """
        if missing := unscorable(sample, answered):
            return missing
        try:
            targets = [_calls(json_of(target)) for target in sample.target]
        except (NoJsonError, msgspec.ValidationError) as error:
            return Score(value=None, why=f"the target is no call of a tool: {error}")
        made = answered.message.get("tool_calls") or []
        try:
            calls = _calls(made)
        except msgspec.ValidationError as error:
            return Score(
                value=0.0, said=msgspec.json.encode(made).decode(), why=f"a call is malformed: {error}"
            )
        said = msgspec.json.encode(calls).decode()
        differences = [_difference(calls, target) for target in targets]
        if None in differences:
            return Score(value=1.0, said=said)
        return Score(value=0.0, said=said, why=differences[0])


class _Named(msgspec.Struct):
    name: str
    arguments: Any = None


class _Function(msgspec.Struct):
    function: _Named


def _calls(document: Any) -> list[Call]:
    """The calls in a document. Raises msgspec.ValidationError where it holds something else."""
    each = document if isinstance(document, list) else [document]
    named = [
        msgspec.convert(it, _Function).function
        if isinstance(it, dict) and "function" in it
        else msgspec.convert(it, _Named)
        for it in each
    ]
    return [Call(it.name, _arguments(it.arguments)) for it in named]


def _arguments(arguments: Any) -> Any:
    """The arguments as JSON; on the wire they are a string that holds some, or is empty."""
    if isinstance(arguments, str) and arguments.strip():
        try:
            return json_of(arguments)
        except NoJsonError:
            return arguments
    return arguments or {}


def _difference(calls: list[Call], wanted: list[Call]) -> str | None:
    """What is wrong with the calls, or None where they are those that are wanted."""
    left = list(wanted)
    for call in calls:
        same = next((it for it in left if it.name == call.name and equal(it.arguments, call.arguments)), None)
        if same is None:
            named = any(it.name == call.name for it in left)
            return (
                f"`{call.name}` is called with other arguments"
                if named
                else f"`{call.name}` is not to be called"
            )
        left.remove(same)
    return f"`{left[0].name}` is not called" if left else None
