"""Words that an operator names: customers, projects, code names."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from ahocorasick_rs import AhoCorasick

from isthmus.core.label import Finding
from isthmus.perimeter.lowercase import lowered

# What may stand between the parts of a term, or be left out there.
_PIECE = re.compile(r"[^\s\-_\u2010-\u2015]+")

# Scripts that put no space between words, or none before an ending.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff]")


class Terms:
    """Finds the terms of one list, as whole words, whatever spaces and hyphens are in them.

    `listed` has one term a line; empty lines, and what follows a `#`, are comments. `Blue Bird` is found in
    "blue-bird" and "BlueBird", but not in "bluebirds". Case matters only where it is said so. A finding's
    kind is `term.` and the list's name.
    """

    name = "terms"

    def __init__(self, name: str, listed: str, *, case_sensitive: bool = False) -> None:
        self._kind = f"term.{name}"
        self._cased = case_sensitive
        terms = {_Skeleton(term, case_sensitive).text for term in _terms(listed)} - {""}
        self._automaton = AhoCorasick(sorted(terms))

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; of terms within another only the outer one."""
        skeleton = _Skeleton(text, self._cased)
        hits = self._automaton.find_matches_as_indexes(skeleton.text, overlapping=True)
        spans = {skeleton.place(start, end) for _, start, end in hits}
        whole = sorted(
            (span for span in spans if _is_whole(text, *span)), key=lambda span: (span[0], -span[1])
        )
        return [Finding(self._kind, start, end, self.name) for start, end in _outermost(whole)]


class _Skeleton:
    """A text without what may stand between the parts of a term, and where its pieces come from."""

    def __init__(self, text: str, cased: bool) -> None:
        # Even where case matters, lone surrogates must go: the automaton takes characters only.
        same_case = text.encode("utf-8", "replace").decode("utf-8") if cased else lowered(text)
        pieces: list[str] = []
        self._begins: list[int] = []
        self._origins: list[int] = []
        size = 0
        for match in _PIECE.finditer(same_case):
            pieces.append(match[0])
            self._begins.append(size)
            self._origins.append(match.start())
            size += len(match[0])
        self.text = "".join(pieces)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where `start:end` of the skeleton stands in the text."""
        return self._origin(start), self._origin(end - 1) + 1

    def _origin(self, at: int) -> int:
        piece = bisect_right(self._begins, at) - 1
        return self._origins[piece] + at - self._begins[piece]


def _terms(listed: str) -> Iterator[str]:
    for line in listed.splitlines():
        # A hash within a word is part of it: "C#".
        term = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if term:
            yield term


def _is_whole(text: str, start: int, end: int) -> bool:
    """No letter or digit goes on before or behind, where the script has spaces between words."""
    return not (
        _goes_on(text[start], text[start - 1 : start]) or _goes_on(text[end - 1], text[end : end + 1])
    )


def _goes_on(edge: str, beyond: str) -> bool:
    return edge.isalnum() and beyond.isalnum() and not _UNSPACED.match(edge)


def _outermost(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those that no earlier one holds; `spans` are in order, the longer first where they start together."""
    reached = 0
    for start, end in spans:
        if end > reached:
            yield start, end
            reached = end
