"""Ensembles as plans: who is asked, whose answer is given, and what is left where not all may be asked."""

from __future__ import annotations

import msgspec
import pytest

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Finish, TextDelta
from isthmus.strategies.plan import CallModel, Ensemble, Fallback, Node
from isthmus.strategies.plan.ensemble import Combine
from isthmus.strategies.plan.node import (
    Attempt,
    Begin,
    Circumstances,
    CutOff,
    Deliver,
    Empanelled,
    Kept,
    Next,
    Reply,
    Result,
    Say,
)

VOTE = Ensemble(members=("a", "b", "c"))
STRICT = msgspec.structs.replace(VOTE, otherwise=CallModel(model="d", retries=0))
DOWN = IsthmusError(Fault.UPSTREAM_AUTHENTICATION, "down")


def answered(plan: Node, answers: dict[str, str]) -> tuple[str | None, list[Say]]:
    """Whose answer is given where models say this, and those that are not there fail; and what was made of
    answers."""
    said: list[Say] = []
    begun: list[Result] = []
    steps = plan.steps()
    reply: Reply = None

    def result(model: str, place: int = 0) -> Result:
        if model not in answers:
            return Result(model, DOWN, place=place)
        pieces = (TextDelta(text=answers[model]), Finish(reason="stop"))
        return Result(model, kept=Kept(model, place, pieces), place=place)

    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            return (None if stop.value.error else stop.value.model), said
        reply = None
        match effect:
            case Attempt(model):
                reply = Result(model, None if model in answers else DOWN)
            case Begin(drafts):
                begun = [result(draft.model, place) for place, draft in enumerate(drafts)]
            case Next():
                reply = begun.pop() if begun else None
            case Deliver(kept):
                reply = Result(kept.model, committed=True)
            case Say():
                said.append(effect)
            case _:
                assert isinstance(effect, CutOff)


def test_a_vote_takes_the_heaviest_and_of_equals_the_heavier_member() -> None:
    assert answered(VOTE, {"a": "1", "b": "2", "c": "2."})[0] == "b"
    assert answered(VOTE, {"a": "1", "b": "2", "c": "3"})[0] == "a"
    weighed = msgspec.structs.replace(VOTE, weights={"c": 2.0})
    assert answered(weighed, {"a": "1", "b": "1", "c": "2"})[0] == "c"
    assert answered(weighed, {"a": "1", "b": "2"})[0] == "a"


def test_a_lone_answer_is_given_and_is_no_certainty() -> None:
    model, (said,) = answered(VOTE, {"b": "1"})
    assert (model, said.verdict, said.confidence) == ("b", "1 of 3 say the same", pytest.approx(1 / 3))


@pytest.mark.parametrize(
    "answers",
    [
        {"a": "1", "b": "1", "c": "2"},
        {"a": "1", "b": "2", "c": "3"},
        {"a": "1", "b": "1"},
        {"a": "1", "b": "1", "c": " ..."},
        {"a": "1"},
        {"a": "", "b": "", "c": ""},
        {},
    ],
)
def test_with_otherwise_anything_but_unanimity_escalates(answers: dict[str, str]) -> None:
    assert answered(STRICT, {**answers, "d": "9"})[0] == "d"


def test_what_all_say_is_taken_and_a_failed_escalation_leaves_the_vote() -> None:
    model, (said,) = answered(STRICT, {"a": "one", "b": "One.", "c": "one", "d": "9"})
    assert (model, said.verdict, said.confidence) == ("a", "3 of 3 say the same", 1.0)
    model, (before, after) = answered(STRICT, {"a": "1", "b": "2", "c": "2"})
    assert (model, before.verdict, after.verdict) == ("b", "only 2 of 3 say the same", "2 of 3 say the same")
    assert after.confidence == pytest.approx(2 / 3)


def test_one_member_asked_twice_agrees_only_where_it_says_the_same_twice() -> None:
    again = msgspec.structs.replace(STRICT, members=("a", "a"))
    assert answered(again, {"a": "1", "d": "9"})[0] == "a"
    once = msgspec.structs.replace(STRICT, members=("a",))
    assert answered(once, {"a": "1", "d": "9"})[0] == "d"


def test_whoever_is_left_alone_has_nobody_to_agree_with() -> None:
    left = STRICT.prune(lambda name: name in "ad")
    assert left == Fallback(plans=(CallModel(model="d", retries=0), CallModel(model="a")))
    assert answered(left, {"a": "1", "d": "9"})[0] == "d"
    assert answered(left, {"a": "1"})[0] == "a"
    assert STRICT.prune(lambda name: name == "a") == CallModel(model="a")
    assert STRICT.prune(lambda name: name == "d") == STRICT.otherwise
    assert VOTE.prune(lambda name: name == "a") == CallModel(model="a")


