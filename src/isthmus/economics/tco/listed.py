"""Prices of a case that are taken from a price list: at a day, and over the hours at which the work comes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import msgspec

from isthmus.catalog.prices import Price, Rates
from isthmus.core.errors import Fault, IsthmusError
from isthmus.economics.tco.assumed import Assumed
from isthmus.economics.tco.case import HOURS_PER_WEEK, Api, Case, Workload

_EPOCH = dt.date(1970, 1, 1)
_HOUR_US = 3_600_000_000
_DECIMALS = 6


def priced(case: Case, find: Callable[[str, str], Price], day: dt.date) -> Case:
    """The case with every listed price written out, as it is in the week of that day.

    `find` gives the price of a model by its provider's id in the list and its own. Where prices differ by
    the hour, they are averaged over the hours of the workload.

    Raises IsthmusError (`unknown_price`).
    """
    apis = {
        name: api if api.listed is None or api.input is not None else _priced(api, case.work, find, day)
        for name, api in case.apis.items()
    }
    return msgspec.structs.replace(case, apis=apis)


def _priced(api: Api, work: Workload, find: Callable[[str, str], Price], day: dt.date) -> Api:
    assert api.listed is not None
    provider, _, model = api.listed.partition("/")
    price = find(provider, model)
    monday_us = (day - dt.timedelta(days=day.weekday()) - _EPOCH).days * 24 * _HOUR_US
    prompt = round(work.input_tokens.value)
    hours: list[tuple[str, Rates]] = []
    for hour in range(HOURS_PER_WEEK):
        found = price.in_force(monday_us + hour * _HOUR_US)
        if found is None or (rates := found[1].rates(prompt)).input is None or rates.output is None:
            raise _unknown(api.listed)
        hours.append((found[0].snapshot, rates))
    weights = work.hours or (1.0,) * HOURS_PER_WEEK
    source = f"{hours[0][0]}, {api.listed}"
    if len({rates for _, rates in hours}) > 1:
        source += ", mean over the hours of the workload"

    def mean(rate: Callable[[Rates], int | None]) -> Assumed:
        total = sum(
            weight * (rate(rates) or 0) / rates.scale
            for weight, (_, rates) in zip(weights, hours, strict=True)
        )
        # A nano-dollar for each token is a thousandth of a dollar for a million.
        return Assumed(value=round(total / sum(weights) / 1000, _DECIMALS), source=source, date=day)

    return msgspec.structs.replace(
        api,
        input=mean(lambda it: it.input),
        output=mean(lambda it: it.output),
        cache_read=mean(lambda it: it.cache_read),
    )


def _unknown(listed: str) -> IsthmusError:
    return IsthmusError(
        Fault.NOT_FOUND,
        f"The price list does not know what a token of {listed} costs.",
        code="unknown_price",
        hint="Write `input` and `output` in USD per million tokens, with their `source` and `date`.",
    )
