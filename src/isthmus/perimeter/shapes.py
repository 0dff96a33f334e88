"""Many regular expressions searched in one pass, in time linear to the text, by the engine RE2.

RE2 searches bytes. A text is given to it in Latin-1, one byte for each code point, so that its offsets are
those of the text; what Latin-1 lacks becomes a question mark, which is never part of a shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import re2

Expression: TypeAlias = Any
"""A compiled expression of RE2, which has no public name for its type."""

Match: TypeAlias = Any
"""A match of one; the same holds for it."""


def searchable(text: str) -> bytes:
    """`text` with one byte for each code point, lone surrogates included."""
    return text.encode("latin-1", "replace")


def compiled(pattern: str) -> Expression:
    """The expression, ready to search what `searchable` gives; re2.error where RE2 does not take it."""
    return re2.compile(pattern.encode("latin-1"), _options())


class Shapes:
    """Expressions of which one pass tells which occur at all: most texts hold none of them.

    Raises re2.error for an expression that RE2 does not take.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._each = [compiled(pattern) for pattern in patterns]
        options = _options()
        # The states of all expressions together must fit: in too little memory the automaton is built anew
        # again and again, and where not even one state fits, a set finds nothing and says nothing.
        options.max_mem = 64 << 20
        self._all = re2.Set.SearchSet(options)
        for pattern in patterns:
            self._all.Add(pattern.encode("latin-1"))
        self._all.Compile()

    def present(self, data: bytes) -> list[int]:
        """The places, in the order given, of the expressions that match somewhere in `data`."""
        return sorted(self._all.Match(data) or ())

    def next(self, which: int, data: bytes, start: int) -> tuple[int, int] | None:
        """Where that expression first matches from `start` on, or None."""
        match = self._each[which].search(data, start)
        return match.span() if match else None


def _options() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options
