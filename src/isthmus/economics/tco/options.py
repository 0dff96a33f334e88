"""What each option of a case costs: an API by the token, a fleet of whole replicas by the month."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from isthmus.economics.tco.case import (
    HOURS_PER_MONTH,
    SECONDS_PER_MONTH,
    Api,
    Case,
    OnDemand,
    Owned,
    Spot,
    Stack,
    Tenure,
    Workload,
)

# A volume that fills a replica to the brim must not need another one because of the last binary digit.
_BRIM = 1e-9


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """A stack on machines that are had in one way; its costs depend on the volume in steps.

    `usd_per_replica_month` is what a replica costs that is there all the time, `overhead_usd` what people and
    support cost. A replica `carries` so many requests a month with the workload's ups and downs, and could
    answer `full` if it were busy all the time. `shape` are the levels that the fleet is scaled to, as shares
    of the busiest, each with its share of the time. An `escalated` share of requests costs
    `escalation_usd` each on top. `invested_usd` is paid up front for each replica, `running_usd` each month.
    """

    name: str
    how: str
    gpus: int
    spare: int
    usd_per_replica_month: float
    overhead_usd: float
    carries: float
    full: float
    shape: tuple[tuple[float, float], ...]
    escalated: float
    escalation_usd: float
    invested_usd: float
    running_usd: float

    def replicas(self, requests: float) -> float:
        """How many replicas that many requests a month need, on average over the time, the spare included."""
        load = requests / self.carries
        return self.spare + sum(
            share * max(1, math.ceil(load * level - _BRIM)) for level, share in self.shape
        )

    def fixed_usd(self, requests: float) -> float:
        """What a month costs at that volume apart from escalated requests."""
        return self.overhead_usd + self.replicas(requests) * self.usd_per_replica_month

    def usd(self, requests: float) -> float:
        """What a month costs at that volume."""
        return self.fixed_usd(requests) + requests * self.escalated * self.escalation_usd


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the answer. `replicas`, `gpus` and `utilisation` are None for an API.

    `utilisation` is the mean load as a share of what all replicas could answer if they were busy all the
    time. `parts` add up to `usd_per_month`.
    """

    name: str
    how: str
    usd_per_month: float
    usd_per_million_tokens: float
    usd_per_million_output: float
    usd_per_thousand_requests: float
    replicas: float | None = None
    gpus: float | None = None
    utilisation: float | None = None
    invested_usd: float = 0.0
    parts: dict[str, float]


def request_usd(api: Api, work: Workload) -> float:
    """What an API takes for a mean request."""
    # check() has refused an API without prices.
    assert api.input is not None
    assert api.output is not None
    read = work.input_tokens.value * work.cache_share.value
    cached = api.input if api.cache_read is None else api.cache_read
    return (
        (work.input_tokens.value - read) * api.input.value
        + read * cached.value
        + work.output_tokens.value * api.output.value
    ) / 1e6


def fleets(case: Case) -> list[Fleet]:
    """Every stack of the case on every kind of machines that it names."""
    return [
        _fleet(case, name, how, stack, tenure)
        for name, stack in case.stacks.items()
        for how, tenure in stack.tenures()
    ]


def options(case: Case) -> list[Option]:
    """What each option costs at the case's volume: the APIs first, then the fleets."""
    work = case.work
    return [_api_option(name, api, work) for name, api in case.apis.items()] + [
        _fleet_option(fleet, work) for fleet in fleets(case)
    ]


def _fleet(case: Case, name: str, how: str, stack: Stack, tenure: Tenure) -> Fleet:
    work = case.work
    full = stack.tokens_per_s.value * SECONDS_PER_MONTH / work.output_tokens.value
    kept = 1 - tenure.lost.value if isinstance(tenure, Spot) else 1.0
    planned = full * stack.derate.value * kept / (1 + case.quality.retried.value)
    owned = tenure if isinstance(tenure, Owned) else None
    return Fleet(
        name=f"{name} {how}",
        how=how,
        gpus=stack.gpus,
        spare=stack.spare,
        usd_per_replica_month=stack.gpus * _gpu_month_usd(tenure),
        overhead_usd=case.people.fte.value * case.people.usd_per_year.value / 12
        + case.people.support_usd_per_month.value,
        carries=planned * work.load,
        full=full,
        shape=_shape(work, tenure),
        escalated=case.quality.escalated.value,
        escalation_usd=request_usd(case.apis[case.escalation], work),
        invested_usd=stack.gpus * _bought_usd(owned) if owned else 0.0,
        running_usd=stack.gpus * (_running_usd(owned) if owned else _gpu_month_usd(tenure)),
    )


def _shape(work: Workload, tenure: Tenure) -> tuple[tuple[float, float], ...]:
    """The levels to which a fleet is scaled, each with its share of the time: one, unless it follows the
    load."""
    hours = work.hours
    if hours is None or not isinstance(tenure, OnDemand) or not tenure.follows_load:
        return ((1.0, 1.0),)
    return tuple((level, hours.count(level) / len(hours)) for level in sorted(set(hours)))


def _gpu_month_usd(tenure: Tenure) -> float:
    if isinstance(tenure, Owned):
        return _capital_usd(tenure) + _running_usd(tenure)
    return tenure.usd_per_gpu_hour.value * HOURS_PER_MONTH


def _bought_usd(owned: Owned) -> float:
    return owned.usd_per_gpu.value * (1 + owned.network.value)


def _capital_usd(owned: Owned) -> float:
    """A month of what was bought: the annuity of its price, less that of what is left of it at the end."""
    rate, years = owned.rate.value, owned.years.value
    growth = (1 + rate) ** years - 1
    sinking = rate / growth if growth > 0 else 1 / years
    return _bought_usd(owned) * (sinking + rate - owned.residual.value * sinking) / 12


def _running_usd(owned: Owned) -> float:
    """A month of a GPU's power, place and maintenance."""
    kw = owned.kw_per_gpu.value
    power = kw * owned.pue.value * owned.usd_per_kwh.value * HOURS_PER_MONTH
    upkeep = _bought_usd(owned) * owned.maintenance.value / 12
    return power + kw * owned.colocation_usd_per_kw_month.value + upkeep


def _api_option(name: str, api: Api, work: Workload) -> Option:
    usd = work.requests_per_month.value * request_usd(api, work)
    return _option(name, "api", usd, work, {"tokens": usd})


def _fleet_option(fleet: Fleet, work: Workload) -> Option:
    requests = work.requests_per_month.value
    replicas = fleet.replicas(requests)
    row = _option(fleet.name, fleet.how, fleet.usd(requests), work, dict(_parts(fleet, requests)))
    return msgspec.structs.replace(
        row,
        replicas=replicas,
        gpus=replicas * fleet.gpus,
        utilisation=requests / (replicas * fleet.full),
        invested_usd=replicas * fleet.invested_usd,
    )


def _parts(fleet: Fleet, requests: float) -> Iterator[tuple[str, float]]:
    yield "machines", fleet.replicas(requests) * fleet.usd_per_replica_month
    yield "people", fleet.overhead_usd
    yield "escalated", requests * fleet.escalated * fleet.escalation_usd


def _option(name: str, how: str, usd: float, work: Workload, parts: dict[str, float]) -> Option:
    requests = work.requests_per_month.value
    output = requests * work.output_tokens.value
    tokens = output + requests * work.input_tokens.value
    return Option(
        name=name,
        how=how,
        usd_per_month=usd,
        usd_per_million_tokens=usd / tokens * 1e6,
        usd_per_million_output=usd / output * 1e6,
        usd_per_thousand_requests=usd / requests * 1e3,
        parts=parts,
    )
