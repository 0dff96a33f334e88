"""Answers that an endpoint stores, so that a later request may point to them, and not send its turns anew.

Source: the guide `conversation-state` of developers.openai.com, "Passing context from the previous response".
"""

from __future__ import annotations

import msgspec

from isthmus.core.call import Envelope
from isthmus.dialects import sse
from isthmus.dialects.responses.decode_call import DIALECT

POINTER = "previous_response_id"

_LAST_EVENTS = ("response.completed", "response.incomplete")


class Stored(msgspec.Struct, frozen=True):
    """An answer that has ended: its id, and all that the endpoint has added to the conversation."""

    id: str
    output: msgspec.Raw
    status: str
    store: bool | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    response: msgspec.Raw = msgspec.Raw(b"null")


_read_pointer = msgspec.json.Decoder(str).decode
_read_flag = msgspec.json.Decoder(bool).decode
_read_whole = msgspec.json.Decoder(Stored).decode
_read_event = msgspec.json.Decoder(_Event).decode


def pointer_of(envelope: Envelope) -> str | None:
    """The id of the answer that a request goes on from, None where it sends all of its turns."""
    raw = envelope.fields.get(POINTER) if envelope.dialect == DIALECT else None
    try:
        return _read_pointer(raw) or None if raw is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def without_pointer(envelope: Envelope) -> Envelope:
    """The request as it stands here, without what it goes on from."""
    fields = {name: raw for name, raw in envelope.fields.items() if name != POINTER}
    return msgspec.structs.replace(envelope, fields=fields)


def is_stored(envelope: Envelope) -> bool:
    """True where an endpoint of Responses would store the answer to this request, as it does unless told."""
    raw = envelope.fields.get("store")
    try:
        return envelope.dialect == DIALECT and (raw is None or raw == b"null" or _read_flag(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def stored(last: bytes, *, stream: bool) -> Stored | None:
    """The answer in a whole body, or in the last events of a stream; None for one that is not stored, or not
    known: what goes on in the background says more than this."""
    try:
        answer = _in_events(last) if stream else _read_whole(last)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if answer is None or answer.store is False or answer.status not in ("completed", "incomplete"):
        return None
    return answer


def _in_events(last: bytes) -> Stored | None:
    for _, event in sse.parse(last):
        if event is None or not event.data.startswith(b"{"):
            continue
        said = _read_event(event.data)
        if (said.type or event.event) in _LAST_EVENTS:
            return _read_whole(said.response)
    return None
