"""Structured personal data: e-mail addresses, cards, accounts, telephone numbers, identity numbers and so on.

What has a check digit is checked, and what has none is found only beside a word that says what it is. A URL
may hold other findings; of all others that overlap the surest is kept, and of equally sure ones the longest.
"""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.core.label import Finding
from isthmus.perimeter import shapes
from isthmus.perimeter.identifiers import LABELLED, SHAPES, Labelled, Shape
from isthmus.perimeter.topics import Topics

_SURER = 0.09
"""How much surer a word of the topic near makes."""

_SEPARATOR = 3
_TRIES = 16
"""In a row of numbers longer than this (a table, or an attack) not every one is tried as the first group."""

# Between a label and what it names: a few short words, "number is", "Nr.:", "n° de l'assuré :". A curly
# apostrophe is a question mark here.
_GAP = (
    r"(?:['?]s)?[^0-9A-Za-z\xc0-\xff]{0,4}"
    r"(?:[A-Za-z\xc0-\xff]{1,14}[^0-9A-Za-z\xc0-\xff]{1,4}){0,4}?"
)


class Patterns:
    """Finds structured personal data by form, check digits and the words around them. Kinds are `pii.*`."""

    name = "patterns"

    def __init__(self) -> None:
        self._shapes = shapes.Shapes([row.pattern for row in SHAPES])
        self._labelled = [(row, shapes.compiled(f"{_GAP}({row.pattern})")) for row in LABELLED]
        self._digit = shapes.compiled(r"\d")

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start."""
        data = shapes.searchable(text)
        present = self._shapes.present(data)
        if not present and not self._digit.search(data):
            return []
        topics = Topics(text)
        found = [
            finding
            for which in present
            if _is_possible(SHAPES[which], topics)
            for finding in self._of_shape(which, text, data, topics)
        ]
        return _resolved([*found, *self._of_labels(text, data, topics)], len(text))

    def _of_shape(self, which: int, text: str, data: bytes, topics: Topics) -> Iterator[Finding]:
        row, at, tries = SHAPES[which], 0, 0
        while span := self._shapes.next(which, data, at):
            start, end = span
            tries = tries + 1 if start - at <= _SEPARATOR else 0
            at = end
            near = any(topics.is_near(topic, start, end) for topic in row.topics)
            if row.needs_topic and not near:
                continue
            right = _right_span(row, text, start, end)
            if right:
                at = right[1]
                score = min(1.0, row.score + _SURER * near)
                yield Finding(row.kind, right[0], right[1], self.name, score)
            elif row.led and tries < _TRIES:
                at = _second_group(text, start, end)

    def _of_labels(self, text: str, data: bytes, topics: Topics) -> Iterator[Finding]:
        for row, expression in self._labelled:
            for label in topics.ends(row.topic):
                match = expression.match(data, label)
                if match and _is_labelled(row, text[match.start(1) : match.end(1)]):
                    yield Finding(row.kind, match.start(1), match.end(1), self.name, row.score)


def _is_possible(row: Shape, topics: Topics) -> bool:
    return not row.needs_topic or any(topics.ends(topic) for topic in row.topics)


def _right_span(row: Shape, text: str, start: int, end: int) -> tuple[int, int] | None:
    """The longest span from `start` on that passes the row's check; shorter than to `end` if it is glued."""
    for last in _group_ends(text, start + row.glued, end) if row.glued else (end,):
        number = text[start:last]
        if row.check(number if row.as_is else _compact(number)):
            return start, last
    return None


def _group_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Where the groups of `start:end` end, the last first."""
    yield end
    for at in range(end - 1, start, -1):
        if text[at - 1].isalnum() and not text[at].isalnum():
            yield at


def _second_group(text: str, start: int, end: int) -> int:
    """Where the second group of `start:end` begins, or its end."""
    for at in range(start + 1, end):
        if not text[at].isalnum():
            return at
    return end


def _compact(number: str) -> str:
    return "".join(filter(str.isalnum, number)).upper()


def _is_labelled(row: Labelled, text: str) -> bool:
    return sum(map(str.isdigit, text)) >= row.digits and row.check(text)


def _resolved(found: list[Finding], size: int) -> list[Finding]:
    """Those that are left when of all that overlap the surest, then the longest, is kept; in order."""
    urls = [finding for finding in found if finding.kind == "pii.url"]
    others = [finding for finding in found if finding.kind != "pii.url"]
    kept = [*_apart(urls, size), *_apart(others, size)]
    return sorted(kept, key=lambda finding: (finding.start, -finding.end))


def _apart(found: list[Finding], size: int) -> Iterator[Finding]:
    taken = bytearray(size if len(found) > 1 else 0)
    for finding in sorted(found, key=lambda finding: (-finding.score, finding.start - finding.end)):
        if taken.find(1, finding.start, finding.end) < 0:
            taken[finding.start : finding.end] = b"\1" * (finding.end - finding.start)
            yield finding
