"""Keep one engine's process running: start it, watch its health, restart it, stop it.

Nothing here knows which engine it is: a `Launch` says how to start it, `child` how it tells its address, and
`GET /health` whether it works (200) or is still loading (any other answer).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import urlsplit

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.providers.engines.child import Announcement, Listening, Refused

_LOADING_PROBE_EVERY_S = 0.05
_LOG_BYTES = 2 << 20
_LONGEST_LINE = 8192
_LINES_KEPT = 200
_LOG_DRAIN_S = 1.0


class State(StrEnum):
    """Where an engine is. Only `ready` answers requests; from `failed` only a new `start` leads on."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"


class Change(msgspec.Struct, frozen=True):
    """An engine's new state, and for `restarting` and `failed` the reason, which never quotes a request."""

    name: str
    state: State
    reason: str = ""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for an engine, and how often to try again. Durations in seconds.

    More than `restarts` within `restarts_window_s` is a failure. Delays double from `first_delay_s` to
    `longest_delay_s`. An engine that misses `probe_misses` health checks in a row is hung, and is restarted.
    """

    start_timeout_s: float = 180.0
    probe_every_s: float = 5.0
    probe_timeout_s: float = 5.0
    probe_misses: int = 3
    restarts: int = 5
    restarts_window_s: float = 600.0
    first_delay_s: float = 0.25
    longest_delay_s: float = 30.0


PATIENCE = Patience()
"""The patience for an engine on the same machine."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the process. `stdin` is its line of settings and may hold secrets, as `environ` may.

    The process inherits the `files` under the numbers that they have here; they are closed once it has them.
    """

    argv: Sequence[str]
    stdin: bytes = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    files: Sequence[BinaryIO] = ()


class EngineFailedError(IsthmusError):
    """The engine is not running and will not be restarted."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(Fault.UNAVAILABLE, message, code="engine_failed", hint=hint)


class _End(msgspec.Struct, frozen=True):
    """How one process ended, in words that follow its name, and what to do.

    `ready` says that it had been ready, `final` that another start would end in the same way.
    """

    what: str
    hint: str = ""
    ready: bool = False
    final: bool = False


def restart_delay_s(patience: Patience, restarts: int, chance: float) -> float:
    """The pause before the next start, after `restarts` recent ones: exponential, between half of it and all
    of it.

    `chance` in [0, 1) spreads the engines of many machines that failed together.
    """
    longest = min(patience.longest_delay_s, patience.first_delay_s * 2.0 ** min(restarts, 64))
    return longest * (0.5 + 0.5 * chance)


async def is_healthy(address: str, timeout_s: float) -> bool:
    """True where `GET /health` is answered with 200 within `timeout_s` seconds, over a new connection."""
    parts = urlsplit(address)
    request = f"GET /health HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(request.encode())
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return False
    return status_line.split()[1:2] == [b"200"]


