"""What a rollout may change of a config, and what it may not."""

from __future__ import annotations

from typing import get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.config.config import Config, GatewaySettings, LedgerSettings, RolloutRule
from isthmus.config.rollouts import name_of, pair_of, rolled, version_of
from isthmus.core.portfolio import EngineSettings, Model, Provider
from isthmus.core.rollout import Stage, Turn, Version
from isthmus.routing.route import Route
from isthmus.strategies.plan import Cascade, Node, Shadow, Split
from isthmus.strategies.plan.node import once_each
from tests.laws.plans import NAMES, plans
from tests.laws.test_perimeter import KINDS, ZONES, labels, levels, policies, promises

FEW = settings(max_examples=40)
A, B, C, D = (Version(f"/weights/{letter}", letter * 64) for letter in "abcd")

models = st.builds(
    Model,
    name=st.just("a"),
    provider=st.just("here"),
    id=st.just("a"),
    kind=st.sampled_from(KINDS),
    zone=st.one_of(st.none(), st.sampled_from(ZONES)),
    clearance=st.one_of(st.none(), levels),
    promises=promises,
    weights=st.one_of(st.none(), st.just(A.weights)),
)
shares = st.floats(0.01, 0.99)
turns = st.builds(
    Turn,
    model=st.just("a"),
    stage=st.sampled_from(get_args(Stage)),
    share=shares,
    ground=st.just(A),
    old=st.sampled_from([A, B]),
    new=st.just(C),
    why=st.text(max_size=5),
    who=st.text(max_size=5),
    at_us=st.integers(0, 2**53),
)
# A turn, and the weights that the config itself has: some of those that the turn knows.
rollouts = turns.flatmap(lambda it: st.tuples(st.just(it), st.sampled_from([it.ground, it.old, it.new])))


def config_of(plan: Node, other: Node | None = None) -> Config:
    here = Provider(name="here", wires=("openai",), engine=EngineSettings())
    named = {
        name: Model(name=name, provider="here", id=name, kind="local", weights=f"/weights/{name}")
        for name in NAMES
    }
    routes = {"r": Route(name="r", plan=plan)}
    if other is not None:
        routes["other"] = Route(name="other", plan=other)
    return Config(
        providers={"here": here},
        models=named,
        routes=routes,
        gateway=GatewaySettings(),
        ledger=LedgerSettings(),
        rollouts=(RolloutRule(model="a", judge="b"),),
        hash="as it was",
    )


@given(policies, models, labels)
def test_a_version_may_receive_what_its_model_may(policy: object, model: Model, label: object) -> None:
    refuses = policy.refuses  # type: ignore[attr-defined]
    refused, also = refuses(model, label), refuses(version_of(model, B), label)
    assert (refused is None) == (also is None)
    if refused is not None:
        assert also.rule == refused.rule


@FEW
@given(plans, plans, rollouts)
def test_a_rollout_changes_the_plans_that_call_its_model_and_no_other(
    plan: Node, other: Node, rollout: tuple[Turn, Version]
) -> None:
    turn, own = rollout
    config = config_of(plan, other)
    after = rolled(config, [turn], {"a": own})
    versions = {*pair_of(turn, own), "a"}
    for name, route in after.routes.items():
        before = config.routes[name]
        assert set(before.models()) - versions <= set(route.models()) <= {*before.models(), *versions, "b"}
        if "a" not in before.models():
            assert route is before
    # Whoever decides finds every model that a plan names, and none serves that no stage wants.
    assert {name for route in after.routes.values() for name in route.models()} <= after.models.keys()
    old, new = pair_of(turn, own)
    stages = {"shadow": {old, new}, "canary": {old, new}, "full": {new}, "rolled back": {old}}
    assert {name for name, model in after.models.items() if model.family == "a"} == stages[turn.stage]


