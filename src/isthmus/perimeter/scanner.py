"""Looks into requests: every text by every detector, what was seen before only once.

A conversation is sent again with each turn. So the findings of a text are remembered under a digest that is
keyed with a secret of the process: a new turn costs its own length alone, and what is remembered tells nobody
which text it belongs to.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeAlias

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.parts import Part, parts_of
from isthmus.perimeter.views import findings

log = logging.getLogger("isthmus.perimeter")

SEAM = 64
"""So many characters before and behind a cut between texts are looked at together."""
LONGEST_RUN = 512
"""So many characters of short texts in a row are looked at together."""
MOST_REMEMBERED = 50_000
_DIGEST_BYTES = 16
_IS_OF_A_TURN = re.compile(r"(?:^|\.)(?:content|input|output|text)(?:\[\d+\])*$")

_Found: TypeAlias = "tuple[Finding, ...]"


class Sighting(msgspec.Struct, frozen=True):
    """A finding, and the place in the request of the text that it was made in."""

    where: str
    finding: Finding


class Sightings(msgspec.Struct, frozen=True):
    """What was seen in a request. `blind` are the places that could not be looked into, whatever the reason:
    a picture, a reference, a detector that failed. `unlooked` are kinds for which nobody looked, since
    finding them would not have raised the label."""

    found: tuple[Sighting, ...] = ()
    blind: tuple[str, ...] = ()
    unlooked: tuple[str, ...] = ()

    def join(self, other: Sightings) -> Sightings:
        """What both saw."""
        return Sightings(
            self.found + other.found,
            tuple(dict.fromkeys(self.blind + other.blind)),
            tuple(dict.fromkeys(self.unlooked + other.unlooked)),
        )


class Scanner:
    """Looks by `detectors` into requests. `secret` keys the digests under which findings are remembered.

    Not for two threads at once.
    """

    def __init__(self, detectors: Sequence[Detector], secret: bytes, most: int = MOST_REMEMBERED) -> None:
        self._detectors = tuple(detectors)
        self._secret = secret
        self._most = most
        self._remembered: OrderedDict[bytes, _Found] = OrderedDict()

    def scan(self, value: Any, enough: Callable[[], bool] = lambda: False) -> Sightings:
        """What is seen in a decoded JSON value. What cannot be looked into is blind; so is the whole where
        there was `enough` before the end.

        Raises only RecursionError, for what is nested too deeply.
        """
        parts = parts_of(value)
        found: list[Sighting] = []
        blind = list(parts.blind)
        texts = parts.texts
        looked_at: Iterator[Part | Seam] = chain(texts, seams(texts))
        for part in looked_at:
            if enough():
                return Sightings(tuple(found), (*blind, "."))
            try:
                seen = self._look(part.text)
            except Exception as fault:
                # Its text may quote the prompt, and the place may name keys of it: only the kind is logged.
                log.error("a detector failed: %s", type(fault).__name__)
                blind.append(part.where)
                continue
            found.extend(_in_part(part, seen) if isinstance(part, Part) else _in_seam(part, seen))
        return Sightings(tuple(dict.fromkeys(found)), tuple(blind))

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


class Seam(NamedTuple):
    """Texts that meet, put together, and the `cuts` between them."""

    where: str
    text: str
    cuts: tuple[int, ...]


def seams(texts: Sequence[Part]) -> Iterator[Seam]:
    """Where texts of a request meet: a value that is cut apart between them shows there alone."""
    yield from _meetings(texts)
    yield from _runs(texts)


def _meetings(texts: Sequence[Part]) -> Iterator[Seam]:
    """Where one text ends and the next begins: what is cut in two there is seen in neither."""
    for one, other in pairwise(texts):
        tail, head = said(one)[-SEAM:], said(other)[:SEAM]
        yield Seam(f"{one.where}|{other.where}", tail + head, (len(tail),))


def _runs(texts: Sequence[Part]) -> Iterator[Seam]:
    """Short texts of a conversation in a row, between the ends of longer ones: what is cut into many, or by a
    name between two turns, is seen at no seam."""
    run: list[tuple[str, str]] = []
    for part in texts:
        if not _IS_OF_A_TURN.search(part.where):
            continue
        text = said(part)
        run.append((part.where, text[:SEAM]))
        if len(text) > SEAM:
            yield from _joined(run)
            run = [(part.where, text[-SEAM:])]
        elif sum(len(text) for _, text in run) > LONGEST_RUN:
            yield from _joined(run)
            run = _last_of(run)
    yield from _joined(run)


def _last_of(run: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The texts at the end of a row that make up a seam."""
    first, kept = len(run), 0
    while first and kept < SEAM:
        first -= 1
        kept += len(run[first][1])
    return list(run[first:])


def _joined(run: Sequence[tuple[str, str]]) -> Iterator[Seam]:
    """A row of texts as one. Digits end where letters begin: they would hide in a word."""
    if len(run) < 2:
        return
    joined = ""
    cuts: list[int] = []
    for _, text in run:
        cuts.append(len(joined))
        ends = joined[-1:].isalnum() and text[:1].isalnum() and joined[-1].isdigit() != text[0].isdigit()
        joined += " " + text if ends else text
    yield Seam(f"{run[0][0]}|{run[-1][0]}", joined, tuple(cuts[1:]))


def said(part: Part) -> str:
    """The text of a part as it stands in the request."""
    return part.text[part.before :]


def _in_part(part: Part, seen: _Found) -> Iterator[Sighting]:
    for finding in seen:
        if finding.end > part.before:
            start = max(0, finding.start - part.before)
            placed = msgspec.structs.replace(finding, start=start, end=finding.end - part.before)
            yield Sighting(part.where, placed)


def _in_seam(seam: Seam, seen: _Found) -> Iterator[Sighting]:
    # What lies within one of its texts is the affair of that text.
    for finding in seen:
        if any(finding.start < cut < finding.end for cut in seam.cuts):
            yield Sighting(seam.where, finding)
