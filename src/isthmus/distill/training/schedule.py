"""The order of samples and the learning rate as pure functions: who goes on needs no memory of them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from isthmus.distill.training.job import Lesson

WARM_UP = 0.1
"""The share of the steps in which the learning rate rises."""

PIECE_TOKENS = 2048
"""A batch is computed in pieces of at most so many tokens, or of one lesson: memory grows with a piece."""


def steps_per_epoch(lessons: int, batch: int) -> int:
    """How many steps show every lesson once; the last may be of fewer."""
    return math.ceil(lessons / batch)


def batch_of(step: int, lessons: int, batch: int, seed: int) -> list[int]:
    """The numbers of the lessons of a step, counted from 0. Each epoch has an order of its own."""
    epoch, place = divmod(step, steps_per_epoch(lessons, batch))
    order = list(range(lessons))
    # The generator is Python's, whose sequence for a seed is the same on every machine.
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order[place * batch : (place + 1) * batch]


def rate_of(step: int, steps: int, peak: float) -> float:
    """The learning rate of a step: a linear rise to `peak`, then a linear fall that ends behind the last."""
    warm = max(1, math.ceil(steps * WARM_UP))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (steps - step) / max(1, steps - warm)


def shared_prefix(lessons: Sequence[Lesson]) -> int:
    """How many tokens all prompts begin with alike, short of the last token of any.

    The last one is left to each lesson, since it foretells the answer's first.
    """
    first, *others = (lesson.prompt[:-1] for lesson in lessons)
    length = len(first)
    for prompt in others:
        length = next((at for at in range(length) if prompt[at : at + 1] != first[at : at + 1]), length)
    return length


def pieces_of(lessons: Sequence[Lesson], most: int = PIECE_TOKENS) -> list[list[Lesson]]:
    """The lessons in groups of like length, none of more than `most` tokens with its padding.

    What all prompts begin with counts once. A lesson that is longer by itself is a group.
    """
    shared = shared_prefix(lessons) if lessons else 0
    pieces: list[list[Lesson]] = []
    for lesson in sorted(lessons, key=lambda it: (it.length, it.id)):
        # They come from short to long, so the newest decides how long all of its group become.
        if pieces and shared + (lesson.length - shared) * (len(pieces[-1]) + 1) <= most:
            pieces[-1].append(lesson)
        else:
            pieces.append([lesson])
    return pieces
