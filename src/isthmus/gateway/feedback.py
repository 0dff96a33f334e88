"""What a client says of an answer: POST /v1/feedback."""

from __future__ import annotations

import asyncio
from random import getrandbits
from typing import Any

import msgspec

from isthmus.core.errors import IsthmusError
from isthmus.core.feedback import THUMBS, Feedback, require_sound
from isthmus.core.ids import feedback_id
from isthmus.dialects.fields import Fields, decode_raw, invalid, open_body
from isthmus.gateway.auth import Ring
from isthmus.store.feedback import Allowed, Feedbacks
from isthmus.store.keys import Key
from isthmus.store.ledger import Ledger

LONGEST_BODY = 1 << 20
"""A body of feedback may have so many bytes: every character of the longest texts may take six in JSON."""


def read(body: bytes, key: Key | None, at_us: int) -> Feedback:
    """The feedback in a request's body.

    Raises IsthmusError(INVALID_REQUEST, param=...) for what is none.
    """
    fields = Fields({name: decode_raw(raw, name) for name, raw in open_body(body).items()}, "")
    feedback = Feedback(
        id=feedback_id(at_us, getrandbits(80)),
        record_id=fields.required_text("request_id"),
        at_us=at_us,
        key_id=key.id if key else None,
        score=_score(fields),
        correction=fields.text("correction") or None,
        comment=fields.text("comment") or None,
        metadata=_metadata(fields),
    )
    for unknown in fields.unread:
        raise invalid(unknown[:40], "left out: feedback has no such field", fields.unread[unknown])
    require_sound(feedback)
    return feedback


def _score(fields: Fields) -> float | None:
    score, thumb = fields.number("score"), fields.text("thumb")
    if thumb is None:
        return score
    if score is not None or thumb not in THUMBS:
        raise invalid("thumb", "`up` or `down`, without a `score`", thumb)
    return THUMBS[thumb]


def _metadata(fields: Fields) -> dict[str, str]:
    given = fields.mapping("metadata") or {}
    if not all(isinstance(value, str) for value in given.values()):
        raise invalid("metadata", "an object of strings", given)
    return given


async def keep(feedback: Feedback, allowed: Allowed, store: Feedbacks, ledger: Ledger) -> bytes:
    """Keeps it durably, and says so as the body of an answer.

    A client may be faster than the ledger's writer: before a request is said to be unknown, everything that
    was taken to be recorded is. One that is still being answered has no record, and takes no feedback.
    Raises IsthmusError as `Feedbacks.add` does.
    """
    try:
        await asyncio.to_thread(store.add, feedback, allowed)
    except IsthmusError as error:
        if error.code != "unknown_request":
            raise
        await ledger.flush()
        await asyncio.to_thread(store.add, feedback, allowed)
    return msgspec.json.encode(_receipt(feedback))


def _receipt(feedback: Feedback) -> dict[str, Any]:
    said = {"id": feedback.id, "object": "feedback", "request_id": feedback.record_id}
    return {**said, "created": feedback.at_us // 1_000_000, "score": feedback.score}


def own_requests(key: Key | None, ring: Ring) -> Allowed:
    """What the bearer of a key may judge: the requests of the key, and of others of its name, which it
    replaces; without any key, those of this machine."""

    def allowed(key_id: str | None) -> bool:
        if key is None or key_id is None:
            return key is None and key_id is None
        return key_id == key.id or ring.name_of(key_id) == key.name

    return allowed
