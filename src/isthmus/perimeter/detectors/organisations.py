"""Organisations by what their names end or begin with: legal forms, and words such as bank or university."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import re2

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.legible import legible
from isthmus.perimeter.detectors.vocabulary import vocabulary

KIND = "pii.organisation"

_CAPITAL = r"\p{Lu}[\p{L}\p{N}'’&.-]*"
_LEGAL = (
    r"(?:Inc|Incorporated|Ltd|Limited|LLC|LLP|PLC|plc|Corp|Corporation|GmbH|mbH|AG|KG|KGaA|OHG|e\.V|SE|SA|S\.A|SAS"
    r"|SARL|S\.r\.l|Srl|SRL|SpA|S\.p\.A|BV|B\.V|NV|N\.V|AB|A/S|ApS|Oy|Oyj|ASA|Kft|Zrt"
    r"|s\.r\.o|a\.s|Sp\. z o\.o|Lda|Ltda"
    r"|Pty Ltd|Pvt Ltd|Co|& Co|S\.L|SL)"
)
_INSTITUTION = (
    r"(?:University|College|Institute|Foundation|Bank|Group|Holdings?|Partners|Associates|Association|Orchestra|Hospital"
    r"|Clinic|Insurance|Airlines|Airways|Industries|Laboratories|Pharmaceuticals|Technologies|Consulting|Ministry"
    r"|Universität|Hochschule|Stiftung|Krankenhaus|Université|Banque|Universidad|Banco|Università|Banca|Universidade)"
)
_NAMED = rf"(?:{_CAPITAL}[ ]){{1,5}}(?:&[ ]{_CAPITAL}[ ])?,?[ ]?(?:{_LEGAL}\b\.?|{_INSTITUTION}\b)"
_OF = (
    r"(?:University|Bank|Institute|Ministry|Universität|Université|Universidad|Università|Universidade)"
    rf"[ ](?:of|de|di|do|da|für)[ ]{_CAPITAL}(?:[ ]{_CAPITAL}){{0,3}}"
)
_WORKPLACE = (
    r"\b(?:work(?:s|ed|ing)?|employed|job)\s(?:for|at|by|with)|\b(?:arbeite[t]?|angestellt)\sbei|\btravaille\schez"
    r"|\btrabaj[ao]\s(?:en|para)|\blavor[ao]\s(?:per|presso)|\bemployer:"
)
_WORKPLACE_NAMED = rf"(?:{_WORKPLACE})\s({_CAPITAL}(?:[ ](?:&[ ])?{_CAPITAL}){{0,4}})"


_ARTICLES = vocabulary("never-names")


class Organisations:
    """Finds companies and institutions, of the kind `pii.organisation`."""

    name = "organisations"

    def find(self, text: str) -> list[Finding]:
        """The organisations in order of their start; none overlaps another."""
        found: list[Finding] = []
        for start, end, score in sorted(_spans(legible(text)), key=lambda span: (span[0], -span[1])):
            if not found or start >= found[-1].end:
                found.append(Finding(KIND, start, end, self.name, score))
        return found


def _spans(text: str) -> Iterator[tuple[int, int, float]]:
    named, of, workplace = _patterns()
    for pattern in (named, of):
        for match in pattern.finditer(text):
            start, end = match.span()
            if not text[start - 1 : start].isalnum():
                yield _begin(match.group(), start), end, 0.7
    for match in workplace.finditer(text):
        start, end = match.span(1)
        yield start, end, 0.5


def _begin(said: str, start: int) -> int:
    """Where the name begins, behind an article that a sentence began with."""
    first, _, rest = said.partition(" ")
    return start + len(said) - len(rest) if rest and first.lower() in _ARTICLES else start


@lru_cache(maxsize=1)
def _patterns() -> tuple[Any, Any, Any]:
    return re2.compile(_NAMED), re2.compile(_OF), re2.compile(_WORKPLACE_NAMED)
