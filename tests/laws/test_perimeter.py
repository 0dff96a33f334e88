"""Law 2 at its root: labels form a lattice, and no step leads down. What law 1 asks of a policy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.label import BOTTOM, LEVELS, TOP, Finding, Label, Level, covers, join
from isthmus.core.portfolio import Kind, Model
from isthmus.core.promises import NO_PROMISES, Promises
from isthmus.gateway.inspection import Inspection, floors_of
from isthmus.perimeter import grounds
from isthmus.perimeter.policy import SURE_ENOUGH, Clearance, Policy, Rule, by_kind
from isthmus.perimeter.scanner import Scanner, Sighting, Sightings
from isthmus.routing.route import Route
from isthmus.store.keys import Key
from isthmus.strategies.plan.call import CallModel

KINDS: tuple[Kind, ...] = ("closed", "open", "local")
FOUND = ("pii.email", "pii.name", "pii.location", "secret.github", "term.projects")
ZONES = ("eu", "us", "on-prem")

levels = st.sampled_from(LEVELS)
zones = st.one_of(st.none(), st.frozensets(st.sampled_from(ZONES)))
promises = st.builds(
    Promises,
    no_training=st.booleans(),
    retention_days=st.one_of(st.none(), st.integers(0, 60)),
    dpa=st.booleans(),
)
labels = st.builds(Label, levels, st.frozensets(st.sampled_from(FOUND)), zones, promises)
rules = st.builds(
    Rule,
    when=st.sampled_from(("pii", "pii.email", "pii.location", "secret", "term.projects")),
    level=levels,
    zones=zones,
    needs=promises,
)
policies = st.builds(
    Policy,
    default=levels,
    clearance=st.builds(Clearance, closed=levels, open=levels, local=levels),
    rules=st.lists(rules, max_size=4).map(tuple),
)
sightings = st.builds(
    Sighting,
    where=st.just("messages[0]"),
    finding=st.builds(
        Finding, st.sampled_from(FOUND), st.just(0), st.just(1), st.just("test"), st.floats(0, 1)
    ),
)
seen = st.builds(
    Sightings,
    found=st.lists(sightings, max_size=4).map(tuple),
    blind=st.lists(st.just("messages[1]"), max_size=1).map(tuple),
)
models = st.builds(
    Model,
    name=st.just("m"),
    provider=st.just("p"),
    id=st.just("m"),
    kind=st.sampled_from(KINDS),
    zone=st.one_of(st.none(), st.sampled_from(ZONES)),
    clearance=st.one_of(st.none(), levels),
    promises=promises,
)


def _at_least(label: Label, floor: Label) -> bool:
    return label.join(floor) == label


@given(labels, labels, labels)
def test_labels_are_a_lattice(one: Label, two: Label, three: Label) -> None:
    assert one.join(two) == two.join(one)
    assert one.join(two).join(three) == one.join(two.join(three))
    assert one.join(one) == one
    assert one.join(BOTTOM) == BOTTOM.join(one) == one


@given(labels, labels)
def test_a_label_only_rises(one: Label, other: Label) -> None:
    joined = one.join(other)
    assert covers(joined.level, one.level)
    assert joined.categories >= one.categories
    assert one.zones is None or (joined.zones is not None and joined.zones <= one.zones)
    assert joined.needs.lacks(one.needs) == NO_PROMISES


@given(policies, seen, st.lists(labels, max_size=3))
def test_a_request_is_labelled_at_least_as_each_of_its_reasons(
    policy: Policy, what: Sightings, floors: list[Label]
) -> None:
    label = policy.label(what, floors)
    assert _at_least(label, Label(policy.default))
    assert all(_at_least(label, floor) for floor in floors)
    assert not what.blind or all(_at_least(label, it) for it in (TOP, *(rule.label for rule in policy.rules)))
    for sighting in what.found:
        if sighting.finding.score >= SURE_ENOUGH:
            assert sighting.finding.kind in label.categories
            fitting = [rule for rule in policy.rules if rule.fits(sighting.finding.kind)]
            assert all(_at_least(label, rule.label) for rule in fitting)


@given(policies, seen)
def test_what_is_counted_is_what_the_label_names(policy: Policy, what: Sightings) -> None:
    counts = by_kind(what)
    assert counts.keys() == policy.label(what).categories
    assert list(counts) == sorted(counts)
    assert by_kind(what.join(what)) == counts, "what two detectors see in one place is one"
    assert all(count > 0 for count in counts.values())


@given(policies, seen, seen)
def test_a_conversation_that_goes_on_is_labelled_no_lower(
    policy: Policy, before: Sightings, more: Sightings
) -> None:
    both = Sightings(before.found + more.found, before.blind + more.blind)
    assert _at_least(policy.label(both), policy.label(before))


class Stub(Scanner):
    """Sees what it is told to see."""

    def __init__(self, what: Sightings) -> None:
        self._what = what

    def scan(self, value: Any, enough: Callable[[], bool] = lambda: False) -> Sightings:
        return self._what


@given(
    policies, labels, st.one_of(st.none(), labels), st.one_of(st.none(), levels), st.one_of(st.none(), seen)
)
def test_neither_route_nor_key_nor_caller_nor_findings_lower_what_another_says(
    policy: Policy, of_route: Label, of_key: Label | None, said: Level | None, what: Sightings | None
) -> None:
    inspection = Inspection(policy, [] if what is None else [(None, Stub(what))])
    route = Route(name="r", plan=CallModel(model="m"), floor=of_route)
    key = None if of_key is None else Key(id="key_1", name="a", routes=(), created_us=0, floor=of_key)
    floors = floors_of(route, key)
    header = [] if said is None else [policy.said(said)]
    label, found, _ = asyncio.run(inspection.inspect(b"{}", (*floors, *header), b"", {}))
    inspection.close()
    assert _at_least(label, Label(policy.default))
    assert _at_least(label, of_route)
    assert _at_least(label, of_key or BOTTOM)
    assert _at_least(label, Label(said or "public"))
    assert _at_least(label, policy.label(what or Sightings()))
    assert label == policy.label(found, (of_route, of_key or BOTTOM, *header)), "and nothing else raises it"
    at_once = inspection.unseen(floors)
    assert at_once == (None if what is not None else policy.label(Sightings(), floors))


def test_detectors_practise_before_the_first_request() -> None:
    asked = threading.Event()

    class Slow(Stub):
        def scan(self, value: Any, enough: Callable[[], bool] = lambda: False) -> Sightings:
            asked.set()
            raise SystemExit

    inspection = Inspection(Policy(), [(None, Slow(Sightings()))])
    inspection.prepare()
    assert asked.wait(10)
    inspection.close()


@given(policies, models, labels, labels)
def test_who_is_refused_a_label_is_refused_every_higher_one(
    policy: Policy, model: Model, label: Label, more: Label
) -> None:
    if policy.refuses(model, label) is not None:
        assert policy.refuses(model, label.join(more)) is not None


@given(policies, models, labels)
def test_a_model_receives_only_what_its_clearance_zone_and_promises_permit(
    policy: Policy, model: Model, label: Label
) -> None:
    permitted = policy.refuses(model, label) is None
    cleared = model.clearance or getattr(policy.clearance, model.kind)
    assert permitted == (
        covers(cleared, label.level)
        and (label.zones is None or model.zone in label.zones)
        and (model.kind == "local" or model.promises.join(label.needs) == model.promises)
    )


@given(policies, models, seen, labels)
def test_the_grounds_of_a_label_and_of_a_refusal_are_all_that_there_is(
    policy: Policy, model: Model, what: Sightings, floor: Label
) -> None:
    label = policy.label(what, [floor])
    because = [grounds.Ground("the floor", label=floor), *grounds.of_label(policy, what)]
    joined = join(ground.label for ground in because)
    assert (joined.level, joined.zones, joined.needs) == (label.level, label.zones, label.needs)
    refused = policy.refuses(model, label)
    fact, *reasons = grounds.of_model(policy, model, refused.rule if refused else None, because)
    assert fact.paths
    if refused is not None:
        assert reasons
        assert policy.refuses(model, join(ground.label for ground in reasons)) is not None


@given(promises, promises)
def test_what_is_missing_is_what_would_have_to_be_promised_too(one: Promises, asked: Promises) -> None:
    missing = one.lacks(asked)
    assert one.join(missing) == one.join(asked)
    assert (missing == NO_PROMISES) == (one.join(asked) == one)
    assert bool(missing.in_words()) == (missing != NO_PROMISES)


def test_who_promises_nothing_is_asked_nothing_where_no_rule_asks() -> None:
    stranger = Model(name="m", provider="p", id="m", kind="closed")
    policy = Policy(rules=(Rule(when="pii", level="internal", needs=Promises(retention_days=0)),))
    assert policy.refuses(stranger, Label("internal")) is None
    refused = policy.refuses(stranger, Label("internal", needs=policy.rules[0].needs))
    assert refused is not None
    assert (refused.rule, refused.reason) == (
        "promises",
        "m comes without a promise that the request needs: nothing kept",
    )


def test_a_rule_for_a_family_does_not_mean_what_points_to_nobody() -> None:
    rule = Rule(when="pii", level="confidential")
    assert rule.fits("pii.email")
    assert not rule.fits("pii.location")
    assert not rule.fits("piirate.email")
    assert Rule(when="pii.location", level="confidential").fits("pii.location")


def test_joining_nothing_is_the_bottom() -> None:
    assert join([]) == BOTTOM
