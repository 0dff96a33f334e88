"""Who looks for drift while the gateway serves, and tells of it: in the log, as metrics, to a webhook."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from isthmus.config.config import Watch
from isthmus.core.alarm import Alarm
from isthmus.core.errors import IsthmusError
from isthmus.evals.drift import standing
from isthmus.evals.drift.standing import Drift, Route
from isthmus.store.drift import Drifts

log = logging.getLogger("isthmus.drift")

EVERY_S = 60.0
SETTLED_US = 900_000_000
"""A piece is looked at this long after its end: its last requests have been answered and recorded by then."""

MOST_TRIES = 10

Post = Callable[[Watch, bytes], Awaitable[None]]
"""Posts JSON to the webhook of a watch; raises IsthmusError where it was not taken."""

Heed = Callable[[str, Sequence[Alarm]], None]
"""Takes all alarms that there are of a route, each time that it was looked at."""

Draws = Callable[[str], Callable[[], float]]
"""The draws from [0, 1) that belong to a name: always the same ones."""


class Watchman:
    """Looks at each watched route whenever a piece of its traffic is over.

    What was found is written down before it is told, and a piece that was not written down is looked at anew
    with the same draws: nothing counts twice, and no alarm is lost when the process dies. A webhook may hear
    of an alarm twice. `heed` is told before anybody outside is, and with every look again.
    """

    def __init__(
        self,
        drifts: Drifts,
        watches: Callable[[], Sequence[Watch]],
        post: Post,
        draws: Draws,
        now_us: Callable[[], int],
        heed: Heed = lambda route, alarms: None,
    ) -> None:
        self._drifts = drifts
        self._watches = watches
        self._post = post
        self._draws = draws
        self._now_us = now_us
        self._heed = heed
        self._found: dict[str, tuple[Drift, ...]] = {}

    async def keep_watch(self) -> None:
        """Looks every minute, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Looks at all that is over and was not looked at; a route that fails keeps none of the others."""
        watches = self._watches()
        for gone in self._found.keys() - {watch.route for watch in watches}:
            del self._found[gone]
        for watch in watches:
            try:
                await self._look_at(watch)
            except IsthmusError as error:
                log.error("the route %s was not looked at for drift: %s", watch.route, error.text)
            except Exception as error:
                log.error("the route %s was not looked at for drift: %s", watch.route, type(error).__name__)

    def alarms(self) -> dict[tuple[str, ...], float]:
        """1 for each route and quantity that has drifted, 0 for those that have not."""
        return {(it.route, it.quantity): float(it.state == "alarm") for it in self._all()}

    def p_values(self) -> dict[tuple[str, ...], float]:
        """The p-value of the claim that nothing has changed, for each route and quantity."""
        return {(it.route, it.quantity): it.p for it in self._all()}

    def _all(self) -> Iterator[Drift]:
        for drifts in self._found.values():
            yield from drifts

    async def _look_at(self, watch: Watch) -> None:
        route = await asyncio.to_thread(self._read, watch)
        while await asyncio.to_thread(self._advance, watch, route):
            pass
        self._found[watch.route] = tuple(standing.drifts(watch, route))
        self._heed(watch.route, standing.alarms_of(watch.route, route))
        for drift in self._found[watch.route]:
            if drift.alarmed_us is not None:
                await self._tell(watch, route, drift)

    def _read(self, watch: Watch) -> Route:
        return standing.read(watch, self._drifts.standing(watch.route))

    def _advance(self, watch: Watch, route: Route) -> bool:
        """Takes the next piece into account, if it is over."""
        since_us, until_us, most = standing.next_piece(watch, route)
        if until_us + SETTLED_US > self._now_us():
            return False
        seen = self._drifts.observed(watch.route, since_us, until_us, most)
        scores = {
            quantity: self._drifts.scores(watch.route, since_us, until_us, most, by_judges=by_judges)
            for quantity, by_judges in standing.SCORED.items()
        }
        standing.advance(watch, route, seen, scores, until_us, self._draws(f"{watch.route} {since_us}"))
        self._write(watch, route)
        return True

    def _write(self, watch: Watch, route: Route) -> None:
        self._drifts.write(standing.written(watch, route))

    async def _tell(self, watch: Watch, route: Route, drift: Drift) -> None:
        watched = route.quantities[drift.quantity]
        if watched.told or watched.tries >= MOST_TRIES:
            return
        if not watched.tries:
            log.warning("drift: %s", in_words(drift))
        watched.tries += 1
        watched.told = watch.webhook is None
        if watch.webhook is not None:
            try:
                await self._post(watch, message(drift))
                watched.told = True
            except IsthmusError as error:
                ending = "it is given up" if watched.tries == MOST_TRIES else "it is tried again"
                log.error("an alarm of drift was not taken by the webhook, %s: %s", ending, error.text)
        await asyncio.to_thread(self._write, watch, route)


def message(drift: Drift) -> bytes:
    """What a webhook is told: JSON with everything that is known, and `text` for those that show a text."""
    known: dict[str, Any] = msgspec.to_builtins(drift)
    return msgspec.json.encode({"event": "drift", "text": in_words(drift), **known})


def in_words(drift: Drift) -> str:
    """An alarm as a sentence."""
    until = dt.datetime.fromtimestamp(drift.until_us / 1_000_000, dt.UTC)
    return (
        f"{drift.quantity} of the route {drift.route} is not what it was: {figure(drift, drift.before)} "
        f"in the baseline, {figure(drift, drift.lately)} lately (until {until:%Y-%m-%d %H:%M} UTC, "
        f"p = {drift.p:.2g})"
    )


def figure(drift: Drift, summary: standing.Summary) -> str:
    """The values in short, as people say it."""
    if not summary.n:
        return "nothing"
    if summary.shares:
        shares = sorted(summary.shares.items(), key=lambda it: (-it[1], it[0]))
        return ", ".join(f"{word} {share:.1%}" for word, share in shares)
    assert summary.figure is not None
    match drift.unit:
        case "share":
            return f"{summary.figure:.1%}"
        case "median ms":
            return f"{summary.figure:,.0f} ms"
        case "median tokens":
            return f"{summary.figure:,.0f} tokens"
    return f"{summary.figure:.3f}"
