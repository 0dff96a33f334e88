"""What is known of the arms of one experiment, and what follows from it: who is stopped, and what shares the
others have. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import permutations
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from isthmus.core.money import NANO_PER_USD
from isthmus.evals.trials.subjects import Subjects
from isthmus.statistics.betting import Bet
from isthmus.store.trials import Dealt, Opinion, Tried
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
    """Is the first of two arms worse than the second, by more than a margin?

    Which of the two a request comes to is drawn, by chances that are known. So what it is worth above a guess
    that was made before, times the chance of the other arm, with a minus for the second arm, has a mean of 0
    wherever the arms are equal: at any time, and whatever requests before were worth. That is what is bet
    against, and nothing has to wait for a counterpart, which may come in other times (D. W. Ham et al.,
    Design-based confidence sequences, arXiv 2210.08639). What is left out (requests that say nothing of the
    model, answers that nobody scores) must not depend on the arm: else the draw is not that of what is seen.
    """

    __slots__ = ("_margin", "_n", "_total", "bet")

    def __init__(self, margin: float) -> None:
        self.bet = Bet(0.5)
        self._margin = margin
        self._n = 0
        self._total = 0.0

    def observe(self, first: bool, value: float, one: float, other: float) -> None:
        """Takes the value of a request that came to the first or the second arm, by these weights of the
        two."""
        one, other = one / (one + other), other / (one + other)
        missing = (0.5 + self._total) / (1 + self._n) - value
        for_it = missing * other if first else -missing * one
        allowed = self._margin * one * other
        self.bet.observe((1 + (for_it - allowed) / (max(one, other) + allowed)) / 2)
        self._n += 1
        self._total += value


class Scores(NamedTuple):
    """How many answers of an arm were scored, and the sum of their scores."""

    n: int = 0
    total: float = 0.0


class Evidence:
    """Takes what requests and people tell of a split's arms, in the order in which they tell it.

    A bandit learns from all of it. An arm is stopped by what a draw decided: by the first value of each
    subject where the split is sticky, and not by later turns of a conversation that was kept in its arm.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        # Nearly all requests are dealt like the one before.
        self._shares = lru_cache(maxsize=64)(split.shares)
        self._arms = tuple(arm.called for arm in split.arms)
        self._stop = split.stop
        self._bandit = split.bandit
        self.requests = dict.fromkeys(self._arms, 0)
        self.counted = dict.fromkeys(self._arms, 0)
        """How many of them decide who is stopped."""
        self.scores = dict.fromkeys(self._arms, Scores())
        self._asking, self._judging = Subjects(), Subjects()
        self._unpriced: set[str] = set()
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
        if self._stop is None or not self._counts(self._asking, tried.dealt):
            return
        self.counted[tried.arm] += 1
        values: dict[Measure, float] = {"answered": tried.answered}
        if self._stop.seconds is not None:
            values["in time"] = tried.answered and tried.total_ms <= self._stop.seconds * 1000
        if self._stop.usd is not None:
            if tried.nanousd is None:
                self._unpriced.add(tried.arm)
            else:
                values["within cost"] = tried.answered and tried.nanousd <= self._stop.usd * NANO_PER_USD
        self._observe(tried.arm, values, tried.dealt)

    def hear(self, opinion: Opinion) -> None:
        """One more answer was scored."""
        if opinion.arm not in self.scores:
            return
        known = self.scores[opinion.arm]
        self.scores[opinion.arm] = Scores(known.n + 1, known.total + opinion.score)
        if self._stop is not None and self._counts(self._judging, opinion.dealt):
            self._observe(opinion.arm, {"feedback": opinion.score}, opinion.dealt)

    def _counts(self, subjects: Subjects, dealt: Dealt) -> bool:
        return dealt.drawn and subjects.first(self._split.subject(dealt.key, dealt.user))

    def _observe(self, arm: str, values: Mapping[Measure, float], dealt: Dealt) -> None:
        """Holds the arm's request against each other arm that it might have come to: none that is stopped, or
        that it may not reach."""
        shares = self._shares(dealt.weights, dealt.refused)
        share = shares.get(arm, 0.0)
        for other, chance in shares.items():
            if other == arm or not share or not chance:
                continue
            for measure, value in values.items():
                self._duels[arm, other, measure].observe(True, float(value), share, chance)
                self._duels[other, arm, measure].observe(False, float(value), chance, share)

    def worse(self) -> Iterator[Worse]:
        """Every arm that is worse than another, as the split's `stop` says; the surest first.

        Its `alpha` is for all comparisons together.
        """
        if self._stop is None:
            return
        bound = self._stop.alpha / max(1, len(self._duels))
        for (arm, than, measure), duel in sorted(self._duels.items(), key=lambda it: it[1].bet.p):
            if measure == "within cost" and self._unpriced & {arm, than}:
                # Of an arm whose price is not known, its failures alone would be: they cost nothing.
                continue
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
