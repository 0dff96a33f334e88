"""Judging after the call: calibration, thresholds with a promise, cascades, votes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bench.strategies.tables import Floats, Table
from isthmus.confidence import fitting, thresholds, voting
from isthmus.confidence.reliability import calibration_error, discrimination
from isthmus.confidence.shift import shift
from isthmus.confidence.signals import of_probability
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.datasets.samples import call_of

LABELS = 300
DRAWS = 20
RESAMPLES = 500
RISKS = (0.05, 0.1, 0.2)
RISK = 0.05
DELTA = 0.1
FEWEST = 2 * LABELS
POOLS = 20


class Setting(NamedTuple):
    """One model's answers to one set."""

    name: str
    confidences: Floats
    scores: Floats
    splits: Any


def settings(table: Table, where: str = "") -> Iterator[Setting]:
    """Each set and model with enough confidences."""
    for dataset in sorted(set(table.datasets)):
        part = table.among(table.datasets == dataset)
        for at, model in enumerate(part.models):
            there = np.isfinite(part.confidences[:, at])
            if there.sum() >= FEWEST:
                yield Setting(
                    f"{dataset} {model}{where}",
                    part.confidences[there, at],
                    part.scores[there, at],
                    part.splits[there],
                )


def calibration(setting: Setting) -> dict[str, float]:
    """The calibration error before, and after a fit to 300 labels; the mean over draws, on all the others."""
    rows = [of_probability("confidence", it) for it in setting.confidences]
    errors = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(rows))
        learned, judged = order[:LABELS], order[LABELS:]
        calibrator = fitting.fit([rows[at] for at in learned], setting.scores[learned], "right")
        said = fitting.probabilities(calibrator, [rows[at] for at in judged])
        errors.append(calibration_error(said, setting.scores[judged]))
    auroc = discrimination(setting.confidences, setting.scores)
    return {
        "auroc": float("nan") if auroc is None else auroc,
        "raw": calibration_error(np.clip(setting.confidences, 0, 1), setting.scores),
        "fitted": float(np.mean(errors)),
        "worst_draw": float(np.max(errors)),
    }


def violations(setting: Setting, max_risk: float) -> dict[str, float]:
    """How often thresholds learned from 300 labels break their promise about accepted answers.

    `tested` and `naive` draw the labels from the set with replacement and judge by the whole set, which is
    the population then; those `_rest` draw without and judge by the rest, whose own chance counts as well.
    """
    losses = thresholds.losses_of("accepted", setting.scores)
    sure = setting.confidences
    broken = {"tested": 0, "naive": 0, "tested_rest": 0, "naive_rest": 0}
    taken = []
    for draw in range(RESAMPLES):
        rng = np.random.default_rng(draw)
        drawn, order = rng.integers(0, len(sure), LABELS), rng.permutation(len(sure))
        every = np.arange(len(sure))
        for end, learned, judged in (("", drawn, every), ("_rest", order[:LABELS], order[LABELS:])):
            found = {
                "tested": thresholds.promise(
                    sure[learned], losses[learned], max_risk=max_risk, delta=DELTA, risk="accepted"
                ).threshold,
                "naive": thresholds.unproven_threshold(
                    sure[learned], losses[learned], max_risk=max_risk, risk="accepted"
                ),
            }
            for name, threshold in found.items():
                accepted = sure[judged] >= (np.inf if threshold is None else threshold)
                risk = thresholds.risk_of(accepted, losses[judged], "accepted")
                broken[name + end] += risk is not None and risk > max_risk
                if name == "tested" and not end:
                    taken.append(accepted.mean())
    return {name: count / RESAMPLES for name, count in broken.items()} | {"coverage": float(np.mean(taken))}


def shifted(setting: Setting, max_risk: float) -> dict[str, Any] | None:
    """Calibrated on the set's own training split, judged on its other one; None where it has not both."""
    kinds = sorted(set(setting.splits) - {""})
    if len(kinds) != 2 or "train" not in kinds:
        return None
    learned, judged = setting.splits == "train", setting.splits != "train"
    if min(learned.sum(), judged.sum()) < 100:
        return None
    losses = thresholds.losses_of("accepted", setting.scores)
    found = thresholds.promise(
        setting.confidences[learned], losses[learned], max_risk=max_risk, delta=DELTA, risk="accepted"
    )
    accepted = setting.confidences[judged] >= (np.inf if found.threshold is None else found.threshold)
    seen = shift(setting.confidences[learned], setting.confidences[judged])
    return {
        "promised": found.kept,
        "risk": thresholds.risk_of(accepted, losses[judged], "accepted"),
        "alarm": seen.shifted,
        "why": seen.why,
    }


def cascade(table: Table, dataset: str, weak: str, strong: str) -> dict[str, dict[str, list[float]]] | None:
    """The share of the strong model's cost at its own accuracy, by a threshold that half of the set tells.

    Answers are accepted in the order of their confidence, and in that of what escalating gains for what it
    costs, as `isthmus calibrate` learns it: by the request's length, which is known beforehand. Each order is
    also measured with the threshold that `isthmus calibrate` promises `RISK` by: half of those labels fit,
    and the others test.
    """
    if weak not in table.models or strong not in table.models:
        return None
    part = table.among(table.datasets == dataset)
    pair = table.models.index(weak), table.models.index(strong)
    if len(part.scores) < FEWEST or not np.isfinite(part.costs[:, pair]).all():
        return None
    found: dict[str, dict[str, list[float]]] = {}
    labels = len(part.scores) // 2
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(part.scores))
        learned, judged = order[:labels], order[labels:]
        for how, sure, threshold in _ways(part, pair, learned):
            into = found.setdefault(how, {"cost_share": [], "gain_points": [], "escalated": []})
            for name, value in _escalated(part, pair, sure, threshold, judged).items():
                into[name].append(value)
    return found


