"""The log-probabilities that a model gave its own tokens.

Low quantiles and the mean tell of long answers what the sum hides behind their length (N. Gupta et al.,
"Language Model Cascades: Token-level uncertainty and beyond", ICLR 2024, arXiv:2404.10136).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite, log1p

from isthmus.confidence.signals import Signals, of_probability

_LEAST = -50.0


def of_logprobs(logprobs: Sequence[float]) -> Signals:
    """Minimum, tenth, median, mean, first token, and length; of one token its probability, as well."""
    found = sorted(max(it, _LEAST) for it in logprobs if it <= 0 or not isfinite(it))
    found = [it for it in found if it == it]
    if not found or len(found) < len(logprobs):
        return {}
    if len(found) == 1:
        return of_probability("token", exp(found[0]))
    return {
        "logprob_min": found[0],
        "logprob_p10": _quantile(found, 0.1),
        "logprob_p50": _quantile(found, 0.5),
        "logprob_mean": sum(found) / len(found),
        "logprob_first": max(logprobs[0], _LEAST),
        "tokens": log1p(len(found)),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
