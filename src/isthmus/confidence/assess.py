"""Whether a kept answer is good enough, by what a strategy demands of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from isthmus.confidence.form import misfit
from isthmus.confidence.self_check import probability_of_yes
from isthmus.confidence.signals.answer import of_answer
from isthmus.confidence.signals.wording import begins_with_refusal
from isthmus.core.answers import same_as, says_something
from isthmus.core.call import Call
from isthmus.core.pieces import Finish, Piece, RefusalDelta, ToolCallStart, text_of, tokens_of
from isthmus.dialects.counting import estimate_tokens
from isthmus.strategies.plan.node import Assess, Verdict

_CUT_SHORT = frozenset({"length", "content_filter", "context_length", "pause", "interrupted", "other"})


def assess(effect: Assess, call: Call) -> Verdict:
    """The verdict on a kept answer to this call: everything that is demanded must hold.

    The confidence is the least of what is known of it: by its calibration or its tokens, by others, and by
    its own check.
    """
    by_itself = _by_tokens(effect) if effect.by.calibration is None else _calibrated(effect, call)
    fault = next(_faults(effect, call, by_itself), None)
    known = [it for it in (by_itself, _agreement(effect), _checked(effect)) if it is not None]
    sureness = min(known, default=None)
    return Verdict(True, sureness, "accepted") if fault is None else Verdict(False, sureness, fault)


def refuses(pieces: Sequence[Piece]) -> bool:
    """True for an answer that says, in words or by its end, that it is none."""
    if any(
        isinstance(it, RefusalDelta) or (isinstance(it, Finish) and it.reason == "refusal") for it in pieces
    ):
        return True
    calls = any(isinstance(it, ToolCallStart) for it in pieces)
    return not calls and begins_with_refusal(text_of(pieces))


def _faults(effect: Assess, call: Call, by_itself: float | None) -> Iterator[str]:
    pieces, demanded = effect.kept.pieces, effect.by
    text = text_of(pieces)
    if not says_something(pieces):
        yield "it says nothing"
    if demanded.complete:
        for piece in pieces:
            if isinstance(piece, Finish) and piece.reason in _CUT_SHORT:
                yield f"it was cut short ({piece.reason})"
    if not demanded.refuses and refuses(pieces):
        yield "it refuses"
    if demanded.schema and (fault := misfit(text, call)) is not None:
        yield fault
    if demanded.logprob is not None:
        logprobs = _logprobs(pieces)
        if not logprobs:
            yield "its model tells no log-probabilities"
        elif (mean := sum(logprobs) / len(logprobs)) < demanded.logprob:
            yield f"its mean log-probability is {mean:.2f}, below {demanded.logprob:g}"
    if demanded.calibration is not None:
        least, weighed = demanded.calibration.threshold, demanded.calibration.weighs_costs
        if by_itself is None:
            yield "its model tells no log-probabilities"
        elif not by_itself >= least:
            among = " for what escalating costs" if weighed else ""
            yield f"its calibrated confidence{among} is {by_itself:.3f}, below {least:.3f}"
    if demanded.agreement is not None and (_agreement(effect) or 0.0) < demanded.agreement:
        yield f"{_agreeing(effect)} of {len(effect.beside)} others say the same"
    if demanded.self_check is not None and ((sure := _checked(effect)) or 0.0) < demanded.self_check:
        yield "it could not be checked" if sure is None else f"its own check gives it {sure:.2f}"


def _logprobs(pieces: Sequence[Piece]) -> list[float]:
    return [logprob for _, logprob in tokens_of(pieces)]


def _by_tokens(effect: Assess) -> float | None:
    """The geometric mean of the probabilities of the answer's tokens; None where they are not known."""
    logprobs = _logprobs(effect.kept.pieces)
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


def _calibrated(effect: Assess, call: Call) -> float | None:
    """The confidence by the step's calibration; None without log-probabilities, which it was fitted with."""
    pieces, calibration = effect.kept.pieces, effect.by.calibration
    calibrator = calibration.calibrator if calibration is not None else None
    logprobs = _logprobs(pieces)
    if calibrator is None or not logprobs:
        return None
    finish = next((it.reason for it in pieces if isinstance(it, Finish)), None)
    signals = of_answer(text_of(pieces), finish, logprobs)
    return calibrator.confidence(signals, estimate_tokens(call).tokens)


def _agreeing(effect: Assess) -> int:
    return sum(same_as(other.pieces, effect.kept.pieces) for other in effect.beside)


def _agreement(effect: Assess) -> float | None:
    return _agreeing(effect) / len(effect.beside) if effect.beside else None


def _checked(effect: Assess) -> float | None:
    return probability_of_yes(effect.check.pieces) if effect.check is not None else None
