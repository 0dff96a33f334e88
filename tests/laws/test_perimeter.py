"""Law 2 at its root: labels form a lattice, and no step leads down. What law 1 asks of a policy."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.label import BOTTOM, LEVELS, TOP, Finding, Label, Level, covers, join
from isthmus.core.portfolio import Kind, Model
from isthmus.gateway.inspection import Inspection, floors_of
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
labels = st.builds(Label, levels, st.frozensets(st.sampled_from(FOUND)), zones)
rules = st.builds(
    Rule,
    when=st.sampled_from(("pii", "pii.email", "pii.location", "secret", "term.projects")),
    level=levels,
    zones=zones,
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


@given(policies, seen, st.lists(labels, max_size=3))
def test_a_request_is_labelled_at_least_as_each_of_its_reasons(
    policy: Policy, what: Sightings, floors: list[Label]
) -> None:
    label = policy.label(what, floors)
    assert _at_least(label, Label(policy.default))
    assert all(_at_least(label, floor) for floor in floors)
    assert not what.blind or label.level == TOP.level
    for sighting in what.found:
        if sighting.finding.score >= SURE_ENOUGH:
            assert sighting.finding.kind in label.categories
            fitting = [rule for rule in policy.rules if rule.fits(sighting.finding.kind)]
            assert all(_at_least(label, Label(rule.level, zones=rule.zones)) for rule in fitting)


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

    def scan(self, value: Any) -> Sightings:
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
    label, found, _ = asyncio.run(inspection.inspect(b"{}", (*floors, *header)))
    inspection.close()
    assert _at_least(label, Label(policy.default))
    assert _at_least(label, of_route)
    assert _at_least(label, of_key or BOTTOM)
    assert _at_least(label, Label(said or "public"))
    assert _at_least(label, policy.label(what or Sightings()))
    assert label == policy.label(found, (of_route, of_key or BOTTOM, *header)), "and nothing else raises it"
    at_once = inspection.unseen(floors)
    assert at_once == (None if what is not None else policy.label(Sightings(), floors))


@given(policies, models, labels, labels)
def test_who_is_refused_a_label_is_refused_every_higher_one(
    policy: Policy, model: Model, label: Label, more: Label
) -> None:
    if policy.refuses(model, label) is not None:
        assert policy.refuses(model, label.join(more)) is not None


@given(policies, models, labels)
def test_a_model_receives_only_what_its_clearance_and_zone_permit(
    policy: Policy, model: Model, label: Label
) -> None:
    permitted = policy.refuses(model, label) is None
    cleared = model.clearance or getattr(policy.clearance, model.kind)
    assert permitted == (covers(cleared, label.level) and (label.zones is None or model.zone in label.zones))


def test_a_rule_for_a_family_does_not_mean_what_points_to_nobody() -> None:
    rule = Rule(when="pii", level="confidential")
    assert rule.fits("pii.email")
    assert not rule.fits("pii.location")
    assert not rule.fits("piirate.email")
    assert Rule(when="pii.location", level="confidential").fits("pii.location")


def test_joining_nothing_is_the_bottom() -> None:
    assert join([]) == BOTTOM
