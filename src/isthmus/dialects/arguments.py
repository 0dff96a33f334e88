"""The arguments of a tool call, for dialects that want them as an object instead of as text."""

from __future__ import annotations

import msgspec

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def as_object(arguments: str) -> msgspec.Raw:
    """The arguments as a JSON object, byte for byte where they are one.

    No arguments become `{}`, and a text that is no object, as a model sometimes writes it, becomes
    `{"arguments": text}`: a conversation must not break because of what was said in it.
    """
    if not arguments.strip():
        return msgspec.Raw(b"{}")
    if is_object(arguments):
        return msgspec.Raw(arguments.encode())
    return msgspec.Raw(msgspec.json.encode({"arguments": arguments}))


def is_object(text: str) -> bool:
    """Whether the text is a whole JSON object."""
    try:
        _OBJECT.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
