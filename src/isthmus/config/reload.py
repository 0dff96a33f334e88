"""Watching the config file: a new one is taken when it is valid, else the last good one stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from isthmus.config.config import Config
from isthmus.config.faults import ConfigFault
from isthmus.config.load import Parsed, read

log = logging.getLogger("isthmus.config")

INTERVAL_S = 1.0


class Sighting(msgspec.Struct, frozen=True):
    """What tells one state of a file from another without reading it.

    Taken of the file behind every symlink, so that the swap of a directory's link, as Kubernetes does it for
    ConfigMaps, is seen as well as a file moved over the old one.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def sight(path: Path) -> Sighting | None:
    """What the file looks like now; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Sighting(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def worth_reading(last: Sighting | None, now: Sighting | None) -> bool:
    """True where the file may say something new. A vanished file says nothing: it may be on its way back."""
    return now is not None and now != last


class Look(msgspec.Struct, frozen=True):
    """What a look at the file brought: what it looked like, and what it said, None where it was not read."""

    sighting: Sighting | None
    parsed: Parsed | None


def look(path: Path, last: Sighting | None, *, anyway: bool = False) -> Look:
    """Read the file if it may say something new, or `anyway`.

    The sighting is taken before the file is read: one that is written meanwhile looks different next time.
    """
    now = sight(path)
    if not anyway and not worth_reading(last, now):
        return Look(last, None)
    return Look(now, read(path))


def log_kind(error: Exception) -> None:
    """Log that a change was not taken, and what kind of error kept it from being so: its text may be
    secret."""
    log.error("the config's change was not taken: %s", type(error).__name__)


class Watcher:
    """Keeps a running gateway's config up to date with its file.

    `on_config` gets every new valid config, `on_faults` all that is wrong with an invalid one, `on_error`
    whatever a look at the file or `on_config` raised; they run in the event loop and should be quick. A file
    that changed in looks only (comments, order) calls none. No error ends the watch.
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
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._path = path
        self._on_config = on_config
        self._on_faults = on_faults
        self._on_error = on_error
        self._interval_s = interval_s
        self._hash = current.hash if current is not None else None
        self._last = sight(path) if current is None else None
        self._faulty = False
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._interval_s)
            await self.check()

    def wake(self) -> None:
        """Read the file now, whatever it looks like, and hand the config out even if it says the same.

        For SIGHUP: secrets may have changed behind their references.
        """
        self._woken.set()

    async def check(self) -> None:
        """Look once. The file is read in a thread, so that a slow disk delays nobody."""
        woken = self._woken.is_set()
        self._woken.clear()
        try:
            await self._look(woken)
        except Exception as error:
            # The same content would fail in the same way: only another one is looked at again.
            self._last = await asyncio.to_thread(sight, self._path)
            self._faulty = True
            self._on_error(error)

    async def _look(self, woken: bool) -> None:
        seen = await asyncio.to_thread(look, self._path, self._last, anyway=woken)
        self._last = seen.sighting
        if seen.parsed is None:
            return
        config, faults = seen.parsed
        if config is None:
            self._faulty = True
            self._on_faults(faults)
        elif woken or self._faulty or config.hash != self._hash:
            # A file that was mended is told of, even where it says again what it said before.
            self._faulty = False
            self._hash = config.hash
            self._on_config(config)
