"""What an engine's process and its supervisor have agreed upon.

The supervisor writes one line of JSON, the settings, to the child's standard input and keeps it open; the
child writes one line, an `Announcement`, to its standard output. Everything else that it has to say goes to
its standard error. Settings travel this way because arguments and environment can be read by others on the
machine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import BinaryIO, TypeAlias, TypeVar

import msgspec

_PR_SET_PDEATHSIG = 1

T = TypeVar("T")


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """The engine answers at `address`, such as `http://127.0.0.1:8080`, or will once it is loaded."""

    address: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The engine cannot start, and why; to try again as it is would not help."""

    message: str
    hint: str = ""


Announcement: TypeAlias = Listening | Refused


def keep_stdout() -> BinaryIO:
    """The way to the supervisor; from now on what libraries print there goes to standard error."""
    kept = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return kept


def read_settings(kind: type[T]) -> T:
    """The settings that the supervisor sent. Raises msgspec.MsgspecError where they are of another shape."""
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)


def announce(out: BinaryIO, announcement: Announcement) -> None:
    """Tell the supervisor; to be called once."""
    out.write(msgspec.json.encode(announcement) + b"\n")
    out.close()


def end_with_parent() -> None:
    """From now on this process does not outlive its supervisor, even one that was killed with SIGKILL.

    Standard input ends with the supervisor on every system, but is only seen while a Python thread may run;
    Linux is asked for a signal as well, which comes during a long call into a library too.
    """
    be_killed_with_parent()
    threading.Thread(target=_end_with_stdin, name="end-with-parent", daemon=True).start()


def be_killed_with_parent() -> None:
    """From now on Linux kills this process, and what it becomes by `exec`, when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)
