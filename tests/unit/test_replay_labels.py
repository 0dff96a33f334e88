"""The label of a recorded request under other rules: what is known of it, and what is not."""

from __future__ import annotations

import msgspec

from isthmus.core.decision import Decision
from isthmus.core.label import Label
from isthmus.core.record import NO_GROUNDS, Grounds
from isthmus.evals.replay.labels import Seen, relabel
from isthmus.perimeter.engines import Engine
from isthmus.perimeter.files import RuleFile
from isthmus.perimeter.policy import Policy, Rule
from isthmus.routing.route import Route
from isthmus.strategies.plan import CallModel

ROUTE = Route(name="r", plan=CallModel(model="m"))
PII = Rule(when="pii", level="confidential")
TERM = Rule(when="term", level="restricted")
TERMS = RuleFile("terms", "projects", "", "one")


def decided(policy: Policy, label: Label, hidden: Label | None = None) -> Decision:
    return Decision(
        route="r",
        operation="chat",
        allowed=("m",),
        refused=(),
        plan=None,
        reasons=(),
        propensity=1.0,
        config_hash="old",
        label=label,
        perimeter=policy.hash,
        hidden_label=hidden,
    )


def levels(policy: Policy, seen: Seen, then: Decision | None = None, route: Route = ROUTE) -> tuple[str, str]:
    found = relabel(policy, route, seen, then)
    return found.least.level, found.most.level


def seen(*kinds: str, by: Policy, grounds: Grounds | None = NO_GROUNDS) -> Seen:
    return Seen(frozenset(kinds), grounds, by)


def test_what_was_found_and_said_is_labelled_anew() -> None:
    old = Policy(rules=(PII,))
    strict = Policy(rules=(Rule(when="pii.email", level="restricted"),))
    assert levels(strict, seen("pii.email", by=old)) == ("restricted", "restricted")
    assert levels(strict, seen("pii.name", by=old)) == ("internal", "internal")
    said = Grounds(floor=Label("confidential"), said=("public",))
    assert levels(strict, seen(by=old, grounds=said)) == ("confidential", "confidential")
    assert levels(strict, seen(by=old, grounds=Grounds(blind=True))) == ("restricted", "restricted")


def test_a_word_that_the_rules_do_not_know_is_refused() -> None:
    old = Policy(rules=(PII,), names={"3b2a": "confidential"})
    known = relabel(Policy(rules=(PII,)), ROUTE, seen(by=old, grounds=Grounds(said=("3b2a",))), None)
    assert known.said == "unknown_label"


def test_where_nobody_looked_everything_is_possible_unless_nobody_cares() -> None:
    unread = Seen(None, Grounds(), Policy())
    assert levels(Policy(rules=(PII,)), unread) == ("internal", "restricted")
    assert levels(Policy(default="public"), unread) == ("public", "public")


def test_kinds_that_were_not_looked_for_count_where_they_would_matter() -> None:
    old = Policy(rules=(PII,))
    skipped = Grounds(unlooked=("pii.name",))
    assert levels(old, seen("pii.email", by=old, grounds=skipped)) == ("confidential", "confidential")
    strict = Policy(rules=(PII, Rule(when="pii.name", level="restricted")))
    assert levels(strict, seen("pii.email", by=old, grounds=skipped)) == ("confidential", "restricted")


def test_a_new_file_may_find_something_and_the_same_file_has_found_it() -> None:
    new = Policy(rules=(TERM,), files=(TERMS,))
    assert levels(new, seen(by=Policy(rules=(PII,)))) == ("internal", "restricted")
    assert levels(new, seen(by=new)) == ("internal", "internal")
    assert levels(new, seen("term.projects", by=new)) == ("restricted", "restricted")
    # Where it is not kept what was looked for, nothing of files is certain.
    assert levels(new, Seen(frozenset({"term.projects"}), Grounds(), None)) == ("internal", "restricted")


def test_what_only_a_file_of_then_could_find_is_not_found_any_more() -> None:
    old = Policy(rules=(TERM,), files=(TERMS,))
    assert levels(Policy(rules=(TERM,)), seen("term.projects", by=old)) == ("internal", "internal")
    changed = Policy(rules=(TERM,), files=(RuleFile("terms", "projects", "", "two"),))
    assert levels(changed, seen("term.projects", by=old)) == ("internal", "restricted")


def test_what_another_engine_has_found_may_not_be_found_now() -> None:
    old = Policy(rules=(PII,), engines=(Engine(engine="gliner", sha256="x"),))
    assert levels(Policy(rules=(PII,)), seen("pii.name", by=old)) == ("internal", "confidential")
    assert levels(old, seen("pii.name", by=old)) == ("confidential", "confidential")


def test_pseudonyms_are_as_they_were_or_taken_for_possible() -> None:
    hides = Policy(rules=(Rule(when="pii", level="confidential", pseudonymise=True),))
    known = seen("pii.email", by=hides)
    label = Label("confidential", frozenset({"pii.email"}))
    # Under the same rules the record says what came of it: here, that it could not be hidden.
    assert relabel(hides, ROUTE, known, decided(hides, label)).hidden is None
    other = msgspec.structs.replace(hides, timeout=9.0)
    hidden = relabel(other, ROUTE, known, decided(hides, label)).hidden
    assert hidden == Label("internal")
    assert (
        relabel(other, ROUTE, seen("pii.email", by=hides, grounds=Grounds(blind=True)), None).hidden is None
    )


def test_an_older_record_has_bounds_only() -> None:
    old = Policy(rules=(PII,))
    then = decided(old, Label("confidential", frozenset({"pii.email"})))
    older = seen("pii.email", by=old, grounds=None)
    assert levels(old, older, then) == ("confidential", "confidential")
    # It may have been the route's floor of then, which is lower now.
    floored = decided(old, Label("confidential"))
    assert levels(old, seen(by=old, grounds=None), floored) == ("internal", "confidential")
    assert levels(Policy(rules=(TERM,)), older, then) == ("internal", "restricted")
