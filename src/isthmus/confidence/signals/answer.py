"""Every signal that an answer shows by itself, without another call: its tokens and its words."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.confidence.signals import Signals
from isthmus.confidence.signals.logprobs import of_logprobs
from isthmus.confidence.signals.wording import of_wording


def of_answer(text: str, finish: str | None, logprobs: Sequence[float]) -> Signals:
    """What a calibrator of a cascade's step goes by, when it is fitted and when it serves."""
    return of_logprobs(logprobs) | of_wording(text, finish)
