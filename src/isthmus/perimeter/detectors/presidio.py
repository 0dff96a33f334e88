"""Microsoft Presidio as a detector, for those who have its recognisers already.

presidio-analyzer is no part of Isthmus: it is imported when the detector is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Finding
from isthmus.perimeter.detectors.weights import pinned

KINDS = {
    "PERSON": "pii.name",
    "LOCATION": "pii.location",
    "NRP": "pii.group",
    "ORGANIZATION": "pii.organisation",
    "DATE_TIME": "pii.date",
    "CREDIT_CARD": "pii.card",
    "PHONE_NUMBER": "pii.phone",
    "EMAIL_ADDRESS": "pii.email",
    "IBAN_CODE": "pii.iban",
    "US_SSN": "pii.ssn",
    "IP_ADDRESS": "pii.ip",
    "US_DRIVER_LICENSE": "pii.licence",
    "URL": "pii.url",
}
"""What Presidio's entities are, for us; any other is `pii.` and its name in lower case."""

_LANGUAGE = "en"


class Presidio:
    """Finds what Presidio's recognisers and the spaCy pipeline in `folder` find in English texts.

    `sha256`, if given, is that of the folder; another one is not loaded. E-mail is left to our own patterns.
    """

    name = "presidio"

    def __init__(self, folder: Path, *, sha256: str | None = None) -> None:
        self._analyzer = _analyzer(pinned(folder, sha256))
        self.kinds = frozenset(map(_kind, self._analyzer.get_supported_entities(_LANGUAGE)))

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; some may overlap."""
        results = self._analyzer.analyze(text=text, language=_LANGUAGE)
        return sorted(
            (Finding(_kind(one.entity_type), one.start, one.end, self.name, one.score) for one in results),
            key=lambda finding: (finding.start, finding.end, finding.kind),
        )


def _kind(entity: str) -> str:
    return KINDS.get(entity) or f"pii.{entity.lower().replace('_', '-')}"


def _analyzer(folder: Path) -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ModuleNotFoundError as missing:
        raise IsthmusError(
            Fault.INTERNAL,
            f"A detector is Presidio, which is not installed ({missing.name} is missing).",
            code="presidio_missing",
            hint="Run: pip install 'isthmus[presidio]'",
        ) from None
    # By its defaults Presidio would load a pipeline from the network.
    model = {"lang_code": _LANGUAGE, "model_name": str(folder)}
    nlp = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [model]}).create_engine()
    analyzer = AnalyzerEngine(nlp_engine=nlp, supported_languages=[_LANGUAGE])
    # This one asks the network for the list of public suffixes.
    analyzer.registry.remove_recognizer("EmailRecognizer")
    return analyzer
