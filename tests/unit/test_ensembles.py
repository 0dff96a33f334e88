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
    CutOff,
    Deliver,
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
