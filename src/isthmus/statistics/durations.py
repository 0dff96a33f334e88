"""How long something takes lately, where some of it is cut off before its end: the product-limit estimate.

Kaplan and Meier (1958). To leave out what was cut off would leave out the slow ones; to take the time at
which it was cut off for its end would do the same by halves. Here it counts for what it shows: it took longer
than that.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque

MOST = 256
"""So many of the last durations are kept: 13 of them lie above the 95th percentile."""

_ABOUT = 1e-9


class Durations:
    """The last durations of something, in seconds, and their quantiles. `ended` counts all that were seen to
    their end, ever."""

    __slots__ = ("_cut", "_ended", "_found", "_last", "_most", "ended")

    def __init__(self, most: int = MOST) -> None:
        self.ended = 0
        self._most = most
        self._last: deque[tuple[float, bool]] = deque()
        self._ended: list[float] = []
        self._cut: list[float] = []
        self._found: dict[float, float] = {}

    def add(self, seconds: float, *, cut_off: bool = False) -> None:
        """One more took so long, or was cut off when it had taken so long; the oldest is forgotten."""
        if len(self._last) == self._most:
            oldest, was_cut_off = self._last.popleft()
            among = self._cut if was_cut_off else self._ended
            del among[bisect_left(among, oldest)]
        self._last.append((seconds, cut_off))
        insort(self._cut if cut_off else self._ended, seconds)
        self.ended += not cut_off
        self._found.clear()

    def quantile(self, share: float) -> float | None:
        """The time within which that share of them ends; None where there are none.

        Where so few were seen to their end that it lies beyond them all, the longest time that is known: it
        is no less than that.
        """
        if share not in self._found and self._last:
            self._found[share] = self._quantile(share)
        return self._found.get(share)

    def _quantile(self, share: float) -> float:
        # Who is cut off leaves his part to all who took longer (Efron 1967). So those that ended between two
        # cuts have equal parts, and it takes a step for each cut, not for each duration.
        below, part, start = 0.0, 1 / len(self._last), 0
        for before, cut in enumerate(self._cut):
            # Of equal times, that which was cut off took longer.
            end = bisect_right(self._ended, cut)
            until = below + (end - start) * part
            if until >= share - _ABOUT:
                break
            longer = len(self._last) - end - before - 1
            if not longer:
                return cut
            below, start = until, end
            part += part / longer
        return self._ended[start + math.ceil((share - below) / part - _ABOUT) - 1]
