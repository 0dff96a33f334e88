"""The order of lessons, their pieces and the learning rate: what holds for any number of them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from isthmus.distill.training.job import Lesson
from isthmus.distill.training.schedule import (
    batch_of,
    pieces_of,
    rate_of,
    shared_prefix,
    steps_per_epoch,
)

COUNTS = st.integers(1, 60)
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple)
LESSONS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12).map(
    lambda pairs: [Lesson(f"{number:02}", *pair) for number, pair in enumerate(pairs)]
)


@given(COUNTS, COUNTS, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_epoch_shows_every_lesson_once(lessons: int, batch: int, epochs: int, seed: int) -> None:
    each = steps_per_epoch(lessons, batch)
    for epoch in range(epochs):
        shown = [it for at in range(each) for it in batch_of(epoch * each + at, lessons, batch, seed)]
        assert Counter(shown) == Counter(range(lessons))
        assert all(batch_of(epoch * each + at, lessons, batch, seed) for at in range(each))


@given(st.integers(1, 400), st.floats(1e-8, 1.0))
def test_the_rate_rises_then_falls_and_never_is_nothing(steps: int, peak: float) -> None:
    rates = [rate_of(step, steps, peak) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@given(LESSONS, st.integers(1, 60))
def test_pieces_hold_every_lesson_once_and_keep_their_size(lessons: list[Lesson], most: int) -> None:
    pieces = pieces_of(lessons, most)
    assert Counter(it.id for piece in pieces for it in piece) == Counter(it.id for it in lessons)
    shared = shared_prefix(lessons)
    for piece in pieces:
        read = shared + len(piece) * (max(it.length for it in piece) - shared)
        assert len(piece) == 1 or read <= most


@given(LESSONS)
def test_what_is_shared_is_shared_by_all_and_leaves_a_token_to_each(lessons: list[Lesson]) -> None:
    shared = shared_prefix(lessons)
    assert len({lesson.prompt[:shared] for lesson in lessons}) == 1
    assert all(shared < len(lesson.prompt) for lesson in lessons)
    longer = {lesson.prompt[: shared + 1] for lesson in lessons}
    assert len(longer) > 1 or any(len(lesson.prompt) == shared + 1 for lesson in lessons)
