"""One process at a time in a folder, for as long as it lives, or one that it has started."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.core.errors import Fault, IsthmusError


@contextmanager
def alone(lock: Path, code: str, doing: str) -> Iterator[int]:
    """The descriptor of the lock, which whoever inherits it holds as well.

    Raises IsthmusError with that code where another process is `doing` the same in the lock's folder.
    """
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"Another process is {doing} in {lock.parent}.",
                code=code,
                hint="Wait until it has ended, or name another folder with --out.",
            ) from None
        yield file.fileno()
