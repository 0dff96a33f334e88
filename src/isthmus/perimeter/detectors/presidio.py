"""Microsoft Presidio as a detector, for those who have its recognisers already.

presidio-analyzer is no part of Isthmus: it is imported when the detector is made.
"""

from __future__ import annotations

from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Finding

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


class Presidio:
    """Finds what a Presidio analyzer finds. `engine` is an AnalyzerEngine; None makes the default one."""

    name = "presidio"

    def __init__(self, engine: Any = None, *, language: str = "en") -> None:
        self._engine = engine if engine is not None else _default_engine()
        self._language = language

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; some may overlap."""
        results = self._engine.analyze(text=text, language=self._language)
        return sorted(
            (Finding(_kind(one.entity_type), one.start, one.end, self.name, one.score) for one in results),
            key=lambda finding: (finding.start, finding.end, finding.kind),
        )


def _kind(entity: str) -> str:
    return KINDS.get(entity) or f"pii.{entity.lower().replace('_', '-')}"


def _default_engine() -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
    except ModuleNotFoundError as missing:
        raise IsthmusError(
            Fault.INTERNAL,
            f"A detector is Presidio, which is not installed ({missing.name} is missing).",
            code="presidio_missing",
            hint="Run: pip install 'isthmus[presidio]'",
        ) from None
    return AnalyzerEngine()
