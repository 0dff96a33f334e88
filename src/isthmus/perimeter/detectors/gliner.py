"""A GLiNER model as a detector: it finds whatever its labels name, in many languages.

gliner is no part of Isthmus: it is imported when the detector is made, and reads weights from a folder only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Finding
from isthmus.perimeter.detectors.ner import pieces
from isthmus.perimeter.detectors.weights import pinned

LABELS: Mapping[str, str] = {
    "person": "pii.name",
    "address": "pii.address",
    "location": "pii.location",
    "nationality or religion": "pii.group",
    "organization": "pii.organisation",
    "date of birth": "pii.date",
}
"""What is asked of the model, and the kind that each answer is."""

_LONGEST = 700


class Gliner:
    """Finds what the model in `folder` finds under `labels`, from `threshold` on.

    `sha256`, if given, is that of the folder; another one is not loaded.
    """

    name = "gliner"

    def __init__(
        self,
        folder: Path,
        *,
        sha256: str | None = None,
        labels: Mapping[str, str] = LABELS,
        threshold: float = 0.5,
    ) -> None:
        self._model = _load(pinned(folder, sha256))
        self._labels = dict(labels)
        self._threshold = threshold
        self.kinds = frozenset(labels.values())

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start."""
        found = [
            Finding(
                self._labels[one["label"]],
                start + one["start"],
                start + one["end"],
                self.name,
                float(one["score"]),
            )
            # A model reads the beginning of what is too long for it, and says nothing of the rest.
            for start, piece in pieces(text, _LONGEST)
            for one in self._model.predict_entities(piece, list(self._labels), threshold=self._threshold)
        ]
        return sorted(found, key=lambda finding: (finding.start, finding.end))


def _load(folder: Path) -> Any:
    try:
        from gliner import GLiNER
    except ModuleNotFoundError as missing:
        raise IsthmusError(
            Fault.INTERNAL,
            f"A detector is GLiNER, which is not installed ({missing.name} is missing).",
            code="gliner_missing",
            hint="Run: pip install 'isthmus[gliner]'",
        ) from None
    # A folder is all that may be loaded: a name would be looked up on a hub.
    return GLiNER.from_pretrained(str(folder), local_files_only=True)
