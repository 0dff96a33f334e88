"""What can be seen of an answer that tells how far to trust it, one kind a file.

Each is a function to named numbers (`Signals`). A number that cannot be had is left out, never guessed: the
calibrator knows what to make of a gap. Signals of several kinds are joined as mappings are. What a model says
when it is asked whether an answer is right (`confidence.self_check`) is a probability: `of_probability`.
"""

from __future__ import annotations

from math import log, log1p
from typing import TypeAlias

Signals: TypeAlias = dict[str, float]

_SUREST = 1e-6


def of_probability(name: str, probability: float) -> Signals:
    """A probability as the two numbers that beta calibration takes: log p, and -log (1 - p).

    M. Kull, T. Silva Filho, P. Flach, AISTATS 2017. A linear model of both can bend a probability that is too
    sure on one side only. One of nought or one counts as a millionth from it. Not a number gives nothing.
    """
    if not 0 <= probability <= 1:
        return {}
    inside = min(max(probability, _SUREST), 1 - _SUREST)
    return {name: log(inside), f"{name}_against": -log1p(-inside)}
