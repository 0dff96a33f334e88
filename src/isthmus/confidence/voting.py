"""Votes: the answer that most of the weight is for, by members of whom it was shown that together they are
better than the best alone.

Plurality with weights log (accuracy / (1 - accuracy)): S. Nitzan, J. Paroush, Int. Economic Review 23 (1982).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, sqrt
from typing import Annotated

import msgspec
from msgspec import Meta

from isthmus.core.answers import plain
from isthmus.core.votes import tally

NEAR = 0.10
"""A member's accuracy is at most so far below the best one's."""

PRIOR = 10.0
"""The belief that all members are as good as all are together counts as so many answers."""

ALONE = "nobody else is near it"

FOLDS = 5
_SURE = 1.2816
"""The normal quantile of 0.9: so sure a gain has to be before a vote replaces the best member."""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """Who votes, with what weight. One member alone is no vote, and `why` says why it is one."""

    weights: dict[str, Annotated[float, Meta(ge=0)]]
    best: str
    gain: float
    why: str


class Ballot(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a vote: the model whose answer is given, its share of the weight, whether all agree."""

    model: str
    share: float
    unanimous: bool


def vote(panel: Panel, answers: Mapping[str, str]) -> Ballot | None:
    """The vote of the panel's members; None where nobody has answered. Ties go to the better member."""
    members = sorted(panel.weights, key=lambda it: (it != panel.best, it))
    found = tally([(panel.weights[model], plain(answers.get(model, ""))) for model in members])
    if not found.agreeing:
        return None
    return Ballot(model=members[found.place], share=found.share, unanimous=found.unanimous)


def panel_of(answers: Sequence[Mapping[str, str]], scores: Sequence[Mapping[str, float]]) -> Panel:
    """The panel that these labelled answers of all members speak for.

    Members near the best one are admitted. Whether their vote is better than the best alone is judged on
    answers that neither weights nor admission saw; where that cannot be shown, the best one is all of it.
    """
    if not scores:
        raise ValueError("a panel is made from labelled answers")
    gains = []
    for fold in range(FOLDS):
        learned = [it for at, it in enumerate(scores) if at % FOLDS != fold]
        if not learned:
            continue
        panel = admitted(learned)
        for said, worth in list(zip(answers, scores, strict=True))[fold::FOLDS]:
            ballot = vote(panel, said)
            gains.append(worth[ballot.model if ballot else panel.best] - worth[panel.best])
    panel = admitted(scores)
    many = len(gains)
    mean = sum(gains) / many if many else 0.0
    error = sqrt(sum((it - mean) ** 2 for it in gains) / max(1, many - 1) / max(1, many))
    if len(panel.weights) > 1 and mean - _SURE * error > 0:
        return msgspec.structs.replace(panel, gain=mean, why=f"{mean:+.1%} on answers that were held out")
    return alone(panel.best, ALONE if len(panel.weights) == 1 else "no gain by a vote can be shown")


def alone(best: str, why: str) -> Panel:
    """The panel of one."""
    return Panel(weights={best: 1.0}, best=best, gain=0.0, why=why)


def admitted(scores: Sequence[Mapping[str, float]]) -> Panel:
    """Those that are near the best one by these scores, with their weights, whatever a vote is worth."""
    models = sorted(scores[0])
    many = len(scores)
    sums = {model: sum(it[model] for it in scores) for model in models}
    overall = sum(sums.values()) / (many * len(models))
    accuracy = {model: (total + PRIOR * overall) / (many + PRIOR) for model, total in sums.items()}
    best = max(models, key=lambda model: accuracy[model])
    near = [model for model in models if accuracy[model] >= accuracy[best] - NEAR]
    weights = {model: log(_inside(accuracy[model]) / (1 - _inside(accuracy[model]))) for model in near}
    # A member that is right less often than not has no say, and no seat: with more than two answers that may
    # be wrong, and with two it would be a vote for the opposite.
    return Panel(
        weights={model: weight for model, weight in weights.items() if weight > 0}
        or dict.fromkeys(near, 1.0),
        best=best,
        gain=0.0,
        why="",
    )


def _inside(share: float) -> float:
    return min(max(share, 1e-3), 1 - 1e-3)
