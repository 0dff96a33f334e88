"""Watching the config file: a new one is taken when it is valid, else the last good one stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from isthmus.config.config import Config
from isthmus.config.faults import ConfigFault
from isthmus.config.load import Parsed, read
from isthmus.config.sighting import Sighting, sight

log = logging.getLogger("isthmus.config")

INTERVAL_S = 1.0


def sightings(paths: Iterable[Path]) -> dict[Path, Sighting]:
    """What those of the files look like that are there."""
    seen = ((path, sight(path)) for path in paths)
    return {path: sighting for path, sighting in seen if sighting is not None}


def worth_reading(last: dict[Path, Sighting], now: dict[Path, Sighting]) -> bool:
    """True where a file may say something new. A vanished file says nothing: it may be on its way back."""
    return any(last.get(path) != sighting for path, sighting in now.items())


def log_kind(error: Exception) -> None:
    """Log that a change was not taken, and what kind of error kept it from being so: its text may be
    secret."""
    log.error("the config's change was not taken: %s", type(error).__name__)


class Watcher:
    """Keeps a running gateway's config up to date with its file, and with the files that it names.

    `on_config` gets every new valid config, `on_faults` all that is wrong with an invalid one, `on_error`
    whatever a look at the file or `on_config` raised; they run in the event loop and should be quick. What
    takes longer with a valid config is for `prepare`, in the thread that has read it. A file that changed in
    looks only (comments, order) is told to none of the others. No error ends the watch.
    `current` is the config that was loaded: with it, a change made since is noticed, too.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_config: Callable[[Config], None],
        on_faults: Callable[[tuple[ConfigFault, ...]], None],
        on_error: Callable[[Exception], None] = log_kind,
        current: Config | None = None,
        prepare: Callable[[Config], object] = lambda _: None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._path = path
        self._on_config = on_config
        self._on_faults = on_faults
        self._on_error = on_error
        self._prepare = prepare
        self._interval_s = interval_s
        self._hash = current.hash if current is not None else None
        self._named = current.files if current is not None else ()
        self._last = sightings([path]) if current is None else {}
        self._faults: tuple[ConfigFault, ...] = ()
        self._faulty = False
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._woken.wait()
            await self.check()

    def wake(self) -> None:
        """Read the file now, whatever it looks like, and hand the config out even if it says the same.

        For SIGHUP: secrets may have changed behind their references.
        """
        self._woken.set()

    async def check(self) -> None:
        """Look once. Files are read in a thread, so that a slow disk delays nobody."""
        woken = self._woken.is_set()
        self._woken.clear()
        # Taken before the file is read: one that is written meanwhile looks different next time.
        now = await asyncio.to_thread(sightings, (self._path, *self._named))
        if not woken and not self._may_be_new(now):
            return
        self._last |= now
        try:
            self._take(await asyncio.to_thread(self._read), woken)
        except Exception as error:
            # The same content would fail in the same way: only another one is looked at again.
            self._faulty, self._faults = True, ()
            self._on_error(error)

    def _read(self) -> Parsed:
        parsed = read(self._path)
        if parsed.config is not None:
            self._prepare(parsed.config)
        return parsed

    def _may_be_new(self, now: dict[Path, Sighting]) -> bool:
        # What mends a fault may be any file that a config names, and only a valid config tells which.
        return self._path in now and (bool(self._faults) or worth_reading(self._last, now))

    def _take(self, parsed: Parsed, woken: bool) -> None:
        config, faults = parsed
        if config is None:
            told, self._faults, self._faulty = self._faults, faults, True
            if woken or faults != told:
                self._on_faults(faults)
            return
        self._named = config.files
        if woken or self._faulty or config.hash != self._hash:
            # A file that was mended is told of, even where it says again what it said before.
            self._faulty, self._faults = False, ()
            self._hash = config.hash
            self._on_config(config)
