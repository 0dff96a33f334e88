"""The rules of the perimeter: what findings mean, and who may receive what is so labelled. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from isthmus.core.decision import Refused
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import LEVELS, TOP, Label, Level, covers, join
from isthmus.core.portfolio import Kind, Model, SecretRef
from isthmus.core.promises import NO_PROMISES, Promises
from isthmus.perimeter.engines import Engine
from isthmus.perimeter.files import RuleFile
from isthmus.perimeter.scanner import Sighting, Sightings

FAMILIES = ("pii", "secret", "term", "fingerprint", "topic")
"""What the kinds of findings begin with."""

FAINT = frozenset(
    {"pii.url", "pii.date", "pii.age", "pii.location", "pii.group", "pii.organisation", "pii.title"}
    | {"pii.uuid"}
)
"""Kinds that by themselves point to nobody. A rule means them only where it names them."""

SURE_ENOUGH = 0.35
"""The score from which on a finding counts."""


class Clearance(msgspec.Struct, frozen=True, kw_only=True):
    """The highest level that models may receive, by their kind.

    `closed` is for models bought by API. `open` is for open weights on machines that you rent. `local` is for
    models inside your own walls.
    """

    closed: Level = "internal"
    open: Level = "confidential"
    local: Level = "restricted"

    def of(self, model: Model) -> Level:
        """What the model may receive; its own word goes before that of its kind."""
        if model.clearance is not None:
            return model.clearance
        by_kind: dict[Kind, Level] = {"closed": self.closed, "open": self.open, "local": self.local}
        return by_kind[model.kind]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What it means to find something in a request.

    `when` is a kind of finding such as `pii.email`, or a family such as `pii` or `secret`. `level` is the
    least level of a request in which it is found. `zones` are the only zones to which such a request may go;
    without them it is not bound to any. `needs` is what must be promised of it by whoever receives it outside
    your own walls. `pseudonymise` lets the request go, with pseudonyms in place of what was found, to models
    that may not receive it as it is.
    """

    when: str
    level: Level
    zones: frozenset[str] | None = None
    needs: Promises = NO_PROMISES
    pseudonymise: bool = False

    def fits(self, kind: str) -> bool:
        """True where the rule means this kind."""
        return kind == self.when or (kind not in FAINT and kind.startswith(self.when + "."))

    @property
    def label(self) -> Label:
        """What a request is at least in which such a thing is found."""
        return Label(self.level, zones=self.zones, needs=self.needs)