class Supervisor:
    """One engine's process, over as many lives as it needs; to be used from one event loop.

    `launch` is called before every start, in a thread, with the port of the last life, or 0 for a free one,
    so that an address outlives a crash where it can. An IsthmusError that it raises says that there is to be
    no start, and ends the engine as failed. `complaint` picks the line out of the log that tells why a start
    failed; it sees no line that was written after the engine was ready, since these may quote requests.
    `listener` is called in the event loop at each change of state and must neither block nor raise. `chance`
    gives numbers in [0, 1).
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[int], Launch],
        *,
        log: Path,
        complaint: Callable[[Sequence[str]], str] = lambda lines: lines[-1] if lines else "",
        patience: Patience = PATIENCE,
        listener: Callable[[Change], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._launch = launch
        self._log = log
        self._complaint = complaint
        self._patience = patience
        self._listener = listener
        self._chance = chance
        self._state = State.STOPPED
        self._end: _End | None = None
        self._address: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._life: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._grace_s = 0.0

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def address(self) -> str | None:
        """Where the engine answers, or answered last; None before it was first ready."""
        return self._address

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is no process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Return when the engine is ready; at once if it is. Raises EngineFailedError.

        An engine that was never ready is not tried again: what keeps it from starting is told at once.
        """
        life = self._life
        if life is None or life.done():
            self._settled.clear()
            self._end = None
            self._grace_s = 0.0
            life = self._life = asyncio.create_task(self._live(), name=f"supervise {self.name}")
        try:
            await self._settled.wait()
        except asyncio.CancelledError:
            await self.stop(0.0)
            raise
        if life.done() and not life.cancelled():
            life.result()
        if self._state is not State.READY:
            end = self._end or _End("was stopped")
            raise EngineFailedError(
                f"The engine {self.name} {end.what}.", hint=end.hint or f"Its log is {self._log}."
            )

    async def stop(self, grace_s: float = 10.0) -> None:
        """Ask the process to end, kill it after `grace_s` seconds, and return when it is gone."""
        life, self._life = self._life, None
        if life is not None:
            self._grace_s = grace_s
            life.cancel()
            await asyncio.wait({life})
        if self._state is not State.STOPPED:
            self._enter(State.STOPPED)

    async def _live(self) -> None:
        clock = asyncio.get_running_loop().time
        restarts: deque[float] = deque()
        been_ready = False
        self._enter(State.STARTING)
        try:
            while True:
                end = await self._run_once()
                self._settled.clear()
                been_ready = been_ready or end.ready
                while restarts and restarts[0] < clock() - self._patience.restarts_window_s:
                    restarts.popleft()
                if end.final or not been_ready or len(restarts) >= self._patience.restarts:
                    self._end = end
                    self._enter(State.FAILED, end.what)
                    return
                self._enter(State.RESTARTING, end.what)
                await asyncio.sleep(restart_delay_s(self._patience, len(restarts), self._chance()))
                restarts.append(clock())
        finally:
            self._settled.set()

    async def _run_once(self) -> _End:
        output = _Output(self._log)
        try:
            async with self._running(output) as process:
                try:
                    async with asyncio.timeout(self._patience.start_timeout_s):
                        refusal = await self._become_ready(process)
                except TimeoutError:
                    refusal = _End(f"was not ready within {self._patience.start_timeout_s:g} s")
                if refusal is None:
                    output.forget()
                    self._enter(State.READY)
                    self._settled.set()
                    return await self._watch(process)
        except OSError as fault:
            return _End(f"could not be started: {fault.strerror or fault}")
        except IsthmusError as fault:
            return _End(f"is not started: {fault.message.rstrip('.')}", fault.hint, final=True)
        finally:
            await asyncio.to_thread(output.drain)
        complaint = self._complaint(output.lines)
        return msgspec.structs.replace(refusal, what=f"{refusal.what}: {complaint}") if complaint else refusal

    @asynccontextmanager
    async def _running(self, output: _Output) -> AsyncIterator[asyncio.subprocess.Process]:
        launch = await asyncio.to_thread(self._launch, urlsplit(self._address or "").port or 0)
        with ExitStack() as inherited:
            for file in launch.files:
                inherited.enter_context(file)
            process = await asyncio.create_subprocess_exec(
                *launch.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output.open(),
                env=launch.environ,
                pass_fds=[file.fileno() for file in launch.files],
                # A Ctrl-C at the terminal is the gateway's to handle: its engines have to last until it has
                # drained.
                start_new_session=True,
            )
        self._process = process
        try:
            output.start()
            assert process.stdin
            process.stdin.write(launch.stdin + b"\n")
            yield process
        finally:
            await self._put_down(process)
            self._process = None

    async def _become_ready(self, process: asyncio.subprocess.Process) -> _End | None:
        """None when the engine is ready, or else why it never will be."""
        assert process.stdout
        line = await process.stdout.readline()
        if not line:
            return _End(_exit_in_words(await process.wait()))
        try:
            announcement = msgspec.json.decode(line, type=Announcement)
        except msgspec.MsgspecError as fault:
            return _End(f"announced itself in a way that is not understood ({fault})")
        match announcement:
            case Refused(message, hint):
                return _End(f"refused to start: {message}", hint, final=True)
            case Listening(address):
                while not await is_healthy(address, self._patience.probe_timeout_s):
                    if process.returncode is not None:
                        return _End(_exit_in_words(process.returncode))
                    await asyncio.sleep(_LOADING_PROBE_EVERY_S)
                self._address = address
        return None

    async def _watch(self, process: asyncio.subprocess.Process) -> _End:
        """How a ready engine ended, once it has."""
        assert self._address
        exited = asyncio.create_task(process.wait())
        misses = 0
        try:
            while misses < self._patience.probe_misses:
                await asyncio.wait({exited}, timeout=self._patience.probe_every_s)
                if exited.done():
                    return _End(_exit_in_words(exited.result()), ready=True)
                misses = 0 if await is_healthy(self._address, self._patience.probe_timeout_s) else misses + 1
            return _End(f"did not answer {misses} health checks in a row", ready=True)
        finally:
            exited.cancel()

    async def _put_down(self, process: asyncio.subprocess.Process) -> None:
        try:
            if process.returncode is None and self._grace_s > 0:
                with suppress(ProcessLookupError):
                    process.terminate()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._grace_s):
                        await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _enter(self, state: State, reason: str = "") -> None:
        self._state = state
        self._listener(Change(self.name, state, reason))


