"""The way back from pseudonyms: an answer with the values that they stand for, as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec
from ahocorasick_rs import AhoCorasick, MatchKind

from isthmus.core.pieces import (
    Finish,
    OpaqueBlock,
    Piece,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from isthmus.perimeter.parts import rewritten

_Words: TypeAlias = TextDelta | RefusalDelta | ReasoningDelta | ToolArgumentsDelta
_Place: TypeAlias = tuple[type[Piece], int, int]


class Restored:
    """Texts with the values in place of their pseudonyms: those of one request, and no others."""

    def __init__(self, values: Mapping[str, str]) -> None:
        names = list(values)
        self._values = list(values.values())
        self._automaton = AhoCorasick(names, matchkind=MatchKind.LeftmostLongest) if names else None
        self._beginnings = {name[:size] for name in names for size in range(1, len(name))}
        self._longest = max(map(len, names), default=1) - 1

    def text(self, text: str) -> str:
        """The text with its values."""
        told, rest = self.settled(text, in_json=False)
        return told + rest

    def settled(self, text: str, *, in_json: bool) -> tuple[str, str]:
        """The text with its values, and its end as it is, where that may be the beginning of a pseudonym.

        `in_json` is for values that stand in strings of JSON.
        """
        if self._automaton is None:
            return text, ""
        pieces: list[str] = []
        at = 0
        # Lone surrogates must go: the automaton takes characters only.
        characters = text.encode("utf-8", "replace").decode()
        for index, start, end in self._automaton.find_matches_as_indexes(characters):
            value = self._values[index]
            pieces += (text[at:start], json.dumps(value, ensure_ascii=False)[1:-1] if in_json else value)
            at = end
        unsure = len(text) - self._unsure(text[max(at, len(text) - self._longest) :])
        return "".join((*pieces, text[at:unsure])), text[unsure:]

    def _unsure(self, end: str) -> int:
        return next((size for size in range(len(end), 0, -1) if end[-size:] in self._beginnings), 0)


class Restorer:
    """Restores the pieces of one answer as they come; `in_json` where the answer's text is JSON.

    The end of a text that may be the beginning of a pseudonym is held back until what follows shows what it
    is: less than the length of one.
    """

    def __init__(self, values: Mapping[str, str], *, in_json: bool) -> None:
        self._restored = Restored(values)
        self._in_json = in_json
        self._held: dict[_Place, _Words] = {}

    def feed(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The pieces that these are for the client."""
        return [told for piece in pieces for told in self._restore(piece)]

    def close(self) -> list[Piece]:
        """What was held back where an answer had no finish."""
        held, self._held = self._held, {}
        return list(held.values())

    def _restore(self, piece: Piece) -> list[Piece]:
        match piece:
            case TextDelta() | RefusalDelta() | ReasoningDelta() | ToolArgumentsDelta():
                return [*self._ended(piece.choice, type(piece)), *self._words(piece)]
            case ToolCallStart():
                named = msgspec.structs.replace(piece, name=self._restored.text(piece.name))
                return [*self._ended(piece.choice, type(piece)), named]
            case OpaqueBlock():
                value = rewritten(piece.value, lambda _, text: self._restored.text(text))
                restored = msgspec.structs.replace(piece, value=value)
                return [*self._ended(piece.choice, type(piece)), restored]
            case Finish():
                return [*self._ended(piece.choice, None), piece]
            case _:
                return [piece]

    def _words(self, piece: _Words) -> list[Piece]:
        place = (type(piece), piece.choice, piece.index if isinstance(piece, ToolArgumentsDelta) else 0)
        held = self._held.pop(place, None)
        in_json = isinstance(piece, ToolArgumentsDelta) or (self._in_json and isinstance(piece, TextDelta))
        settled, rest = self._restored.settled((held.text if held else "") + piece.text, in_json=in_json)
        if rest:
            self._held[place] = _only(piece, rest)
        told = msgspec.structs.replace(piece, text=settled)
        return [told] if told.text or getattr(told, "logprobs", None) else []

    def _ended(self, choice: int, by: type[Piece] | None) -> list[Piece]:
        """What a choice held back of texts that have ended, since another kind of piece has come.

        Arguments end with their choice alone: those of several tools may come in turns.
        """
        lasting = () if by is None else (by, ToolArgumentsDelta)
        ended = [place for place in self._held if place[1] == choice and place[0] not in lasting]
        return [self._held.pop(place) for place in ended]


def _only(piece: _Words, text: str) -> _Words:
    """The piece with this text; the probabilities of its tokens have been told."""
    if isinstance(piece, TextDelta):
        return TextDelta(text=text, choice=piece.choice)
    return msgspec.structs.replace(piece, text=text)