@pytest.mark.parametrize("combine", ["judge", "fuse"])
def test_without_a_judge_one_answers_and_otherwise_is_for_where_it_fails(combine: Combine) -> None:
    judged = msgspec.structs.replace(VOTE, combine=combine, judge="j")
    call = CallModel(model="a")
    assert judged.prune(lambda name: name in "abc") == call
    with_otherwise = msgspec.structs.replace(judged, otherwise=STRICT.otherwise)
    for allowed in ("abcd", "adj"):
        left = with_otherwise.prune(lambda name, allowed=allowed: name in allowed)
        assert left == Fallback(plans=(call, CallModel(model="d", retries=0)))


PANEL = Empanelled(
    file="p.json",
    weights=(("b", 1.5), ("a", 1.0)),
    overall=(("b", 0.8), ("a", 0.75), ("c", 0.5)),
)
ALONE = msgspec.structs.replace(PANEL, weights=(("b", 1.0),), why="nobody else is near it")
STALE = msgspec.structs.replace(PANEL, stale=("the config has changed",))
DRAWN = Circumstances(draw=0.0)


def calls(*names: str) -> Fallback:
    return Fallback(plans=tuple(CallModel(model=name) for name in names))


def test_a_learned_vote_asks_its_panel_by_its_weights() -> None:
    choice = VOTE.seating(PANEL).choose(DRAWN)
    assert choice.node == msgspec.structs.replace(VOTE, members=("b", "a"), weights={"b": 1.5, "a": 1.0})
    assert choice.reasons == ("vote: b, a, weighed by p.json",)
    assert answered(choice.node, {"a": "1", "b": "2", "c": "1"})[0] == "b"


def test_where_no_vote_is_better_the_best_answers_alone_and_if_it_fails_the_next() -> None:
    choice = VOTE.seating(ALONE).choose(DRAWN)
    assert (choice.node, choice.reasons) == (
        calls("b", "a", "c"),
        ("vote: b alone, as nobody else is near it",),
    )


def test_a_stale_panel_leaves_the_best_alone_or_goes_on_and_says_so() -> None:
    choice = VOTE.seating(STALE).choose(DRAWN)
    assert choice.node == calls("b", "a", "c")
    assert choice.reasons == ("vote: b alone, as p.json is stale, as the config has changed",)
    going_on = msgspec.structs.replace(VOTE.seating(STALE), on_stale="warn").choose(DRAWN)
    assert isinstance(going_on.node, Ensemble)
    assert going_on.node.weights == {"b": 1.5, "a": 1.0}
    assert going_on.reasons[0] == "p.json is stale, as the config has changed; the route goes on with it"
    assert VOTE.seating(PANEL).doubting(("the config has changed",)) == VOTE.seating(STALE)


def test_a_panel_of_which_not_all_may_be_asked_was_shown_to_be_better_than_nobody() -> None:
    left = VOTE.seating(PANEL).prune(lambda name: name != "b")
    assert left is not None
    choice = left.choose(DRAWN)
    assert choice.node == calls("a", "c")
    assert choice.reasons == ("vote: a alone, as not all of the panel of p.json may be asked",)
    without_c = VOTE.seating(PANEL).prune(lambda name: name != "c")
    assert without_c is not None
    assert without_c.choose(DRAWN).node == VOTE.seating(PANEL).choose(DRAWN).node


@pytest.mark.parametrize("panel", [PANEL, ALONE, STALE])
def test_with_otherwise_all_have_to_agree_whatever_was_learned(panel: Empanelled) -> None:
    settled = STRICT.seating(panel).choose(DRAWN).node
    assert answered(settled, {"a": "1", "b": "1", "c": "1", "d": "9"})[0] == "b", "in the words of the best"
    assert answered(settled, {"a": "1", "b": "1", "c": "2", "d": "9"})[0] == "d"
    assert answered(settled, {"a": "1", "b": "2", "c": "1"})[0] == "b", "c does not vote"


def test_a_panel_goes_by_the_names_of_its_models() -> None:
    renamed = VOTE.seating(PANEL).renamed(lambda name: f"{name}@2")
    assert renamed.by is not None
    assert renamed.by.weights == (("b@2", 1.5), ("a@2", 1.0))
    choice = renamed.choose(DRAWN)
    assert choice.node.models() == ("b@2", "a@2")
