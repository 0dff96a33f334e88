"""What a month will have cost by its end, and which days were unlike the others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from statistics import median

import msgspec

from isthmus.economics.tco.uncertainty import quantile

LOOK_BACK = 28
"""How many days tell what a day costs: four whole weeks."""

_FEWEST = 7
_DRAWS = 1000
# Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): a modified z-score beyond 3.5.
_UNLIKE = 3.5
_MAD_TO_SIGMA = 1.4826


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What `month` will have cost by its end, in USD, of which `so_far_usd` is spent; it rests on `days`."""

    month: str
    so_far_usd: float
    p10_usd: float
    p50_usd: float
    p90_usd: float
    days: int


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """A day on which `name` cost `usd`, where `usual_usd` was the median of the days before."""

    day: dt.date
    name: str
    usd: float
    usual_usd: float


def forecast(
    spent: Mapping[dt.date, float],
    today: dt.date,
    dearer: Callable[[dt.date], float],
    draw: Callable[[], float],
) -> Forecast | None:
    """The forecast for the month of `today`; None where less than a week of whole days is known.

    `spent` has the days before today, in USD, and what of today is known. Each day that is left is drawn from
    the last four weeks: days of the same weekday where there are such, else any. `dearer` is by how much more
    the same traffic costs on a day to come, by the prices that are announced; `draw` gives numbers in [0, 1).
    """
    known = [day for day in _before(today) if day in spent]
    if len(known) < _FEWEST:
        return None
    month = [today.replace(day=1) + dt.timedelta(days=number) for number in range(31)]
    month = [day for day in month if day.month == today.month]
    so_far = sum(spent.get(day, 0.0) for day in month if day <= today)
    like = {
        day: [spent[it] for it in known if it.weekday() == day.weekday()] or [spent[it] for it in known]
        for day in month
        if day >= today
    }
    ends = sorted(
        sum(spent.get(day, 0.0) for day in month if day < today)
        + sum(_drawn(day, today, days, spent, draw()) * dearer(day) for day, days in like.items())
        for _ in range(_DRAWS)
    )
    return Forecast(
        month=f"{today:%Y-%m}",
        so_far_usd=so_far,
        p10_usd=quantile(ends, 0.1),
        p50_usd=quantile(ends, 0.5),
        p90_usd=quantile(ends, 0.9),
        days=len(known),
    )


def anomalies(name: str, spent: Mapping[dt.date, float], today: dt.date) -> list[Anomaly]:
    """The whole days that cost far more or less than the four weeks before each, by a robust score."""
    found = []
    for day, usd in sorted(spent.items()):
        before = [spent[it] for it in _before(day) if it in spent]
        if day >= today or len(before) < _FEWEST:
            continue
        usual = median(before)
        spread = _MAD_TO_SIGMA * median(abs(it - usual) for it in before)
        # Days that are all alike have no spread: then a tenth of the usual counts as one.
        if abs(usd - usual) > _UNLIKE * max(spread, usual / 10):
            found.append(Anomaly(day=day, name=name, usd=usd, usual_usd=usual))
    return found


def _before(day: dt.date) -> list[dt.date]:
    return [day - dt.timedelta(days=number) for number in range(1, LOOK_BACK + 1)]


def _drawn(
    day: dt.date, today: dt.date, days: list[float], spent: Mapping[dt.date, float], draw: float
) -> float:
    """What a day will cost; what of today is spent already is the least that it can."""
    usd = days[int(draw * len(days))]
    return max(usd, spent.get(day, 0.0)) if day == today else usd
