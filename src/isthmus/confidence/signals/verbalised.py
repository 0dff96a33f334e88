"""The confidence that a model states in words: "Confidence: 85%". Weak in small models, and too high in all.

M. Xiong et al., ICLR 2024, arXiv:2306.13063.
"""

from __future__ import annotations

import re

from isthmus.confidence.signals import Signals, of_probability

REQUEST = "End with a line `Confidence: N%`: how likely your answer is right."
"""What is asked for with the request."""

_STATED = re.compile(
    r"(?:confidence|confident|probability|certainty)\W{0,12}(?:(?:is|of|level)\W{1,4}){0,2}"
    r"(?P<number>\d{1,3}(?:\.\d+)?|\.\d+)\s*(?P<of>%|percent|/\s*100?\b)?",
    re.IGNORECASE,
)


def of_verbalised(text: str) -> Signals:
    """The last confidence that the text states; nothing where it states none, or one beyond 100 %."""
    found = list(_STATED.finditer(text[-2_000:]))
    if not found:
        return {}
    stated = found[-1]
    number, of = float(stated["number"]), (stated["of"] or "").replace(" ", "")
    if of == "/10":
        return of_probability("verbalised", number / 10)
    return of_probability("verbalised", number / 100 if of or number > 1 else number)
