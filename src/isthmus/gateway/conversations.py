"""Conversations that go on: who has answered them, and how they are labelled. Clients send no more than their
turns, or point to the answer before, so a conversation is known by these; see `docs/design/0025`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from isthmus.core.call import Envelope
from isthmus.core.errors import IsthmusError
from isthmus.core.label import TOP
from isthmus.dialects.responses.stored import pointer_of
from isthmus.store.conversations import Standing, Standings

log = logging.getLogger("isthmus.conversations")

NAME_HEADER = b"x-isthmus-conversation"
"""By this header a caller names the conversation that a request belongs to."""

MOST = 200_000
"""So many turns of conversations are known; of more, those that rested longest are forgotten."""

MOST_UNWRITTEN = 50_000
"""So many wait for a disk that is full or ill; of more, those that wait longest are forgotten."""

KEPT_DAYS = 30
"""A conversation that rested for so long is forgotten."""

LONGEST_READ = 8_000_000
"""Bytes of turns; a longer conversation is not known, since to read it would hold up all others."""

PATIENCE_S = 1.0
"""So long may it take to read what is known of a conversation."""

GATHER_S = 0.05
FORGET_EVERY = 1000
PAUSE_S = 1.0
DAY_US = 86_400_000_000

UNREADABLE = Standing(TOP)
"""What is known of a conversation where what is known of it cannot be read."""


class Trail(NamedTuple):
    """By what a request's conversation is found: what was said `before` its last answer, None where there is
    none yet and so nothing to find; and by what its next request will find it, what has been said by `now`.
    `pointed` is the stored answer that it goes on from instead of saying its turns anew; where nothing else
    tells, the next request will point to the next answer. Digests all."""

    before: bytes | None
    now: bytes | None
    pointed: bytes | None = None


class Conversations:
    """The conversations of all gateways that share `standings` and the `secret` that keys their digests, for
    one event loop.

    A conversation is its caller's alone: the same turns from another key, or for another end user, are
    another one. What is known is read when it is wanted, and written down behind: what this process knows
    counts at once, what others know once they have written it. Those that rested for `kept_days` are
    forgotten.
    """

    def __init__(
        self, standings: Standings, secret: bytes, now_us: Callable[[], int], kept_days: int = KEPT_DAYS
    ) -> None:
        self._standings = standings
        self._secret = secret
        self._now_us = now_us
        self._kept_us = min(kept_days, KEPT_DAYS) * DAY_US
        self._unwritten: dict[bytes, Standing] = {}
        self._filled = asyncio.Event()
        self._writing = asyncio.Lock()
        self._kept = 0
        self._failing = False
        # Who reads waits for nobody who writes.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="isthmus-recall")
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="isthmus-conversations")

    def trail(self, envelope: Envelope, key_id: str | None, name: bytes | None) -> Trail | None:
        """By what the conversation is known; None where that cannot be told.

        Without a `name`, the words of the users' turns tell it: what models answered, and what a system
        prompt says of the time, may come back changed. Those before the last answer are what its request
        before had in all.
        """
        pointer = pointer_of(envelope)
        pointed = self.answer(key_id, pointer) if pointer is not None else None
        if name is not None or (name := _named(envelope)) is not None:
            digest = self._digest(b"name", key_id, None)
            digest.update(name)
            return Trail(digest.digest(), digest.digest(), pointed)
        if pointed is not None:
            return Trail(None, None, pointed)
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

    def answer(self, key_id: str | None, id: str) -> bytes:
        """The digest of a conversation that goes on from the stored answer of that id."""
        digest = self._digest(b"answer", key_id, None)
        digest.update(id.encode(errors="surrogatepass"))
        return digest.digest()

    async def known(self, trail: Trail) -> dict[bytes, Standing]:
        """What is known of the conversation, by each digest of the trail by which it was found.

        Where it cannot be read, or not in time, the label is the highest: it may be.
        """
        digests = [it for it in (trail.before, trail.pointed) if it is not None]
        if not digests:
            return {}
        unwritten = {it: self._unwritten[it] for it in digests if it in self._unwritten}
        since_us = self._now_us() - self._kept_us
        reading = asyncio.get_running_loop().run_in_executor(
            self._reader, self._standings.find, digests, since_us
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await reading
        except (IsthmusError, TimeoutError) as error:
            why = (
                error.text if isinstance(error, IsthmusError) else f"nothing was read within {PATIENCE_S:g} s"
            )
            log.error("what is known of a conversation cannot be read, and it is restricted: %s", why)
            found = dict.fromkeys(digests, UNREADABLE)
        # What is not written yet is later than what is.
        return {it: found[it].then(late) if it in found else late for it, late in unwritten.items()} | {
            it: early for it, early in found.items() if it not in unwritten
        }

    def keep(self, digest: bytes, standing: Standing) -> None:
        """From now on this is known of it, too. Never waits."""
        before = self._unwritten.pop(digest, None)
        self._unwritten[digest] = standing if before is None else before.then(standing)
        if len(self._unwritten) > MOST_UNWRITTEN:
            del self._unwritten[next(iter(self._unwritten))]
        self._filled.set()

    async def write(self) -> None:
        """Write down what is kept. Raises IsthmusError where that cannot be; it waits on then."""
        async with self._writing:
            some = dict(self._unwritten)
            if not some:
                return
            at_us = self._now_us()
            await self._aside(lambda: self._standings.keep(some, at_us))
            for digest, standing in some.items():
                if self._unwritten.get(digest) is standing:
                    del self._unwritten[digest]
            if not self._unwritten:
                self._filled.clear()
            self._kept += len(some)

    async def keep_written(self) -> None:
        """Write down and forget for ever. While nothing can be written, the log says so once."""
        while True:
            try:
                await self._forget()
                while self._kept < FORGET_EVERY:
                    await self._filled.wait()
                    await asyncio.sleep(GATHER_S)
                    await self.write()
                    self._told()
            except IsthmusError as error:
                self._told(error)
                await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Write down what waits."""
        try:
            await self.write()
        except IsthmusError as error:
            log.error("what was last known of conversations is lost: %s", error.text)
        finally:
            self._reader.shutdown(wait=False)
            self._writer.shutdown(wait=False)

    async def _forget(self) -> None:
        before_us = self._now_us() - self._kept_us
        await self._aside(lambda: self._standings.forget(before_us, MOST))
        self._kept = 0

    def _told(self, error: IsthmusError | None = None) -> None:
        if error is not None and not self._failing:
            log.error("what is known of conversations cannot be written, and waits in memory: %s", error.text)
        elif error is None and self._failing:
            log.warning("what is known of conversations can be written again")
        self._failing = error is not None

    def _aside(self, work: Callable[[], object]) -> asyncio.Future[object]:
        return asyncio.get_running_loop().run_in_executor(self._writer, work)

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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return (said if isinstance(said, str) else said.id).encode(errors="surrogatepass")
