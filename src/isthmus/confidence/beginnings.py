"""What the first tokens of an answer tell of all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from isthmus.confidence.assess import refuses
from isthmus.core.pieces import Piece, tokens_of
from isthmus.strategies.plan.node import Early, Opening


class Beginning(NamedTuple):
    """What an answer's beginning decides, how sure it is, and why, in words; both None before it decides."""

    opening: Opening
    confidence: float | None = None
    why: str | None = None


def beginning(pieces: Sequence[Piece], early: Early) -> Beginning:
    """What the first tokens decide by the mean of their log-probabilities.

    Its exponential, the geometric mean of their probabilities, is the confidence.
    """
    first = [logprob for _, logprob in islice(tokens_of(pieces), early.tokens)]
    if len(first) < early.tokens:
        return Beginning("short")
    mean = sum(first) / len(first)
    told = f"its first {len(first)} tokens have a mean log-probability of {mean:.2f}"
    if early.logprob is not None and mean < early.logprob:
        return Beginning("hopeless", math.exp(mean), f"{told}, below {early.logprob:g}: cut off")
    if early.surely is not None and mean >= early.surely and not refuses(pieces):
        return Beginning("sure", math.exp(mean), f"{told}: accepted by its beginning")
    return Beginning("open")
