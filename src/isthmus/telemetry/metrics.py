"""Every metric of the gateway, by name, and the counts behind them.

Counting is plain arithmetic on the event loop's thread; the Prometheus families are only made when somebody
scrapes, and observations are sorted into buckets many at a time. That keeps a request's share of it at a few
microseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from isthmus.core.money import NANO_PER_USD
from isthmus.core.record import AttemptRecord, Record

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


_UNSORTED = 500
"""After so many requests, observations are sorted into their buckets, whether anybody scrapes or not."""


class Histogram:
    """Counts of observations up to each bound, in seconds. `observe` takes one, `sort` counts all of them."""

    __slots__ = ("_bounds", "_counts", "_observed", "_total", "observe")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._observed: list[float] = []
        # A method of C: requests observe, and only now and then is there something to sort.
        self.observe: Final = self._observed.append

    def sort(self) -> None:
        """Count what was observed."""
        observed = sorted(self._observed)
        self._observed.clear()
        below = 0
        for bucket, bound in enumerate(self._bounds):
            within = bisect_right(observed, bound)
            self._counts[bucket] += within - below
            below = within
        self._counts[-1] += len(observed) - below
        self._total += sum(observed)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, as Prometheus wants them, and the sum of what was observed."""
        self.sort()
        running, out = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            running += count
            out.append(("+Inf" if bound == float("inf") else str(float(bound)), float(running)))
        return out, self._total