def _ways(part: Table, pair: tuple[int, int], learned: Any) -> Iterator[tuple[str, Floats, float | None]]:
    """How answers are put in order, what of an answer speaks for accepting it, and from where on it is."""
    one, two = pair
    weak, strong = part.scores[:, one], part.scores[:, two]
    rows = [of_probability("confidence", it) for it in part.confidences[:, one]]
    tokens = [estimate_tokens(call_of(_request(prompt))).tokens for prompt in part.prompts]
    losses = thresholds.losses_of("added", weak, strong)

    def orders(fits: Any) -> Iterator[tuple[str, Floats]]:
        calibrator = fitting.fit([rows[at] for at in fits], losses[fits], "helps")
        escalation = fitting.escalation_of([tokens[at] for at in fits], part.costs[fits, two])
        yield "by confidence", part.confidences[:, one]
        calibrator = msgspec.structs.replace(calibrator, escalation=escalation)
        yield "by help for its cost", fitting.confidences(calibrator, rows, tokens)

    for how, sure in orders(learned):
        yield how, sure, thresholds.matching_threshold(sure[learned], weak[learned], strong[learned])
    fits, tests = np.array_split(learned, 2)
    for how, sure in orders(fits):
        promise = thresholds.promise(sure[tests], losses[tests], max_risk=RISK, delta=DELTA)
        yield f"{how}, promised", sure, promise.threshold


def _request(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


def _escalated(
    part: Table, pair: tuple[int, int], sure: Floats, threshold: float | None, judged: Any
) -> dict[str, float]:
    one, two = pair
    accepted = sure[judged] >= (np.inf if threshold is None else threshold)
    costs = part.costs[judged, one] + np.where(accepted, 0, part.costs[judged, two])
    scores = np.where(accepted, part.scores[judged, one], part.scores[judged, two])
    return {
        "cost_share": float(costs.sum() / part.costs[judged, two].sum()),
        "gain_points": float(100 * (scores - part.scores[judged, two]).mean()),
        "escalated": float(1 - accepted.mean()),
    }


def votes(table: Table) -> dict[str, dict[str, float]]:
    """By pool, how far a vote is below its best member on answers it did not learn from, in points; that is
    the member that is best there, seen afterwards. `plain` is a majority of equal votes."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    for dataset in sorted(set(table.datasets)):
        part = table.among(table.datasets == dataset)
        if len(part.scores) < FEWEST or not any(any(row) for row in part.answers):
            continue
        for size in (3, 5, 7):
            pools = (
                list(combinations(range(len(table.models)), size)) if len(table.models) <= size + 1 else []
            )
            while len(pools) < POOLS and len(table.models) > size + 1:
                pools.append(tuple(sorted(rng.choice(len(table.models), size, replace=False).tolist())))
            results = [_vote(part, pool, draw) for draw, pool in enumerate(pools[:POOLS])]
            if results:
                found[f"{dataset}, {size} members"] = {
                    "gap": float(np.mean([it[0] for it in results])),
                    "worst": float(np.max([it[0] for it in results])),
                    "noise": float(np.mean([it[1] for it in results])),
                    "worst_z": float(np.max([it[0] / max(it[1], 1e-9) for it in results])),
                    "plain": float(np.mean([it[2] for it in results])),
                    "plain_worst": float(np.max([it[2] for it in results])),
                    "voting": float(np.mean([it[3] for it in results])),
                }
    return found


def _vote(part: Table, members: tuple[int, ...], draw: int) -> tuple[float, float, float, float]:
    order = np.random.default_rng(draw).permutation(len(part.scores))
    learned, judged = order[:LABELS], order[LABELS:]
    names = [part.models[at] for at in members]

    def said(row: int) -> dict[str, str]:
        return {name: part.answers[row][at] for name, at in zip(names, members, strict=True)}

    def worth(row: int) -> dict[str, float]:
        return {name: float(part.scores[row, at]) for name, at in zip(names, members, strict=True)}

    panel = voting.panel_of([said(row) for row in learned], [worth(row) for row in learned])
    plain = voting.Panel(weights=dict.fromkeys(names, 1.0), best=panel.best, gain=0.0, why="")
    scores = {}
    for kind, it in (("ours", panel), ("plain", plain)):
        ballots = [voting.vote(it, said(row)) for row in judged]
        scores[kind] = np.array(
            [
                worth(row)[ballot.model if ballot else it.best]
                for row, ballot in zip(judged, ballots, strict=True)
            ]
        )
    singles = part.scores[np.ix_(judged, np.array(members))]
    best = singles[:, singles.mean(0).argmax()]
    apart = best - scores["ours"]
    # Where the best member is told by 300 labels, the noise of that choice is part of the comparison.
    error = max(float(apart.std() / np.sqrt(len(apart))), 1e-4)
    return (
        float(100 * apart.mean()),
        100 * error,
        float(100 * (best - scores["plain"]).mean()),
        float(len(panel.weights) > 1),
    )
