"""What crosses the boundary where a plan changes that already had a model beyond it."""

from __future__ import annotations

import msgspec
import pytest

from isthmus.core.decision import Decision
from isthmus.core.portfolio import Kind, Model, Provider
from isthmus.evals.replay.boundary import Place, Portfolio
from isthmus.evals.replay.changes import Outcome, Then, compare
from isthmus.evals.replay.fates import Chance
from isthmus.strategies.plan import CallModel, Cascade, Fallback, Hedge, Node, Shadow
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Acceptance

MODELS = {
    "in": Model(name="in", provider="p", id="in", kind="local"),
    "out": Model(name="out", provider="p", id="out", kind="closed", zone="us"),
}
HERE = Portfolio(MODELS, {})
OUT = Place("closed", "us", "p")


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
    then = Then(decided(before, "one"), "in", (), HERE)
    [found] = compare(then, [Chance(1.0, decided(after, "two"))], HERE, {})
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


def portfolio(url: str, kind: Kind = "closed") -> Portfolio:
    model = Model(name="out", provider="p", id="out", kind=kind, zone="us")
    return Portfolio({"out": model}, {"p": Provider(name="p", wires=("openai",), base_url=url)})


@pytest.mark.parametrize(
    ("kind", "url", "crosses"),
    [
        ("closed", "https://one.test/v1", False),
        ("closed", "https://one.test:8443/v2", False),
        ("closed", "https://two.test/v1", True),
        # A machine that you rent is somebody else's than the provider who has had it.
        ("open", "https://two.test/v1", True),
        ("open", "https://one.test/v1", False),
        ("local", "https://two.test/v1", False),
    ],
)
def test_a_provider_that_moves_to_another_host_is_another_place(kind: Kind, url: str, crosses: bool) -> None:
    plan = CallModel(model="out")
    then = Then(decided(plan, "one"), "out", (), portfolio("https://one.test/v1"))
    [found] = compare(then, [Chance(1.0, decided(plan, "two"))], portfolio(url, kind), {})
    assert found.lets_out == ((Place(kind, "us", "two.test"),) if crosses else ())
    assert found.change == ("same" if (kind, "one.test" in url) == ("closed", True) else "moved")


def test_two_providers_of_one_zone_are_two_places() -> None:
    first, second = (Model(name=name, provider=name, id="m", kind="closed") for name in ("one", "two"))
    both = Portfolio({"one": first, "two": second}, {})
    then = Then(decided(CallModel(model="one"), "one"), "one", (), both)
    [found] = compare(then, [Chance(1.0, decided(CallModel(model="two"), "two"))], both, {})
    assert found.lets_out == (Place("closed", None, "two"),)
