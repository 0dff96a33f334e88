"""Votes: who is admitted, and what is said."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.confidence.voting import Panel, admitted, panel_of, vote

PANEL = Panel(weights={"a": 2.0, "b": 1.5, "c": 1.0}, best="a", gain=0.1, why="")


def test_the_weight_decides_and_the_best_speaker_of_it_is_given() -> None:
    ballot = vote(PANEL, {"a": "X", "b": "y.", "c": "Y"})
    assert ballot is not None
    assert (ballot.model, ballot.unanimous) == ("b", False)
    assert ballot.share == pytest.approx(2.5 / 4.5)


def test_who_says_nothing_does_not_vote_and_breaks_unanimity() -> None:
    ballot = vote(PANEL, {"a": "X", "b": "", "c": "x"})
    assert ballot is not None
    assert ballot.share == pytest.approx(3 / 4.5), "of all the weight that was asked"
    assert not ballot.unanimous
    assert vote(PANEL, {}) is None
    together = vote(PANEL, {"a": "X", "b": "x", "c": "x."})
    assert together is not None
    assert together.unanimous


def test_a_tie_goes_to_the_better_member() -> None:
    even = Panel(weights={"a": 1.0, "b": 1.0}, best="b", gain=0, why="")
    ballot = vote(even, {"a": "X", "b": "Y"})
    assert ballot is not None
    assert ballot.model == "b"


def test_one_voice_alone_agrees_with_nobody() -> None:
    alone = vote(Panel(weights={"a": 1.0}, best="a", gain=0, why=""), {"a": "X"})
    assert alone is not None
    assert (alone.model, alone.share, alone.unanimous) == ("a", 1, False)
    lone = vote(PANEL, {"c": "X"})
    assert lone is not None
    assert (lone.model, lone.unanimous) == ("c", False)
    assert lone.share == pytest.approx(1 / 4.5)


def _outcomes(accuracies: dict[str, float], many: int) -> tuple[list[dict[str, str]], list[dict[str, float]]]:
    """Independent members; a wrong answer is one of many."""
    rng = np.random.default_rng(0)
    right = [{name: bool(rng.random() < share) for name, share in accuracies.items()} for _ in range(many)]
    answers = [{name: "yes" if it else f"no {rng.integers(9)}" for name, it in row.items()} for row in right]
    return answers, [{name: float(it) for name, it in row.items()} for row in right]


def test_independent_equals_vote_and_gain() -> None:
    panel = panel_of(*_outcomes({"a": 0.75, "b": 0.74, "c": 0.73}, 300))
    assert set(panel.weights) == {"a", "b", "c"}
    assert panel.gain > 0.03


def test_weak_members_are_not_admitted() -> None:
    panel = panel_of(*_outcomes({"a": 0.9, "b": 0.6, "c": 0.5}, 300))
    assert panel.weights == {"a": 1.0}
    assert panel.why == "nobody else is near it"


def test_who_is_seldom_right_has_no_seat() -> None:
    _, scores = _outcomes({"a": 0.55, "b": 0.54, "c": 0.54, "d": 0.47}, 400)
    assert set(admitted(scores).weights) == {"a", "b", "c"}


def test_members_that_say_the_same_show_no_gain() -> None:
    answers, scores = _outcomes({"a": 0.8}, 300)
    panel = panel_of(
        [{"a": it["a"], "b": it["a"]} for it in answers], [{"a": it["a"], "b": it["a"]} for it in scores]
    )
    assert len(panel.weights) == 1
    assert panel.why == "no gain by a vote can be shown"


def test_without_labels_there_is_no_panel() -> None:
    with pytest.raises(ValueError, match="labelled"):
        panel_of([], [])
