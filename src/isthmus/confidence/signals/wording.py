"""What the words of an answer show by themselves: refusals, hedges, length, and an end that came too soon."""

from __future__ import annotations

import re
from math import log1p

from isthmus.confidence.signals import Signals

_HEDGE = re.compile(
    r"\b(?:i'?m not (?:sure|certain)|not entirely sure|i (?:think|believe|guess|assume)|it (?:seems|appears)"
    r"|probably|possibly|perhaps|maybe|might be|could be|likely|unclear|as far as i know|to my knowledge"
    r"|approximately|presumably|hard to say|it depends)\b",
    re.IGNORECASE,
)
_REFUSAL_FIRST = re.compile(
    r"\W*(?:i['\u2019]?m (?:very |really |so )?sorry|i am sorry|sorry|unfortunately|i apologi[sz]e|"
    r"i can(?:no|['\u2019])t|i['\u2019]?m (?:unable|not able)|i am (?:unable|not able)|"
    r"i (?:do not|don['\u2019]t) have (?:access|the ability)|as an ai)\b",
    re.IGNORECASE,
)
"""How the answers begin that are none; English alone. An apology at the head of a good answer is taken for
one, and costs a call of the next model."""
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable)|i can(?:not|'t) (?:help|assist|answer|provide|do|determine|access)"
    r"|as an ai|i don'?t (?:know|have (?:access|enough))|cannot be determined|not enough information"
    r"|i won'?t)\b",
    re.IGNORECASE,
)
_ENOUGH = 4_000
"""Characters that are looked through: other requests wait meanwhile."""


def of_wording(text: str, finish: str | None = None) -> Signals:
    """Whether it is empty, refuses, hedges (for each hundred words), or was cut; how long it is."""
    length = log1p(len(text))
    text = text[:_ENOUGH].replace("\u2019", "'")
    words = len(text.split())
    return {
        "empty": float(not words),
        "refusal": float(_REFUSAL.search(text) is not None),
        "hedges": min(100 * len(_HEDGE.findall(text)) / max(words, 20), 20.0),
        "length": length,
        "cut": float(finish == "length"),
    }


def begins_with_refusal(text: str) -> bool:
    """True where an answer begins as those do that are none; what `of_wording` counts may stand anywhere."""
    return _REFUSAL_FIRST.match(text) is not None
