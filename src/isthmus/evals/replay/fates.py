"""What a config decides for a recorded request: every plan that it may choose, each with its odds.

A split draws. To draw again would add noise to a comparison; so the router itself is asked which plans there
are, with draws, until nothing new can lie between two of them. A plan is a step function of the draw, and the
steps' lengths are the odds.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from isthmus.core.call import Operation
from isthmus.core.decision import Decision, Previous, Silence
from isthmus.core.foresight import Foresight
from isthmus.core.label import Label
from isthmus.routing.decide import Router
from isthmus.strategies.plan.node import Circumstances

_LAST_DRAW = 1.0 - 2.0**-53
_FINENESS = 2.0**-40
_COARSENESS = 2.0**-6
_ABOUT = 1.0 + 1e-9


class Chance(NamedTuple):
    """One of the decisions that are possible, and how likely it is."""

    odds: float
    decision: Decision


class Question(msgspec.Struct, frozen=True):
    """What a router is asked: all that a decision depends on, but for the draw.

    `key` and `user` are said only where the route has a split that sticks to them, `foreseen` where it
    chooses by a learned router. `previous`, `revises`, `weights` and `silences` are as in the `Decision`.
    """

    route: str
    operation: Operation
    label: Label
    hidden: Label | None
    thrifty: bool
    key: str | None
    user: str | None
    foreseen: tuple[Foresight, ...] = ()
    previous: Previous | None = None
    revises: bool = False
    weights: tuple[tuple[str, float], ...] = ()
    silences: tuple[Silence, ...] = ()


def chances(router: Router, question: Question) -> tuple[Chance, ...]:
    """Every decision for this question, with its odds, which add up to 1."""

    def decide(draw: float) -> Decision:
        return router.decide(
            question.route,
            question.operation,
            question.label,
            Circumstances(
                draw=draw,
                key=question.key,
                user=question.user,
                foreseen=question.foreseen,
                previous=question.previous,
                revises=question.revises,
                weights=question.weights,
                silences=question.silences,
            ),
            question.hidden,
            question.thrifty,
        )

    odds: dict[Decision, float] = {}
    sticks = question.key is not None or question.user is not None

    def walk(start: float, at_start: Decision, end: float, at_end: Decision) -> None:
        """Finds the steps between two draws."""
        length = end - start
        # What is the same at both ends is the same between them; unless an arm comes twice in a split. Then
        # the step is longer than its arm is likely.
        doubtful = not sticks and length > max(at_start.propensity * _ABOUT, _COARSENESS)
        if at_start == at_end and not doubtful:
            odds[at_start] = odds.get(at_start, 0.0) + length
        elif length < _FINENESS:
            for decision in (at_start, at_end):
                odds[decision] = odds.get(decision, 0.0) + length / 2
        else:
            middle = (start + end) / 2
            at_middle = decide(middle)
            walk(start, at_start, middle, at_middle)
            walk(middle, at_middle, end, at_end)

    walk(0.0, decide(0.0), 1.0, decide(_LAST_DRAW))
    return tuple(Chance(share, decision) for decision, share in odds.items())
