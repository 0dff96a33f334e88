"""The label that a recorded request would have under other rules: known, or known to lie between two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from isthmus.core.decision import Decision
from isthmus.core.errors import IsthmusError
from isthmus.core.label import Label, join
from isthmus.core.record import Grounds
from isthmus.perimeter.policy import FAMILIES, Policy
from isthmus.routing.route import Route


class Seen(NamedTuple):
    """What a record tells of what was found.

    `kinds` are those that were found, None where nobody looked. `grounds` are None in records of an older
    Isthmus. `by` are the rules that were in force, None where they are not kept.
    """

    kinds: frozenset[str] | None
    grounds: Grounds | None
    by: Policy | None


class Relabelled(NamedTuple):
    """The label is at least `least` and at most `most`; where they differ, `why` says what is not known.

    `hidden` is the label with pseudonyms, None where the request may not go out so; `said` is the code of
    the refusal where the caller's word for the level is not known to the rules.
    """

    least: Label
    most: Label
    hidden: Label | None = None
    why: str | None = None
    said: str | None = None

    @property
    def known(self) -> bool:
        """True where there is one label only that it can be."""
        return self.least == self.most


def relabel(policy: Policy, route: Route, seen: Seen, decided: Decision | None) -> Relabelled:
    """The label by these rules of a request on this route."""
    grounds = seen.grounds
    if grounds is None:
        return _of_an_older_record(policy, route, decided)
    try:
        said = [policy.said(name) for name in grounds.said]
    except IsthmusError as unknown:
        bottom = Label(policy.default)
        return Relabelled(bottom, bottom, said=unknown.code)
    floors = (route.floor, grounds.floor, *said)
    least = policy.label_of(seen.kinds or (), grounds.blind, floors)
    most, why = _at_most(policy, least, seen)
    return Relabelled(least, most, _hidden(policy, seen, floors, least, decided), why)


def _of_an_older_record(policy: Policy, route: Route, decided: Decision | None) -> Relabelled:
    """What its caller and its key said was not kept: only under the same rules is its label known."""
    if decided is not None and decided.perimeter == policy.hash:
        label = decided.label.join(route.floor)
        return Relabelled(label, label, decided.hidden_label)
    least = join([Label(policy.default), route.floor])
    most = join([policy.unknown, *([decided.label] if decided is not None else [])])
    return Relabelled(least, most, why="the record is of an older Isthmus, which kept no grounds")


def _at_most(policy: Policy, least: Label, seen: Seen) -> tuple[Label, str | None]:
    """The highest label that is possible, and why it may be higher than the least."""
    assert seen.grounds is not None
    if seen.kinds is None:
        # Whether anybody would have been blind is not known either.
        most = least if not policy.rules else join([least, policy.unknown])
        return most, None if most == least else "nobody looked for anything"
    kinds, families = _unlooked(policy, seen)
    most = least.join(policy.meaning(kinds, families))
    if most == least:
        return most, None
    telling = (kind.partition(".")[0] for kind in kinds if policy.can_mean((kind,), least))
    about = ", ".join(sorted({*families, *telling}))
    return most, f"not everything was looked for: {about}"


def _unlooked(policy: Policy, seen: Seen) -> tuple[set[str], set[str]]:
    """The kinds, and the families of kinds, that these rules would look for and nobody has looked for."""
    assert seen.grounds is not None
    kinds, families = set(seen.grounds.unlooked), set[str]()
    files = {(it.kind, it.name, it.sha256) for it in seen.by.files} if seen.by else set()
    for file in policy.files:
        if (file.kind, file.name, file.sha256) in files:
            continue
        family = {"terms": "term", "fingerprints": "fingerprint", "topics": "topic", "gitleaks": "secret"}
        if file.kind == "gitleaks":
            families.add(family[file.kind])
        else:
            kinds.add(f"{family[file.kind]}.{file.name}")
    engines = {(it.engine, it.sha256) for it in seen.by.engines} if seen.by else set()
    if any((it.engine, it.sha256) not in engines for it in policy.engines):
        families.add(FAMILIES[0])
    return kinds, families


def _hidden(
    policy: Policy, seen: Seen, floors: Iterable[Label], least: Label, decided: Decision | None
) -> Label | None:
    """The label with pseudonyms: as it was, under the same rules; else as if all could be replaced."""
    assert seen.grounds is not None
    if decided is not None and decided.perimeter == policy.hash and decided.label == least:
        return decided.hidden_label
    kinds = seen.kinds or frozenset()
    left = frozenset(kind for kind in kinds if not policy.hides(kind))
    if seen.grounds.blind or left == kinds:
        return None
    return policy.label_of(left, False, floors)
