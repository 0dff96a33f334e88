"""Why a label is what it is, and why a model may or may not receive what bears it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from isthmus.core.label import BOTTOM, Label, join
from isthmus.core.portfolio import Model
from isthmus.core.promises import NO_PROMISES
from isthmus.perimeter.policy import Policy, counted
from isthmus.perimeter.scanner import Sightings

Path: TypeAlias = tuple[str | int, ...]
"""A place in the config, such as `("perimeter", "labels", 0)`."""


class Ground(msgspec.Struct, frozen=True):
    """Something that counts, in words, and the `label` that follows from it for the request.

    It is said at the first of `paths` that the config has, and holds by default where it has none of them.
    Without any path it does not come from the config.
    """

    says: str
    paths: tuple[Path, ...] = ()
    label: Label = BOTTOM


def of_label(policy: Policy, seen: Sightings) -> tuple[Ground, ...]:
    """What makes the label of a request in which this was seen, but for its floors."""
    said = f"{policy.default}, where nobody vouches"
    return (
        Ground(said, (("perimeter", "default"),), Label(policy.default)),
        *_blindness(policy, seen),
        *_rules(policy, seen),
    )


def of_model(
    policy: Policy, model: Model, rule: str | None, of_the_label: Sequence[Ground]
) -> tuple[Ground, ...]:
    """Why the model is refused by `rule`, or why not, where that is None. Other rules than the perimeter's
    have no grounds here.

    `of_the_label` is all that made the request's label, floors too.
    """
    facts = {"clearance": _clearance(policy, model), "zone": _zone(model), "promises": _promises(model)}
    if rule is None:
        label = join(ground.label for ground in of_the_label)
        asked = {"clearance": True, "zone": label.zones is not None, "promises": label.needs != NO_PROMISES}
        return tuple(facts[name] for name in facts if asked[name])
    if rule not in facts:
        return ()
    # Who is refused by a label is refused by one of those that it was joined from.
    return (facts[rule], *(ground for ground in of_the_label if _by(policy, model, ground.label) == rule))


def of_hiding(policy: Policy, seen: Sightings) -> tuple[Ground, ...]:
    """What lets pseudonyms go out for some of what was seen."""
    kinds = sorted({sighting.finding.kind for sighting in policy.hideable(seen)})
    fitting = (
        (number, [kind for kind in kinds if rule.fits(kind)]) for number, rule in enumerate(policy.rules)
    )
    return tuple(
        Ground(
            f"pseudonyms may go out for {', '.join(hidden)}",
            (("perimeter", "labels", number, "pseudonymise"),),
        )
        for number, hidden in fitting
        if hidden
    )


def _by(policy: Policy, model: Model, label: Label) -> str | None:
    refused = policy.refuses(model, label)
    return refused.rule if refused is not None else None


def _blindness(policy: Policy, seen: Sightings) -> Iterator[Ground]:
    if seen.blind:
        label, places = policy.unknown, ", ".join(seen.blind)
        yield Ground(f"{label.in_words()}, for {places} could not be looked into", label=label)


def _rules(policy: Policy, seen: Sightings) -> Iterator[Ground]:
    kinds = {sighting.finding.kind for sighting in counted(seen)}
    for number, rule in enumerate(policy.rules):
        fitting = sorted(kind for kind in kinds if rule.fits(kind))
        if fitting:
            says = f"{rule.label.in_words()}, for {', '.join(fitting)}"
            yield Ground(says, (("perimeter", "labels", number),), rule.label)


def _clearance(policy: Policy, model: Model) -> Ground:
    who = model.name if model.clearance is not None else f"{model.name} is {model.kind}, and"
    paths = (("models", model.family, "clearance"), ("perimeter", "clearance", model.kind))
    return Ground(f"{who} is cleared for {policy.clearance.of(model)}", paths)


def _zone(model: Model) -> Ground:
    where = f"runs in {model.zone}" if model.zone else "runs nobody knows where"
    return Ground(f"{model.name} {where}", _own_or_its_providers(model, "zone"))


def _promises(model: Model) -> Ground:
    if model.kind == "local":
        return Ground(
            f"{model.name} is local, and asked for no promise", _own_or_its_providers(model, "kind")
        )
    promised = model.promises.in_words() or "nothing"
    return Ground(f"{model.name} promises {promised}", _own_or_its_providers(model, "promises"))


def _own_or_its_providers(model: Model, fact: str) -> tuple[Path, ...]:
    return (("models", model.family, fact), ("providers", model.provider, fact))
