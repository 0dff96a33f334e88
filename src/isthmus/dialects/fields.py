"""Reads a client's JSON with errors that name the field: what was expected there and what kind of value came.

A value's text never appears in a message, since it may be the prompt.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from isthmus.core.errors import Fault, IsthmusError

T = TypeVar("T")

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w=.+-]+)*;base64,", re.ASCII | re.IGNORECASE)
_BYTE = re.compile(r"\(byte (\d+)\)")

DEEPEST = 128
"""So deep may a value be nested that is read: who walks through it goes some calls deeper at each level."""

WIDEST = 2**64
"""Whole numbers are smaller than this, with either sign: no field of any dialect needs more."""

_NESTS = (dict, list)


def invalid(at: str, expected: str, value: Any) -> IsthmusError:
    """An INVALID_REQUEST: the field `at` must be `expected`, and what kind of value stood there instead."""
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"`{at}` must be {expected}, not {_kind(value)}.",
        code="invalid_request",
        param=at,
    )


def open_body(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of a request's body, still raw.

    Raises IsthmusError(INVALID_REQUEST): code `malformed_json` for what is not JSON in UTF-8, with the byte
    offset where it is known, `invalid_request` for JSON that is not an object.
    """
    try:
        if not body.isascii():
            body.decode()
        return _OBJECT.decode(body)
    except msgspec.ValidationError:
        raise IsthmusError(
            Fault.INVALID_REQUEST, "The request body must be a JSON object.", code="invalid_request"
        ) from None
    except UnicodeDecodeError as error:
        raise _malformed(f"invalid UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _malformed("nested too deeply") from None
    except msgspec.DecodeError as error:
        found = _BYTE.search(str(error))
        raise _malformed(f"invalid at byte {found[1]}" if found else "it ends too early") from None


def model_of(fields: dict[str, msgspec.Raw]) -> str:
    """The request's `model`; raises IsthmusError(INVALID_REQUEST, param="model") where it is no name."""
    raw = fields.get("model")
    try:
        model = _TEXT.decode(raw) if raw is not None else ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        model = ""
    if not model:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "`model` must be a non-empty string.",
            code="invalid_request",
            hint="Name a route; GET /v1/models lists them.",
            param="model",
        )
    return model


def flag_of(fields: dict[str, msgspec.Raw], name: str) -> bool:
    """A top-level boolean, False where missing or null; raises IsthmusError(INVALID_REQUEST) for another
    type."""
    raw = fields.get(name)
    if raw is None:
        return False
    text = bytes(raw)
    if text == b"true":
        return True
    if text in (b"false", b"null"):
        return False
    raise invalid(name, "true or false", decode_raw(raw, name))


def text_of(fields: dict[str, msgspec.Raw], name: str) -> str | None:
    """A top-level string, None where missing or no string: what routing may use but must not judge."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_raw(raw: msgspec.Raw, at: str) -> Any:
    """The value of one raw field; raises IsthmusError(INVALID_REQUEST, param=at) for what JSON cannot
    hold, or is nested deeper than `DEEPEST`."""
    reason = "is nested too deeply"
    try:
        value = msgspec.json.decode(raw)
        if _opened(raw) <= DEEPEST or not _is_too_deep(value):
            return value
    except RecursionError:
        pass
    except msgspec.ValidationError:
        reason = "holds a number out of range"
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = "holds a malformed string (invalid UTF-8 or a lone surrogate)"
    raise IsthmusError(Fault.INVALID_REQUEST, f"`{at}` {reason}.", code="malformed_json", param=at)


def data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 data of a `data:` URL (RFC 2397); None for any other URL."""
    found = _DATA_URL.match(url)
    return (found[1].lower(), url[found.end() :]) if found else None


class Fields:
    """One JSON object that is read field by field; `rest` holds what nobody has read yet.

    null counts as "not said". Every reader takes the field out of `rest` and raises
    IsthmusError(INVALID_REQUEST, param=path) for a value of the wrong type.
    """

    def __init__(self, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            raise invalid(at, "an object", value)
        self.rest: dict[str, Any] = dict(value)
        self._at = at

    @property
    def unread(self) -> dict[str, Any]:
        """`rest` without nulls: clients send back a whole answer, with null in every field not used there."""
        return {name: value for name, value in self.rest.items() if value is not None}

    def path(self, name: str) -> str:
        """The field's path from the top of the request, such as `messages[2].content`."""
        return f"{self._at}.{name}" if self._at else name

    def take(self, name: str) -> Any:
        """The value as it stands, None where missing."""
        return self.rest.pop(name, None)

    def text(self, name: str) -> str | None:
        """A string."""
        return self._typed(name, str, "a string")

    def required_text(self, name: str) -> str:
        """A string that must be there."""
        value = self.text(name)
        if value is None:
            raise invalid(self.path(name), "a string", None)
        return value

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        return self._typed(name, bool, "true or false")

    def integer(self, name: str, least: int | None = None) -> int | None:
        """A whole number, not smaller than `least`."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        expected = "an integer" if least is None else f"an integer of at least {least}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(self.path(name), expected, value)
        if abs(value) >= WIDEST:
            raise invalid(self.path(name), f"{expected} and of 64 bits", value)
        if least is not None and value < least:
            raise invalid(self.path(name), expected, value)
        return value

    def number(self, name: str) -> float | None:
        """A number."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(self.path(name), "a number", value)
        try:
            return float(value)
        except OverflowError:
            raise invalid(self.path(name), "a number that a float can hold", value) from None

    def items(self, name: str) -> list[Any] | None:
        """An array."""
        return self._typed(name, list, "an array")

    def mapping(self, name: str) -> dict[str, Any] | None:
        """An object."""
        return self._typed(name, dict, "an object")

    def fields(self, name: str) -> Fields | None:
        """An object, to be read field by field."""
        value = self.mapping(name)
        return None if value is None else Fields(value, self.path(name))

    def _typed(self, name: str, kind: type[T], expected: str) -> T | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, kind):
            raise invalid(self.path(name), expected, value)
        return value


def _opened(raw: msgspec.Raw) -> int:
    """So many brackets open in it at most, and it is nested no deeper; at the speed of memory."""
    text = bytes(raw)
    return text.count(b"[") + text.count(b"{")


def _is_too_deep(value: Any) -> bool:
    """True for a value that nests deeper than `DEEPEST`."""
    level = [value] if type(value) in _NESTS else []
    for _ in range(DEEPEST):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _NESTS
        ]
    return bool(level)


def _malformed(reason: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"The request body is not valid JSON: {reason}.",
        code="malformed_json",
        hint="Send one JSON object in UTF-8.",
    )


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null or missing"
        case bool():
            return "a boolean"
        case int() | float() if abs(value) < WIDEST:
            return f"the number {value}"
        case int() | float():
            return "a number far beyond"
        case str():
            return "a string" if value else "an empty string"
        case list():
            return "an array" if value else "an empty array"
        case _:
            return "an object"
