"""A case: one workload, the APIs that could serve it, and the machines that could serve it instead.

What nobody said is assumed on the honest side, and every such number names its source.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.economics.tco.assumed import Amount, Assumed, out_of_order, require

HOURS_PER_WEEK = 168
HOURS_PER_MONTH = 730.0
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600

_OURS = "default of Isthmus"
_OFFICE = tuple(1.0 if hour // 24 < 5 and 8 <= hour % 24 < 18 else 0.1 for hour in range(HOURS_PER_WEEK))

UTILISATION = Assumed(
    value=0.25, source=f"{_OURS}: 23,000 clusters averaged 5 % (Cast AI), owners hope for 50 to 80 %"
)
BURST = Assumed(
    value=2.0, source=f"{_OURS}: bursty arrivals keep their latency up to half of capacity (simulated)"
)
DERATE = Assumed(
    value=0.8, source=f"{_OURS}: at the full estimate 12 to 30 % of fleets were too small, at 0.8 3 to 8 %"
)
FTE = Assumed(value=0.5, source=f"{_OURS}: half a person, on average, keeps a service of its own alive")
USD_PER_YEAR = Assumed(value=180_000.0, source=f"{_OURS}: an engineer with overheads (xqa.io names 180,000)")
NO_SUPPORT = Assumed(value=0.0, source=f"{_OURS}: no support contract")
NO_CACHE = Assumed(value=0.0, source=f"{_OURS}: nothing is read from a cache")
YEARS = Assumed(value=4.0, source=f"{_OURS}: written off over four years")
RATE = Assumed(value=0.08, source=f"{_OURS}: cost of capital of 8 % a year")
RESIDUAL = Assumed(value=0.1, source=f"{_OURS}: a tenth of the price is left at the end")
PUE = Assumed(
    value=1.56, source="Uptime Institute, global survey: average of data centres", date=dt.date(2024, 7, 1)
)
USD_PER_KWH = Assumed(value=0.15, source=f"{_OURS}: a commercial contract")
COLOCATION = Assumed(value=180.0, source=f"{_OURS}: asked for a kilowatt and month in large markets")
MAINTENANCE = Assumed(value=0.04, source=f"{_OURS}: 3 to 5 % of the price a year")
NETWORK = Assumed(
    value=0.1, source=f"{_OURS}: switches, cables and storage, as a share of the servers' price"
)

Figure: TypeAlias = Literal[
    "usd_per_month",
    "usd_per_million_tokens",
    "usd_per_million_output",
    "usd_per_thousand_requests",
    "usd_per_busy_gpu_hour",
    "times_dearer",
    "saving_usd_per_month",
    "break_even_requests",
    "break_even_output_tokens",
    "break_even_utilisation",
    "payback_months",
]


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be answered.

    `input_tokens` and `output_tokens` are the means of a request, `cache_share` the share of the input that
    is read from a cache. `week` is the volume of each hour of the week from Monday 0:00 UTC on, in any unit:
    168 numbers, or `flat`, or `office`. With it the busiest hour sets the size, and `burst` is how much more
    than that hour's mean has to be carried. Without it `utilisation` is the mean load as a share of what has
    to be carried.
    """

    requests_per_month: Assumed
    input_tokens: Assumed
    output_tokens: Assumed
    cache_share: Assumed = NO_CACHE
    week: tuple[Amount, ...] | Literal["flat", "office"] | None = None
    burst: Assumed | None = None
    utilisation: Assumed | None = None

    def __post_init__(self) -> None:
        # Only what counts is assumed, so that no report names an assumption on which nothing rests.
        if self.week is None and self.utilisation is None:
            msgspec.structs.force_setattr(self, "utilisation", UTILISATION)
        if self.week is not None and self.burst is None:
            msgspec.structs.force_setattr(self, "burst", BURST)

    @property
    def hours(self) -> tuple[float, ...] | None:
        """The volume of each hour of the week as a share of the busiest one's, None where not known."""
        match self.week:
            case None:
                return None
            case "flat":
                return (1.0,) * HOURS_PER_WEEK
            case "office":
                return _OFFICE
        busiest = max(self.week)
        return tuple(hour / busiest for hour in self.week)

    @property
    def load(self) -> float:
        """The mean load as a share of what has to be carried."""
        hours = self.hours
        if hours is None:
            return (self.utilisation or UTILISATION).value
        return sum(hours) / len(hours) / (self.burst or BURST).value


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is paid by the token, in USD per million.

    `cache_read` is what `input` is unless it is said. `listed` names provider and model in genai-prices, as
    in `anthropic/claude-sonnet-5`; then the prices come from there.
    """

    input: Assumed | None = None
    output: Assumed | None = None
    cache_read: Assumed | None = None
    listed: str | None = None


class OnDemand(msgspec.Struct, frozen=True, kw_only=True):
    """Machines by the hour. With `follows_load` they are given back in quiet hours of the `week`."""

    usd_per_gpu_hour: Assumed
    follows_load: bool = False


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """Machines by a contract of a year or more: paid whether they are used or not."""

    usd_per_gpu_hour: Assumed


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """Machines that may be taken away: `lost` is the share of the time for which they are."""

    usd_per_gpu_hour: Assumed
    lost: Assumed


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """Machines of your own.

    `usd_per_gpu` is the price of a server divided by its GPUs, `network` what is bought beside it as a share
    of that, `residual` what is left of both after `years`; `rate` is the cost of capital a year. `kw_per_gpu`
    is a GPU's share of the server's power. `maintenance` is a share of all that was bought, a year.
    """

    usd_per_gpu: Assumed
    kw_per_gpu: Assumed
    years: Assumed = YEARS
    rate: Assumed = RATE
    residual: Assumed = RESIDUAL
    network: Assumed = NETWORK
    pue: Assumed = PUE
    usd_per_kwh: Assumed = USD_PER_KWH
    colocation_usd_per_kw_month: Assumed = COLOCATION
    maintenance: Assumed = MAINTENANCE


Tenure: TypeAlias = OnDemand | Reserved | Spot | Owned


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A model on machines, and the ways to have the machines.

    A replica takes `gpus` and writes `tokens_per_s` (output tokens, measured with this workload's lengths at
    the latency that you promise). `derate` is the share of that to plan with; `spare` replicas stand by.
    """

    tokens_per_s: Assumed
    gpus: Annotated[int, Meta(ge=1)] = 1
    derate: Assumed = DERATE
    spare: Annotated[int, Meta(ge=0)] = 1
    on_demand: OnDemand | None = None
    reserved: Reserved | None = None
    spot: Spot | None = None
    owned: Owned | None = None

    def tenures(self) -> Iterator[tuple[str, Tenure]]:
        """The ways to have the machines that the case gives, with their names."""
        for name, tenure in (
            ("on demand", self.on_demand),
            ("reserved", self.reserved),
            ("spot", self.spot),
            ("owned", self.owned),
        ):
            if tenure is not None:
                yield name, tenure


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How much worse the self-hosted model is, as what that costs. There is no default: evaluate it.

    `escalated` is the share of requests that an API must answer after all, `to` its name (by default the
    first). `retried` is the share that the self-hosted model has to answer twice.
    """

    escalated: Assumed
    retried: Assumed
    to: str | None = None


class People(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps the machines running, and what is paid for support."""

    fte: Assumed = FTE
    usd_per_year: Assumed = USD_PER_YEAR
    support_usd_per_month: Assumed = NO_SUPPORT


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """A number that the case is known to give; without `value` it is known to give none ("never").

    `against` names the other option where a figure compares two; by default the first API.
    """

    figure: Figure
    option: str
    against: str | None = None
    value: float | None = None
    within: Amount = 0.001


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has published about the case: the figure lies between `at_least` and `at_most`.

    `holds` says whether it does by our arithmetic, `because` why, in words.
    """

    says: str
    source: str
    figure: Figure
    option: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    holds: bool
    because: str


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """All that the answer rests on.

    `expect` makes the case a test, `claim` compares it with what was published.
    """

    workload: Workload | None = None
    quality: Quality
    apis: dict[str, Api]
    stacks: dict[str, Stack]
    people: People = People()
    title: str = "Self-hosting against API"
    expect: tuple[Expected, ...] = ()
    claim: Claim | None = None

    @property
    def work(self) -> Workload:
        """The workload. Raises IsthmusError (`invalid_case`) where none was given."""
        if self.workload is None:
            require(["it has no `workload`, and none was taken from a ledger"])
        assert self.workload is not None
        return self.workload

    @property
    def first_api(self) -> str:
        """The name of the API with which everything is compared: the first."""
        return next(iter(self.apis))

    @property
    def escalation(self) -> str:
        """The name of the API that answers what the self-hosted model cannot."""
        return self.quality.to or self.first_api


def check(case: Case) -> None:
    """Nothing where the case holds together. Raises IsthmusError (`invalid_case`) with all that is wrong."""
    require([*_of_the_work(case.work), *_of_the_options(case), *out_of_order(case)])


def _of_the_work(work: Workload) -> Iterator[str]:
    if isinstance(work.week, tuple) and (len(work.week) != HOURS_PER_WEEK or max(work.week) == 0):
        yield f"`week` has {len(work.week)} hours, not 168, or nothing in any of them"
    for name in ("requests_per_month", "output_tokens"):
        if getattr(work, name).value == 0:
            yield f"`workload.{name}` is 0"
    if work.week is not None and work.utilisation is not None:
        yield "`workload.utilisation` follows from its `week`; say one of them"
    if work.week is None and work.burst is not None:
        yield "`workload.burst` is about the busiest hour of a `week`, and there is none"
    if work.utilisation is not None and not 0 < work.utilisation.value <= 1:
        yield "`workload.utilisation` is not more than 0 and at most 1"
    if work.burst is not None and work.burst.value < 1:
        yield "`workload.burst` is less than 1"
    if work.cache_share.value > 1:
        yield "`workload.cache_share` is more than 1"


def _of_the_options(case: Case) -> Iterator[str]:
    if not case.apis:
        yield "it names no API to compare with"
    elif case.escalation not in case.apis:
        yield f"`quality.to` names `{case.escalation}`, which is none of the APIs"
    for name in case.apis.keys() & case.stacks.keys():
        yield f"`{name}` is the name of an API and of a stack"
    for name, api in case.apis.items():
        if api.input is None or api.output is None:
            yield f"`apis.{name}` has no price: say `input` and `output`, or `listed`"
    for name, stack in case.stacks.items():
        yield from _of_the_stack(case, name, stack)
    known = {*case.apis, *(f"{name} {how}" for name, it in case.stacks.items() for how, _ in it.tenures())}
    named: list[Expected | Claim] = [*case.expect, *([case.claim] if case.claim else [])]
    for it in named:
        for option in {it.option, it.against or it.option} - known:
            yield f"`{option}` is none of its options, which are: {', '.join(sorted(known))}"


def _of_the_stack(case: Case, name: str, stack: Stack) -> Iterator[str]:
    if not list(stack.tenures()):
        yield f"`stacks.{name}` names no machines: say `on_demand`, `reserved`, `spot` or `owned`"
    if stack.tokens_per_s.value == 0 or stack.derate.value == 0:
        yield f"`stacks.{name}` writes no tokens"
    if stack.on_demand and stack.on_demand.follows_load and case.work.week is None:
        yield f"`stacks.{name}.on_demand` follows the load, and the workload has no `week`"
    if stack.spot and stack.spot.lost.value >= 1:
        yield f"`stacks.{name}.spot` is lost all the time"
    if stack.owned and stack.owned.years.value == 0:
        yield f"`stacks.{name}.owned` is written off in no time"
