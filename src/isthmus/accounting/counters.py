"""Running sums over records: what the metrics show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from isthmus.core.record import Outcome, Record
from isthmus.core.usage import Usage

_NOTHING = Usage()


class Series(NamedTuple):
    """What is counted apart: attempts by route, model, provider and outcome."""

    route: str
    model: str
    provider: str
    outcome: Outcome


class Sum(msgspec.Struct):
    """What the attempts of one series add up to.

    `nanousd` is the sum of the known charges; `unknown` is the number of attempts whose charge is not, so
    that a sum is never taken for the whole when it is not.
    """

    attempts: int = 0
    nanousd: int = 0
    unknown: int = 0
    usage: Usage = _NOTHING


class Counters:
    """A fold over records: each record's attempts are added to their series."""

    def __init__(self) -> None:
        self._sums: dict[Series, Sum] = {}

    def add(self, record: Record) -> None:
        """Adds every attempt of the record."""
        for attempt in record.attempts:
            series = Series(record.route, attempt.model, attempt.provider, attempt.outcome)
            found = self._sums.get(series)
            if found is None:
                found = self._sums[series] = Sum()
            found.attempts += 1
            if attempt.usage is not None:
                found.usage += attempt.usage
            if attempt.charge is None:
                continue
            if attempt.charge.nanousd is None:
                found.unknown += 1
            else:
                found.nanousd += attempt.charge.nanousd

    def __iter__(self) -> Iterator[tuple[Series, Sum]]:
        return iter(self._sums.items())
