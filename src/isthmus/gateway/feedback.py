"""What a client says of an answer: POST /v1/feedback."""

from __future__ import annotations

import asyncio
import time
from random import getrandbits
from typing import Any

import msgspec

from isthmus.core.errors import IsthmusError
from isthmus.core.feedback import THUMBS, Feedback, require_sound
from isthmus.core.ids import feedback_id
from isthmus.dialects.fields import Fields, decode_raw, invalid, open_body
from isthmus.gateway.auth import Ring
from isthmus.store.feedback import Allowed, Feedbacks, everybody
from isthmus.store.keys import Key
from isthmus.store.ledger import Ledger

LONGEST_BODY = 1 << 20
"""A body of feedback may have so many bytes: every character of the longest texts may take six in JSON."""

AT_ONCE = 4
"""So many may be kept at the same time; the others wait."""


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


class FeedbackDesk:
    """Takes feedback and keeps it. `take` is called from the event loop, and does not block it."""

    def __init__(self, store: Feedbacks, ledger: Ledger, ring: Ring) -> None:
        self._store = store
        self._ledger = ledger
        self._ring = ring
        # The threads that write it also draw budgets and refresh keys: a crowd must leave some to them.
        self._places = asyncio.Semaphore(AT_ONCE)

    async def take(self, body: bytes, key: Key | None, at_us: int) -> bytes:
        """The body of an answer that says the feedback is kept.

        A client may be faster than the ledger's writer: before a request is said to be unknown, everything
        that was taken to be recorded is. One that is still being answered has no record, and takes none.
        Raises IsthmusError as `read` and `Feedbacks.add` do.
        """
        feedback = read(body, key, at_us)
        await self._keep(feedback, lambda key_id: self._may_judge(key, key_id))
        return msgspec.json.encode(_receipt(feedback))

    async def grade(self, record_id: str, judge: str, score: float) -> None:
        """Keep the grade, from 0 to 1, that a model has given an answer. Raises IsthmusError as `take`."""
        at_us = time.time_ns() // 1000
        identity = feedback_id(at_us, getrandbits(80))
        await self._keep(
            Feedback(id=identity, record_id=record_id, at_us=at_us, judge=judge, score=score), everybody
        )

    async def _keep(self, feedback: Feedback, allowed: Allowed) -> None:
        async with self._places:
            try:
                await asyncio.to_thread(self._store.add, feedback, allowed)
            except IsthmusError as error:
                if error.code != "unknown_request":
                    raise
                await self._ledger.flush()
                await asyncio.to_thread(self._store.add, feedback, allowed)

    def _may_judge(self, key: Key | None, key_id: str | None) -> bool:
        """Whether a key's bearer may judge the requests of the key with that id: its own, and others of its
        name, which it replaced. Without any key, those of this machine may be judged."""
        if key is None or key_id is None:
            return key is None and key_id is None
        return key_id == key.id or self._ring.name_of(key_id) == key.name


def _receipt(feedback: Feedback) -> dict[str, Any]:
    said = {"id": feedback.id, "object": "feedback", "request_id": feedback.record_id}
    return {**said, "created": feedback.at_us // 1_000_000, "score": feedback.score}
