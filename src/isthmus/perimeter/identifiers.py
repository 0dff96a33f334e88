"""What structured identifiers look like, one row each: a form, and the check that a number has to pass.

`SHAPES` are found anywhere, or within a few words of their topic. `LABELLED` stand right behind a word of
their topic, and their form says little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from isthmus.perimeter import checks
from isthmus.perimeter.phones import is_grouped_phone, is_written_as_phone, may_be_phone


class Shape(msgspec.Struct, frozen=True):
    """Text of that form is of that kind, where `check` takes it: without its separators and in upper case, or
    `as_is`.

    `score` is how sure it is; a word of one of `topics` near makes it surer, and `needs_topic` demands one.
    Groups behind it may look as if they belonged to it where `glued` is not 0: each is tried as the last,
    from that length on. Groups before it may where it is `led`: each is tried as the first.
    """

    kind: str
    pattern: str
    check: Callable[[str], bool] = bool
    topics: tuple[str, ...] = ()
    score: float = 0.9
    needs_topic: bool = False
    glued: int = 0
    led: bool = False
    as_is: bool = False


class Labelled(msgspec.Struct, frozen=True):
    """What stands right behind a word of `topic` is of that kind, if it has that form and `digits` digits."""

    topic: str
    kind: str
    pattern: str
    digits: int = 4
    check: Callable[[str], bool] = bool
    score: float = 0.8


def _by_length(**checks_by_length: tuple[Callable[[str], bool], ...]) -> Callable[[str], bool]:
    """A check that asks those for numbers of that length: `_9=(...)`."""
    return lambda number: any(check(number) for check in checks_by_length.get(f"_{len(number)}", ()))


_WORD = r"0-9A-Za-z\xaa\xb5\xba\xc0-\xff"
_NO_CLOSING = r"""[^\s<>"'`.,;:!?)\]}]"""
_PHONE = (
    r"(?:\+ ?\d{0,3}[ .\-]?)?(?:\(\+?\d{1,5}\)[ .\-]{0,2}|\b)\d(?:[ \xa0.\-/]{0,3}\d){4,16}"
    r"(?: ?,? ?(?:x|ext\.?|extension|#) ?\d{1,6})?\b"
)
_NATIONAL = ("national_id", "ssn")

SHAPES: Sequence[Shape] = (
    Shape(
        "pii.email",
        rf"[{_WORD}_%+'\-](?:[{_WORD}._%+'\-]{{0,63}}[{_WORD}_%+'\-])?@"
        rf"(?:[{_WORD}\-]{{1,63}}\.){{1,8}}[A-Za-z\xc0-\xff]{{2,24}}\b",
        score=1.0,
    ),
    Shape("pii.url", rf"""(?i)\b(?:https?|ftps?|wss?)://[^\s<>"'`]{{1,900}}{_NO_CLOSING}/?""", score=0.5),
    Shape("pii.url", rf"""(?i)\bwww\.[a-z0-9\-]{{1,63}}\.[^\s<>"'`]{{1,900}}{_NO_CLOSING}/?""", score=0.5),
    Shape("pii.ip", r"\b(?:\d{1,3}\.){3}\d{1,3}\b", checks.ip, as_is=True),
    Shape(
        "pii.ip",
        r"(?i)\b(?:[0-9a-f]{1,4}:){1,7}(?::?[0-9a-f]{1,4}){1,7}\b",
        checks.ip,
        as_is=True,
    ),
    Shape("pii.mac", r"(?i)\b[0-9a-f]{2}(?:(?::[0-9a-f]{2}){5}|(?:-[0-9a-f]{2}){5})\b"),
    Shape(
        "pii.card", r"\b\d(?:[ \xa0.\-/]{0,2}\d){11,18}\b", checks.card, ("card",), 0.92, glued=12, led=True
    ),
    Shape(
        "pii.iban",
        r"(?i)\b[a-z]{2}[ \-]?\d[ ]?\d(?:[ \xa0.\-]{0,2}[a-z0-9]){11,30}\b",
        checks.iban,
        score=1.0,
        glued=15,
        led=True,
    ),
    Shape("pii.phone", _PHONE, is_written_as_phone, ("phone", "talk"), 0.75, glued=8, as_is=True),
    Shape("pii.phone", _PHONE, is_grouped_phone, ("phone", "talk"), 0.5, needs_topic=True, as_is=True),
    Shape("pii.ssn", r"\b\d{3}(?:-\d\d-|[ \xa0]\d\d[ \xa0])\d{4}\b", checks.ssn, _NATIONAL, 0.85),
    Shape("pii.ssn", r"\b\d(?:[ .\-]{0,3}\d){8}\b", checks.ssn, ("ssn",), 0.8, needs_topic=True),
    # Nobody has got such a number, but who writes one like this means one.
    Shape("pii.ssn", r"\b9\d\d-\d\d-\d{4}\b", score=0.5),
    Shape(
        "pii.national_id",
        r"\b\d(?:[ \xa0.\-/]{0,2}\d){8,13}\b",
        _by_length(
            _9=(checks.bsn, checks.sin, checks.tfn, checks.nif),
            _10=(checks.nhs, checks.cpr, checks.personnummer, checks.medicare),
            _11=(checks.pesel, checks.steuer_id, checks.rijksregister, checks.fodselsnummer, checks.medicare),
            _12=(checks.aadhaar, checks.personnummer),
            _13=(checks.ahv,),
        ),
        _NATIONAL,
        0.8,
        needs_topic=True,
    ),
    Shape("pii.national_id", r"\b[A-Z]{2} ?\d\d ?\d\d ?\d\d ?[A-D]\b", checks.nino, _NATIONAL),
    Shape("pii.national_id", r"\b\d\d ?\d{3} ?\d{3} ?\d{3}\b", checks.steuer_id, _NATIONAL, 0.8),
    Shape(
        "pii.national_id",
        r"\b[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d\b",
        checks.nir,
        _NATIONAL,
        0.95,
    ),
    Shape("pii.national_id", r"(?i)\b(?:\d{8}|[XYZ][ \-]?\d{7})[ \-]?[A-Z]\b", checks.dni, _NATIONAL, 0.8),
    Shape(
        "pii.national_id",
        r"(?i)\b[A-Z]{6}[0-9L-NP-V]{2}[A-EHLMPR-T][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]\b",
        checks.codice_fiscale,
        _NATIONAL,
        0.98,
    ),
    Shape("pii.national_id", r"\b\d{11}\b", checks.pesel, _NATIONAL, 0.6),
    Shape(
        "pii.national_id", r"\b\d\d\.?\d\d\.?\d\d[\-. ]?\d{3}[\-. ]?\d\d\b", checks.rijksregister, _NATIONAL
    ),
    Shape("pii.national_id", r"\b(?:\d\d)?\d{6}[\-+]\d{4}\b", checks.personnummer, _NATIONAL, 0.8),
    Shape("pii.national_id", r"\b\d{6}[\-+A-FU-Y]\d{3}[0-9A-Y]\b", checks.hetu, _NATIONAL, as_is=True),
    Shape("pii.national_id", r"\b\d{6} ?\d{5}\b", checks.fodselsnummer, _NATIONAL, 0.8),
    Shape("pii.national_id", r"\b\d{3}\.?\d{3}\.?\d{3}-?\d\d\b", checks.cpf, _NATIONAL),
    Shape("pii.national_id", r"\b\d\d\.?\d{3}\.?\d{3}/?\d{4}-?\d\d\b", checks.cnpj, _NATIONAL),
    Shape("pii.national_id", r"\b[2-9]\d{3}[ \-]\d{4}[ \-]\d{4}\b", checks.aadhaar, _NATIONAL, 0.85),
    Shape("pii.national_id", r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b", topics=_NATIONAL, score=0.6),
    Shape("pii.national_id", r"\b[2-6]\d{3} \d{5} \d\b", checks.medicare, _NATIONAL, 0.85),
    Shape("pii.national_id", r"\b756[. ]?\d{4}[. ]?\d{4}[. ]?\d\d\b", checks.ahv, _NATIONAL, 0.95),
    Shape("pii.national_id", r"\b\d{7}[A-W][A-IW]?\b", checks.ppsn, _NATIONAL, 0.7),
    Shape("pii.bank_account", r"\b\d{9}\b", checks.routing_number, ("bank_account",), 0.8, needs_topic=True),
    Shape(
        "pii.bank_account",
        r"\b[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?\b",
        checks.bic,
        ("swift",),
        needs_topic=True,
    ),
    Shape("pii.vehicle", r"(?i)\b[A-HJ-NPR-Z0-9]{17}\b", checks.vin, ("vehicle",)),
    Shape("pii.crypto", r"\b[13][1-9A-HJ-NP-Za-km-z]{25,34}\b", checks.base58check, as_is=True),
    Shape("pii.crypto", r"(?i)\b(?:bc|tb)1[02-9ac-hj-np-z]{11,71}\b", checks.bech32, as_is=True),
    Shape("pii.crypto", r"\b0x[0-9a-fA-F]{40}\b", as_is=True),
    Shape("pii.crypto", r"\b[48][0-9AB][1-9A-HJ-NP-Za-km-z]{93}\b", as_is=True),
    Shape(
        "pii.device", r"\b\d{2}[ \-]?\d{6}[ \-]?\d{6}[ \-]?\d\b", checks.luhn, ("device",), needs_topic=True
    ),
)

# Groups with a digit in each, and perhaps one of capitals before them.
_ID = (
    r"(?:[A-Z]{1,5}[ \-./]?)?[A-Za-z0-9]{0,20}\d[A-Za-z0-9]{0,24}"
    r"(?:[ \-./]{1,2}[A-Za-z]?\d[A-Za-z0-9]{0,12}){0,6}\b"
)
_PLATE = r"[A-Z0-9]{1,8}(?:[ \-.\xb7]{1,2}[A-Z0-9]{1,6}){0,3}\b"
_DATE = (
    r"(?:\d{1,4}[./\-][ ]?\d{1,2}[./\-][ ]?\d{1,4}"
    r"|\d{1,2}(?:st|nd|rd|th|er|\.|\xba)?(?: of| de| di)? ?[A-Za-z\xc0-\xff]{3,10}\.?,?(?: de[l]?)? ?\d{2,4}"
    r"|[A-Z][a-z]{2,9}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{2,4})\b"
)

LABELLED: Sequence[Labelled] = (
    Labelled("phone", "pii.phone", r"\+?\(?\d(?:[ .\-/()]{0,3}\d){6,16}\b", 7, may_be_phone, 0.7),
    Labelled("card", "pii.card", r"\d(?:[ \-]{0,2}\d){12,18}\b", 13, score=0.6),
    Labelled("ssn", "pii.ssn", r"\d(?:[ .\-]{0,3}\d){8,9}\b", 9, score=0.6),
    Labelled("national_id", "pii.national_id", _ID, 6, score=0.6),
    Labelled("passport", "pii.passport", _ID, 4),
    Labelled("licence", "pii.licence", _ID, 4),
    Labelled("bank_account", "pii.bank_account", _ID, 5),
    Labelled("medical_record", "pii.medical_record", _ID, 4),
    Labelled("birth_date", "pii.birth_date", _DATE, 3, score=0.9),
    Labelled("vehicle", "pii.vehicle", _PLATE, 1, score=0.7),
    Labelled("device", "pii.device", _ID, 6, score=0.6),
)
