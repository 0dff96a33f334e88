"""A text as detectors should see it: normalised, and once more with its encoded parts decoded.

Whatever is found in a view has a place in the original text, so that evasions (invisible characters,
look-alike letters, full-width digits, base64) change nothing of what is reported.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from isthmus.core.label import Finding
from isthmus.perimeter import shapes
from isthmus.perimeter.confusables import folded
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.encodings import Decoded, decoded, hidden

_INVISIBLE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_COMBINING = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
# Scripts whose letters stay what they are, so that texts in them are not walked letter by letter.
_SETTLED = (
    "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0131\u0400-\u0481\u048a-\u052f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff"
    "\uac00-\ud7a3"
)

_IS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_UNSETTLED = f"[^\t\n\r -~{_SETTLED}]"
_LETTER = re.compile(_UNSETTLED)
_MARK = re.compile(f"[{_COMBINING}]")
_CLUSTER = re.compile(f"[^{_COMBINING}][{_COMBINING}]+|{_UNSETTLED}[{_COMBINING}]*")
_CONTROL = shapes.compiled(r"[\x00-\x08\x0e-\x1f\x7f]")
_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")

# What is decoded stands in lines of its own, so far apart that nothing is read across them.
_GAP = "\n" * 8


class _Stretch(NamedTuple):
    """Characters of a view from `begin` on, and where they come from: `start:end` of the original.

    Where it is the same text, each character has its own place; else all come from the whole.
    """

    begin: int
    start: int
    end: int
    same: bool


class View:
    """A text to be searched, and where each of its characters comes from.

    Without stretches, which are in order and without gaps, it is the original.
    """

    __slots__ = ("_begins", "_stretches", "text")

    def __init__(self, text: str, stretches: Sequence[_Stretch] = ()) -> None:
        self.text = text
        self._stretches = stretches
        self._begins = [stretch.begin for stretch in stretches]

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where `start:end` of the view's text, which is not empty, stands in the original."""
        if not self._stretches:
            return start, end
        first, last = self._at(start), self._at(end - 1)
        return (
            first.start + (start - first.begin if first.same else 0),
            last.start + end - last.begin if last.same else last.end,
        )

    def _at(self, place: int) -> _Stretch:
        return self._stretches[bisect_right(self._begins, place) - 1]


def views(text: str) -> list[View]:
    """The text normalised and, where parts of it are encoded, those parts decoded: two views at most.

    Normalised means NFKC, without invisible and control characters, digits of other scripts and look-alikes
    of Latin letters in ASCII. A finding in a decoded part has its place in the whole of what encodes it. The
    work is linear in the length of the text.
    """
    normal = _normalised(text)
    parts = [Decoded(part.text, *normal.place(part.start, part.end)) for part in decoded(normal.text)]
    if not text.isascii():
        parts += hidden(text)
    return [normal, _joined(parts)] if parts else [normal]


def normalised(text: str) -> str:
    """The text as detectors see it before anything is decoded: what is to be found in one must be so, too."""
    return _normalised(text).text


def findings(text: str, detectors: Iterable[Detector]) -> list[Finding]:
    """What the detectors find in any view of `text`, with places in `text` itself, in order and each once."""
    seen = views(text)
    surest: dict[tuple[int, int, str, str], Finding] = {}
    for detector in detectors:
        for view in seen:
            for finding in _placed(view, detector.find(view.text)):
                key = (finding.start, finding.end, finding.kind, finding.detector)
                if key not in surest or surest[key].score < finding.score:
                    surest[key] = finding
    return [surest[key] for key in sorted(surest)]


def _placed(view: View, found: Iterable[Finding]) -> Iterator[Finding]:
    for finding in found:
        start, end = view.place(finding.start, finding.end)
        yield Finding(finding.kind, start, end, finding.detector, finding.score)


def _normalised(text: str) -> View:
    if text.isascii():
        return _composed(text) if _CONTROL.search(text.encode()) else View(text)
    if _IS_INVISIBLE.search(text) or not unicodedata.is_normalized("NFKC", text):
        view = _composed(text)
    else:
        view = View(text)
    view.text = folded(_FOREIGN_DIGIT.sub(_ascii_digit, view.text))
    return view


def _composed(text: str) -> View:
    """In NFKC and without what is invisible, letter by letter with its combining marks."""
    pieces: list[str] = []
    stretches: list[_Stretch] = []
    size = at = 0
    clusters = _CLUSTER if _MARK.search(text) else _LETTER
    for match in clusters.finditer(text):
        cluster = match[0]
        visible = _visible(cluster)
        if visible == cluster:
            continue
        start, end = match.span()
        if start > at:
            stretches.append(_Stretch(size, at, start, same=True))
            size += start - at
        if visible:
            stretches.append(_Stretch(size, start, end, same=False))
            size += len(visible)
        pieces += (text[at:start], visible)
        at = end
    if at < len(text):
        stretches.append(_Stretch(size, at, len(text), same=True))
    return View("".join((*pieces, text[at:])), stretches)


@lru_cache(maxsize=4096)
def _visible(cluster: str) -> str:
    return unicodedata.normalize("NFKC", _IS_INVISIBLE.sub("", cluster))


def _ascii_digit(match: re.Match[str]) -> str:
    return str(unicodedata.decimal(match[0]))


def _joined(parts: Iterable[Decoded]) -> View:
    pieces: list[str] = []
    stretches: list[_Stretch] = []
    size = 0
    for part in sorted(parts, key=lambda part: (part.start, part.end)):
        text = _normalised(part.text).text + _GAP
        pieces.append(text)
        stretches.append(_Stretch(size, part.start, part.end, same=False))
        size += len(text)
    return View("".join(pieces), stretches)