def _exit_in_words(status: int) -> str:
    if status < 0:
        memory = " (perhaps the system ran out of memory)" if -status == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-status).name}{memory}"
    return f"ended with status {status}"


class _Output:
    """What a process writes to its standard error, read by a thread into the log; its last lines are kept."""

    def __init__(self, log: Path) -> None:
        self._log = _BoundedFile(log)
        self._kept: deque[str] = deque(maxlen=_LINES_KEPT)
        self._keeping = True
        self._write_end: int | None = None
        self._reader: BinaryIO | None = None
        self._thread: threading.Thread | None = None

    @property
    def lines(self) -> list[str]:
        return list(self._kept)

    def open(self) -> int:
        """The file descriptor that the process is given."""
        read_end, self._write_end = os.pipe()
        self._reader = os.fdopen(read_end, "rb")
        return self._write_end

    def start(self) -> None:
        """Begin to read; the process has its own copy of the descriptor now."""
        self._close_write_end()
        self._thread = threading.Thread(target=self._copy, name="engine log", daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """Keep no line any more: what comes now may quote requests."""
        self._keeping = False
        self._kept.clear()

    def drain(self) -> None:
        """Wait until all is read, but not for a grandchild that holds the pipe open."""
        self._close_write_end()
        if self._thread:
            self._thread.join(_LOG_DRAIN_S)
        elif self._reader:
            self._reader.close()

    def _close_write_end(self) -> None:
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None

    def _copy(self) -> None:
        assert self._reader
        with self._reader as reader, self._log as log:
            while line := reader.readline(_LONGEST_LINE):
                if self._keeping:
                    self._kept.append(line.decode(errors="replace").rstrip())
                log.append(line)


class _BoundedFile:
    """A file that is moved to `<name>.1` when it is full, so that the two together stay below _LOG_BYTES."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def append(self, line: bytes) -> None:
        """Write the line. On a full disk it is counted instead: an engine must not wait for its log."""
        try:
            file = self._opened(len(line))
            if self._lost:
                file.write(b"(%d lines are missing here: the log could not be written)\n" % self._lost)
                self._lost = 0
            file.write(line)
        except OSError:
            self._lost += 1

    def _opened(self, more: int) -> BinaryIO:
        if self._file and self._file.tell() + more > _LOG_BYTES // 2:
            self._file.close()
            self._file = None
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        return self._file
