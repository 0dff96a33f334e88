"""What a model says when it is asked whether an answer is right: P(True).

S. Kadavath et al., "Language Models (Mostly) Know What They Know", arXiv:2207.05221. Models of a billion
parameters do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, isfinite

from isthmus.confidence.signals import Signals, of_probability

QUESTION = "Is this answer right? Say yes or no, and nothing else."
"""What is asked after the request and its answer."""

_YES = frozenset({"yes", "y", "true", "right", "correct"})
_NO = frozenset({"no", "n", "false", "wrong", "incorrect"})


def of_self_check(first_token: Mapping[str, float]) -> Signals:
    """By the log-probabilities of the alternatives for the first token of what was said: the share of yes.

    Nothing where neither yes nor no is among them.
    """
    yes, no = (_mass(first_token, words) for words in (_YES, _NO))
    return of_probability("self_check", yes / (yes + no)) if yes + no > 0 else {}


def _mass(first_token: Mapping[str, float], words: frozenset[str]) -> float:
    return sum(
        exp(min(logprob, 0.0))
        for token, logprob in first_token.items()
        if isfinite(logprob) and token.strip().strip(".,!").casefold() in words
    )
