"""A look into rows before they go where a student is trained: their label, and what they hold of people.

A student learns by heart. So a row in which personal data is found is left out, or gets pseudonyms for it;
one with a secret is always left out, and so is one into which nobody can look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from isthmus.core.label import Label
from isthmus.core.portfolio import Model
from isthmus.distill.rows import Row, rewritten
from isthmus.distill.sections import TrainingPlace
from isthmus.perimeter.policy import Policy, Rule, by_kind
from isthmus.perimeter.pseudonyms import Hidden
from isthmus.perimeter.scanner import Sightings

SESSION = b"isthmus distill"
"""Pseudonyms of a golden set are those of one session: the same value has the same one in all rows."""

RULES = (Rule(when="pii", level="restricted", pseudonymise=True), Rule(when="secret", level="restricted"))
"""What is looked for, whatever the config says of it: each finding alone would raise the level to the top, so
that whoever may find more is asked as long as nothing is found."""


_CHOICES = "choices"
"""Under which a multiple-choice question's options are shown beside the request: they are written, too."""


class Looked(Protocol):
    """What is known of a value after a look into it."""

    @property
    def label(self) -> Label: ...
    @property
    def seen(self) -> Sightings: ...
    @property
    def hidden(self) -> Hidden | None: ...


Eyes = Callable[[bytes, Label], Looked]
"""Looks into JSON; what it says is at least of the label that is given."""


def personal_policy(policy: Policy) -> Policy:
    """The policy by which personal data and secrets are looked for: with the config's files and engines."""
    return msgspec.structs.replace(policy, default="public", rules=RULES)


def place_of(place: TrainingPlace, policy: Policy) -> Model:
    """The place of training, as the perimeter knows whom it may let something go to."""
    clearance = place.clearance or policy.clearance.local
    return Model(
        name="the place of training", provider="", id="", kind="local", zone=place.zone, clearance=clearance
    )


class RowLook:
    """Looks into rows: `by_config` as the config says, `for_people` by `personal_policy`."""

    def __init__(
        self,
        by_config: Eyes,
        for_people: Eyes,
        policy: Policy,
        place: Model,
        personal_data: Literal["drop", "pseudonymise"],
    ) -> None:
        self._by_config = by_config
        self._for_people = for_people
        self._policy = policy
        self._place = place
        self._pseudonymise = personal_data == "pseudonymise"

    def __call__(self, row: Row) -> Row | str:
        """The row with its label, and with pseudonyms; or the reason why it is left out."""
        body = msgspec.json.encode(_shown(row))
        label = self._by_config(body, row.sample.label).label
        if self._policy.refuses(self._place, label) is not None:
            return "above_clearance"
        row = msgspec.structs.replace(row, sample=msgspec.structs.replace(row.sample, label=label))
        found = self._for_people(body, Label())
        if found.seen.blind:
            return "unreadable"
        kinds = [kind.partition(".")[0] for kind in by_kind(found.seen) if _counts(kind)]
        if not kinds:
            return row
        if "secret" in kinds:
            return "secret"
        if not self._pseudonymise or found.hidden is None or any(map(_counts, by_kind(found.hidden.left))):
            return "personal_data"
        return _written(row, msgspec.json.decode(found.hidden.body))


def _counts(kind: str) -> bool:
    return any(rule.fits(kind) for rule in RULES)


def _shown(row: Row) -> dict[str, Any]:
    """All texts of the row, as one request: with the answer for its last turn."""
    request = row.sample.request
    facts = {name: it for name, it in row.sample.metadata.items() if isinstance(it, str | int)}
    shown = {**request, "messages": [*request["messages"], row.message], "metadata": facts}
    return {**shown, _CHOICES: row.sample.choices}


def _written(row: Row, shown: Mapping[str, Any]) -> Row:
    request = {name: it for name, it in shown.items() if name not in ("metadata", _CHOICES)}
    *asked, message = request["messages"]
    metadata = {**row.sample.metadata, **shown["metadata"]}
    choices = tuple(shown[_CHOICES])
    row = msgspec.structs.replace(row, sample=msgspec.structs.replace(row.sample, choices=choices))
    return rewritten(row, {**request, "messages": asked}, message, metadata)
