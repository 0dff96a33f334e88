"""Copies of requests, asked of candidates when their clients have been answered; see `plan.shadow`."""

from __future__ import annotations

import asyncio
import logging

from isthmus.core.codec import Wire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import Delta, Event, Finished
from isthmus.core.pieces import Piece
from isthmus.core.record import Outcome
from isthmus.gateway.snapshot import Snapshot
from isthmus.gateway.story import Story
from isthmus.store.ledger import Ledger
from isthmus.strategies.plan import Shadow
from isthmus.strategies.plan.node import Kept
from isthmus.strategies.plan.shadow import Mirrored
from isthmus.strategies.run import Permit, run
from isthmus.telemetry.metrics import Tally

log = logging.getLogger("isthmus.gateway")

MOST_AT_ONCE = 16
"""So many copies are asked at once; of what comes while there are as many, no copy is made."""

LONGEST_HEARD = 4_000_000
"""Bytes, or pieces, of an answer that are kept to be compared; a longer one is not."""


class Overheard:
    """An answer as it goes to the client, kept to be compared."""

    __slots__ = ("_data", "_pieces", "_room")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._pieces: list[Piece] = []
        self._room = LONGEST_HEARD

    def take(self, delta: Delta) -> None:
        """Hear a part of it."""
        self._room -= len(delta.data) + len(delta.pieces)
        if self._room >= 0:
            self._data.append(delta.data)
            self._pieces += delta.pieces

    def pieces(self, wire: Wire | None, *, stream: bool) -> tuple[Piece, ...] | None:
        """What was said; None where that cannot be told. `wire` is that of bytes that passed through."""
        data = b"".join(self._data)
        if self._room < 0 or (data and wire is None):
            return None
        if not data or wire is None:
            return tuple(self._pieces)
        try:
            if not stream:
                return tuple(wire.decode_answer(data))
            decoder = wire.stream_decoder()
            return (*decoder.feed(data), *decoder.close())
        except IsthmusError:
            # The client understands what our codec does not.
            return None


class Mirrors:
    """Asks candidates, beside all else that the gateway does. It is for one event loop."""

    def __init__(self, ledger: Ledger, tally: Tally) -> None:
        self._ledger = ledger
        self._tally = tally
        self._running: set[asyncio.Task[None]] = set()

    def cast(
        self, story: Story, snapshot: Snapshot, shadow: Shadow, heard: Overheard | None, permits: Permit
    ) -> None:
        """Ask the candidate what the story's client was answered; not where too many are asked already."""
        if len(self._running) >= MOST_AT_ONCE:
            self._tally.mirrors["left out"] += 1
            return
        self._tally.mirrors["asked"] += 1
        snapshot.hold()
        plan = Mirrored(candidate=shadow.candidate, judge=shadow.judge, answer=_answer(story, heard))
        task = asyncio.create_task(self._ask(story.mirror(shadow.candidate), plan, permits))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: snapshot.release())

    async def close(self) -> None:
        """Ask no more: what is under way is recorded as interrupted."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _ask(self, story: Story, plan: Mirrored, permits: Permit) -> None:
        told: list[IsthmusError | None] = []

        def listen(event: Event) -> None:
            if type(event) is Finished:
                story.answered_by = event.model
                told.append(event.error)
            else:
                story.take(event)

        assert story.attempts is not None
        outcome: Outcome = "error"
        error: IsthmusError | None = IsthmusError(
            Fault.INTERNAL, "The gateway failed at this request; its log says where."
        )
        try:
            await run(plan, story.attempts, permits, asyncio.sleep, listen)
            (error,) = told
            outcome = "ok" if error is None else "error"
        except asyncio.CancelledError:
            outcome, error = "interrupted", IsthmusError(Fault.UNAVAILABLE, "The gateway has shut down.")
            raise
        except Exception as bug:
            # The text of an exception may quote the prompt: only its kind and place are logged.
            nameless = (RuntimeError, RuntimeError(type(bug).__name__), bug.__traceback__)
            log.error("mirror %s failed by a bug: %s", story.id, type(bug).__name__, exc_info=nameless)
        finally:
            if error is not None:
                story.abandon(outcome, error)
            record = story.record(outcome, 0, error)
            self._tally.count(record)
            self._ledger.append(record)


def _answer(story: Story, heard: Overheard | None) -> Kept | None:
    """What the story's client was answered, where that was heard."""
    attempts = story.attempts
    attempt = attempts.answering if attempts is not None else None
    if heard is None or attempt is None or story.envelope is None:
        return None
    wire = attempt.upstream.shared_wire(story.wire.name)
    pieces = heard.pieces(wire, stream=story.envelope.stream)
    return None if pieces is None else Kept(attempt.upstream.model.name, attempt.number, pieces)
