"""Whether a run of digits is written as a telephone number."""

from __future__ import annotations

import re

_EXTENSION = r"(?: ?,? ?(?:x|ext\.?|extension|#) ?[0-9]{1,6})?"
_DATE = re.compile(
    r"(?<![0-9])(?:(?:19|20)[0-9]{2}[-./][01]?[0-9][-./][0-3]?[0-9]"
    r"|[0-3]?[0-9][-./][0-3]?[0-9][-./](?:19|20)[0-9]{2})(?![0-9])"
)
_NUMBER = re.compile(r"[0-9]+[.][0-9]+|(?:19|20)[0-9]{2} ?[-/] ?(?:19|20)[0-9]{2}")
# North America writes 3, 3 and 4 digits; only blanks between them are too common to tell.
_NORTH_AMERICAN = re.compile(
    r"(?:(?:\+|00)?1[ .-]?)?(?:\([0-9]{3}\) ?[0-9]{3}[ .-]?[0-9]{4}|[0-9]{3}[.-][0-9]{3}[.-][0-9]{4}"
    r"|[2-9][0-9]{2} [2-9][0-9]{2}[ -][0-9]{4})" + _EXTENSION
)
# Most of the rest of the world: a trunk prefix of 0 and at least 9 digits in groups.
_TRUNK = re.compile(r"\(?0[1-9][0-9]{0,4}\)?(?:[ ./-]{1,3}[0-9]{2,8}){1,5}" + _EXTENSION)
_INTERNATIONAL = re.compile(r"\(?(?:\+|00) ?\(?([1-9][0-9 .()/-]{5,24}[0-9])" + _EXTENSION)

# By their first two digits these alone begin no country's code.
_UNASSIGNED = frozenset({"28", "83", "89"})


def is_written_as_phone(text: str) -> bool:
    """The form alone tells.

    It begins with a calling code (ITU-T E.164, list of assigned codes), or it is grouped as in North America
    (NANP), or it has a trunk prefix and nine digits or more (ITU-T E.123).
    """
    if _DATE.search(text):
        return False
    international = _INTERNATIONAL.fullmatch(text)
    if international:
        digits = _digits(international[1])
        return 8 <= len(digits) <= 15 and _begins_with_calling_code(digits)
    if _NORTH_AMERICAN.fullmatch(text):
        return True
    return _TRUNK.fullmatch(text) is not None and 9 <= len(_digits(text)) <= 17


def may_be_phone(text: str) -> bool:
    """Its length allows it, and it is no date, no decimal number and no range of years."""
    return 7 <= len(_digits(text)) <= 20 and not (_DATE.search(text) or _NUMBER.fullmatch(text))


def is_grouped_phone(text: str) -> bool:
    """It may be one, and is written in groups as people write numbers to be dialled."""
    return not text.isdigit() and may_be_phone(text)


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _begins_with_calling_code(digits: str) -> bool:
    return digits[:2] not in _UNASSIGNED
