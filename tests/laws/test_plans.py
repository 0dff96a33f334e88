"""The plan algebra, for any plan and any outcomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.decision import Previous
from isthmus.core.errors import Fault, IsthmusError
from isthmus.strategies.plan import CallModel, Cascade, Edge, Ensemble, Fallback, Grade, Node, Shadow, Split
from isthmus.strategies.plan.call import LONGEST_PAUSE_S
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Attempt, Circumstances, Deliver, Race, Result, Wait
from isthmus.strategies.plan.split import Arm, Bandit, Stop
from tests.laws.plans import NAMES, asked, drive, foresights, names, outcomes, plans, result_of

draws = st.floats(0, 1, exclude_max=True)
circumstances = st.builds(
    Circumstances,
    draw=draws,
    key=st.one_of(st.none(), st.text(max_size=8)),
    user=st.one_of(st.none(), st.text(max_size=8)),
    foreseen=st.just(()) | foresights,
)


@given(plans, st.sets(st.sampled_from(NAMES)), circumstances, st.data())
def test_a_pruned_plan_never_calls_what_was_pruned(
    plan: Node, allowed: set[str], drawn: Circumstances, data: st.DataObject
) -> None:
    pruned = plan.prune(lambda name: name in allowed)
    if pruned is None:
        assert not set(plan.models()) & allowed or not _answers(plan) & allowed
        return
    assert set(pruned.models()) <= set(plan.models()) & allowed
    effects, _ = drive(
        pruned.choose(drawn).node,
        lambda name: result_of(name, data.draw(outcomes)),
        lambda: data.draw(st.booleans()),
    )
    assert asked(effects) <= allowed


def _answers(plan: Node) -> set[str]:
    """The models of a plan that answer by themselves: a judge without anything to judge does not."""
    match plan:
        case Ensemble():
            otherwise = _answers(plan.otherwise) if plan.otherwise else set()
            return {*plan.members, *otherwise}
        case Cascade():
            return {name for stage in plan.stages for name in _answers(stage.plan)}
        case Edge():
            return _answers(plan.far) | _answers(plan.near)
        case Fallback():
            return {name for inner in plan.plans for name in _answers(inner)}
        case Shadow() | Grade():
            return _answers(plan.of)
        case Split():
            return {name for arm in plan.arms for name in _answers(arm.plan)}
        case _:
            return set(plan.models())


@given(plans, circumstances, st.data())
def test_nothing_is_tried_after_an_answer_has_begun(
    plan: Node, drawn: Circumstances, data: st.DataObject
) -> None:
    effects, result = drive(
        plan.choose(drawn).node,
        lambda name: result_of(name, data.draw(outcomes)),
        lambda: data.draw(st.booleans()),
    )
    delivered = [isinstance(effect, Deliver) for effect in effects]
    assert not any(delivered[:-1]), "nothing follows an answer that was delivered"
    assert not isinstance(effects[-1], Wait), "nobody waits after the last attempt"
    assert result.kept is None, "a draft that is nobody's answer is not the end"
    assert result.final or result.error is not None


@given(plans, circumstances)
def test_a_plan_whose_models_answer_gives_one_answer(plan: Node, drawn: Circumstances) -> None:
    effects, result = drive(plan.choose(drawn).node, Result)
    assert result.final
    assert isinstance(effects[-1], Attempt | Race | Deliver)


def test_a_model_that_is_not_permitted_hands_over_to_the_next() -> None:
    refused = Result("a", IsthmusError(Fault.NOT_PERMITTED, "not permitted"))
    plan = Fallback(plans=(CallModel(model="a"), CallModel(model="b")))
    effects, result = drive(plan, lambda name: refused if name == "a" else Result(name))
    assert [effect.model for effect in effects if isinstance(effect, Attempt)] == ["a", "b"]
    assert result == Result("b")


def test_what_took_all_of_its_time_is_not_asked_again_but_handed_over() -> None:
    late = Result("a", IsthmusError(Fault.TOOK_TOO_LONG, "late"))
    plan = Fallback(plans=(CallModel(model="a", retries=3), CallModel(model="b")))
    effects, _ = drive(plan, lambda name: late if name == "a" else Result(name))
    assert [effect.model for effect in effects if isinstance(effect, Attempt)] == ["a", "b"]


@given(plans, st.sampled_from(NAMES), st.lists(names, max_size=2).map(tuple), circumstances, st.data())
def test_a_plan_that_stays_calls_no_more_than_before(
    plan: Node, model: str, arms: tuple[str, ...], drawn: Circumstances, data: st.DataObject
) -> None:
    staying = plan.staying(Previous(model=model, arms=arms))
    if staying is None:
        assert model not in _answers(plan)
        return
    assert model in staying.models()
    assert set(staying.models()) <= set(plan.models())
    effects, result = drive(staying.choose(drawn).node, lambda name: result_of(name, data.draw(outcomes)))
    assert asked(effects) <= set(plan.models())
    assert result.final or result.error is not None


@given(st.lists(names, min_size=1, max_size=4, unique=True), st.sampled_from(NAMES))
def test_a_conversation_is_answered_by_whom_it_stays_with(models: list[str], model: str) -> None:
    parts = tuple(CallModel(model=name) for name in models)
    for plan in (
        Fallback(plans=parts),
        Split(arms=tuple(Arm(plan=part) for part in parts)),
        Cascade(stages=tuple(Step(plan=part) for part in parts)),
    ):
        for draw in (0.0, 0.5, 0.99):
            staying = plan.staying(Previous(model=model))
            if model not in models:
                assert staying is None
                continue
            assert staying is not None
            choice = staying.choose(Circumstances(draw=draw))
            assert drive(choice.node, Result)[1].model == model
            assert choice.propensity == 1.0


def test_of_the_arms_that_call_a_model_a_conversation_stays_in_the_one_that_was_drawn() -> None:
    small, strong = CallModel(model="a"), CallModel(model="b")
    cascade = Cascade(stages=(Step(plan=small), Step(plan=strong)))
    split = Split(arms=(Arm(plan=strong, name="strong"), Arm(plan=cascade)))
    drawn = split.choose(Circumstances(draw=0.9))
    assert drawn.arms == ("a, b",)
    staying = split.staying(Previous(model="b", arms=drawn.arms))
    assert staying is not None
    choice = staying.choose(Circumstances(draw=0.0))
    assert (choice.node, choice.arms) == (strong, drawn.arms)


@given(plans, circumstances)
def test_equal_circumstances_give_an_equal_choice(plan: Node, drawn: Circumstances) -> None:
    assert plan.choose(drawn) == plan.choose(drawn)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), draws)
def test_a_split_shares_by_weight(weights: list[float], draw: float) -> None:
    arms = tuple(Arm(plan=CallModel(model=str(index)), weight=weight) for index, weight in enumerate(weights))
    choice = Split(arms=arms).choose(Circumstances(draw=draw))
    index = int(choice.node.models()[0])
    below = sum(weights[:index]) / sum(weights)
    assert choice.propensity == weights[index] / sum(weights)
    assert below - 1e-9 <= draw <= below + choice.propensity + 1e-9


@given(
    st.lists(st.floats(0.1, 10), min_size=2, max_size=4),
    st.sets(st.integers(0, 3), min_size=1),
    st.sampled_from([None, Bandit()]),
    draws,
)
def test_who_is_stopped_is_drawn_no_more_and_nobody_else_is_moved(
    weights: list[float], stopped: set[int], bandit: Bandit | None, draw: float
) -> None:
    arms = tuple(Arm(plan=CallModel(model=str(index)), weight=weight) for index, weight in enumerate(weights))
    split = Split(arms=arms, stop=Stop(), bandit=bandit)
    before = split.choose(Circumstances(draw=draw))
    gone = tuple((str(index), 0.0) for index in stopped if index < len(arms))
    after = split.choose(Circumstances(draw=draw, weights=gone))
    left = [weight for index, weight in enumerate(weights) if index not in stopped]
    if not left:
        assert after == before, "nobody is left to go to"
        return
    chosen = int(after.arms[0])
    assert chosen not in stopped
    assert after.propensity == pytest.approx(weights[chosen] / sum(left))
    if int(before.arms[0]) not in stopped and bandit is None:
        assert after.arms == before.arms
    assert Split(arms=arms).choose(Circumstances(draw=draw, weights=gone)).arms == before.arms


def test_an_arm_stays_stopped_whichever_of_its_models_are_left() -> None:
    both = Fallback(plans=(CallModel(model="a"), CallModel(model="b")))
    split = Split(arms=(Arm(plan=both), Arm(plan=CallModel(model="c"))), stop=Stop())
    left = split.prune(lambda name: name != "a")
    assert isinstance(left, Split)
    stopped = (("a, b", 0.0),)
    for draw in (0.0, 0.99):
        assert left.choose(Circumstances(draw=draw, weights=stopped)).arms == ("c",)


def test_whom_a_stopped_arm_had_is_shared_by_weight() -> None:
    arms = tuple(
        Arm(plan=CallModel(model=name), weight=weight) for name, weight in (("a", 1), ("b", 2), ("c", 3))
    )
    split = Split(arms=arms, stop=Stop())
    drawn = [
        split.choose(Circumstances(draw=(n + 0.5) / 6000, weights=(("b", 0.0),))).arms[0] for n in range(6000)
    ]
    assert (drawn.count("a"), drawn.count("c")) == (1500, 4500)


weights = st.lists(st.floats(0.5, 5), min_size=1, max_size=3)


@given(st.lists(weights, min_size=1, max_size=3))
def test_a_split_in_an_arm_of_another_shares_by_weight_too(inner: list[list[float]]) -> None:
    arms = tuple(
        Arm(
            plan=Split(
                arms=tuple(
                    Arm(plan=CallModel(model=f"{outer}.{place}"), weight=weight)
                    for place, weight in enumerate(them)
                )
            ),
            weight=1 + outer,
        )
        for outer, them in enumerate(inner)
    )
    chosen = [Split(arms=arms).choose(Circumstances(draw=(step + 0.5) / 2000)) for step in range(2000)]
    told = {choice.node.models()[0]: choice.propensity for choice in chosen}
    assert sum(told.values()) == pytest.approx(1)
    for name, propensity in told.items():
        drawn = sum(choice.node.models()[0] == name for choice in chosen) / len(chosen)
        assert drawn == pytest.approx(propensity, abs=0.002)


@given(st.text(min_size=1, max_size=12), draws, draws)
def test_a_sticky_split_keeps_a_user_where_she_is(user: str, first: float, second: float) -> None:
    arms = tuple(Arm(plan=CallModel(model=name)) for name in NAMES)
    split = Split(arms=arms, sticky="user")
    one = split.choose(Circumstances(draw=first, user=user))
    two = split.choose(Circumstances(draw=second, user=user))
    assert one == two


def test_the_splits_inside_of_a_split_are_drawn_anew() -> None:
    inner = Split(arms=(Arm(plan=CallModel(model="b")), Arm(plan=CallModel(model="c"), name="third")))
    split = Split(arms=(Arm(plan=CallModel(model="a")), Arm(plan=inner)))
    choices = [split.choose(Circumstances(draw=(n + 0.5) / 1000)) for n in range(1000)]
    chosen = [choice.node.models()[0] for choice in choices]
    assert [chosen.count(name) for name in "abc"] == [500, 250, 250]
    assert choices[-1].reasons[-1] == "split: 50% of requests go to third (c)"
    assert choices[-1].propensity == 0.25


@given(draws, st.floats(0.01, 0.99))
def test_a_shadow_is_cast_on_its_share_and_leaves_the_draw_fresh(draw: float, share: float) -> None:
    inner = Split(arms=(Arm(plan=CallModel(model="a")), Arm(plan=CallModel(model="b"))))
    choice = Shadow(candidate="c", of=inner, share=share).choose(Circumstances(draw=draw))
    cast = isinstance(choice.node, Shadow)
    assert cast == (draw < share)
    assert choice.propensity == 0.5, "a shadow changes nothing of what the client gets"
    within = draw / share if cast else (draw - share) / (1 - share)
    assert choice.node.models()[0] == ("a" if within < 0.5 else "b")


def test_a_sticky_split_still_shares_by_weight() -> None:
    split = Split(
        arms=(Arm(plan=CallModel(model="a"), weight=9), Arm(plan=CallModel(model="b"))), sticky="user"
    )
    chosen = [split.choose(Circumstances(draw=0, user=f"u{n}")).node.models()[0] for n in range(5000)]
    assert 0.08 < chosen.count("b") / len(chosen) < 0.12


@given(st.integers(0, 5), st.floats(0, 30), st.floats(0, 60))
def test_waiting_is_bounded_by_patience(retries: int, patience: float, retry_after: float) -> None:
    node = CallModel(model="a", retries=retries, patience=patience)
    busy = Result("a", IsthmusError(Fault.RATE_LIMITED, "busy", retry_after_s=retry_after))
    effects, _ = drive(node, lambda _: busy)
    waits = [effect.seconds for effect in effects if isinstance(effect, Wait)]
    if retry_after > patience:
        assert waits == [], "a provider that asks for more patience than there is is not waited for"
    else:
        assert waits == [retry_after] * retries

    failing = Result("a", IsthmusError(Fault.UPSTREAM_ERROR, "failed"))
    effects, _ = drive(node, lambda _: failing)
    waits = [effect.seconds for effect in effects if isinstance(effect, Wait)]
    assert len(waits) == retries
    assert all(wait <= min(patience, LONGEST_PAUSE_S) for wait in waits)
    assert waits == sorted(waits)
