"""What a provider promises by contract of what it is sent, and what a request may ask of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta


class Promises(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised of what is sent, or asked to be.

    `no_training` is that nobody trains on it. `retention_days` is after how many days at most nothing of it
    is kept, 0 where nothing is ever kept. `dpa` is that an agreement on the processing of personal data has
    been signed. What is not said is not promised, and not asked for.
    """

    no_training: bool = False
    retention_days: Annotated[int, Meta(ge=0)] | None = None
    dpa: bool = False

    def join(self, other: Promises) -> Promises:
        """The least that holds both: associative, commutative, idempotent."""
        if self == other:
            return self
        days = [one.retention_days for one in (self, other) if one.retention_days is not None]
        return Promises(
            no_training=self.no_training or other.no_training,
            retention_days=min(days, default=None),
            dpa=self.dpa or other.dpa,
        )

    def lacks(self, asked: Promises) -> Promises:
        """What of that which is asked for is not promised here; `NO_PROMISES` where nothing is missing."""
        days = asked.retention_days
        kept = days is None or (self.retention_days is not None and self.retention_days <= days)
        return Promises(
            no_training=asked.no_training and not self.no_training,
            retention_days=None if kept else days,
            dpa=asked.dpa and not self.dpa,
        )

    def in_words(self) -> str:
        """The promises as a list; empty where there are none."""
        return ", ".join(self._words())

    def _words(self) -> Iterator[str]:
        if self.no_training:
            yield "no training"
        if self.retention_days is not None:
            yield f"at most {self.retention_days} days kept" if self.retention_days else "nothing kept"
        if self.dpa:
            yield "a data processing agreement"


NO_PROMISES = Promises()
"""What somebody promises of whom nothing is known, and what is asked where nothing is."""
