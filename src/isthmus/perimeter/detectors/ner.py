"""Named entities by a spaCy pipeline: an optional witness for what no list and no phrase tells.

spaCy is the extra `ner`; it is imported when a pipeline is loaded, and only its entity recogniser runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Finding
from isthmus.perimeter.detectors.legible import legible
from isthmus.perimeter.detectors.weights import pinned

KINDS = {
    "PERSON": "pii.name",
    "PER": "pii.name",
    "GPE": "pii.location",
    "LOC": "pii.location",
    "NORP": "pii.group",
    "ORG": "pii.organisation",
    "DATE": "pii.date",
}
"""What the labels of spaCy's English and European pipelines are, for us; others are left out."""

_NOT_NEEDED = (
    "tagger",
    "parser",
    "attribute_ruler",
    "lemmatizer",
    "morphologizer",
    "senter",
    "trainable_lemmatizer",
)
_PIECE = 2_000
_SCORE = 0.55


class Ner:
    """Finds people, places, groups, organisations and dates with the pipeline in `folder`.

    `sha256`, if given, is that of the folder as `digest` has it; another folder is not loaded. A text longer
    than `longest` code points is refused, and so is one that is not read in `budget_s` seconds by `clock`:
    what could not be looked into must not pass as harmless.
    """

    name = "ner"

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float],
        sha256: str | None = None,
        longest: int = 100_000,
        budget_s: float = 2.0,
    ) -> None:
        self._pipeline = _load(pinned(folder, sha256))
        self._clock = clock
        self._longest = longest
        self._budget_s = budget_s

    def find(self, text: str) -> list[Finding]:
        """The entities in order of their start. Raises IsthmusError where not all could be read."""
        if len(text) > self._longest:
            raise IsthmusError(
                Fault.TOO_LARGE,
                f"A text has {len(text)} characters, and {self._longest} are read for names at most.",
                code="ner_too_long",
                hint="Raise the bound, or send less text at once.",
            )
        began = self._clock()
        found: list[Finding] = []
        for start, piece in pieces(legible(text)):
            if self._clock() - began > self._budget_s:
                raise IsthmusError(
                    Fault.TOOK_TOO_LONG,
                    f"Reading a text for names took longer than {self._budget_s:g} s.",
                    code="ner_late",
                    hint="Raise the budget, or do without the recogniser of names.",
                )
            for entity in self._pipeline(piece).ents:
                if kind := KINDS.get(entity.label_):
                    found.append(
                        Finding(kind, start + entity.start_char, start + entity.end_char, self.name, _SCORE)
                    )
        return found


def _load(folder: Path) -> Any:
    try:
        import spacy
    except ModuleNotFoundError as missing:
        raise IsthmusError(
            Fault.INTERNAL,
            f"Names are to be found by spaCy, which is not installed ({missing.name} is missing).",
            code="ner_missing",
            hint="Run: pip install 'isthmus[ner]'",
        ) from None
    return spacy.load(folder, exclude=list(_NOT_NEEDED))


def pieces(text: str, longest: int = _PIECE) -> Iterator[tuple[int, str]]:
    """The text in pieces, each with its start, cut after a line or a sentence where there is one."""
    start = 0
    while start < len(text):
        end = min(start + longest, len(text))
        if end < len(text):
            end = next(
                (cut for end_of in ("\n", ". ", " ") if (cut := text.rfind(end_of, start + 1, end)) > 0), end
            )
        yield start, text[start:end]
        start = end
