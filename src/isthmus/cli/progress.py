"""Progress of long work, on stderr: a bar on a terminal, a line for each tenth elsewhere."""

from __future__ import annotations

import sys
import time

from isthmus.providers.engines.fetch import Progress

WIDTH = 30
REDRAW_S = 0.1
WORTH_SHOWING = 1_000_000


class ProgressLine:
    """Draws progress as it is reported, also from another thread; each new `what` begins a line."""

    def __init__(self) -> None:
        self._what = ""
        self._tenths: dict[str, int] = {}
        self._drawn = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        if progress.total < WORTH_SHOWING:
            return
        if progress.what != self._what:
            if self._what and self._live:
                sys.stderr.write("\n")
            self._what, self._drawn = progress.what, 0.0
        share = progress.done / progress.total if progress.total else 1.0
        if self._live:
            self._draw(progress, share)
        elif int(share * 10) > self._tenths.get(progress.what, -1):
            self._tenths[progress.what] = int(share * 10)
            sys.stderr.write(f"{progress.what}: {share:.0%} of {progress.total / 1e6:,.0f} MB\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._what:
            sys.stderr.write("\n")
        self._what = ""

    def _draw(self, progress: Progress, share: float) -> None:
        now = time.monotonic()
        if share < 1 and now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        full = int(share * WIDTH)
        bar = "█" * full + "·" * (WIDTH - full)
        size = f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB"
        sys.stderr.write(f"\r{progress.what:<44.44} {bar} {share:4.0%}  {size} ")
        sys.stderr.flush()


class RunLine:
    """Draws how far a run of many requests is, what it has spent, and how long it will still take."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began: float | None = None
        self._drawn = 0.0
        self._tenth = -1
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int, asked: int, note: str = "") -> None:
        """`asked` of those done took time now; the others were known."""
        now = time.monotonic()
        self._began = self._began or now
        share = done / total if total else 1.0
        if self._live:
            if done < total and now - self._drawn < REDRAW_S:
                return
            self._drawn = now
            full = int(share * WIDTH)
            bar = "█" * full + "·" * (WIDTH - full)
            left = _left(now - self._began, asked, total - done)
            sys.stderr.write(f"\r\033[K{self._what} {bar} {done:,} of {total:,}  {note}{left}")
            sys.stderr.flush()
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            sys.stderr.write(f"{self._what}: {done:,} of {total:,}  {note}\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._drawn:
            sys.stderr.write("\n")


def _left(seconds: float, asked: int, more: int) -> str:
    if not asked or not more:
        return ""
    minutes, rest = divmod(round(seconds / asked * more), 60)
    return f"  {minutes}:{rest:02} left"
