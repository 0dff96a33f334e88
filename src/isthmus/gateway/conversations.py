"""Conversations that go on: who has answered them, and how they are labelled. Clients send no more than their
turns, so a conversation is known by these; see `docs/design/0025`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from isthmus.core.call import Envelope
from isthmus.core.decision import Decision, Previous
from isthmus.core.label import Label

NAME_HEADER = b"x-isthmus-conversation"
"""By this header a caller names the conversation that a request belongs to."""

MOST = 50_000
"""So many conversations are known; of more, those that rested longest are forgotten."""

LONGEST_READ = 8_000_000
"""Bytes of turns; a longer conversation is not known, since to read it would hold up all others."""


class Trail(NamedTuple):
    """By what a request's conversation is found: what was said `before` its last answer, None where there is
    none yet and so nothing to find; and by what its next request will find it, what has been said by `now`.
    Digests both."""

    before: bytes | None
    now: bytes


class Standing(msgspec.Struct, frozen=True):
    """What is known of a conversation: who answered last, and its label, with pseudonyms where it has any."""

    label: Label
    hidden: Label | None = None
    previous: Previous | None = None

    @classmethod
    def of(cls, decision: Decision, answered_by: str | None = None) -> Standing:
        """How it stands when this was decided, or has been answered."""
        previous = Previous(model=answered_by, arms=decision.arms) if answered_by else decision.previous
        return cls(decision.label, decision.hidden_label, previous)


class Conversations:
    """The conversations of one gateway process, in memory: a restart forgets them. It is for one event loop.

    A conversation is its caller's alone: the same turns from another key, or for another end user, are
    another one. Digests are keyed by a secret of the process.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._secret = secrets.token_bytes(32)
        self._standings: dict[bytes, Standing] = {}

    def trail(self, envelope: Envelope, key_id: str | None, name: bytes | None) -> Trail | None:
        """By what the conversation is known; None where that cannot be told.

        Without a `name`, the words of the users' turns tell it: what models answered, and what a system
        prompt says of the time, may come back changed. Those before the last answer are what its request
        before had in all.
        """
        if name is not None or (name := _named(envelope)) is not None:
            digest = self._digest(b"name", key_id, None)
            digest.update(name)
            return Trail(digest.digest(), digest.digest())
        digest = self._digest(b"turns", key_id, envelope.user)
        before: bytes | None = None
        try:
            for role, words in _turns(envelope):
                if role == "assistant":
                    before = digest.digest()
                elif role == "user" and words:
                    said = words.encode(errors="surrogatepass")
                    digest.update(len(said).to_bytes(8) + said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Whether this is a request at all, its own codec says.
            return None
        return Trail(before, digest.digest())

    def standing(self, trail: Trail) -> Standing | None:
        """What is known of the conversation, None where nothing is."""
        return self._standings.get(trail.before) if trail.before is not None else None

    def keep(self, trail: Trail, standing: Standing) -> None:
        """From now on this is known of it."""
        self._standings.pop(trail.now, None)
        self._standings[trail.now] = standing
        if len(self._standings) > self._most:
            del self._standings[next(iter(self._standings))]

    def _digest(self, kind: bytes, key_id: str | None, user: str | None) -> blake2b:
        digest = blake2b(key=self._secret, person=kind, digest_size=16)
        digest.update(msgspec.json.encode([key_id, user]))
        return digest


class _Part(msgspec.Struct):
    text: str | None = None


class _Turn(msgspec.Struct):
    role: str | None = None
    type: str | None = None
    content: str | list[_Part] | None = None


class _Reference(msgspec.Struct):
    id: str


_TURNS = msgspec.json.Decoder(str | list[_Turn])
_REFERENCE = msgspec.json.Decoder(str | _Reference)


def _turns(envelope: Envelope) -> Iterator[tuple[str | None, str]]:
    """Each turn's role and its words; a model's call of a tool is its turn."""
    raw = envelope.fields.get("messages") or envelope.fields.get("input")
    if raw is None or len(memoryview(raw)) > LONGEST_READ:
        raise msgspec.DecodeError("there are no turns that could be read")
    turns = _TURNS.decode(raw)
    if isinstance(turns, str):
        yield "user", turns
        return
    for turn in turns:
        content = turn.content
        parts = content if isinstance(content, list) else []
        words = content if isinstance(content, str) else "\n".join(part.text or "" for part in parts)
        yield "assistant" if turn.type == "function_call" else turn.role, words.strip()


def _named(envelope: Envelope) -> bytes | None:
    """The name of the conversation in the Responses API, where one is said."""
    raw = envelope.fields.get("conversation")
    if raw is None:
        return None
    try:
        said = _REFERENCE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return (said if isinstance(said, str) else said.id).encode(errors="surrogatepass")
