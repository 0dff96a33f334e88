"""What flips the answer, and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from isthmus.economics.tco.assumed import Stated, assume, stated
from isthmus.economics.tco.case import Case
from isthmus.economics.tco.options import Option, options

DRAWS = 1000
_HALVINGS = 40


class Swing(msgspec.Struct, frozen=True, kw_only=True):
    """What one assumption alone does to the monthly saving, from its low to its high.

    `flips_at` is the value at which self-hosting and API change places, None where they do not within its
    range.
    """

    assumption: str
    value: float
    low: float
    high: float
    saving_at_low_usd: float
    saving_at_high_usd: float
    flips_at: float | None


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a month may cost: one in ten costs less than `p10`, half less than `p50`, nine less than `p90`.

    `chance_cheaper` is the share of draws in which it costs less than the first API; None for that one.
    """

    option: str
    p10_usd: float
    p50_usd: float
    p90_usd: float
    chance_cheaper: float | None


def cheapest_fleet(found: Sequence[Option]) -> Option | None:
    """The self-hosted option that costs least, None where there is none."""
    return min((it for it in found if it.how != "api"), key=lambda it: it.usd_per_month, default=None)


def tornado(case: Case) -> list[Swing]:
    """The swing of each assumption that has one, the widest first: the cheapest fleet against the first API.

    Nothing where the case has no fleet.
    """
    fleet = cheapest_fleet(options(case))
    if fleet is None:
        return []
    swings = [_swing(case, fleet.name, it) for it in stated(case) if it.low < it.high]
    moving = [it for it in swings if it.saving_at_low_usd != it.saving_at_high_usd]
    return sorted(moving, key=lambda it: -abs(it.saving_at_high_usd - it.saving_at_low_usd))


def outlook(case: Case, draw: Callable[[], float], draws: int = DRAWS) -> list[Outlook]:
    """What each option may cost when every assumption is drawn from its range; `draw` gives numbers in
    [0, 1).

    Each is drawn by a triangle from its low over its value to its high, on a scale of ratios where it has no
    zero: twice as much is as likely as half as much. None knows of the others.
    """
    ranges = [it for it in stated(case) if it.low < it.high]
    costs: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = {it.name: _drawn(it, draw()) for it in ranges}
        for option in options(assume(case, drawn)):
            costs.setdefault(option.name, []).append(option.usd_per_month)
    return [_outlook(name, usd, costs[case.first_api]) for name, usd in costs.items()]


def saving_usd(case: Case, option: str, against: str) -> float:
    """What a month costs less by `option` than by `against`."""
    usd = {it.name: it.usd_per_month for it in options(case)}
    return usd[against] - usd[option]


def _swing(case: Case, fleet: str, it: Stated) -> Swing:
    def saving(value: float) -> float:
        return saving_usd(assume(case, {it.name: value}), fleet, case.first_api)

    now, at_low, at_high = saving(it.value), saving(it.low), saving(it.high)
    flips_at = None
    for end, there in ((it.low, at_low), (it.high, at_high)):
        if (there > 0) != (now > 0):
            flips_at = _flip(saving, it.value, end)
            break
    return Swing(
        assumption=it.name,
        value=it.value,
        low=it.low,
        high=it.high,
        saving_at_low_usd=at_low,
        saving_at_high_usd=at_high,
        flips_at=flips_at,
    )


def _flip(saving: Callable[[float], float], here: float, there: float) -> float:
    """A value between the two at which the sign of the saving changes, as at `there` it is another."""
    cheaper = saving(here) > 0
    for _ in range(_HALVINGS):
        middle = (here + there) / 2
        if (saving(middle) > 0) == cheaper:
            here = middle
        else:
            there = middle
    return there


def _drawn(it: Stated, draw: float) -> float:
    if it.low <= 0:
        return _triangular(it.low, it.value, it.high, draw)
    return math.exp(_triangular(math.log(it.low), math.log(it.value), math.log(it.high), draw))


def _triangular(low: float, mode: float, high: float, draw: float) -> float:
    """The value below which a share `draw` of a triangular distribution lies."""
    width, rise = high - low, mode - low
    if draw * width < rise:
        return low + math.sqrt(draw * width * rise)
    return high - math.sqrt((1 - draw) * width * (high - mode))


def _outlook(name: str, usd: list[float], first: list[float]) -> Outlook:
    cheaper = sum(mine < theirs for mine, theirs in zip(usd, first, strict=True)) / len(usd)
    ordered = sorted(usd)
    return Outlook(
        option=name,
        p10_usd=quantile(ordered, 0.1),
        p50_usd=quantile(ordered, 0.5),
        p90_usd=quantile(ordered, 0.9),
        chance_cheaper=None if usd is first else cheaper,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of the ordered values lies, interpolated."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
