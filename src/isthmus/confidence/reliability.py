"""How far probabilities are true, and what accepting the surest answers costs in errors."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike

BINS = 10


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of about one probability: how many, what was said on the mean, and what came true."""

    answers: int
    said: float
    true: float


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """A point of the risk-coverage curve: the share of answers that is accepted, and their mean loss."""

    coverage: float
    risk: float


def reliability(probabilities: ArrayLike, truths: ArrayLike, bins: int = BINS) -> list[Bin]:
    """The reliability diagram, in bins of equal width; empty ones are left out."""
    said, true = np.asarray(probabilities, float), np.asarray(truths, float)
    places = np.minimum((said * bins).astype(int), bins - 1)
    return [
        Bin(
            answers=int((places == at).sum()),
            said=float(said[places == at].mean()),
            true=float(true[places == at].mean()),
        )
        for at in range(bins)
        if (places == at).any()
    ]


def calibration_error(probabilities: ArrayLike, truths: ArrayLike, bins: int = BINS) -> float:
    """The expected calibration error: the mean distance of what was said from what came true, by bins.

    C. Guo et al., ICML 2017. For few answers it is above nought even where every probability is true.
    """
    found = reliability(probabilities, truths, bins)
    many = sum(it.answers for it in found)
    return sum(it.answers * abs(it.said - it.true) for it in found) / many if many else 0.0


def risk_coverage(confidences: ArrayLike, losses: ArrayLike, points: int = 20) -> list[Coverage]:
    """The mean loss of the surest answers, for `points` shares of them up to all.

    R. El-Yaniv, Y. Wiener, JMLR 11 (2010) 1605.
    """
    sure, lost = np.asarray(confidences, float), np.asarray(losses, float)
    if not len(sure):
        return []
    order = np.argsort(-sure, kind="stable")
    risks = np.cumsum(lost[order]) / np.arange(1, len(order) + 1)
    taken = sorted({max(1, round(len(order) * at / points)) for at in range(1, points + 1)})
    return [Coverage(coverage=many / len(order), risk=float(risks[many - 1])) for many in taken]


def discrimination(confidences: ArrayLike, truths: ArrayLike) -> float | None:
    """The chance that a good answer has more confidence than a bad one (AUROC); None where all are alike."""
    from scipy.stats import rankdata

    good = np.asarray(truths, float) >= 0.5
    if good.all() or not good.any():
        return None
    ranks = rankdata(np.asarray(confidences, float))
    ups = int(good.sum())
    return float((ranks[good].sum() - ups * (ups + 1) / 2) / (ups * (len(good) - ups)))
