"""What is done with requests aside, once their clients have been answered: copies that candidates are asked,
grades that judges give; see `plan.aside`.
"""

from __future__ import annotations

import asyncio
import logging

from isthmus.core.codec import Wire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import Delta, Event, Finished, Judged
from isthmus.core.pieces import Piece
from isthmus.core.record import Outcome
from isthmus.gateway.feedback import FeedbackDesk
from isthmus.gateway.snapshot import Snapshot
from isthmus.gateway.story import Story
from isthmus.store.ledger import Ledger
from isthmus.strategies.plan.aside import Aside
from isthmus.strategies.plan.grade import Graded
from isthmus.strategies.plan.node import Kept, Node
from isthmus.strategies.run import Permit, run
from isthmus.telemetry.metrics import Tally

log = logging.getLogger("isthmus.gateway")

MOST_AT_ONCE = 16
"""So many are carried out at once; what comes while there are as many is left out."""

LONGEST_HEARD = 4_000_000
"""Bytes, or pieces, of an answer that are kept to be judged; a longer one is not."""


class Overheard:
    """An answer as it goes to the client, kept to be judged."""

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
    """Carries out what is done aside, beside all else that the gateway does. It is for one event loop."""

    def __init__(self, ledger: Ledger, tally: Tally, desk: FeedbackDesk) -> None:
        self._ledger = ledger
        self._tally = tally
        self._desk = desk
        self._running: set[asyncio.Task[None]] = set()

    def cast(
        self, story: Story, snapshot: Snapshot, plan: Node, heard: Overheard | None, permits: Permit
    ) -> None:
        """Begin what the plan does aside, now that the story's client was answered; not where too much is
        under way already."""
        for aside in plan.asides(_answer(story, heard)):
            assert isinstance(aside, Aside)
            if isinstance(aside, Graded) and aside.answer is None:
                # Nobody knows what it was.
                continue
            if len(self._running) >= MOST_AT_ONCE:
                self._tally.mirrors["left out"] += 1
                continue
            self._tally.mirrors["asked"] += 1
            snapshot.hold()
            task = asyncio.create_task(self._ask(story.mirror(aside), aside, permits))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(lambda _: snapshot.release())

    async def close(self) -> None:
        """Ask no more: what is under way is recorded as interrupted."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _ask(self, story: Story, aside: Aside, permits: Permit) -> None:
        told: list[IsthmusError | None] = []
        grades: list[float] = []

        def listen(event: Event) -> None:
            if type(event) is Finished:
                story.answered_by = event.model
                told.append(event.error)
                return
            story.take(event)
            if type(event) is Judged and type(aside) is Graded and event.confidence is not None:
                grades.append(event.confidence)

        assert story.attempts is not None
        outcome: Outcome = "error"
        error: IsthmusError | None = IsthmusError(
            Fault.INTERNAL, "The gateway failed at this request; its log says where."
        )
        try:
            await run(aside, story.attempts, permits, asyncio.sleep, listen)
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
        for grade in grades:
            await self._keep(story, aside.asked, grade)

    async def _keep(self, story: Story, judge: str, grade: float) -> None:
        assert story.mirrors is not None
        try:
            await self._desk.grade(story.mirrors, judge, grade)
        except IsthmusError as error:
            log.error("a grade of the request %s was not kept: %s", story.mirrors, error.text)


def _answer(story: Story, heard: Overheard | None) -> Kept | None:
    """What the story's client was answered, where that was heard."""
    attempts = story.attempts
    attempt = attempts.answering if attempts is not None else None
    if heard is None or attempt is None or story.envelope is None:
        return None
    wire = attempt.upstream.shared_wire(story.wire.name)
    pieces = heard.pieces(wire, stream=story.envelope.stream)
    return None if pieces is None else Kept(attempt.upstream.model.name, attempt.number, pieces)
