"""The label that a recorded request would have under other rules: known, or known to lie between two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from isthmus.core.decision import Decision
from isthmus.core.errors import IsthmusError
from isthmus.core.label import Label, join
from isthmus.core.record import Grounds
from isthmus.perimeter.engines import Engine
from isthmus.perimeter.files import RuleFile
from isthmus.perimeter.policy import Policy
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
    """The label is at least `least` and at most `most`; `why` says what is not known where they differ.

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
        return _of_an_older_record(policy, route, seen, decided)
    try:
        said = [policy.said(name) for name in grounds.said]
    except IsthmusError as unknown:
        bottom = Label(policy.default)
        return Relabelled(bottom, bottom, said=unknown.code)
    floors = (route.floor, grounds.floor, grounds.before, *said)
    if seen.kinds is None:
        least = policy.label_of((), grounds.blind, floors)
        # Whether anybody would have been blind is not known either.
        most = join([least, policy.unknown]) if policy.rules else least
        return Relabelled(least, most, why="nobody looked for anything")
    changes = _Changes.between(seen.by, policy)
    sure = frozenset(kind for kind in seen.kinds if not changes.may_lose(kind))
    least = policy.label_of(sure, grounds.blind, floors)
    possible = policy.label_of(seen.kinds - changes.gone, grounds.blind, floors)
    kinds = {*grounds.unlooked, *changes.new_kinds}
    most = join([possible, policy.meaning(kinds, changes.new_families)])
    hidden = _hidden(policy, sure, grounds.blind, floors)
    if decided is not None and (decided.perimeter, decided.label) == (policy.hash, least):
        hidden = decided.hidden_label
    about = {kind for kind in kinds if policy.can_mean((kind,), least)} | (seen.kinds - changes.gone - sure)
    families = sorted({*changes.new_families, *(kind.partition(".")[0] for kind in about)})
    return Relabelled(least, most, hidden, f"not everything was looked for: {', '.join(families)}")


def _of_an_older_record(policy: Policy, route: Route, seen: Seen, decided: Decision | None) -> Relabelled:
    """What its caller and its key said was not kept, nor what was looked for: there are only bounds."""
    kinds = seen.kinds or frozenset()
    alike = decided is not None and decided.perimeter == policy.hash
    least = policy.label_of(kinds if alike else (), False, (route.floor,))
    then = [decided.label] if decided is not None else []
    most = join([least, *then, *(() if alike else (policy.unknown,))])
    hidden = _hidden(policy, kinds, False, (route.floor,))
    return Relabelled(least, most, hidden, "the record is of an older Isthmus, which kept no grounds")


def _hidden(policy: Policy, kinds: frozenset[str], blind: bool, floors: Iterable[Label]) -> Label | None:
    """The label with pseudonyms, as if every value could be replaced; None where none may be."""
    left = frozenset(kind for kind in kinds if not policy.hides(kind))
    return None if blind or left == kinds else policy.label_of(left, False, floors)


_FAMILY = {"terms": "term", "fingerprints": "fingerprint", "topics": "topic"}


class _Changes(NamedTuple):
    """How what is looked for differs between two policies.

    `gone` are kinds that nobody would find any more, `lost` those, and families of those, that may not be
    found any more; `new_kinds` and `new_families` may be found that could not be before.
    """

    gone: frozenset[str]
    lost: frozenset[str]
    new_kinds: frozenset[str]
    new_families: frozenset[str]

    def may_lose(self, kind: str) -> bool:
        """True where what was found of this kind may not be found now."""
        return kind in self.lost or kind.partition(".")[0] in self.lost

    @classmethod
    def between(cls, before: Policy | None, after: Policy) -> _Changes:
        """The changes; where it is not known what was looked for, everything that files say has changed."""
        if before is None:
            kinds = _kinds(after.files)
            families = frozenset({*_families(after.files), *(("pii",) if after.engines else ())})
            return cls(frozenset(), frozenset(_FAMILY.values()) | families, kinds, families)
        old, new = _known(before) - _known(after), _known(after) - _known(before)
        gone_files = frozenset(file for file in before.files if _identity(file) in old)
        new_files = frozenset(file for file in after.files if _identity(file) in new)
        others = {_identity(it) for it in (*before.engines, *after.engines)} & (old | new)
        lost_pii = {"pii"} if others & old else set()
        new_pii = {"pii"} if others & new else set()
        return cls(
            gone=_kinds(gone_files) - _kinds(after.files),
            lost=_kinds(gone_files) | _families(gone_files) | lost_pii,
            new_kinds=_kinds(new_files),
            new_families=frozenset(_families(new_files) | new_pii),
        )


def _known(policy: Policy) -> frozenset[tuple[str, ...]]:
    return frozenset(map(_identity, policy.files)) | frozenset(map(_identity, policy.engines))


def _identity(source: RuleFile | Engine) -> tuple[str, ...]:
    if isinstance(source, RuleFile):
        return (source.kind, source.name, source.sha256)
    return (source.engine, source.sha256 or "")


def _kinds(files: Iterable[RuleFile]) -> frozenset[str]:
    return frozenset(f"{_FAMILY[file.kind]}.{file.name}" for file in files if file.kind in _FAMILY)


def _families(files: Iterable[RuleFile]) -> frozenset[str]:
    """What a file of rules for secrets finds has names of its own."""
    return frozenset("secret" for file in files if file.kind not in _FAMILY)
