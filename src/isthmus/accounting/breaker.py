"""When a model is left alone, and when it is tried again."""

from __future__ import annotations

from typing import Literal, TypeAlias

from isthmus.core.portfolio import BreakerSettings

State: TypeAlias = Literal["closed", "open", "half-open"]


class Breaker:
    """The health of one model as its attempts show it. Times are seconds of one monotonic clock.

    Closed, it lets every attempt pass, until `failures` in a row have failed. Then it is open, and lets none
    pass for the cool-down. After that it is half-open and lets one attempt pass, the probe: its success
    closes the breaker, its failure opens it again for twice as long, up to `max_cooldown`. A probe that does
    not report within `max_cooldown` counts as gone, and another one may follow. While it is open, reports of
    attempts that began earlier change nothing.

    With `recovery`, it is closed by a success that comes so long after the first one: until then it is
    half-open, and one attempt more at a time passes after each success, as TCP starts slowly (RFC 5681, 3.1).

    `under_way` counts the attempts that have begun and not ended; whoever makes them keeps it.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._failures = 0
        self._openings = 0
        self._closed = True
        self._until = 0.0
        self._probe_until: float | None = None
        self._well_since: float | None = None
        self._room = 1
        self.under_way = 0

    @property
    def is_well(self) -> bool:
        """True where no failure is remembered: a success changes nothing then."""
        return self._closed and not self._failures

    def state(self, now: float) -> State:
        """The state at that time."""
        if self._closed:
            return "closed"
        return "open" if now < self._until else "half-open"

    def wait_s(self, now: float) -> float:
        """For how many seconds no attempt will be let pass, as far as is known; 0 where one may try."""
        if self._closed:
            return 0.0
        return max(0.0, self._until - now, (self._probe_until or now) - now)

    def permits(self, now: float) -> bool:
        """True where an attempt may begin.

        Half-open, whoever is told so holds the probe and has to report on it. The report is one of
        `succeeded`, `failed` and `released`.
        """
        if self._closed:
            return True
        if self.wait_s(now) > 0.0:
            return False
        if self._well_since is not None:
            return self.under_way < self._room
        self._probe_until = now + self._settings.max_cooldown
        return True

    def succeeded(self, now: float) -> None:
        """An attempt showed that the endpoint is well."""
        if self.state(now) == "open":
            return
        self._probe_until = None
        if not self._closed and not self._has_come_back(now):
            return
        self._closed = True
        self._failures = self._openings = 0
        self._well_since = None

    def _has_come_back(self, now: float) -> bool:
        """True where this success ends its recovery; else it makes room for one attempt more."""
        if self._well_since is None:
            self._well_since, self._room = now, 1
        self._room += 1
        return now - self._well_since >= self._settings.recovery

    def failed(self, now: float, retry_after_s: float | None = None) -> None:
        """An attempt failed by the endpoint's fault.

        `retry_after_s` is for how long it wants to be left alone, if it said so. It is left alone for that
        long at least, but never for longer than `max_cooldown`.
        """
        state = self.state(now)
        if state == "open":
            return
        self._failures += 1
        if state == "closed" and self._failures < self._settings.failures:
            return
        # The exponent is bounded, as a float's is.
        grown = self._settings.cooldown * 2.0 ** min(self._openings, 64)
        self._openings += 1
        self._well_since = None
        self._closed = False
        self._until = now + min(max(grown, retry_after_s or 0.0), self._settings.max_cooldown)
        self._probe_until = None

    def released(self) -> None:
        """The attempt ended without showing anything, as its caller left: another may be the probe."""
        self._probe_until = None