class Tally(Collector):
    """The counts, and their Prometheus form: one fold over records.

    `gauges` are asked for at scrape time: name without prefix → (help, label names, function giving label
    values and number).
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.unauthenticated = 0
        self.blind = 0
        self.mirrors = {"asked": 0, "left out": 0}
        self.reloads = {"ok": 0, "rejected": 0}
        self.config_hash = ""
        self.gauges: dict[str, tuple[str, tuple[str, ...], Callable[[], dict[tuple[str, ...], float]]]] = {}
        self._unsorted = 0
        self._requests: dict[tuple[str, str, int, str], int] = defaultdict(int)
        self._seconds: dict[str, Histogram] = defaultdict(lambda: Histogram(REQUEST_SECONDS))
        self._overhead: dict[str, Histogram] = defaultdict(lambda: Histogram(OVERHEAD_SECONDS))
        self._queue: dict[str, Histogram] = defaultdict(lambda: Histogram(REQUEST_SECONDS))
        self._first_token: dict[str, Histogram] = defaultdict(lambda: Histogram(REQUEST_SECONDS))
        self._purposes: dict[tuple[str, str, str], int] = defaultdict(int)
        self._attempts: dict[tuple[str, str, str], int] = defaultdict(int)
        self._tokens: dict[tuple[str, str], int] = defaultdict(int)
        self._charge: dict[str, int] = defaultdict(int)
        self._unpriced: dict[str, int] = defaultdict(int)

    def count(self, record: Record) -> None:
        """Count one finished request and its attempts; of a mirrored one, only these."""
        route = record.route
        if record.mirrors is None:
            timings = record.timings
            self._requests[route, record.dialect, record.status, record.outcome] += 1
            self._seconds[route].observe(timings.total_ms / 1000)
            self._overhead[route].observe(timings.overhead_ms / 1000)
            self._queue[route].observe(timings.queue_ms / 1000)
        for attempt in record.attempts:
            self._count_attempt(attempt)
            if attempt.purpose != "answer":
                taken = "answered" if attempt.committed else "not taken"
                self._purposes[route, attempt.purpose, taken] += 1
        self._unsorted += 1
        if self._unsorted >= _UNSORTED:
            self._sort()

    def _sort(self) -> None:
        self._unsorted = 0
        for family in (self._seconds, self._overhead, self._queue, self._first_token):
            for histogram in family.values():
                histogram.sort()

    def _count_attempt(self, attempt: AttemptRecord) -> None:
        model = attempt.model
        self._attempts[model, attempt.outcome, attempt.fault or ""] += 1
        if attempt.first_token_ms is not None:
            self._first_token[model].observe(attempt.first_token_ms / 1000)
        usage = attempt.usage
        if usage is not None:
            self._tokens[model, "input"] += usage.input
            self._tokens[model, "output"] += usage.output
            if usage.prompt != usage.input:
                self._tokens[model, "cache_read"] += usage.cache_read
                self._tokens[model, "cache_write"] += usage.cache_write_5m + usage.cache_write_1h
            if usage.reasoning:
                self._tokens[model, "reasoning"] += usage.reasoning
        if attempt.charge is not None:
            if attempt.charge.nanousd is None:
                self._unpriced[model] += 1
            else:
                self._charge[model] += attempt.charge.nanousd

    def collect(self) -> Iterator[Metric]:
        """Every family, freshly made."""
        yield self._counter(
            "requests", "Requests by outcome.", ("route", "dialect", "status", "outcome"), self._requests
        )
        yield self._counter(
            "attempts", "Upstream calls by outcome.", ("model", "outcome", "fault"), self._attempts
        )
        yield self._counter(
            "kept_answers",
            "Answers that no client saw at once, by what they were for and whether a client got them then.",
            ("route", "purpose", "taken"),
            self._purposes,
        )
        yield self._counter(
            "tokens", "Tokens by class; output includes reasoning.", ("model", "class"), self._tokens
        )
        usd = {(model,): amount / NANO_PER_USD for model, amount in self._charge.items()}
        yield self._counter("charge_usd", "Money charged, where the price is known.", ("model",), usd)
        unpriced = {(model,): count for model, count in self._unpriced.items()}
        yield self._counter("charge_unknown", "Attempts whose price is unknown.", ("model",), unpriced)
        yield self._histogram("request_seconds", "Whole requests.", "route", self._seconds)
        yield self._histogram(
            "overhead_seconds", "The gateway's own share of a request.", "route", self._overhead
        )
        yield self._histogram("queue_seconds", "Waiting for a place in the gateway.", "route", self._queue)
        yield self._histogram(
            "first_token_seconds", "Until a model's first content.", "model", self._first_token
        )
        refused = {(): self.unauthenticated}
        yield self._counter(
            "unauthenticated_requests", "Requests refused for their key; not recorded.", (), refused
        )
        blind = {(): self.blind}
        yield self._counter(
            "blind_requests",
            "Requests that hold what could not be looked into, or not in time: they are restricted.",
            (),
            blind,
        )
        mirrors = {(what,): count for what, count in self.mirrors.items()}
        yield self._counter(
            "mirrored_requests",
            "Requests that were, or should have been, copied to a candidate or graded by a judge, aside.",
            ("what",),
            mirrors,
        )
        reloads = {(result,): count for result, count in self.reloads.items()}
        yield self._counter("config_reloads", "Reloads of the config by result.", ("result",), reloads)
        yield InfoMetricFamily("isthmus_config", "The config that serves.", {"hash": self.config_hash})
        yield GaugeMetricFamily("isthmus_in_flight_requests", "Requests being served now.", self.in_flight)
        for name, (text, labels, read) in self.gauges.items():
            family = GaugeMetricFamily(f"isthmus_{name}", text, labels=labels)
            for values, number in read().items():
                family.add_metric(values, number)
            yield family

    def _counter(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        counts: Mapping[Any, float],
    ) -> Metric:
        family = CounterMetricFamily(f"isthmus_{name}", text, labels=labels)
        for values, number in counts.items():
            family.add_metric([str(value) for value in values], number)
        return family

    def _histogram(self, name: str, text: str, label: str, of: dict[str, Histogram]) -> Metric:
        family = HistogramMetricFamily(f"isthmus_{name}", text, labels=(label,))
        for value, histogram in of.items():
            family.add_metric((value,), *histogram.read())
        return family
