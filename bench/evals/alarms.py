"""How often tests that are looked at after every value raise a false alarm, and how soon a true one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.evals.worlds import Rng
from isthmus.statistics.change import Change, Value
from isthmus.statistics.sequential import Bets, Duel

ALPHA = 0.05


class Alarms(NamedTuple):
    """The share of streams without a change in which a test saw one; `error` is Monte Carlo's."""

    test: str
    stream: str
    share: float
    error: float


class Delay(NamedTuple):
    """After how many values a change was seen.

    `seen` is the share of streams in which it was, and `median` that of all of them, None where fewer than
    half saw it.
    """

    change: str
    seen: float
    median: float | None


STREAMS = ("success 0.9", "refusals 0.01", "times", "labels")
CHANGES = (
    ("success 0.9 to 0.6", "success 0.9", "success 0.6"),
    ("success 0.9 to 0.8", "success 0.9", "success 0.8"),
    ("refusals 0.01 to 0.05", "refusals 0.01", "refusals 0.05"),
    ("times, doubled", "times", "times x2"),
    ("times, a third more", "times", "times x1.33"),
    ("labels", "labels", "other labels"),
)


def _draw(stream: str, rng: Rng, n: int) -> list[Value]:
    word, _, figure = stream.partition(" ")
    match word:
        case "success" | "refusals":
            return (rng.random(n) < float(figure)).astype(float).tolist()
        case "times":
            return (float(figure[1:] or 1) * rng.lognormal(6, 0.8, n)).tolist()
        case "labels":
            return rng.choice(["confidential", "internal", "public"], n, p=[0.1, 0.6, 0.3]).tolist()
    return rng.choice(["confidential", "internal", "public"], n, p=[0.2, 0.5, 0.3]).tolist()


def false_change(stream: str, baseline: int, later: int, streams: int, seed: int) -> Alarms:
    """Streams that go on as they began, held against their own baseline."""
    rng = np.random.default_rng([seed, baseline])
    wrong = 0
    for _ in range(streams):
        change = Change()
        for value in _draw(stream, rng, baseline):
            change.learn(value)
        for value in _draw(stream, rng, later):
            change.observe(value, rng.random())
        wrong += change.p <= ALPHA
    return _alarms("change", f"{stream}, baseline of {baseline}", wrong, streams)


def false_mean(mean: float, later: int, streams: int, seed: int) -> Alarms:
    """Streams of successes, held against the mean that they have."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(streams):
        bets = Bets([mean])
        for value in (rng.random(later) < mean).tolist():
            bets.observe(float(value))
        wrong += bool(bets.p[0] <= ALPHA)
    return _alarms("mean", f"mean {mean:g}", wrong, streams)


def false_duel(success: float, later: int, streams: int, seed: int) -> Alarms:
    """Two arms that are equally good."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(streams):
        duel = Duel()
        for ours, theirs in (rng.random((later, 2)) < success).tolist():
            duel.observe("a", float(ours))
            duel.observe("b", float(theirs))
        wrong += duel.p <= ALPHA
    return _alarms("two arms", f"both {success:g}", wrong, streams)


def delay(name: str, before: str, after: str, streams: int, seed: int) -> Delay:
    """Streams that change after a baseline of 1,000 and 1,000 more; 3,000 values are waited for at most."""
    rng = np.random.default_rng(seed)
    delays = []
    for _ in range(streams):
        change = Change()
        for value in _draw(before, rng, 1000):
            change.learn(value)
        for value in _draw(before, rng, 1000):
            change.observe(value, rng.random())
        seen = float("inf")
        for count, value in enumerate(_draw(after, rng, 3000), 1):
            change.observe(value, rng.random())
            if change.p <= ALPHA / 10:
                seen = count
                break
        delays.append(seen)
    median = float(np.median(delays))
    return Delay(name, float(np.isfinite(delays).mean()), median if np.isfinite(median) else None)


def _alarms(test: str, stream: str, wrong: int, streams: int) -> Alarms:
    return Alarms(test, stream, wrong / streams, (ALPHA * (1 - ALPHA) / streams) ** 0.5)
