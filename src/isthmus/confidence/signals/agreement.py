"""Whether answers say the same: of other models, or of the same one when it is asked again.

Agreement-based cascading: S. Kolawole et al., arXiv:2407.02348; self-consistency: X. Wang et al., ICLR 2023.
For closed answers (a choice, a number, a name): two texts of free prose are hardly ever the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log

from isthmus.confidence.signals import Signals
from isthmus.core.answers import plain


def of_agreement(own: str, others: Sequence[str]) -> Signals:
    """The share of the other models that say the same; nothing where none was asked. An empty answer agrees
    with nobody."""
    if not others:
        return {}
    mine = plain(own)
    return {"agreement": sum(bool(mine) and plain(it) == mine for it in others) / len(others)}


def of_samples(own: str, samples: Sequence[str]) -> Signals:
    """The share of the samples that say the same as `own`, and their entropy over its most; nothing for fewer
    than two."""
    if len(samples) < 2:
        return {}
    counts = Counter(map(plain, samples))
    many = len(samples)
    entropy = -sum(count / many * log(count / many) for count in counts.values())
    mine = plain(own)
    return {
        "consistency": counts[mine] / many if mine else 0.0,
        "sample_entropy": entropy / log(many) + 0.0,
    }
