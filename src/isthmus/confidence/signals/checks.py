"""What a check from outside says of an answer: a schema, a parser, a unit test.

The strongest of all signals where there is one: it does not ask a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from isthmus.confidence.signals import Signals


def of_checks(passed: Sequence[bool]) -> Signals:
    """The share of the checks that the answer passes; nothing where none was made."""
    return {"checks": sum(passed) / len(passed)} if passed else {}


def is_json(text: str) -> bool:
    """True where the answer is JSON, whether or not in a block of Markdown."""
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        msgspec.json.decode(bare)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
