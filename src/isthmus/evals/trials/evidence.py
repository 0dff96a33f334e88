"""What is known of the arms of one experiment, and what follows from it: who is stopped, and what shares the
others have. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from isthmus.core.money import NANO_PER_USD
from isthmus.statistics.betting import Bet
from isthmus.store.trials import Opinion, Tried
from isthmus.strategies.plan.node import Weights
from isthmus.strategies.plan.split import Split, Stop

Measure: TypeAlias = Literal["answered", "in time", "within cost", "feedback"]

THOMPSON_DRAWS = 2_000


class Worse(msgspec.Struct, frozen=True):
    """An arm that is worse than another by a measure, beyond the margin and what chance explains."""

    arm: str
    than: str
    measure: Measure
    p: float

    def in_words(self) -> str:
        """It, in words."""
        return f"{self.arm} {_IN_WORDS[self.measure]} than {self.than} (p = {self.p:.2g})"


_IN_WORDS: Mapping[Measure, str] = {
    "answered": "answers fewer requests",
    "in time": "answers fewer requests in time",
    "within cost": "answers fewer requests within cost",
    "feedback": "gets worse feedback",
}


class _Duel:
    """Is the first of two streams worse than the second, by more than a margin?

    The first value of one is held against the first of the other, and so on: those that wait for a
    counterpart do not count yet (S. Shekhar and A. Ramdas, IEEE Trans. Inf. Theory 70 (2024) 1178).
    """

    def __init__(self, margin: float) -> None:
        self.bet = Bet((1 + margin) / 2)
        self._waiting: tuple[deque[float], deque[float]] = (deque(), deque())

    def observe(self, place: int, value: float) -> None:
        self._waiting[place].append(value)
        if all(self._waiting):
            ours, theirs = (queue.popleft() for queue in self._waiting)
            self.bet.observe((1 + theirs - ours) / 2)


class Scores(NamedTuple):
    """How many answers of an arm were scored, and the sum of their scores."""

    n: int = 0
    total: float = 0.0


class Evidence:
    """Takes what requests and people tell of a split's arms, in the order in which they tell it."""

    def __init__(self, split: Split) -> None:
        self._arms = tuple(arm.called for arm in split.arms)
        self._stop = split.stop
        self._bandit = split.bandit
        self.requests = dict.fromkeys(self._arms, 0)
        self.scores = dict.fromkeys(self._arms, Scores())
        measures = _measures(split.stop) if split.stop is not None else ()
        margin = split.stop.margin if split.stop is not None else 0.0
        self._duels = {
            (arm, than, measure): _Duel(margin)
            for arm, than in permutations(self._arms, 2)
            for measure in measures
        }

    def see(self, tried: Tried) -> None:
        """One more request."""
        if tried.arm not in self.requests:
            return
        self.requests[tried.arm] += 1
        if self._stop is None:
            return
        self._observe(tried.arm, "answered", float(tried.answered))
        if self._stop.seconds is not None:
            in_time = tried.answered and tried.total_ms <= self._stop.seconds * 1000
            self._observe(tried.arm, "in time", float(in_time))
        if self._stop.usd is not None and tried.nanousd is not None:
            within = tried.answered and tried.nanousd <= self._stop.usd * NANO_PER_USD
            self._observe(tried.arm, "within cost", float(within))

    def hear(self, opinion: Opinion) -> None:
        """One more answer was scored."""
        if opinion.arm not in self.scores:
            return
        known = self.scores[opinion.arm]
        self.scores[opinion.arm] = Scores(known.n + 1, known.total + opinion.score)
        if self._stop is not None:
            self._observe(opinion.arm, "feedback", opinion.score)

    def _observe(self, arm: str, measure: Measure, value: float) -> None:
        for one, other, kind in self._duels:
            if kind == measure and arm in (one, other):
                self._duels[one, other, kind].observe(int(arm == other), value)

    def worse(self) -> Iterator[Worse]:
        """Every arm that is worse than another, as the split's `stop` says; the surest first.

        Its `alpha` is for all comparisons together.
        """
        if self._stop is None:
            return
        bound = self._stop.alpha / max(1, len(self._duels))
        for (arm, than, measure), duel in sorted(self._duels.items(), key=lambda it: it[1].bet.p):
            if duel.bet.p <= bound:
                yield Worse(arm, than, measure, duel.bet.p)

    def losers(self, stopped: Mapping[str, object]) -> Iterator[Worse]:
        """Who is to be stopped now, beside those who are: never the last arm, and nobody for being worse than
        one who is stopped."""
        gone = set(stopped)
        for worse in self.worse():
            if worse.arm not in gone and worse.than not in gone:
                gone.add(worse.arm)
                yield worse

    def weights(self, stopped: Mapping[str, object], draw: Callable[[float, float], float]) -> Weights:
        """What each arm weighs from now on; nothing where all weigh what the config says.

        `draw(a, b)` draws from a Beta distribution. Without a bandit, only those who are stopped weigh
        something else: nothing.
        """
        if self._bandit is None:
            return tuple((arm, 0.0) for arm in self._arms if arm in stopped)
        live = [arm for arm in self._arms if arm not in stopped]
        explore = self._bandit.explore
        best = best_of([self.scores[arm] for arm in live], draw)
        shares = dict(zip(live, (explore / len(live) + (1 - explore) * share for share in best), strict=True))
        return tuple((arm, shares.get(arm, 0.0)) for arm in self._arms)


def best_of(scores: list[Scores], draw: Callable[[float, float], float]) -> list[float]:
    """With which probability each arm is the best, as its scores tell: Thompson sampling's shares.

    A score of 0.7 counts as 0.7 of a success: the means of Beta(1 + total, 1 + n - total) (Russo et al., A
    Tutorial on Thompson Sampling (2018), 3). They are counted over `THOMPSON_DRAWS` draws, and rounded to
    hundredths: what is drawn by them is logged with exactly these shares.
    """
    wins = [0] * len(scores)
    for _ in range(THOMPSON_DRAWS):
        drawn = [draw(1 + it.total, 1 + it.n - it.total) for it in scores]
        wins[drawn.index(max(drawn))] += 1
    return _rounded([won / THOMPSON_DRAWS for won in wins])


def _rounded(shares: list[float]) -> list[float]:
    """The shares in whole hundredths, which still add up to 1: small changes are no news."""
    hundredths = [int(share * 100) for share in shares]
    hundredths[shares.index(max(shares))] += 100 - sum(hundredths)
    return [it / 100 for it in hundredths]


def _measures(stop: Stop) -> tuple[Measure, ...]:
    more: tuple[tuple[Measure, object], ...] = (("in time", stop.seconds), ("within cost", stop.usd))
    return ("answered", "feedback", *(measure for measure, said in more if said is not None))
