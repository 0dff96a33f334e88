"""Organisations by what their names end or begin with: legal forms, and words such as bank or university."""

from __future__ import annotations

import re

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.vocabulary import vocabulary

KIND = "pii.organisation"

_CAPITAL = r"[^\W\d_a-zß-öø-ÿ][\w'’&.-]*"
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
_NAMED = re.compile(
    rf"(?<!\w)(?:{_CAPITAL}[ ]){{1,5}}(?:&[ ]{_CAPITAL}[ ])?,?[ ]?(?:{_LEGAL}\b\.?|{_INSTITUTION}\b)"
)
_OF = re.compile(
    rf"(?<!\w)(?:University|Bank|Institute|Ministry|Universität|Université|Universidad|Università|Universidade)"
    rf"[ ](?:of|de|di|do|da|für)[ ]{_CAPITAL}(?:[ ]{_CAPITAL}){{0,3}}"
)
_WORKPLACE = re.compile(
    rf"(?:\b(?:work(?:s|ed|ing)?|employed|job)\s(?:for|at|by|with)|\b(?:arbeite[t]?|angestellt)\sbei|\btravaille\schez"
    rf"|\btrabaj[ao]\s(?:en|para)|\blavor[ao]\s(?:per|presso)|\bemployer:)\s"
    rf"((?:{_CAPITAL})(?:[ ](?:&[ ])?{_CAPITAL}){{0,4}})"
)


_ARTICLES = vocabulary("never-names")


class Organisations:
    """Finds companies and institutions, of the kind `pii.organisation`."""

    name = "organisations"

    def find(self, text: str) -> list[Finding]:
        """The organisations in order of their start; none overlaps another."""
        spans = [
            (_begin(match), match.end(), 0.7) for pattern in (_NAMED, _OF) for match in pattern.finditer(text)
        ]
        spans += [(*match.span(1), 0.5) for match in _WORKPLACE.finditer(text)]
        found: list[Finding] = []
        for start, end, score in sorted(spans, key=lambda span: (span[0], -span[1])):
            if not found or start >= found[-1].end:
                found.append(Finding(KIND, start, end, self.name, score))
        return found


def _begin(match: re.Match[str]) -> int:
    """Where the name begins, behind an article that a sentence began with."""
    first, _, rest = match.group().partition(" ")
    return match.end() - len(rest) if rest and first.lower() in _ARTICLES else match.start()
