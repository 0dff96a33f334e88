"""How long answers took, as counts in buckets: what is needed to mix one model's times with another's."""

from __future__ import annotations

import math
from collections.abc import Mapping

BUCKETS_PER_DOUBLING = 16
"""Neighbouring buckets differ by 4.4 %: so exact is every quantile."""

_SHORTEST_MS = 2.0**-10


class Spread:
    """Counts of times in milliseconds; a bucket holds what is alike to 4.4 %."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, float] = {}

    def add(self, ms: float) -> None:
        """Count one time."""
        bucket = math.floor(math.log2(max(ms, _SHORTEST_MS)) * BUCKETS_PER_DOUBLING)
        self.counts[bucket] = self.counts.get(bucket, 0.0) + 1.0

    def mix(self, other: Mapping[int, float], weight: float) -> None:
        """Count each of the others' times `weight` times."""
        for bucket, count in other.items():
            self.counts[bucket] = self.counts.get(bucket, 0.0) + weight * count

    @property
    def total(self) -> float:
        """How many times were counted."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """The time that this share stays below, in the middle of its bucket; None where there is none."""
        left = share * self.total
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0 and self.counts[bucket] > 0:
                return float(2.0 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING))
        return None
