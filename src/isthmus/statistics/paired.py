"""Which differences are real: two models on the same samples, and many such pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from isthmus.statistics import intervals
from isthmus.statistics.intervals import CONFIDENCE, Interval

Method: TypeAlias = Literal["McNemar's exact test", "Gaffke's bound"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How much better `a` is than `b`, on average over the same samples.

    `p` is the p-value of the claim that there is no difference. It is below 1 - confidence exactly where the
    interval does not hold 0: the two never contradict each other.
    """

    mean: float
    interval: Interval
    p: float
    n: int
    method: Method


def mcnemar(only_a: int, only_b: int) -> float:
    """The p-value of the claim that `a` and `b` succeed equally often, by the samples where one alone did.

    Exact and two-sided: the chance of a coin to fall so unevenly, or more. The mid-p variant is less
    cautious, and wrong a little more often than it says for some shares. Q. McNemar, Psychometrika 12 (1947)
    153; M. W. Fagerland et al., BMC Med. Res. Methodol. 13 (2013) 91.
    """
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def difference(
    a: ArrayLike, b: ArrayLike, *, binary: bool = False, confidence: float = CONFIDENCE
) -> Difference:
    """The mean of a - b over samples that both were scored on, in one order; scores are from 0 to 1.

    Gaffke's bound (see `intervals.mean`) on the differences, which lie in [-1, 1]. Where scores are 0 or 1
    only (`binary`), its p-value is that of McNemar's exact test, which is faster to reckon, and used.
    Samples that one of the two has no score for are for the caller to leave out. None at all are no evidence:
    the interval is all of [-1, 1] then, and p is 1.
    """
    ours, theirs = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} scores cannot be paired with {len(theirs)}")
    apart = ours - theirs
    if binary and not np.isin(np.concatenate([ours, theirs]), (0.0, 1.0)).all():
        raise ValueError("a score is neither 0 nor 1")
    return Difference(
        mean=float(apart.mean()) if len(apart) else 0.0,
        interval=intervals.mean(apart, confidence, least=-1.0, most=1.0),
        p=mcnemar(int((apart > 0).sum()), int((apart < 0).sum())) if binary else _p(apart),
        n=len(apart),
        method="McNemar's exact test" if binary else "Gaffke's bound",
    )


def of_groups(scores: ArrayLike, groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """The mean score of each group, in the order in which groups come first.

    For samples that come in groups (the questions on one document, the turns of one conversation): they are
    no independent evidence, their groups are. What is reckoned on is then the quality for a group.
    """
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    each = np.array([places[group] for group in groups], dtype=np.int64)
    sums = np.bincount(each, weights=np.asarray(scores, dtype=np.float64), minlength=len(places))
    means: NDArray[np.float64] = sums / np.bincount(each, minlength=len(places))
    return means


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, adjusted for being several: refuse by them, and one wrong refusal among all is as rare as
    alpha says.

    S. Holm, Scand. J. Statistics 6 (1979) 65. They stay in their order.
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _p(apart: NDArray[np.float64]) -> float:
    no_better = intervals.mean_at_most(apart, 0.0, least=-1.0, most=1.0)
    no_worse = intervals.mean_at_least(apart, 0.0, least=-1.0, most=1.0)
    return min(1.0, 2 * min(no_better, no_worse))
