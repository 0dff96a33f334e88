"""How good the answers would have been, by what people said of those that were given.

Feedback is about plans that were chosen with known odds. Weighed by how much more often the other config
would have chosen them, it tells what that config would have earned; where it would do what was never done,
nothing is known, and the share of that is told.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from isthmus.evals.replay.replayed import Judgement
from isthmus.evals.replay.summary import ByFeedback
from isthmus.statistics.off_policy import Logged, ips


class _Log(msgspec.Struct):
    rewards: list[float] = []
    propensities: list[float] = []
    wanted: list[float] = []
    unseen: list[float] = []


class Judged:
    """Gathers the requests that somebody has judged, by route."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = defaultdict(_Log)

    def add(self, judgement: Judgement, score: float) -> None:
        """One more judged request; what was not decided, or cannot be decided again, does not count."""
        overlap = judgement.overlap
        if overlap is None or judgement.unknown is not None:
            return
        log = self._logs[judgement.route]
        log.rewards.append(score)
        log.propensities.append(overlap.propensity)
        log.wanted.append(overlap.wanted)
        log.unseen.append(overlap.unseen)

    def estimates(self) -> tuple[ByFeedback, ...]:
        """What the other config would have earned on each route."""
        return tuple(_estimate(route, log) for route, log in sorted(self._logs.items()))


def _estimate(route: str, log: _Log) -> ByFeedback:
    found = ips(
        Logged(rewards=log.rewards, propensities=log.propensities, wanted=log.wanted, unseen=log.unseen)
    )
    return ByFeedback(
        route=route,
        judged=len(log.rewards),
        then=sum(log.rewards) / len(log.rewards),
        now=found.value,
        low=found.possible.low,
        high=found.possible.high,
        unseen=found.unseen,
        effective=found.effective,
    )
