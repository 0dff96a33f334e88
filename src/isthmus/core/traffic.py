"""What a ledger adds up to: traffic without the single requests."""

from __future__ import annotations

import msgspec


class HourOfWeek(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of an hour of the week.

    `hour` is 0 to 167, from Monday 0:00 UTC on. The tokens of `cached` are a part of those of `prompt`.
    """

    hour: int
    requests: int
    prompt: int
    cached: int
    output: int
