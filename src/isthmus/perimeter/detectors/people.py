"""People in a text: the detectors of names, addresses, places, groups, organisations and dates, seen together.

What overlaps is settled here: an address swallows the names and towns in it, the surer of two findings stays,
and a title or a neighbour's testimony makes a finding surer.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.detectors.addresses import Addresses
from isthmus.perimeter.detectors.dates import Dates
from isthmus.perimeter.detectors.names import Names
from isthmus.perimeter.detectors.organisations import Organisations
from isthmus.perimeter.detectors.places import Places

_AGREED = 0.2
_DOUBTED = 0.15


class People:
    """Finds what tells of people, each place of the text at most once.

    `witness`, a detector that reads whole sentences, is asked about texts that may hold names; its findings
    raise those that it shares and lower the names that it does not see.
    """

    name = "people"

    def __init__(self, witness: Detector | None = None) -> None:
        self._detectors: tuple[Detector, ...] = (Addresses(), Names(), Places(), Organisations(), Dates())
        self._witness = witness

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; none overlaps another."""
        found = [finding for detector in self._detectors for finding in detector.find(text)]
        return settle(found)


def settle(found: Sequence[Finding]) -> list[Finding]:
    """Of findings that overlap, the surest, in order of their start; of equally sure ones, the longest."""
    kept: list[Finding] = []
    for finding in sorted(found, key=_precedence):
        if not any(finding.start < other.end and other.start < finding.end for other in kept):
            kept.append(finding)
    return sorted(kept, key=lambda finding: finding.start)


def _precedence(finding: Finding) -> tuple[int, float, int, int]:
    # An address is made of what else would be names and towns.
    whole = finding.kind == "pii.address" and finding.score >= 0.5
    return (not whole, -finding.score, finding.start - finding.end, finding.start)
