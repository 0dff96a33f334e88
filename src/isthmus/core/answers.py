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
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
_MARKS = ".,;:!?*\"'`()[]{}$%"


def same_as(one: Iterable[Piece], other: Iterable[Piece]) -> bool:
    """True where two answers call the same tools alike and say the same in words."""
    return closed(list(one)) == closed(list(other))


def closed(pieces: list[Piece]) -> tuple[Any, ...]:
    """What an answer says, without how it says it: the tools that it calls, and its words or its JSON."""
    return (*_calls(pieces), plain(text_of(pieces)))


def in_words(pieces: Iterable[Piece]) -> str:
    """An answer as another model may read it: its words, and after them the calls of tools."""
    pieces = list(pieces)
    said = [text] if (text := text_of(pieces)) else []
    return "\n".join([*said, *(f"[calls the tool {name} with {given}]" for name, given in _called(pieces))])


def says_something(pieces: Iterable[Piece]) -> bool:
    """True for an answer that has words, or calls a tool."""
    return bool(in_words(pieces).strip())


def _calls(pieces: list[Piece]) -> list[tuple[str, str]]:
    return sorted((name, plain(arguments)) for name, arguments in _called(pieces))


def _called(pieces: list[Piece]) -> list[tuple[str, str]]:
    """The tools that the first choice calls, each with its arguments as they were written."""
    names = {it.index: it.name for it in pieces if isinstance(it, ToolCallStart) and it.choice == 0}
    arguments = dict.fromkeys(names, "")
    for piece in pieces:
        if isinstance(piece, ToolArgumentsDelta) and piece.choice == 0 and piece.index in arguments:
            arguments[piece.index] += piece.text
    return [(name, arguments[index]) for index, name in names.items()]


def plain(text: str) -> str:
    """What a text says: JSON in one form, numbers written alike, words without case, marks at their ends,
    articles and spacing. An article that is all there is stays: it is the name of a choice."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    whole = unicodedata.normalize("NFKC", text).casefold()
    words = _bare(_ARTICLES.sub(" ", whole)) or _bare(whole)
    return f"{float(words.replace(',', '')):.12g}" if _NUMBER.fullmatch(words) else words


def _bare(text: str) -> str:
    return " ".join(word for word in (it.strip(_MARKS) for it in text.split()) if word)
