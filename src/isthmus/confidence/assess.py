"""Whether a kept answer is good enough, by what a strategy demands of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from isthmus.core.answers import same_as
from isthmus.core.call import Call
from isthmus.core.pieces import Finish, Piece, RefusalDelta, TextDelta, ToolCallStart, text_of
from isthmus.strategies.plan.node import Assess, Verdict

_CUT_SHORT = frozenset({"length", "content_filter", "context_length", "pause"})
_REFUSES = re.compile(
    r"\W*(?:i['\u2019]?m (?:very |really |so )?sorry|i am sorry|sorry|unfortunately|i apologi[sz]e|"
    r"i can(?:no|['\u2019])t|i['\u2019]?m (?:unable|not able)|i am (?:unable|not able)|"
    r"i (?:do not|don['\u2019]t) have (?:access|the ability)|as an ai)\b",
    re.IGNORECASE,
)
"""How the answers begin that are none; English alone. An apology at the head of a good answer is taken for
one, and costs a call of the next model."""


def assess(effect: Assess, call: Call) -> Verdict:
    """The verdict on a kept answer to this call: everything that is demanded must hold."""
    pieces, demanded = effect.kept.pieces, effect.by
    sureness = confidence_of(pieces)
    reasons = _faults(effect, call)
    first = next(reasons, None)
    if first is not None:
        return Verdict(False, sureness, first)
    return Verdict(True, sureness, "accepted" if demanded.logprob is None else f"{sureness:.2f} a token")


def confidence_of(pieces: Iterable[Piece]) -> float | None:
    """The geometric mean of the probabilities of the answer's tokens; None where they are not known."""
    logprobs = list(logprobs_of(pieces))
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


def logprobs_of(pieces: Iterable[Piece]) -> Iterator[float]:
    """The log-probability of each token of the first choice, where the model told them."""
    for piece in pieces:
        if isinstance(piece, TextDelta) and piece.choice == 0:
            for token in piece.logprobs or ():
                said = token.get("logprob") if isinstance(token, dict) else None
                if isinstance(said, int | float) and not math.isnan(said):
                    yield min(0.0, float(said))


def refuses(pieces: Sequence[Piece]) -> bool:
    """True for an answer that says, in words or by its end, that it is none."""
    if any(
        isinstance(it, RefusalDelta) or (isinstance(it, Finish) and it.reason == "refusal") for it in pieces
    ):
        return True
    calls = any(isinstance(it, ToolCallStart) for it in pieces)
    return not calls and _REFUSES.match(text_of(pieces)) is not None


def _faults(effect: Assess, call: Call) -> Iterator[str]:
    pieces, demanded = effect.kept.pieces, effect.by
    text = text_of(pieces)
    if not text.strip() and not any(isinstance(it, ToolCallStart) for it in pieces):
        yield "it says nothing"
    if demanded.complete:
        for piece in pieces:
            if isinstance(piece, Finish) and piece.reason in _CUT_SHORT:
                yield f"it was cut short ({piece.reason})"
    if not demanded.refuses and refuses(pieces):
        yield "it refuses"
    if demanded.schema and (fault := _misfit(text, call)) is not None:
        yield fault
    if demanded.logprob is not None:
        logprobs = list(logprobs_of(pieces))
        if not logprobs:
            yield "its model tells no log-probabilities"
        elif (mean := sum(logprobs) / len(logprobs)) < demanded.logprob:
            yield f"its mean log-probability is {mean:.2f}, below {demanded.logprob:g}"
    if demanded.agreement is not None:
        agreeing = sum(same_as(other.pieces, pieces) for other in effect.beside)
        share = agreeing / len(effect.beside) if effect.beside else 0.0
        if share < demanded.agreement:
            yield f"{agreeing} of {len(effect.beside)} others say the same"


def _misfit(text: str, call: Call) -> str | None:
    """Why this is not the JSON that the caller asked for; None where it is. It never quotes the answer."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "it is no JSON"
    schema = call.response_format.schema if call.response_format is not None else None
    if schema is None:
        return None
    try:
        import jsonschema
    except ImportError:
        return "its form cannot be checked without `pip install 'isthmus[evals]'`"
    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as fault:
        return f"its JSON does not fit the form at {fault.json_path}"
    except jsonschema.SchemaError:
        return "the form that was asked for is no JSON schema"
    return None
