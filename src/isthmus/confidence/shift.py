"""Whether what comes is like what was calibrated by: if not, a promise is none.

Only what can be seen without labels: confidences, and names of tasks. Answers that have become worse at the
same confidence are not seen here; that takes labels of what comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike

ALARM = 0.01
"""A difference that chance makes in fewer than so many cases is one."""

LARGE_PSI = 0.25
"""The population stability index from which on practice calls a shift large (B. Yurdakul, J. Naranjo, Journal
of Risk Model Validation 14 (2020))."""

UNKNOWN = 0.05
"""So large a share of requests of tasks that were not calibrated by is one too large."""

FEWEST = 50
"""Fewer requests than so many say nothing."""


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """How far what comes differs. `shifted` is True where that cannot be put down to chance; `why` says by
    what. `psi` and the p-values are None where there is nothing to compare."""

    shifted: bool
    why: str
    psi: float | None
    confidences_p: float | None
    tasks_p: float | None
    unknown_tasks: float


def shift(
    calibrated: ArrayLike,
    come: ArrayLike,
    tasks_calibrated: Mapping[str, int] | None = None,
    tasks_come: Sequence[str] = (),
) -> Shift:
    """What differs between the confidences (and tasks, where they have names) that were calibrated by, and
    those that have come since.

    Confidences by the test of Kolmogorov and Smirnov for two samples, tasks by Pearson's chi-squared test.
    """
    before, now = np.asarray(calibrated, float), np.asarray(come, float)
    index = chance = None
    reasons = []
    if min(len(before), len(now)) >= FEWEST:
        from scipy.stats import ks_2samp

        index = stability_index(before, now)
        chance = float(ks_2samp(before, now, method="asymp").pvalue)
        if chance < ALARM or index >= LARGE_PSI:
            reasons.append(f"the confidences are others than those that were calibrated by (PSI {index:.2f})")
    tasks_chance, unknown = _tasks(tasks_calibrated or {}, tasks_come)
    if unknown > UNKNOWN:
        reasons.append(f"{unknown:.0%} are of tasks that were not calibrated by")
    elif tasks_chance is not None and tasks_chance < ALARM:
        reasons.append("the tasks come in other shares than those that were calibrated by")
    return Shift(
        shifted=bool(reasons),
        why="; ".join(reasons),
        psi=index,
        confidences_p=chance,
        tasks_p=tasks_chance,
        unknown_tasks=unknown,
    )


def stability_index(before: ArrayLike, now: ArrayLike, bins: int = 10) -> float:
    """The population stability index, by the deciles of `before`: sum of (q - p) log (q / p)."""
    old, new = np.asarray(before, float), np.asarray(now, float)
    edges = np.unique(np.quantile(old, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = [
        # Half an item in each bin keeps an empty one from making the index infinite.
        (np.bincount(np.searchsorted(edges, some, side="right"), minlength=len(edges) + 1) + 0.5)
        / (len(some) + 0.5 * (len(edges) + 1))
        for some in (old, new)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _tasks(calibrated: Mapping[str, int], come: Sequence[str]) -> tuple[float | None, float]:
    """The chance of shares as different, and the share of tasks that were not there."""
    if not calibrated or len(come) < FEWEST:
        return None, 0.0
    counts = Counter(come)
    unknown = sum(count for name, count in counts.items() if name not in calibrated) / len(come)
    # Tasks that hardly ever come are taken together: the test is one for large counts.
    both = [(count, counts[name]) for name, count in calibrated.items()]
    common = [pair for pair in both if min(pair) >= 5]
    rest = [pair for pair in both if min(pair) < 5]
    if rest:
        common.append((sum(one for one, _ in rest), sum(other for _, other in rest)))
    table = np.array([pair for pair in common if sum(pair)])
    if len(table) < 2 or not table.sum(0).all():
        return None, unknown
    from scipy.stats import chi2_contingency

    return float(chi2_contingency(table).pvalue), unknown
