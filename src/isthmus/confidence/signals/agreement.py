"""Whether answers say the same: of other models, or of the same one when it is asked again.

Agreement-based cascading: S. Kolawole et al., arXiv:2407.02348; self-consistency: X. Wang et al., ICLR 2023.
For closed answers (a choice, a number, a name): two texts of free prose are hardly ever the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log

from isthmus.confidence.signals import Signals

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_EDGES = " \t\r\n.,;:!?\"'`*()[]{}$%"


def canonical(answer: str) -> str:
    """The answer in the form in which it is compared: no case, no marks around it, numbers written alike."""
    words = " ".join(answer.casefold().split()).strip(_EDGES)
    if _NUMBER.fullmatch(words):
        value = float(words.replace(",", ""))
        return f"{value:.12g}"
    return words


def of_agreement(own: str, others: Sequence[str]) -> Signals:
    """The share of the other models that say the same; nothing where none was asked. An empty answer agrees
    with nobody."""
    if not others:
        return {}
    mine = canonical(own)
    return {"agreement": sum(bool(mine) and canonical(it) == mine for it in others) / len(others)}


def of_samples(own: str, samples: Sequence[str]) -> Signals:
    """The share of the samples that say the same as `own`, and their entropy over its most; nothing for fewer
    than two."""
    if len(samples) < 2:
        return {}
    counts = Counter(map(canonical, samples))
    many = len(samples)
    entropy = -sum(count / many * log(count / many) for count in counts.values())
    mine = canonical(own)
    return {
        "consistency": counts[mine] / many if mine else 0.0,
        "sample_entropy": entropy / log(many) + 0.0,
    }
