"""Runs a program in the sandbox and tells what came of it.

Where this machine cannot build the walls nothing is run: there is no weaker sandbox to go back to.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

import isthmus
from isthmus.core.errors import Fault, IsthmusError
from isthmus.evals.sandbox.warden import TIMED_OUT, Order

_GRACE_S = 5.0
"""The warden keeps the time itself; where it has failed to for so long, it is killed."""

_START = """
import sys
sys.path.insert(0, sys.argv[1])
from isthmus.evals.sandbox import warden
del sys.path[0]
warden.main(int(sys.argv[2]))
"""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything a program may use: seconds, bytes, and processes with their threads.

    `memory` is that of each process, `disk` that of all files together. Of what it writes to its output the
    last `output` bytes are kept.
    """

    wall_s: float = 10.0
    memory: int = 512 << 20
    disk: int = 16 << 20
    processes: int = 16
    output: int = 16 << 10


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended: `finished` where it came to its last line without an error.

    `status` is what a shell would say of it, `output` the last that it wrote.
    """

    finished: bool
    status: int
    output: str
    timed_out: bool


def run(program: str, limits: Limits) -> Outcome:
    """Run the source of a Python program; blocks until it has ended.

    Raises IsthmusError (`sandbox_unavailable`) where the walls cannot be built: nothing was run then.
    """
    token = secrets.token_hex(16)
    proof, theirs = os.pipe()
    with os.fdopen(proof, "rb") as told:
        try:
            warden = _started(theirs)
        finally:
            os.close(theirs)
        with warden:
            assert warden.stdin
            assert warden.stdout
            assert warden.stderr
            late = threading.Timer(limits.wall_s + _GRACE_S, _kill, (warden,))
            late.start()
            try:
                _give(warden.stdin, _order(program, token, limits))
                output = _last(warden.stdout, limits.output)
                complaint = warden.stderr.read(4096).decode(errors="replace")
                status = warden.wait()
            finally:
                late.cancel()
        finished = told.read(len(token)) == token.encode()
    if complaint:
        raise _unavailable(complaint)
    return Outcome(
        finished=finished,
        status=status,
        output=output.decode(errors="replace"),
        timed_out=status in (TIMED_OUT, -signal.SIGKILL),
    )


def check() -> None:
    """Nothing where this machine can build the walls. Raises IsthmusError (`sandbox_unavailable`)."""
    if not run("", Limits()).finished:
        raise _unavailable("an empty program did not end")


def _started(proof: int) -> subprocess.Popen[bytes]:
    if sys.platform != "linux":
        raise _unavailable(f"this is {sys.platform}")
    source = str(Path(isthmus.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _START, source, str(proof)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={},
        pass_fds=(proof,),
        start_new_session=True,
    )


def _order(program: str, token: str, limits: Limits) -> bytes:
    shown = _visible()
    order = Order(
        # A lone surrogate is no character in any file of source code.
        program=program.encode("utf-8", "replace").decode(),
        token=token,
        visible=shown,
        hidden=[path for path in _packages() if any(Path(path).is_relative_to(it) for it in shown)],
        wall_s=limits.wall_s,
        cpu_s=max(1, round(limits.wall_s)),
        memory=limits.memory,
        disk=limits.disk,
        processes=limits.processes,
    )
    return msgspec.json.encode(order)


def _visible() -> list[str]:
    """The folders with the interpreter's libraries and the system's, none of them within another."""
    base = Path(sys.base_prefix)
    wanted = [*map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64")), base / "lib", base / "lib64"]
    found = dict.fromkeys(path for path in wanted if path.is_dir())
    return [str(path) for path in found if not any(parent in found for parent in path.parents)]


def _packages() -> list[str]:
    """Where the interpreter has packages that are not Python's own."""
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    places = {sysconfig.get_path(name, vars=base) for name in ("purelib", "platlib")}
    return sorted(place for place in places if Path(place).is_dir())


def _give(stdin: IO[bytes], order: bytes) -> None:
    # A warden that has refused reads no order; what it has to say comes after.
    with suppress(BrokenPipeError):
        stdin.write(order)
    with suppress(BrokenPipeError):
        stdin.close()


def _last(stream: IO[bytes], size: int) -> bytes:
    """The last bytes of a stream, of which no more than that is ever held."""
    kept = b""
    while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]
        kept = (kept + chunk)[-size:]
    return kept


def _kill(warden: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(warden.pid, signal.SIGKILL)


def _unavailable(why: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNAVAILABLE,
        f"Programs cannot be run in isolation here, so none is run: {why}.",
        code="sandbox_unavailable",
        hint="It needs Linux 5.12 or later with user namespaces: see docs/how-to/score-answers.md.",
    )
