"""A GLiNER model as a detector: it finds whatever its labels name, in many languages.

gliner is no part of Isthmus: it is imported when the detector is made, and reads weights from a folder only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Finding

LABELS: Mapping[str, str] = {
    "person": "pii.name",
    "address": "pii.address",
    "location": "pii.location",
    "nationality or religion": "pii.group",
    "organization": "pii.organisation",
    "date of birth": "pii.date",
}
"""What is asked of the model, and the kind that each answer is."""


class Gliner:
    """Finds what the model in `folder` finds under `labels`, from `threshold` on."""

    name = "gliner"

    def __init__(self, folder: Path, *, labels: Mapping[str, str] = LABELS, threshold: float = 0.5) -> None:
        self._model = _load(folder)
        self._labels = dict(labels)
        self._threshold = threshold

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start."""
        entities = self._model.predict_entities(text, list(self._labels), threshold=self._threshold)
        return sorted(
            (
                Finding(self._labels[one["label"]], one["start"], one["end"], self.name, float(one["score"]))
                for one in entities
            ),
            key=lambda finding: (finding.start, finding.end),
        )


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
