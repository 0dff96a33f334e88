"""What a model thinks of its own answer, when it is asked whether that is right.

P(True) of Kadavath et al., Language Models (Mostly) Know What They Know (2022), 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from isthmus.core.pieces import Piece, text_of, tokens_of

_SAID = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def probability_of_yes(pieces: Iterable[Piece]) -> float | None:
    """The probability of Yes by a model that was to say Yes or No; None where it said neither.

    It is that of the token that said so. Without log-probabilities, the word alone counts: 1 or 0.
    """
    pieces = list(pieces)
    said = _SAID.match(text_of(pieces))
    if said is None:
        return None
    word = said.group(1).casefold()
    letters = ((token.strip().casefold(), it) for token, it in tokens_of(pieces))
    logprob = next((it for token, it in letters if token and word.startswith(token)), 0.0)
    sure = math.exp(logprob)
    return sure if word == "yes" else 1.0 - sure
