"""Dates and ages: kinds of their own, so that a policy may ignore them.

A date of birth has a high score; a weekday or a year alone a low one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import re2

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.legible import legible

DATE = "pii.date"
AGE = "pii.age"

_MONTH = (
    r"(?:jan(?:uary|uar|vier|eiro)?|feb(?:ruary|ruar)?|mar(?:ch|zo|s)?|märz|apr(?:il|ile)?|may|mai|mei|maj|mayo|maggio"
    r"|jun[ei]?|juin|junio|giugno|jul[yi]?|juillet|julio|luglio|aug(?:ust|ustus)?|août|agosto|sept?(?:ember)?|septembre"
    r"|septiembre|settembre|setembro|o[ck]t(?:ober)?|octobre|octubre|ottobre|outubro|nov(?:ember)?|novembre|noviembre"
    r"|novembro|de[cz](?:ember)?|décembre|diciembre|dicembre|dezembro|enero|febrero|abril|gennaio|febbraio|janvier"
    r"|février|avril|fevereiro|março|maio|junho|julho|stycznia|lutego|marca|kwietnia|maja|czerwca|lipca|sierpnia"
    r"|września|października|listopada|grudnia|января|февраля|марта|апреля|мая|июня|июля|августа|сентября|октября"
    r"|ноября|декабря)\.?"
)
_DAY = r"(?:[12]\d|3[01]|0?[1-9])"
_MONTH_NUMBER = r"(?:1[0-2]|0?[1-9])"
_YEAR = r"(?:1[89]|20)\d\d"
_WHOLE = (
    rf"(?i){_DAY}\.{_MONTH_NUMBER}\.{_YEAR}|\d\d\.\d\d\.\d\d|{_DAY}-{_MONTH_NUMBER}-{_YEAR}"
    rf"|{_DAY}/{_MONTH_NUMBER}/(?:{_YEAR}|\d\d)|{_MONTH_NUMBER}/{_DAY}/(?:{_YEAR}|\d\d)"
    rf"|{_YEAR}-{_MONTH_NUMBER}-{_DAY}(?:[T ]\d\d:\d\d(?::\d\d)?)?|{_YEAR}[/.]{_MONTH_NUMBER}[/.]{_DAY}"
    rf"|{_YEAR}年\d{{1,2}}月\d{{1,2}}日"
    rf"|{_DAY}(?:st|nd|rd|th|\.|er|º)?(?:\s(?:of|de|do|di))?\s{_MONTH}(?:,?\s(?:de\s|del\s)?{_YEAR})?"
    rf"|{_MONTH}\s{_DAY}(?:st|nd|rd|th)?(?:,?\s{_YEAR})?|{_MONTH},?\s{_YEAR}"
)
_VAGUE = (
    r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|(?i:\b(?:in|since|of|during|by|until|from|early|late|circa|depuis|seit"
    rf"|desde|dal)\s(?:the\s)?)({_YEAR}(?:s|-\d\d)?)|\b((?:the\s)?(?:1[89]|20)\d0s)"
)
_BIRTH = (
    r"(?i:\b(?:born|birth(?:day|date)?|dob|d\.o\.b\.|geb(?:oren|\.)?|geburts\w+|née?|naissance|nacid[oa]|nacimiento|nat[oa]"
    r"|nascita|nascid[oa]|nascimento|urodz\w+|född)\b[^\n]{0,25})$"
)
_AGED = (
    r"(?i)\b(?:age[ds]?(?:\sof|:|\sis)?|turn(?:ed|s|ing)?|i'?\s?a?m|he\sis|she\sis|he's|she's|when\s(?:he|she|i)\swas)\s"
    r"(\d{1,2}|1[01]\d)\b(?:\s?(?:years?(?:[ -]old)?|y/?o|yrs?)\b)?"
    r"|\b((?:\d{1,2}|1[01]\d)(?:[ -](?:years?|yrs?|months?|weeks?)[ -](?:old|of\sage)"
    r"|\s?y/?o\b|\syears\sold))"
    r"|\b((?:\d{1,2}|1[01]\d)\s?(?:Jahre\salt|jährige[rn]?|ans\b|años|anni|anos\sde\sidade|jaar\soud"
    r"|lat\b|лет\b))"
)


class Dates:
    """Finds dates, of the kind `pii.date`, and people's ages, of the kind `pii.age`."""

    name = "dates"

    def find(self, text: str) -> list[Finding]:
        """The dates and ages in order of their start; none overlaps another."""
        found: list[Finding] = []
        for finding in sorted(self._found(legible(text)), key=lambda one: (one.start, -one.end)):
            if not found or finding.start >= found[-1].end:
                found.append(finding)
        return found

    def _found(self, text: str) -> Iterator[Finding]:
        whole, vague, birth, aged = _patterns()
        for match in whole.finditer(text):
            start, end = match.span()
            if _is_apart(text, start, end):
                born = birth.search(text[max(0, start - 45) : start]) is not None
                yield Finding(DATE, start, end, self.name, 0.9 if born else 0.6)
        for match in vague.finditer(text):
            start, end = match.span(match.lastindex or 0)
            if _is_apart(text, start, end):
                yield Finding(DATE, start, end, self.name, 0.4)
        for match in aged.finditer(text):
            start, end = match.span(match.lastindex or 0)
            yield Finding(AGE, start, end, self.name, 0.6)


def _is_apart(text: str, start: int, end: int) -> bool:
    """True where no number, word or path goes on at either side."""
    before, after = text[start - 1 : start], text[end : end + 1]
    more = text[end + 1 : end + 2].isdigit()
    return not (
        before.isalnum() or before in tuple("-/._") or after.isalnum() or (after in tuple("-/.") and more)
    )


@lru_cache(maxsize=1)
def _patterns() -> tuple[Any, Any, Any, Any]:
    return re2.compile(_WHOLE), re2.compile(_VAGUE), re2.compile(_BIRTH), re2.compile(_AGED)
