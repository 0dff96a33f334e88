"""Whether a row may teach today: by its provenance, the terms, the grounds given, and the quarantine.

One function, for collecting and for training: what was permitted when it was collected may not be any more.
Pure.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.provenance import Origin, provenance_of, seal_of
from isthmus.distill.quarantine import Quarantine
from isthmus.distill.terms import Clause, Ground, Ruling, known_terms, ruling

_SHOWN = 5


class Refusal(msgspec.Struct, frozen=True):
    """Why a row may not teach: a stable `reason` to count by, and `why` in words."""

    reason: str
    why: str


class Permission:
    """What may teach on the day `today`, by these grounds and this quarantine."""

    def __init__(
        self,
        today: dt.date,
        grounds: Sequence[Ground] = (),
        quarantine: Quarantine | None = None,
        clauses: Sequence[Clause] | None = None,
    ) -> None:
        self.today = today
        self._grounds = tuple(grounds)
        self._quarantine = quarantine or Quarantine()
        self._clauses = known_terms() if clauses is None else clauses

    def ruling(self, terms: str, given: dt.date) -> Ruling:
        """Whether what was put out on that day under these terms may teach."""
        return ruling(terms, given, self.today, self._grounds, self._clauses)

    def settled(self, origin: Origin) -> Origin:
        """The origin with what is found of its terms, to be kept with the row."""
        if origin.maker == "people":
            return origin
        found = self.ruling(origin.terms, origin.day)
        return msgspec.structs.replace(
            origin,
            document=found.document,
            dated=found.dated,
            verdict=found.verdict,
            ground=found.ground,
        )

    def refuses(self, sample: Sample, known_by: Sequence[str] = ()) -> Refusal | None:
        """Why this row may not teach, None where it may. `known_by` are the hashes of its dataset."""
        told = provenance_of(sample)
        if (entry := self._quarantine.holds(sample, told, known_by)) is not None:
            return Refusal("quarantined", f"{entry.kind}:{entry.value} is in quarantine.")
        if told is None or not any(it.part == "answer" for it in told.origins):
            return Refusal("unknown_origin", "Nobody says whose answer it is.")
        if told.seal != seal_of(sample):
            return Refusal("relabelled", "It was changed after its origin was noted.")
        return next((found for it in told.origins if (found := self._refuses(it)) is not None), None)

    def _refuses(self, origin: Origin) -> Refusal | None:
        if origin.maker == "people":
            return None
        # A ground that was noted with the row counts as one given now does: until its last day.
        grounds = (*self._grounds, *((origin.ground,) if origin.ground is not None else ()))
        found = ruling(origin.terms, origin.day, self.today, grounds, self._clauses)
        if found.may_teach:
            return None
        reason = "terms_unknown" if found.verdict == "unknown" else "terms_forbid"
        return Refusal(reason, f"{origin.model or 'a model'} ({origin.part}): {found.why}")


class Batch(NamedTuple):
    """Rows of one dataset, and the hashes that this is known by."""

    samples: Sequence[Sample]
    known_by: Sequence[str] = ()


def require_may_teach(batches: Sequence[Batch], permission: Permission) -> None:
    """Raises IsthmusError (`may_not_teach`) where one row may not: a mixed batch is refused as a whole."""
    rows = [(sample, batch.known_by) for batch in batches for sample in batch.samples]
    refusals = ((sample.id, permission.refuses(sample, known_by)) for sample, known_by in rows)
    found = [(identity, refusal) for identity, refusal in refusals if refusal is not None]
    if not found:
        return
    counts = ", ".join(f"{reason} {count:,}" for reason, count in _counted(found))
    shown = ", ".join(identity for identity, _ in found[:_SHOWN])
    raise IsthmusError(
        Fault.FORBIDDEN,
        f"{len(found):,} of {len(rows):,} rows may not teach: {counts}. The first are {shown}. "
        f"Of the first: {found[0][1].why}",
        code="may_not_teach",
        hint="Collect anew: `isthmus distill collect` leaves such rows out, and says so.",
    )


def _counted(found: Sequence[tuple[str, Refusal]]) -> list[tuple[str, int]]:
    return Counter(refusal.reason for _, refusal in found).most_common()
