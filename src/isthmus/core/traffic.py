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


class Hour(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of one hour to one route that one model answered.

    `at_us` is the hour's begin. `usage` is the sum of what is known, `nanousd` that of the charges that are;
    of `unpriced` requests the charge is not known. `model` is None where none answered.
    """

    at_us: int
    route: str
    model: str | None
    requests: int
    usage: Usage
    nanousd: int
    unpriced: int


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to one name: requests, USD as nano-dollars, and how many requests have no known charge."""

    name: str
    requests: int
    nanousd: int
    unpriced: int
