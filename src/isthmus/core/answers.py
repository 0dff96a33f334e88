"""When two answers say the same: what a vote counts, and what agreement measures.

It is for short, closed answers: a number, a label, a choice, a piece of JSON, the same tool calls. Two essays
never say the same.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from isthmus.core.pieces import Piece, ToolArgumentsDelta, ToolCallStart, text_of

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def same_as(one: Iterable[Piece], other: Iterable[Piece]) -> bool:
    """True where two answers call the same tools alike and say the same in words."""
    return closed(list(one)) == closed(list(other))


def closed(pieces: list[Piece]) -> tuple[Any, ...]:
    """What an answer says, without how it says it: the tools that it calls, and its words or its JSON."""
    return (*_calls(pieces), _plain(text_of(pieces)))


def in_words(pieces: Iterable[Piece]) -> str:
    """An answer as another model may read it: its words, and after them the calls of tools."""
    pieces = list(pieces)
    said = [text] if (text := text_of(pieces)) else []
    return "\n".join([*said, *(f"[calls the tool {name} with {given}]" for name, given in _called(pieces))])


def says_something(pieces: Iterable[Piece]) -> bool:
    """True for an answer that has words, or calls a tool."""
    return bool(in_words(pieces).strip())


def _calls(pieces: list[Piece]) -> list[tuple[str, str]]:
    return sorted((name, _plain(arguments)) for name, arguments in _called(pieces))


def _called(pieces: list[Piece]) -> list[tuple[str, str]]:
    """The tools that the first choice calls, each with its arguments as they were written."""
    names = {it.index: it.name for it in pieces if isinstance(it, ToolCallStart) and it.choice == 0}
    arguments = dict.fromkeys(names, "")
    for piece in pieces:
        if isinstance(piece, ToolArgumentsDelta) and piece.choice == 0 and piece.index in arguments:
            arguments[piece.index] += piece.text
    return [(name, arguments[index]) for index, name in names.items()]


def _plain(text: str) -> str:
    """JSON in one form; words without case, marks at their ends, articles and spacing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    words = unicodedata.normalize("NFKC", text).casefold()
    words = _ARTICLES.sub(" ", words)
    return " ".join(word for word in (it.strip(".,;:!?*\"'`()[]") for it in words.split()) if word)
