"""The JSON that an answer is, or that it holds in a code fence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

_FENCED = re.compile(r"^[ \t]*```[^\S\n]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


_PLAIN = re.compile(r"[\w-]+")


class NoJsonError(ValueError):
    """A text is no JSON; its message says where it stops being some, and never what it says."""


def json_of(text: str) -> Any:
    """The JSON that the text is as a whole, else that stands in its last code fence.

    NaN, infinity and a comma too many are no JSON (RFC 8259). Raises NoJsonError.
    """
    fenced = fences(text)
    try:
        return _decoded(text)
    except NoJsonError:
        if not fenced:
            raise
    return _decoded(fenced[-1][1])


def fences(text: str) -> list[tuple[str, str]]:
    """The code fences of a text (CommonMark 0.31, section 4.5), each with its language in lower case."""
    return [(match[1].lower(), match[2]) for match in _FENCED.finditer(text)]


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Each value in a document that holds no others, with its path: `items[0].price`."""
    waiting = [("", value)]
    while waiting:
        path, it = waiting.pop()
        if isinstance(it, dict) and it:
            inner = [(_below(path, name), one) for name, one in it.items()]
        elif isinstance(it, list) and it:
            inner = [(f"{path}[{at}]", one) for at, one in enumerate(it)]
        else:
            yield path, it
            continue
        waiting += reversed(inner)


def equal(one: Any, other: Any) -> bool:
    """True where two documents are the same JSON: 1 and 1.0 are, 1 and true are not."""
    # Without recursion: an answer may be nested as deep as its sender likes.
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs += [(it, other[name]) for name, it in one.items()]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(one, bool) != isinstance(other, bool) or one != other:
            return False
    return True


def _below(path: str, name: str) -> str:
    if not _PLAIN.fullmatch(name):
        return f"{path}[{msgspec.json.encode(name).decode()}]"
    return f"{path}.{name}" if path else name


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NoJsonError(f"it is no JSON: {error}") from None
