"""Single numbers of a case, by name: what tests expect of it, and what was claimed about it."""

from __future__ import annotations

import math

import msgspec

from isthmus.economics.tco.assumed import require
from isthmus.economics.tco.break_even import break_even
from isthmus.economics.tco.case import HOURS_PER_MONTH, Case, Claim, Expected, Figure
from isthmus.economics.tco.options import Fleet, Option, fleets, options, request_usd


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a case gives where something was expected of it, and whether that is what was expected."""

    figure: Figure
    option: str
    against: str
    found: float | None
    expected: str
    holds: bool


def figure(case: Case, name: Figure, option: str, against: str | None = None) -> float | None:
    """The figure of that name for the option, None where there is none ("never"); `against` is the other
    option where the figure compares two, by default the first API.

    Raises IsthmusError (`invalid_case`) where the figure does not fit the options.
    """
    rows = {it.name: it for it in options(case)}
    mine, other = rows[option], rows[against or case.first_api]
    match name:
        case "usd_per_month" | "usd_per_million_tokens" | "usd_per_million_output":
            return float(getattr(mine, name))
        case "usd_per_thousand_requests":
            return mine.usd_per_thousand_requests
        case "usd_per_busy_gpu_hour":
            return _busy_gpu_hour(mine)
        case "times_dearer":
            return mine.usd_per_month / other.usd_per_month if other.usd_per_month else None
        case "saving_usd_per_month":
            return other.usd_per_month - mine.usd_per_month
        case "payback_months":
            return _payback(case, mine, other)
    return _break_even(case, name, mine.name, other.name)


def verdicts(case: Case) -> list[Verdict]:
    """Each thing that the case expects of itself, and whether it holds."""
    return [_verdict(case, it) for it in case.expect]


def claimed(case: Case, claim: Claim) -> Verdict:
    """What was claimed about the case; `holds` is whether it does by our arithmetic."""
    found = figure(case, claim.figure, claim.option, claim.against)
    low = -math.inf if claim.at_least is None else claim.at_least
    high = math.inf if claim.at_most is None else claim.at_most
    return Verdict(
        figure=claim.figure,
        option=claim.option,
        against=claim.against or case.first_api,
        found=found,
        expected=f"{low:g} to {high:g}",
        holds=found is not None and low <= found <= high,
    )


def _verdict(case: Case, it: Expected) -> Verdict:
    found = figure(case, it.figure, it.option, it.against)
    if found is None or it.value is None:
        holds = found is it.value
    else:
        holds = math.isclose(found, it.value, rel_tol=it.within)
    return Verdict(
        figure=it.figure,
        option=it.option,
        against=it.against or case.first_api,
        found=found,
        expected="never" if it.value is None else f"{it.value:g}",
        holds=holds,
    )


def _busy_gpu_hour(row: Option) -> float | None:
    if row.gpus is None or row.utilisation is None:
        return None
    return row.usd_per_month / (row.gpus * HOURS_PER_MONTH * row.utilisation)


def _payback(case: Case, mine: Option, other: Option) -> float | None:
    """After how many months what was bought has paid for itself out of lower running costs."""
    fleet = _fleets(case).get(mine.name)
    if fleet is None or mine.replicas is None:
        return None
    capital = mine.replicas * (fleet.usd_per_replica_month - fleet.running_usd)
    saved = other.usd_per_month - (mine.usd_per_month - capital)
    return mine.invested_usd / saved if saved > 0 else None


def _break_even(case: Case, name: Figure, option: str, against: str) -> float | None:
    known = _fleets(case)
    if against in known:
        if name != "break_even_utilisation":
            require([f"`{name}` compares a fleet with an API, and `{against}` is a fleet"])
        # Machines that are always there against machines that are paid by the hour of use.
        mine, other = known[option], known[against]
        return mine.usd_per_replica_month / other.usd_per_replica_month
    if option not in known:
        require([f"`{name}` is about a fleet, and `{option}` is an API"])
    work = case.work
    usd = request_usd(case.apis[against], work)
    found = break_even(known[option], against, usd, work.requests_per_month.value)
    if name == "break_even_utilisation":
        return found.utilisation
    requests = found.first_requests
    if name == "break_even_output_tokens" and requests is not None:
        return requests * work.output_tokens.value
    return requests


def _fleets(case: Case) -> dict[str, Fleet]:
    return {it.name: it for it in fleets(case)}
