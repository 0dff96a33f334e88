"""People in a text: detectors of names, addresses, places, groups, organisations and dates, seen together.

What overlaps is settled here: an address swallows the names and towns in it, the surer of two findings stays,
and a title or a neighbour's testimony makes a finding surer.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.detectors import Detector, addresses, dates, names, organisations, places
from isthmus.perimeter.detectors.addresses import Addresses
from isthmus.perimeter.detectors.gazetteer import load
from isthmus.perimeter.detectors.names import Names
from isthmus.perimeter.detectors.places import Places
from isthmus.perimeter.detectors.words import split

SUSPECTED = 0.35
"""From this score on a finding of `DIRECT` makes a text one that tells of a person."""

DIRECT = frozenset({names.KIND, addresses.KIND})
"""The kinds, of those found here, that point to one person."""

KINDS = DIRECT | {places.LOCATION, places.GROUP, organisations.KIND, dates.DATE, dates.AGE}
"""Every kind that is found here."""

_SURE = 0.6
_AGREED = 0.2
_DOUBTED = 0.1
_SEEN = frozenset({names.KIND, places.LOCATION, places.GROUP})


class People:
    """Finds what tells of people, each place of the text at most once.

    `witness`, a detector that reads whole sentences, is asked about texts with names that are in doubt. What
    it sees as well gets surer, what it does not see less sure, and what it alone sees is added.
    """

    name = "people"

    def __init__(self, witness: Detector | None = None) -> None:
        self._of_texts: tuple[Detector, ...] = (Addresses(), organisations.Organisations(), dates.Dates())
        self._of_words = (Names(), Places())
        self._witness = witness

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; none overlaps another."""
        words = split(text, load())
        found = [finding for detector in self._of_texts for finding in detector.find(text)]
        found += [finding for detector in self._of_words for finding in detector.among(text, words)]
        if self._witness is not None and any(_is_doubtful(finding) for finding in found):
            found = hear(self._witness.find(text), settle(found))
        return settle(found)


def hear(testimony: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """The findings, each as sure as a witness's testimony leaves it, and what only the witness saw."""
    seen = [finding for finding in testimony if finding.kind in _SEEN]
    heard = [_heard(finding, seen) for finding in found]
    alone = [
        one for one in seen if not any(_overlap(one, finding) for finding in found if not _is_weak(finding))
    ]
    return heard + alone


def _heard(finding: Finding, seen: Sequence[Finding]) -> Finding:
    if finding.kind not in _SEEN:
        return finding
    if any(one.kind == finding.kind and _overlap(one, finding) for one in seen):
        return msgspec.structs.replace(finding, score=min(1.0, finding.score + _AGREED))
    if finding.score < _SURE:
        return msgspec.structs.replace(finding, score=max(0.0, finding.score - _DOUBTED))
    return finding


def _is_doubtful(finding: Finding) -> bool:
    return finding.kind == names.KIND and finding.score < _SURE


def _is_weak(finding: Finding) -> bool:
    return finding.score < SUSPECTED


def _overlap(one: Finding, other: Finding) -> bool:
    return one.start < other.end and other.start < one.end


def settle(found: Sequence[Finding]) -> list[Finding]:
    """Of findings that overlap, the surest, in order of their start; of equally sure ones, the longest."""
    kept: list[Finding] = []
    starts: list[int] = []
    for finding in sorted(found, key=_precedence):
        at = bisect(starts, finding.start)
        if (at and kept[at - 1].end > finding.start) or (at < len(kept) and kept[at].start < finding.end):
            continue
        kept.insert(at, finding)
        starts.insert(at, finding.start)
    return kept


def _precedence(finding: Finding) -> tuple[int, float, int, int]:
    # An address is made of what else would be names and towns.
    whole = finding.kind == addresses.KIND and finding.score >= 0.5
    return (not whole, -finding.score, finding.start - finding.end, finding.start)
