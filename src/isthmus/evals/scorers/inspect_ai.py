"""`inspect`: a scorer of inspect-ai (https://inspect.aisi.org.uk/scorers.html) that needs an answer alone.

It is given a `TaskState` and a `Target` as inspect-ai makes them. What a solver of inspect-ai leaves in the
state (marked choices, a sandbox) is not there. A scorer that asks a model does so by inspect-ai's own ways,
past the perimeter: use `judge` instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import msgspec

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable
from isthmus.evals.scorers.function import called, function_of
from isthmus.evals.scorers.spec import invalid, library

_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""What inspect-ai calls CORRECT, INCORRECT, PARTIAL and NOANSWER."""

_STOPS = {
    "stop": "stop",
    "length": "max_tokens",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


class InspectAi:
    """What the scorer says that a function of inspect-ai's kind makes, called without arguments."""

    binary = False

    def __init__(self, factory: str, *, name: str = "inspect") -> None:
        """`factory` is written `package.module:function`. Raises IsthmusError (`invalid_scorer`)."""
        self.name = name
        self._inspect = library("inspect_ai", "inspect")
        try:
            self._scorer = function_of(factory)()
        except TypeError as error:
            raise invalid(f"{factory} makes no scorer: {error}.", "It is called without arguments.") from None
        if not callable(self._scorer):
            raise invalid(f"{factory} makes {type(self._scorer).__name__}, which is no scorer.")

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """Its value from 0 to 1; of several values their mean, and `why` says which."""
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        try:
            said = await called(self._scorer, *self._given(sample, answered))
            value = value_of(said.value)
        except (Exception, SystemExit) as error:
            return Score(value=None, why=f"{self.name} failed: {type(error).__name__}: {error}")
        why = said.explanation or (None if value is not None else f"its value is {said.value!r:.100}")
        return Score(value=value, said=said.answer, why=why)

    def _given(self, sample: Sample, answered: Answered) -> tuple[Any, Any]:
        """The state and the target that the scorer is called with."""
        model = self._inspect.model
        asked = [self._message(it) for it in sample.request.get("messages", ())]
        answer = self._message({**answered.message, "role": "assistant", "content": text_of(answered)})
        choice = model.ChatCompletionChoice(
            message=answer, stop_reason=_STOPS.get(answered.finish or "", "unknown")
        )
        target = self._inspect.scorer.Target(sample.target)
        state = self._inspect.solver.TaskState(
            model=model.ModelName(f"isthmus/{answered.model}"),
            sample_id=sample.id,
            epoch=1,
            input=asked,
            messages=[*asked, answer],
            target=target,
            choices=list(sample.choices),
            output=model.ModelOutput(model=answered.model, choices=[choice]),
            completed=True,
            metadata=dict(sample.metadata),
        )
        return state, target

    def _message(self, message: Mapping[str, Any]) -> Any:
        """A message of OpenAI's dialect as inspect-ai's; of its content the text alone."""
        model, content = self._inspect.model, message.get("content") or ""
        if not isinstance(content, str):
            content = "\n".join(part["text"] for part in content if "text" in part)
        match message.get("role"):
            case "assistant":
                calls = [self._call(call["id"], call["function"]) for call in message.get("tool_calls") or ()]
                return model.ChatMessageAssistant(content=content, tool_calls=calls or None)
            case "system" | "developer":
                return model.ChatMessageSystem(content=content)
            case "tool":
                return model.ChatMessageTool(content=content, tool_call_id=message.get("tool_call_id"))
            case _:
                return model.ChatMessageUser(content=content)

    def _call(self, id_: str, function: Mapping[str, str]) -> Any:
        try:
            arguments = msgspec.json.decode(function["arguments"] or "{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            return self._inspect.tool.ToolCall(id_, function["name"], {}, parse_error=str(error))
        return self._inspect.tool.ToolCall(id_, function["name"], arguments)


def value_of(value: Any) -> float | None:
    """A value of inspect-ai as a number from 0 to 1, of several their mean; None where it is none."""
    if isinstance(value, str):
        return _GRADES.get(value)
    if isinstance(value, bool | int | float):
        return float(value) if math.isfinite(value) and 0 <= value <= 1 else None
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    each = [number for one in several if (number := value_of(one)) is not None]
    return fmean(each) if each and len(each) == len(several) else None
