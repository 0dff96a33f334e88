"""Carries the opaque tokens of other dialects through a conversation with a client.

A client returns reasoning unchanged: Anthropic's `thinking` and `redacted_thinking` blocks, the reasoning
items of Responses. A signature that another dialect issued travels inside them, wrapped so that it is
recognised on its way back: it then reaches its own dialect byte for byte, and never the vendor of this one,
who would refuse it.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

PREFIX = "isthmus."
_MARK = b'"' + PREFIX.encode()


class Seal(msgspec.Struct, frozen=True, array_like=True):
    """A token of `dialect`. `tool` marks one that belongs to the tool call which follows the block."""

    dialect: str = ""
    signature: str | None = None
    encrypted: str | None = None
    id: str | None = None
    tool: bool = False


def wrap(seal: Seal) -> str:
    """The seal as a string that a client keeps."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(seal)).decode()


def unwrap(text: str) -> Seal | None:
    """The seal inside a string that `wrap` made; None for any other string."""
    if not text.startswith(PREFIX):
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text[len(PREFIX) :]), type=Seal)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None


def holds_foreign(raw: msgspec.Raw) -> bool:
    """Whether this JSON holds a string that `wrap` made; found by its bytes, without decoding."""
    return _MARK in bytes(raw)
