"""How often one model falls short of another, by an evaluation run. Pure."""

from __future__ import annotations

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.evals.outcome import Scores, values
from isthmus.statistics.intervals import Interval, proportion


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Of `n` samples that both models have a score for, those at which the one is worse than the other.

    `share` is the least share of requests that must be escalated to lose nothing: whoever does not know which
    they are escalates more.
    """

    worse: int
    n: int
    interval: Interval

    @property
    def share(self) -> float:
        """The share of the samples at which it is worse."""
        return self.worse / self.n


def gap(scores: Scores, model: str, other: str) -> Gap:
    """How often `model` is worse than the `other`. Raises IsthmusError (`nothing_compared`)."""
    mine, theirs = values(model, scores), values(other, scores)
    both = mine.keys() & theirs.keys()
    if not both:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The run has no sample that has a score for both {model!r} and {other!r}.",
            code="nothing_compared",
            hint="See `isthmus eval show` for its models and scorers.",
        )
    worse = sum(mine[sample] < theirs[sample] for sample in both)
    return Gap(worse=worse, n=len(both), interval=proportion(worse, len(both)))
