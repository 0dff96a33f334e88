"""The words by which a model is chosen for a request: those of its last turn by a user. Pure.

Chat Completions and Messages have turns in `messages`, Responses in `input`, which may be one text; a turn's
content is a text, or parts of which some have one. What is malformed has no words here: whoever decodes the
request says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec

from isthmus.core.call import Envelope
from isthmus.dialects.counting import BYTES_PER_TOKEN

LONGEST = 1 << 18
"""Bytes of turns that are read at most, since the event loop waits meanwhile; of longer ones nothing is."""

MOST_TURNS = 100
"""So many turns are looked at, from the last one on."""

_TURNS = ("messages", "input")
_COUNTED = (*_TURNS, "system", "instructions", "tools")


class _Turn(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b'""')


class _Part(msgspec.Struct):
    text: str = ""


_to_turns = msgspec.json.Decoder(list[msgspec.Raw]).decode
_to_turn = msgspec.json.Decoder(_Turn).decode
_to_content = msgspec.json.Decoder(str | list[_Part]).decode


def asked(envelope: Envelope) -> str | None:
    """The words of the last turn by a user; None where there are none, or too many to look for them."""
    for name in _TURNS:
        raw = envelope.fields.get(name)
        if raw is not None and len(memoryview(raw)) <= LONGEST:
            try:
                return next((words for words in _words(raw) if words.strip()), None)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                return None
    return None


def about_tokens(envelope: Envelope) -> int:
    """About how many tokens the request has: one for each four bytes of its turns and tools, as they are
    written; what a picture adds, its bytes tell badly."""
    sizes = (len(memoryview(raw)) for name in _COUNTED if (raw := envelope.fields.get(name)) is not None)
    return -(-sum(sizes) // BYTES_PER_TOKEN)


def _words(raw: msgspec.Raw) -> Iterator[str]:
    """The words of the user's turns, the last one first."""
    if bytes(memoryview(raw)[:1]) == b'"':
        yield _said(raw)
        return
    for turn in map(_to_turn, islice(reversed(_to_turns(raw)), MOST_TURNS)):
        if turn.role == "user":
            yield _said(turn.content)


def _said(raw: msgspec.Raw) -> str:
    content = _to_content(raw)
    return content if isinstance(content, str) else "\n".join(part.text for part in content if part.text)
