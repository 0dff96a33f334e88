"""`numeric`: the number that an answer comes to.

It is the one in the last `\\boxed{}`, else behind the last `####` (as GSM8K writes it), else behind the last
"answer is" or "answer:", else the last number of all. Numbers are written as in English: 1,234.5. Also read
are fractions (3/4, 1 1/2, \\frac{3}{4}), percent, powers of ten (1e5, 1.2 × 10^5), Unicode's minus, and
narrow spaces and apostrophes between thousands.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from typing import Annotated, NamedTuple

from msgspec import Meta

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable

LONGEST = 400
"""No number that is asked for has so many characters."""

Tolerance = Annotated[float, Meta(ge=0, le=1e300)]

# Every repetition below is bounded, possessive or ends where the next begins: answers may be hostile.
_LATEX = re.compile(r"\\[dt]?frac\s?\{\s?([^{}]{1,100}?)\s?\}\s?\{\s?([^{}]{1,100}?)\s?\}")
_GAPS = re.compile(r"(?<=\d)(?:[\u00a0\u2009\u202f'’]|\\[,;:! ]|\{,\})(?=\d{3}(?!\d))")
_CURRENCY = re.compile(r"\\?[$€£¥]\s?")
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<![\w)\]])[-+])?"
    r"(?:(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s?/\s?(?P<under>\d+)(?![\d/.])"
    r"|(?P<plain>\d{1,3}(?:,\d{3}){1,100}+(?:\.\d+)?(?!,?\d)|\d+(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<e>[-+]?\d{1,3})(?!\d)|\s?(?:×|\\times|\\cdot|·|\*|x)\s?10\s?(?:\^|\*\*)\s?\{?\s?(?P<ten>[-+]?\d{1,3}))?"
    r"(?!\.?\d|[eE][-+]?\d))"
    r"\}?(?P<percent>\s?(?:\\?%|percent\b|per\s?cent\b))?"
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_MARKED = re.compile(r"####([^\n]*)")
_STATED = re.compile(r"\banswer\b[\"'*_\s]*(?:\bis\b|\bwould be\b|[:=])([^\n]+|\s*\n[^\n]+)", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;](?=\s|\Z)")


class Number(NamedTuple):
    """A number as it was written: `value` without regard to a percent sign, which `percent` tells."""

    value: Fraction
    percent: bool


class Numeric:
    """1 where the answer's number is a target's, give or take `tolerance`, or `relative` times the target."""

    binary = True

    def __init__(
        self, *, name: str = "numeric", tolerance: Tolerance = 0.0, relative: Tolerance = 0.0
    ) -> None:
        self.name = name
        self._tolerance = _as_written(tolerance)
        self._relative = _as_written(relative)

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0; `said` is the number that was found, None where the answer has none."""
        if missing := unscorable(sample, answered):
            return missing
        targets = [number for target in sample.target if (number := number_of(target))]
        if not targets:
            return Score(value=None, why="there is no number in the target")
        number = number_of(text_of(answered))
        if number is None:
            return Score(value=0.0, why="there is no number in the answer")
        right = any(self._is_near(number, target) for target in targets)
        return Score(value=float(right), said=_in_words(number))

    def _is_near(self, number: Number, target: Number) -> bool:
        return any(
            abs(one - other) <= max(self._tolerance, self._relative * abs(other))
            for one, other in _readings(number, target)
        )


def number_of(text: str) -> Number | None:
    """The number that a text comes to; None where it holds none."""
    plain = _CURRENCY.sub("", _GAPS.sub(",", _LATEX.sub(r"\1/\2", text.replace("\u2212", "-"))))
    for passage in _passages(plain):
        if found := [*_numbers(passage)]:
            return found[0]
    return next(iter(deque(_numbers(plain), maxlen=1)), None)


def _passages(text: str) -> Iterator[str]:
    """Where the number is said to stand, the surest first."""
    for mark in (_BOXED, _MARKED, _STATED):
        if found := mark.findall(text):
            sentence = _CLAUSE.split(found[-1].strip(), maxsplit=1)[0]
            # "The answer is 5 + 3 = 8": what a sum comes to stands behind its last sign.
            yield re.split(r"=|≈|\\approx", sentence)[-1]


def _numbers(text: str) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        number = _number(match)
        if number is not None:
            yield number


def _number(match: re.Match[str]) -> Number | None:
    if len(match[0]) > LONGEST or (match["under"] and not int(match["under"])):
        return None
    if match["under"]:
        value = int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    else:
        value = Fraction(match["plain"].replace(",", "")) * Fraction(10) ** int(
            match["e"] or match["ten"] or 0
        )
    return Number(-value if match["sign"] == "-" else value, match["percent"] is not None)


def _readings(number: Number, target: Number) -> Iterator[tuple[Fraction, Fraction]]:
    """What is to be compared: 45 % and 45 may be meant to be the same, and so may 45 % and 0.45."""
    yield number.value, target.value
    if number.percent and not target.percent:
        yield number.value / 100, target.value
    if target.percent and not number.percent:
        yield number.value, target.value / 100


def _as_written(number: float) -> Fraction:
    # 0.1 as a tolerance is a tenth, not the binary number next to it.
    return Fraction(repr(number))


def _in_words(number: Number) -> str:
    value, sign = number.value, "%" if number.percent else ""
    if value.denominator == 1 and abs(value) < 10**15:
        return f"{value}{sign}"
    # A float would end at 1e308.
    rounded = Context(prec=12).divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{rounded.normalize()}{sign}"
