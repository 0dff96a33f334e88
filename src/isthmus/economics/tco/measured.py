"""A workload out of what a ledger has added up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.traffic import HourOfWeek
from isthmus.economics.tco.assumed import Assumed
from isthmus.economics.tco.case import HOURS_PER_WEEK, SECONDS_PER_MONTH, Workload

WEEK_S = HOURS_PER_WEEK * 3600.0


def measured_workload(hours: Sequence[HourOfWeek], seconds: float, source: str, day: dt.date) -> Workload:
    """The workload that came in so many seconds until `day`, as one of a month.

    The hours of the week count only where a whole week was seen. Raises IsthmusError (`no_traffic`).
    """
    requests = sum(it.requests for it in hours)
    output = sum(it.output for it in hours)
    if requests == 0 or output == 0:
        raise IsthmusError(
            Fault.NOT_FOUND,
            "The ledger has no answered chat that would be meant.",
            code="no_traffic",
            hint="Say a longer `--since`, another `--route`, or give the case a `workload`.",
        )
    prompt = sum(it.prompt for it in hours)
    cached = sum(it.cached for it in hours)

    def known(value: float) -> Assumed:
        return Assumed(value=value, source=source, date=day)

    return Workload(
        requests_per_month=known(requests * SECONDS_PER_MONTH / seconds),
        input_tokens=known(prompt / requests),
        output_tokens=known(output / requests),
        cache_share=known(cached / prompt if prompt else 0.0),
        week=_week(hours) if seconds >= WEEK_S else None,
    )


def _week(hours: Sequence[HourOfWeek]) -> tuple[float, ...]:
    seen = {it.hour: float(it.requests) for it in hours}
    return tuple(seen.get(hour, 0.0) for hour in range(HOURS_PER_WEEK))
