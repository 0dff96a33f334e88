"""What a ledger adds up to: traffic without the single requests."""

from __future__ import annotations

import msgspec

from isthmus.core.call import Operation
from isthmus.core.label import Label
from isthmus.core.usage import Usage


class HourOfWeek(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of an hour of the week.

    `hour` is 0 to 167, from Monday 0:00 UTC on. The tokens of `cached` are a part of those of `prompt`.
    """

    hour: int
    requests: int
    prompt: int
    cached: int
    output: int


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """All answered requests of one route that were decided alike, in one hour of the day, by one model.

    `label` and `pseudonymised` are the decision's; `hour` is in UTC. `usage` is the sum, `nanousd` the sum
    of the charges that were known, and `unpriced` how many were not.
    """

    route: str
    operation: Operation
    label: Label
    pseudonymised: frozenset[str]
    model: str
    hour: int
    requests: int
    usage: Usage
    nanousd: int
    unpriced: int
