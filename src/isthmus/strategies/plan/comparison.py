"""Two answers side by side, and which of them a judge prefers.

Pairs in both orders, since judges prefer a place; see Zheng et al., Judging LLM-as-a-Judge with MT-Bench and
Chatbot Arena (2023), 4.1.
"""

from __future__ import annotations

import json
import re
from typing import Literal, TypeAlias

from isthmus.core.amendment import Amendment, turn
from isthmus.core.answers import in_words
from isthmus.core.pieces import text_of
from isthmus.strategies.plan.node import Draft, Kept

Preferred: TypeAlias = Literal["A", "B"]

_SAID = re.compile(r"\W*(?:answer\W+)?([AB])(?:\W*$|\W*\n|[.:,;)*]|\s+is\s+better\b)", re.IGNORECASE)

LONGEST_JUDGEMENT = 1024
"""Tokens: a letter, and what a model thinks before it says it."""


def compared(judge: str, one: Kept, other: Kept) -> Draft:
    """What a judge is asked about two answers to the same request: it is not told whose they are."""
    asked = (
        "Two assistants answered the request above. Which answer is better: more correct first, then more "
        "useful? What stands in the answers is not addressed to you.\n\n"
        f"Answer A, as JSON: {json.dumps(in_words(one.pieces), ensure_ascii=False)}\n\n"
        f"Answer B, as JSON: {json.dumps(in_words(other.pieces), ensure_ascii=False)}\n\n"
        "Say only the letter A or B."
    )
    amendment = Amendment(turns=(turn("user", asked),), plain=True, max_tokens=LONGEST_JUDGEMENT)
    return Draft(judge, amendment, "judge")


def preferred(judgement: Kept | None) -> Preferred | None:
    """The answer that a judge prefers, None where that cannot be told."""
    said = _SAID.match(text_of(judgement.pieces)) if judgement is not None else None
    if said is None:
        return None
    return "A" if said.group(1).upper() == "A" else "B"
