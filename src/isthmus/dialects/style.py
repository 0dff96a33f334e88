"""A style card in the words of each dialect: at the head of what the system says, before the client's own.

It is the same in every request of a route, so that the prefix by which providers cache prompts stays as it
is. All else stays byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from isthmus.core.call import Envelope
from isthmus.dialects.fields import decode_raw, invalid

_Raws: TypeAlias = dict[str, msgspec.Raw]

_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])


def styled(envelope: Envelope, card: str) -> Envelope:
    """The request of a chat with the card; raises IsthmusError(INVALID_REQUEST) for what has no place for
    it."""
    return msgspec.structs.replace(envelope, fields=_WAYS[envelope.dialect](envelope.fields, card))


def body_of(envelope: Envelope) -> bytes:
    """The request's body, as it would have come with these fields."""
    return msgspec.json.encode(envelope.fields)


def _first_message(fields: _Raws, card: str) -> _Raws:
    """OpenAI Chat: into the first message where that is the system's, since many models take only one there;
    else a message of its own."""
    raw = fields.get("messages", msgspec.Raw(b"null"))
    try:
        messages = _MESSAGES.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("messages", "an array of messages", decode_raw(raw, "messages")) from None
    first = decode_raw(messages[0], "messages[0]") if messages else None
    if isinstance(first, dict) and first.get("role") in ("system", "developer"):
        first["content"] = _before(card, first.get("content"), "messages[0].content")
        messages = messages[1:]
    else:
        first = {"role": "system", "content": card}
    return {**fields, "messages": _raw([first, *messages])}


def _field(name: str) -> Callable[[_Raws, str], _Raws]:
    """Anthropic's `system` and the `instructions` of Responses: a field of its own."""

    def fill(fields: _Raws, card: str) -> _Raws:
        said = decode_raw(fields[name], name) if name in fields else None
        return {**fields, name: _raw(_before(card, said, name))}

    return fill


def _before(card: str, said: Any, at: str) -> Any:
    match said:
        case None | "" | []:
            return card
        case str():
            return f"{card}\n\n{said}"
        case list():
            return [{"type": "text", "text": card}, *said]
    raise invalid(at, "a string or an array of parts", said)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


_WAYS: dict[str, Callable[[_Raws, str], _Raws]] = {
    "openai": _first_message,
    "responses": _field("instructions"),
    "anthropic": _field("system"),
    "anthropic-count": _field("system"),
}
"""By the wire's name; every wire of clients but that of embeddings, which no system speaks in."""
