"""What one replica's callers wait, under an open load: a discrete-event simulation. Pure: takes draws.

Closed formulas are wrong by a third and more where it matters, at the 95th percentile of a busy replica. The
simulation jumps from one arrival or end to the next: between them all running requests advance at one pace.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from math import ceil, exp, log, sqrt
from typing import NamedTuple


class Served(NamedTuple):
    """What the requests of a run met, each list sorted: seconds to the first token, and per further one."""

    ttft_s: list[float]
    tpot_s: list[float]

    def ttft_at(self, percentile: float) -> float:
        """The time to the first token that so many percent of the requests do not exceed."""
        return at_percentile(self.ttft_s, percentile)

    def tpot_at(self, percentile: float) -> float:
        """The time per output token that so many percent of the requests do not exceed."""
        return at_percentile(self.tpot_s, percentile)


class Replica(NamedTuple):
    """A replica as its queue sees it.

    `step_s` is the pace of so many at once; a prefill holds all up for `prefill_s`; the first token is on
    its way for another `first_s`, which holds up nobody else.
    """

    step_s: Callable[[float], float]
    prefill_s: float
    first_s: float
    places: int


class Request(NamedTuple):
    """One arrival: when, and how many tokens it wants."""

    at_s: float
    output: int


def poisson(rate: float, draws: Iterator[float]) -> Iterator[float]:
    """The times of arrivals that know nothing of each other, so many a second."""
    at = 0.0
    for draw in draws:
        at -= log(1 - draw) / rate
        yield at


def bursty(rate: float, draws: Iterator[float], variation: float = 4.0) -> Iterator[float]:
    """The times of arrivals that come in bursts: gaps are short mostly and long at times.

    `variation` is the squared coefficient of variation of the gaps; 1 would be Poisson.
    """
    share = (1 + sqrt((variation - 1) / (variation + 1))) / 2
    at = 0.0
    for draw in draws:
        phase = share if next(draws) < share else 1 - share
        at -= log(1 - draw) / (2 * phase * rate)
        yield at


def lengths(mean: float, draws: Iterator[float]) -> Iterator[int]:
    """Lengths of answers, spread evenly between half and one and a half times the mean."""
    for draw in draws:
        yield max(1, round(mean * (0.5 + draw)))


def serve(requests: Sequence[Request], replica: Replica) -> Served:
    """What the requests meet, in order of arrival, at one replica; the first tenth only warms it up."""
    ttft_s: list[float] = []
    tpot_s: list[float] = []
    running: list[tuple[int, float, int, int]] = []
    now, steps, nth = 0.0, 0, 0
    warm = len(requests) // 10
    while nth < len(requests) or running:
        if not running:
            now = max(now, requests[nth].at_s)
        while nth < len(requests) and requests[nth].at_s <= now and len(running) < replica.places:
            request = requests[nth]
            now += replica.prefill_s
            if nth >= warm:
                ttft_s.append(now + replica.first_s - request.at_s)
            heapq.heappush(running, (steps + request.output, now, nth, request.output))
            nth += 1
        pace = replica.step_s(len(running))
        jump = running[0][0] - steps
        if nth < len(requests) and len(running) < replica.places:
            jump = min(jump, max(1, ceil((requests[nth].at_s - now) / pace)))
        now, steps = now + jump * pace, steps + jump
        while running and running[0][0] <= steps:
            _, since, number, output = heapq.heappop(running)
            if number >= warm:
                tpot_s.append((now - since) / output)
    return Served(sorted(ttft_s), sorted(tpot_s))


def at_percentile(values: Sequence[float], percentile: float) -> float:
    """The smallest of the sorted values that so many percent do not exceed."""
    return values[max(0, ceil(len(values) * percentile / 100) - 1)]


def interpolated(places: Sequence[float], values: Sequence[float]) -> Callable[[float], float]:
    """A curve through points, straight in the logarithms of both; constant outside."""
    logs = [log(place) for place in places]

    def curve(place: float) -> float:
        if place <= places[0]:
            return values[0]
        if place >= places[-1]:
            return values[-1]
        left = bisect_right(places, place) - 1
        share = (log(place) - logs[left]) / (logs[left + 1] - logs[left])
        return exp(log(values[left]) * (1 - share) + log(values[left + 1]) * share)

    return curve