RULES = (Rule(when="pii", level="confidential"), Rule(when="secret", level="restricted"))
"""What findings mean where the config says nothing else."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The perimeter of a config. Without rules nothing is looked at.

    `default` is the level of what nobody vouches for, `clearance` what models may receive, `rules` say what
    findings mean, and `names` are other names of levels that callers may send. What takes longer than
    `timeout` seconds to look at counts as not looked into. `files` say what else to look for, and `engines`
    who else looks. `key` is what pseudonyms are made with.
    """

    default: Level = "internal"
    clearance: Clearance = Clearance()
    rules: tuple[Rule, ...] = ()
    names: dict[str, Level] = {}
    timeout: float = 2.0
    files: tuple[RuleFile, ...] = ()
    engines: tuple[Engine, ...] = ()
    key: SecretRef | None = None

    @property
    def hash(self) -> str:
        """The SHA-256 of the rules, in hexadecimal: of what their files say, wherever they are."""
        rules = msgspec.structs.replace(self.moved(lambda _: ""), key=None)
        return hashlib.sha256(msgspec.json.encode(rules, order="deterministic")).hexdigest()

    def moved(self, to: Callable[[str], str]) -> Policy:
        """The same policy with another path for each file and folder."""
        files = tuple(msgspec.structs.replace(file, path=to(file.path)) for file in self.files)
        engines = tuple(
            msgspec.structs.replace(engine, folder=to(engine.folder)) if engine.folder is not None else engine
            for engine in self.engines
        )
        return msgspec.structs.replace(self, files=files, engines=engines)

    def said(self, name: str) -> Label:
        """The label that a caller says by a level's name. Raises IsthmusError(INVALID_REQUEST)."""
        level = next((it for it in LEVELS if it == name), None) or self.names.get(name)
        if level is not None:
            return Label(level)
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "The label that the request carries is not one that this gateway knows.",
            code="unknown_label",
            hint=f"Say one of {', '.join(LEVELS)}, or a name under `perimeter: names:`.",
        )

    @property
    def pseudonymises(self) -> bool:
        """True where some rule lets pseudonyms out."""
        return any(rule.pseudonymise for rule in self.rules)

    def hideable(self, seen: Sightings) -> list[Sighting]:
        """Of what was seen, that for which pseudonyms may go out."""
        return [it for it in counted(seen) if self.hides(it.finding.kind)]

    def hides(self, kind: str) -> bool:
        """True where pseudonyms may go out for this kind: every rule that is about it says so."""
        fitting = [rule for rule in self.rules if rule.fits(kind)]
        return bool(fitting) and all(rule.pseudonymise for rule in fitting)

    def can_mean(self, kinds: Iterable[str], label: Label) -> bool:
        """True where findings of these kinds would raise the label."""
        return any(label.join(self._meaning_of(kind)) != label for kind in kinds)

    def label(self, seen: Sightings, floors: Iterable[Label] = ()) -> Label:
        """The label of a request in which this was seen: at least the default, and at least each floor."""
        return self.label_of((it.finding.kind for it in counted(seen)), bool(seen.blind), floors)

    def label_of(self, kinds: Iterable[str], blind: bool, floors: Iterable[Label] = ()) -> Label:
        """The label of a request in which these kinds were found, and into which one was in part `blind`."""
        found = frozenset(kinds)
        unseen = [self.unknown] if blind else []
        return join([Label(self.default, found), *floors, *unseen, *map(self._meaning_of, sorted(found))])

    @property
    def unknown(self) -> Label:
        """The label of what could not be looked into: it may hold whatever any rule is about."""
        return join([TOP, *(rule.label for rule in self.rules)])

    def meaning(self, kinds: Iterable[str], families: Iterable[str] = ()) -> Label:
        """What it would mean at most to find something of these kinds, or of any kind of these families."""
        families = tuple(families)
        about = (rule for rule in self.rules if rule.when.partition(".")[0] in families)
        return join([*map(self._meaning_of, kinds), *(rule.label for rule in about)])

    def _meaning_of(self, kind: str) -> Label:
        return join(rule.label for rule in self.rules if rule.fits(kind))

    def refuses(self, model: Model, label: Label) -> Refused | None:
        """Why this model may not receive what is so labelled, or None where it may."""
        cleared = self.clearance.of(model)
        if not covers(cleared, label.level):
            found = f" ({', '.join(sorted(label.categories))})" if label.categories else ""
            reason = f"{model.name} is cleared for {cleared}, and the request is {label.level}{found}"
            return Refused(model.name, "clearance", reason)
        if label.zones is not None and model.zone not in label.zones:
            where = f"runs in {model.zone}" if model.zone else "runs nobody knows where"
            allowed = ", ".join(sorted(label.zones)) or "no zone at all"
            return Refused(model.name, "zone", f"{model.name} {where}, and the request may go to {allowed}")
        # Inside your own walls nobody else receives anything of which they could promise something.
        missing = NO_PROMISES if model.kind == "local" else model.promises.lacks(label.needs)
        if missing != NO_PROMISES:
            reason = f"{model.name} comes without a promise that the request needs: {missing.in_words()}"
            return Refused(model.name, "promises", reason)
        return None


def by_kind(seen: Sightings) -> dict[str, int]:
    """In how many places each kind was found, by the findings that count."""
    places = {
        (sighting.where, sighting.finding.start, sighting.finding.end, sighting.finding.kind)
        for sighting in counted(seen)
    }
    return dict(sorted(Counter(kind for *_, kind in places).items()))


def counted(seen: Sightings) -> Iterable[Sighting]:
    """What was seen that is sure enough to count; a score that is no number is below no bound, and counts."""
    return (sighting for sighting in seen.found if not sighting.finding.score < SURE_ENOUGH)
