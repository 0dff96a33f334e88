"""What crosses the boundary where a plan changes that already had a model beyond it."""

from __future__ import annotations

import msgspec
import pytest

from isthmus.core.decision import Decision
from isthmus.core.portfolio import Model
from isthmus.evals.replay.boundary import Place
from isthmus.evals.replay.changes import Outcome, Then, compare
from isthmus.evals.replay.fates import Chance
from isthmus.strategies.plan import CallModel, Cascade, Fallback, Hedge, Node, Shadow
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Acceptance

MODELS = {
    "in": Model(name="in", provider="p", id="in", kind="local"),
    "out": Model(name="out", provider="p", id="out", kind="closed", zone="us"),
}
OUT = Place("closed", "us")


def decided(plan: Node, config_hash: str) -> Decision:
    return Decision(
        route="r",
        operation="chat",
        allowed=("in", "out"),
        refused=(),
        plan=plan,
        reasons=(),
        propensity=1.0,
        config_hash=config_hash,
    )


def replayed(before: Node, after: Node) -> Outcome:
    """What becomes of a request that the model inside answered at once."""
    then = Then(decided(before, "one"), "in", (), MODELS)
    [found] = compare(then, [Chance(1.0, decided(after, "two"))], MODELS, {})
    return found


def cascade(surety: float) -> Cascade:
    first = Step(plan=CallModel(model="in"), accept=msgspec.convert({"self_check": surety}, Acceptance))
    return Cascade(stages=(first, Step(plan=CallModel(model="out"))))


def hedge(after: float) -> Hedge:
    return Hedge(model="in", beside="out", after=after)


SAFE = Fallback(plans=(CallModel(model="in"), CallModel(model="out")))


@pytest.mark.parametrize(
    ("before", "after"), [(cascade(0.5), cascade(0.99)), (SAFE, cascade(0.5)), (hedge(5), hedge(0.1))]
)
def test_where_it_depends_on_the_answer_or_its_speed_a_request_may_go_out(before: Node, after: Node) -> None:
    found = replayed(before, after)
    assert (found.lets_out, found.may_let_out) == ((), (OUT,))


def test_whoever_answers_is_copied_to_the_model_in_the_shadow() -> None:
    found = replayed(SAFE, Shadow(candidate="out", of=SAFE))
    assert found.lets_out == (OUT,)
    assert replayed(SAFE, Shadow(candidate="in", judge="out", of=SAFE)).lets_out == (OUT,)


def test_what_might_have_gone_out_if_a_model_had_failed_is_nothing_new() -> None:
    again = Fallback(plans=(CallModel(model="in", retries=3), CallModel(model="out")))
    found = replayed(SAFE, again)
    assert (found.change, found.lets_out, found.may_let_out) == ("adjusted", (), ())
    assert replayed(CallModel(model="in"), SAFE).may_let_out == (OUT,)