@FEW
@given(plans, rollouts)
def test_each_version_answers_as_its_stage_says(plan: Node, rollout: tuple[Turn, Version]) -> None:
    turn, own = rollout
    after = rolled(config_of(plan), [turn], {"a": own}).routes["r"].plan
    old, new = pair_of(turn, own)
    if "a" not in plan.models():
        assert after is plan
        return
    match turn.stage:
        case "shadow":
            assert isinstance(after, Shadow)
            assert (after.candidate, after.share) == (new, turn.share)
            assert _models(after.of) == _models(plan.renamed(lambda it: old if it == "a" else it))
        case "canary":
            assert isinstance(after, Split)
            fresh, known = after.arms
            assert (fresh.weight, known.weight) == (turn.share, 1 - turn.share)
            assert _models(fresh.plan) == _models(plan.renamed(lambda it: new if it == "a" else it))
            assert _models(known.plan) == _models(plan.renamed(lambda it: old if it == "a" else it))
        case stage:
            settled = new if stage == "full" else old
            assert _models(after) == _models(plan.renamed(lambda it: settled if it == "a" else it))


def _models(plan: Node) -> tuple[str, ...]:
    return plan.models()


@FEW
@given(plans, turns)
def test_nothing_changes_without_a_rollout_that_is_about_the_config(plan: Node, turn: Turn) -> None:
    config = config_of(plan)
    assert rolled(config, [], {}) is config
    # The operator has written other weights, or the model is not the config's.
    assert rolled(config, [turn], {"a": D}) is config
    assert rolled(config, [turn], {}) is config
    assert rolled(config, [msgspec.structs.replace(turn, model="gone")], {"gone": A}) is config
    # Back to where the config is, or on to where it has followed.
    back = msgspec.structs.replace(turn, stage="rolled back", old=A)
    assert rolled(config, [back], {"a": A}) is config
    full = msgspec.structs.replace(turn, stage="full")
    assert rolled(config, [full], {"a": C}) is config


@FEW
@given(plans, turns, turns)
def test_the_hash_tells_what_is_in_force_and_nothing_else(plan: Node, one: Turn, other: Turn) -> None:
    config = config_of(plan)
    hashes = [rolled(config, [turn], {"a": A}).hash for turn in (one, other)]
    alike = [(turn.stage, turn.share, turn.old, turn.new) for turn in (one, other)]
    if alike[0] == alike[1]:
        assert hashes[0] == hashes[1]
    elif hashes[0] != config.hash:
        assert hashes[0] != hashes[1]


@FEW
@given(plans, st.sets(st.sampled_from(NAMES)))
def test_renaming_commutes_with_pruning(plan: Node, allowed: set[str]) -> None:
    def renamed(name: str) -> str:
        return f"{name}@2" if name == "a" else name

    before = plan.prune(lambda name: name in allowed)
    after = plan.renamed(renamed).prune(lambda name: name.removesuffix("@2") in allowed)
    assert after == (None if before is None else before.renamed(renamed))


@FEW
@given(plans)
def test_a_renamed_plan_calls_the_renamed_models(plan: Node) -> None:
    assert plan.renamed(lambda name: name) == plan
    assert plan.renamed(str.upper).models() == once_each([name.upper() for name in plan.models()])


@FEW
@given(plans, rollouts)
def test_a_calibration_holds_for_no_other_weights(plan: Node, rollout: tuple[Turn, Version]) -> None:
    turn, own = rollout
    full = msgspec.structs.replace(turn, stage="full")
    after = rolled(config_of(plan), [full], {"a": own}).routes["r"].plan
    name = name_of("a", C, own)
    for cascade in _cascades(after):
        tied = {*cascade.stages[0].plan.models(), *cascade.stages[-1].plan.models()}
        if cascade.stages[0].accept.calibration is not None and name in tied and name != "a":
            assert cascade.stale


def _cascades(plan: object) -> list[Cascade]:
    found: list[Cascade] = [plan] if isinstance(plan, Cascade) else []
    if isinstance(plan, tuple):
        return [it for part in plan for it in _cascades(part)]
    if isinstance(plan, msgspec.Struct):
        found += [it for name in plan.__struct_fields__ for it in _cascades(getattr(plan, name))]
    return found
