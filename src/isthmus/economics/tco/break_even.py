"""From which volume on, and from which utilisation on, a fleet costs no more than an API.

An API's costs are a straight line through the origin. A fleet's are a staircase: it has whole replicas. So
the two may meet more than once, and both the first meeting and the last one are told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from isthmus.economics.tco.options import Fleet

SHOWN_STEPS = 12
# Where a request on a full replica saves less than this share of what the API takes for it, the staircase
# gets clear of the line at no volume that anybody has.
_HARDLY = 1e-3
_ROUNDING = 1e-9


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet of `replicas` that serve, besides the spare ones.

    It carries `requests` a month at most and costs `usd` then, where the API takes `api_usd`; what is
    escalated is left out of both. At `break_even_requests` they cost the same, None where that is not within
    this step. `utilisation` is the share of the time that all replicas would have to be busy for that.
    """

    replicas: int
    requests: float
    usd: float
    api_usd: float
    break_even_requests: float | None
    utilisation: float | None


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Where a fleet costs what an API costs; None for never.

    `first_requests` is the smallest volume a month at which both cost the same; from `lasting_requests` on
    the fleet stays the cheaper one. `utilisation` is how busy the replicas of the case's volume would have to
    be; more than 1 is out of reach.
    """

    option: str
    api: str
    first_requests: float | None
    lasting_requests: float | None
    utilisation: float | None
    steps: tuple[Step, ...]


def break_even(fleet: Fleet, api: str, api_usd: float, requests: float) -> BreakEven:
    """Where the fleet and the API meet; `api_usd` is what the API takes for a request."""
    saved = api_usd - fleet.escalated * fleet.escalation_usd
    meetings = _meetings(fleet, saved)
    return BreakEven(
        option=fleet.name,
        api=api,
        first_requests=meetings[0] if meetings else None,
        lasting_requests=meetings[-1] if meetings else None,
        utilisation=_utilisation(fleet, saved, fleet.replicas(requests)),
        steps=tuple(_steps(fleet, saved, meetings, requests)),
    )


def _meetings(fleet: Fleet, saved: float) -> list[float]:
    """The volumes at which the fleet becomes the cheaper one; `saved` is what it saves at the API by
    answering a request."""
    replica = fleet.usd_per_replica_month
    level = sum(level * share for level, share in fleet.shape)
    margin = saved - replica * level / fleet.carries
    if margin <= saved * _HARDLY:
        return []
    # The staircase lies between two straight lines that are a replica apart; so do all meetings.
    begin = (fleet.overhead_usd + fleet.spare * replica) / margin
    end = (fleet.overhead_usd + (fleet.spare + 1) * replica) / margin
    return [
        volume
        for low, high in pairwise(_edges(fleet, begin, end))
        if low < (volume := fleet.fixed_usd((low + high) / 2) / saved) <= high
    ]


def _edges(fleet: Fleet, begin: float, end: float) -> list[float]:
    """The volumes between `begin` and `end` at which the fleet grows, and a little beyond at both ends."""
    edges = {begin * (1 - _ROUNDING) - _ROUNDING, end * (1 + _ROUNDING)}
    for level, _ in fleet.shape:
        if level > 0:
            step = fleet.carries / level
            edges |= {number * step for number in range(math.ceil(begin / step), math.floor(end / step) + 1)}
    return sorted(edges)


def _utilisation(fleet: Fleet, saved: float, replicas: float) -> float | None:
    """How busy so many replicas have to be to cost what they save."""
    if saved <= 0:
        return None
    usd = fleet.overhead_usd + replicas * fleet.usd_per_replica_month
    return usd / (saved * replicas * fleet.full)


def _steps(fleet: Fleet, saved: float, meetings: list[float], requests: float) -> Iterator[Step]:
    """Steps from the first replica to well beyond the case's volume and the last meeting."""
    top = max(SHOWN_STEPS, math.ceil(max(2 * requests, *meetings[-1:], 0.0) / fleet.carries))
    for replicas in sorted({math.ceil(top * part / SHOWN_STEPS) for part in range(1, SHOWN_STEPS + 1)}):
        most = replicas * fleet.carries
        within = [volume for volume in meetings if most - fleet.carries < volume <= most]
        yield Step(
            replicas=replicas,
            requests=most,
            usd=fleet.fixed_usd(most),
            api_usd=most * saved,
            break_even_requests=within[0] if within else None,
            utilisation=_utilisation(fleet, saved, replicas + fleet.spare),
        )
