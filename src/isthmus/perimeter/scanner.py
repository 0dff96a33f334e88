"""Looks into requests: every text by every detector, what was seen before only once.

A conversation is sent again with each turn. So the findings of a text are remembered under a digest that is
keyed with a secret of the process: a new turn costs its own length alone, and what is remembered tells nobody
which text it belongs to.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.parts import Part, parts_of
from isthmus.perimeter.views import findings

log = logging.getLogger("isthmus.perimeter")

SEAM = 64
"""So many characters before and behind a cut between two texts are looked at together."""
MOST_REMEMBERED = 50_000
_DIGEST_BYTES = 16

_Found: TypeAlias = "tuple[Finding, ...]"


class Sighting(msgspec.Struct, frozen=True):
    """A finding, and the place in the request of the text that it was made in."""

    where: str
    finding: Finding


class Sightings(msgspec.Struct, frozen=True):
    """What was seen in a request. `blind` are the places that could not be looked into, whatever the reason:
    a picture, a reference, a detector that failed."""

    found: tuple[Sighting, ...] = ()
    blind: tuple[str, ...] = ()

    def join(self, other: Sightings) -> Sightings:
        """What both saw."""
        return Sightings(self.found + other.found, tuple(dict.fromkeys(self.blind + other.blind)))


class Scanner:
    """Looks by `detectors` into requests. `secret` keys the digests under which findings are remembered.

    Not for two threads at once.
    """

    def __init__(self, detectors: Sequence[Detector], secret: bytes, most: int = MOST_REMEMBERED) -> None:
        self._detectors = tuple(detectors)
        self._secret = secret
        self._most = most
        self._remembered: OrderedDict[bytes, _Found] = OrderedDict()

    def scan(self, value: Any) -> Sightings:
        """What is seen in a decoded JSON value. Never raises: what cannot be looked into is blind."""
        parts = parts_of(value)
        found: list[Sighting] = []
        blind = list(parts.blind)
        for part in (*parts.texts, *_seams(parts.texts)):
            try:
                seen = self._look(part.text)
            except Exception as fault:
                # The text of an exception may quote the prompt: only its kind is logged.
                log.error("a detector failed at %s: %s", part.where, type(fault).__name__)
                blind.append(part.where)
                continue
            found.extend(_sightings(part, seen))
        return Sightings(tuple(found), tuple(blind))

    def _look(self, text: str) -> _Found:
        raw = text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(raw, key=self._secret, digest_size=_DIGEST_BYTES).digest()
        seen = self._remembered.get(digest)
        if seen is None:
            seen = self._remembered[digest] = tuple(findings(text, self._detectors))
            if len(self._remembered) > self._most:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(digest)
        return seen


def _seams(texts: Sequence[Part]) -> Iterator[Part]:
    """Where one text ends and the next begins: what is cut in two there is seen in neither."""
    for one, other in pairwise(texts):
        tail, head = one.text[one.before :][-SEAM:], other.text[other.before :][:SEAM]
        yield Part(f"{one.where}|{other.where}", tail + head, -len(tail))


def _sightings(part: Part, seen: _Found) -> Iterator[Sighting]:
    for finding in seen:
        if part.before < 0:
            # A seam: what lies on one side of it is the affair of that side.
            if finding.start < -part.before < finding.end:
                yield Sighting(part.where, finding)
        elif finding.end > part.before:
            start = max(0, finding.start - part.before)
            placed = msgspec.structs.replace(finding, start=start, end=finding.end - part.before)
            yield Sighting(part.where, placed)
