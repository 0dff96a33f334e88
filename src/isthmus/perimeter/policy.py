"""The rules of the perimeter: what findings mean, and who may receive what is so labelled. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.core.decision import Refused
from isthmus.core.label import TOP, Finding, Label, Level, covers, join
from isthmus.core.portfolio import Kind, Model
from isthmus.perimeter.scanner import Sightings

FAINT = frozenset(
    {"pii.url", "pii.date", "pii.age", "pii.location", "pii.group", "pii.organisation", "pii.title"}
)
"""Kinds that by themselves point to nobody. A rule means them only where it names them."""

SURE_ENOUGH = 0.35
"""The score from which on a finding counts."""

CLEARANCE: Mapping[Kind, Level] = {"closed": "internal", "open": "confidential", "local": "restricted"}
"""What a model may receive by its kind, where the config says nothing else."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Findings of the kind `when`, or of one below it (`pii` means `pii.email` as well), raise the label to
    `level`, and to those `zones` alone where any are named."""

    when: str
    level: Level
    zones: frozenset[str] | None = None

    def fits(self, kind: str) -> bool:
        """True where the rule means this kind."""
        return kind == self.when or (kind not in FAINT and kind.startswith(self.when + "."))


RULES = (Rule(when="pii", level="confidential"), Rule(when="secret", level="restricted"))
"""What findings mean where the config says nothing else."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """`default` is the level of what nobody vouches for, `clearance` what a model may receive by its kind,
    and `rules` say what findings mean."""

    default: Level = "internal"
    clearance: Mapping[Kind, Level] = msgspec.field(default_factory=lambda: CLEARANCE)
    rules: tuple[Rule, ...] = RULES

    def label(self, seen: Sightings, floors: Iterable[Label] = ()) -> Label:
        """The label of a request in which this was seen: at least the default, and at least each floor."""
        blind = [TOP] if seen.blind else []
        return join([Label(self.default), *floors, *blind, *map(self._label_of, _counted(seen))])

    def _label_of(self, finding: Finding) -> Label:
        fitting = [rule for rule in self.rules if rule.fits(finding.kind)]
        category = Label(categories=frozenset({finding.kind}))
        return join([category, *(Label(rule.level, zones=rule.zones) for rule in fitting)])

    def refuses(self, model: Model, label: Label) -> Refused | None:
        """Why this model may not receive what is so labelled, or None where it may."""
        cleared = self.clearance.get(model.kind)
        if cleared is None or not covers(cleared, label.level):
            reason = f"{model.name} is cleared for {cleared or 'nothing'}, and the request is {label.level}"
            return Refused(model.name, "clearance", reason)
        if label.zones is not None and model.zone not in label.zones:
            where = f"runs in {model.zone}" if model.zone else "runs nobody knows where"
            allowed = ", ".join(sorted(label.zones)) or "no zone at all"
            return Refused(model.name, "zone", f"{model.name} {where}, and the request may go to {allowed}")
        return None


def _counted(seen: Sightings) -> Iterable[Finding]:
    return (sighting.finding for sighting in seen.found if sighting.finding.score >= SURE_ENOUGH)
