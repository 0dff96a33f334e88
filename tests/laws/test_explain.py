"""Law 9: what `explain` says is the value by which the live request is decided."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import msgspec
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.bootstrap import router_of
from isthmus.cli.explain import explain
from isthmus.config.load import parse
from isthmus.core.call import Operation
from isthmus.core.decision import Previous
from isthmus.core.errors import Fault
from isthmus.core.label import Label
from isthmus.core.portfolio import Capability, Model, Provider
from isthmus.routing.decide import Facts, Router
from isthmus.routing.route import Route, Thrift
from isthmus.strategies.plan.node import Attempt, Circumstances
from tests.laws.plans import NAMES, drive, foresights, plans, result_of, silences
from tests.laws.test_perimeter import KINDS, ZONES, labels, policies

OPERATIONS: tuple[Operation, ...] = ("chat", "embeddings", "count_tokens")
ROUTES = ("r", "s")

wires = st.sampled_from(
    [("openai",), ("openai-embeddings",), ("openai", "openai-embeddings"), ("anthropic",)]
)
capabilities = st.one_of(
    st.none(),
    st.sets(st.sampled_from(["chat", "embeddings", "tools"])).map(
        lambda names: cast(frozenset[Capability], frozenset(names))
    ),
)
circumstances = st.builds(
    Circumstances,
    draw=st.one_of(st.sampled_from([0.0, 0.5]), st.floats(0, 1, exclude_max=True)),
    key=st.sampled_from([None, "key_1", "key_2"]),
    user=st.sampled_from([None, "ada", "grace"]),
    revises=st.booleans(),
    weights=st.sampled_from([(), (("a", 0.0),), (("a", 0.2), ("b", 0.8))]),
    previous=st.none() | st.builds(Previous, model=st.sampled_from(NAMES)),
    foreseen=st.just(()) | foresights,
    silences=silences,
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """A portfolio in which every model of the plans exists."""
    return Facts(
        providers={name: Provider(name=name, wires=draw(wires)) for name in NAMES},
        models={
            name: Model(
                name=name,
                provider=name,
                id=name,
                kind=draw(st.sampled_from(KINDS)),
                zone=draw(st.one_of(st.none(), st.sampled_from(ZONES))),
                capabilities=draw(capabilities),
            )
            for name in NAMES
        },
        routes={
            name: Route(
                name=name,
                plan=draw(plans),
                thrift=draw(st.none() | st.builds(Thrift, plan=plans)),
                continuity=draw(st.booleans()),
            )
            for name in ROUTES
        },
        config_hash="c",
        outside=draw(policies).refuses,
    )


requests = st.lists(
    st.tuples(
        st.sampled_from(ROUTES),
        st.sampled_from(OPERATIONS),
        labels,
        circumstances,
        st.none() | labels,
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(facts(), requests)
def test_a_fresh_router_explains_what_a_busy_one_decided(
    known: Facts, asked: list[tuple[str, Operation, Label, Circumstances, Label | None, bool]]
) -> None:
    live = Router(known)
    for question in asked:
        assert Router(known).decide(*question) == live.decide(*question)


@given(facts(), requests)
def test_what_is_settled_is_what_is_decided(
    known: Facts,
    asked: list[tuple[str, Operation, Label, Circumstances, Label | None, bool]],
) -> None:
    router = Router(known)
    for route, operation, label, any_other, hidden, thrifty in asked:
        drawn = msgspec.structs.replace(any_other, previous=None, revises=False)
        for _ in ("made", "known"):
            settled = router.settled(route, operation, label, hidden, thrifty)
            if settled is not None:
                assert settled == Router(known).decide(route, operation, label, drawn, hidden, thrifty)


def test_what_depends_on_nothing_is_settled() -> None:
    config = parse(CONFIG, "isthmus.yaml").config
    assert config is not None
    router = router_of(config)
    assert router.settled("s", "chat", Label("internal")) is not None
    assert router.settled("r", "chat", Label("internal")) is None, "it is drawn"


@given(
    facts(), st.sampled_from(OPERATIONS), labels, circumstances, st.none() | labels, st.booleans(), st.data()
)
def test_a_decision_calls_what_it_allows_and_says_why_not_the_rest(
    known: Facts,
    operation: Operation,
    label: Label,
    drawn: Circumstances,
    hidden: Label | None,
    thrifty: bool,
    data: st.DataObject,
) -> None:
    decision = Router(known).decide("r", operation, label, drawn, hidden, thrifty)
    assert decision.label == label
    barred = {name for name in decision.allowed if known.outside(known.models[name], label)}
    assert barred == set(decision.pseudonymised), "law 1"
    assert not [name for name in barred if hidden is None or known.outside(known.models[name], hidden)]
    refused = {refusal.model for refusal in decision.refused}
    assert refused | set(decision.allowed) == set(known.routes["r"].plan_for(thrifty).models())
    assert not refused & set(decision.allowed)
    assert all(refusal.reason and refusal.rule for refusal in decision.refused)
    assert decision.reasons
    assert (decision.plan is None) == (not decision.allowed)
    assert 0 < decision.propensity <= 1
    assert decision.previous in (None, drawn.previous)
    if decision.plan is not None:
        faults = st.tuples(st.sampled_from([Fault.TIMEOUT, Fault.UPSTREAM_ERROR]), st.just(False), st.none())
        effects, _ = drive(decision.plan, lambda name: result_of(name, data.draw(faults)))
        assert {effect.model for effect in effects if isinstance(effect, Attempt)} <= set(decision.allowed)


CONFIG = """
providers: {here: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: open}}
models: {small: {provider: here}, large: {provider: here}, huge: {provider: here, capabilities: [embeddings]}}
routes:
  r: {split: {small: 1, large: 3}, sticky: user}
  s: {fallback: [small, huge, {model: large, retries: 0}]}
"""


@settings(max_examples=25)
@given(st.sampled_from(ROUTES), st.sampled_from(["ada", "grace", "hedy", "mary"]), st.booleans())
def test_the_command_prints_the_live_decision(route: str, user: str, embeddings: bool) -> None:
    config = parse(CONFIG, "isthmus.yaml").config
    assert config is not None
    operation: Operation = "embeddings" if embeddings else "chat"
    drawn = Circumstances(draw=0.1, user=user)
    live = router_of(config).decide(route, operation, Label("internal"), drawn)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "isthmus.yaml"
        path.write_text(CONFIG, encoding="utf-8")
        options = ["--embeddings"] if embeddings else []
        said = CliRunner().invoke(explain, [route, "-c", str(path), "--user", user, "--json", *options])
    assert said.exit_code == 0, said.output
    explained = msgspec.json.decode(said.stdout)
    assert (explained.pop("found"), explained.pop("blind"), explained.pop("hidden")) == ([], [], None)
    assert explained.pop("why")["models"].keys() == {*live.allowed, *(it.model for it in live.refused)}
    assert explained == msgspec.json.decode(msgspec.json.encode(live))
