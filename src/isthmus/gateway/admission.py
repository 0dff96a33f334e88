"""How many requests are served at once; the rest wait in a short line, or are sent away."""

from __future__ import annotations

import asyncio
from collections import deque

from isthmus.core.errors import Fault, IsthmusError


class Admission:
    """A bounded number of places and a bounded line before them, first come first served.

    One event loop owns it. `limit` requests are inside at once; `line` more wait for at most `patience`
    seconds.
    """

    def __init__(self, limit: int, line: int, patience: float) -> None:
        self.inside = 0
        self._limit = limit
        self._line = line
        self._patience = patience
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, limit: int, line: int, patience: float) -> None:
        """Take new bounds; who is inside stays inside."""
        self._limit, self._line, self._patience = limit, line, patience
        self._admit()

    @property
    def free(self) -> bool:
        """True where the next request need not wait."""
        return self.inside < self._limit and not self._waiting

    def enter(self) -> None:
        """Take a place that is known to be free."""
        self.inside += 1

    async def wait(self) -> None:
        """Take a place, waiting in line. Raises IsthmusError(OVERLOADED) where the line is full or does not
        move.
        """
        if len(self._waiting) >= self._line:
            raise _overloaded("The gateway is serving as many requests as it may, and its line is full.")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._patience):
                await place
        except BaseException as fault:
            self._give_up(place)
            if isinstance(fault, TimeoutError):
                raise _overloaded(f"The gateway had no free place within {self._patience:g} s.") from None
            raise

    def _give_up(self, place: asyncio.Future[None]) -> None:
        if not place.cancelled():
            # It was given in the very moment in which its owner left.
            self.leave()
        elif place in self._waiting:
            self._waiting.remove(place)

    def leave(self) -> None:
        """Give the place back, and let the next one in."""
        self.inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.inside < self._limit:
            place = self._waiting.popleft()
            if not place.done():
                self.inside += 1
                place.set_result(None)


def _overloaded(message: str) -> IsthmusError:
    return IsthmusError(
        Fault.OVERLOADED,
        message,
        code="gateway_overloaded",
        hint="Come back in a moment; an operator can raise gateway.max_in_flight.",
        retry_after_s=1.0,
    )
