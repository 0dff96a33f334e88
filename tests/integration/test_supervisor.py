"""The supervisor and real processes: every way in which an engine can start, fail, hang and end."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.errors import Fault, IsthmusError
from isthmus.providers.engines.supervisor import (
    Change,
    EngineFailedError,
    Launch,
    Patience,
    State,
    Supervisor,
    is_healthy,
    restart_delay_s,
)

HERE = Path(__file__).parent
FAKE = HERE / "fake_engine.py"
HASTE = Patience(
    start_timeout_s=20,
    probe_every_s=0.05,
    probe_timeout_s=2,
    probe_misses=2,
    restarts=2,
    first_delay_s=0.001,
    longest_delay_s=0.002,
)


class Watched:
    """A supervisor of fake engines, its changes of state, and the ports that its launches were asked for."""

    def __init__(self, log: Path, lives: list[dict[str, Any]], patience: Patience) -> None:
        self.changes: list[Change] = []
        self.ports: list[int] = []
        self.log = log
        self._changed = asyncio.Event()
        self._lives = lives
        self.supervisor = Supervisor(
            "fake", self._launch, log=log, patience=patience, listener=self._heard, chance=lambda: 0.5
        )

    @property
    def states(self) -> list[State]:
        return [change.state for change in self.changes]

    async def until(self, *states: State) -> None:
        """Return when these have been the states so far; any other course is a failure."""
        while len(self.states) < len(states):
            self._changed.clear()
            await self._changed.wait()
        assert tuple(self.states[: len(states)]) == states

    def _launch(self, port: int) -> Launch:
        self.ports.append(port)
        settings = self._lives[min(len(self.ports), len(self._lives)) - 1]
        stdin = msgspec.json.encode({"port": port, **settings})
        return Launch(argv=(sys.executable, str(FAKE)), stdin=stdin, environ=dict(os.environ))

    def _heard(self, change: Change) -> None:
        self.changes.append(change)
        self._changed.set()


Watch = Callable[..., Watched]


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    made: list[Watched] = []

    def make(*lives: dict[str, Any], patience: Patience = HASTE) -> Watched:
        made.append(Watched(tmp_path / "logs" / "fake.log", list(lives) or [{}], patience))
        return made[-1]

    async with asyncio.timeout(50):
        yield make
    for watched in made:
        await watched.supervisor.stop(0)


async def test_start_waits_until_the_engine_has_loaded(watch: Watch) -> None:
    watched = watch({"loading": 3})
    await watched.supervisor.start()
    assert watched.states == [State.STARTING, State.READY]
    assert await is_healthy(watched.supervisor.address or "", 2)


async def test_a_killed_engine_comes_back_at_the_same_address(watch: Watch) -> None:
    watched = watch()
    await watched.supervisor.start()
    address, pid = watched.supervisor.address, watched.supervisor.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    await watched.until(State.STARTING, State.READY, State.RESTARTING, State.READY)
    assert watched.supervisor.address == address
    assert watched.supervisor.pid not in (pid, None)
    assert "SIGKILL" in watched.changes[2].reason


async def test_start_during_a_restart_waits_for_it(watch: Watch) -> None:
    watched = watch()
    await watched.supervisor.start()
    assert watched.supervisor.pid
    os.kill(watched.supervisor.pid, signal.SIGKILL)
    await watched.until(State.STARTING, State.READY, State.RESTARTING)
    await watched.supervisor.start()
    assert watched.supervisor.state is State.READY


async def test_a_taken_port_moves_the_address(watch: Watch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        watched = watch({}, {"port": other.getsockname()[1]})
        await watched.supervisor.start()
        before = watched.supervisor.address
        assert watched.supervisor.pid
        os.kill(watched.supervisor.pid, signal.SIGKILL)
        await watched.until(State.STARTING, State.READY, State.RESTARTING, State.READY)
    assert watched.supervisor.address != before
    assert await is_healthy(watched.supervisor.address or "", 2)


async def test_a_hung_engine_is_restarted(watch: Watch) -> None:
    watched = watch(patience=msgspec.structs.replace(HASTE, probe_timeout_s=0.3))
    await watched.supervisor.start()
    await asyncio.to_thread(lambda: urlopen(f"{watched.supervisor.address}/hang").close())
    await watched.until(State.STARTING, State.READY, State.RESTARTING, State.READY)
    assert watched.changes[2].reason == "did not answer 2 health checks in a row"


async def test_an_engine_that_keeps_dying_fails_after_its_budget(watch: Watch) -> None:
    watched = watch({"dies_when_ready": True})
    await watched.supervisor.start()
    lives = [State.READY, State.RESTARTING] * HASTE.restarts
    await watched.until(State.STARTING, *lives, State.READY, State.FAILED)
    assert len(watched.ports) == 1 + HASTE.restarts
    assert watched.supervisor.pid is None


async def test_a_failed_engine_can_be_started_again(watch: Watch) -> None:
    watched = watch({"exits": 3}, {})
    with pytest.raises(EngineFailedError):
        await watched.supervisor.start()
    await watched.supervisor.start()
    assert watched.states == [State.STARTING, State.FAILED, State.STARTING, State.READY]


async def test_a_first_start_that_fails_is_not_repeated_and_says_why(watch: Watch) -> None:
    watched = watch({"says": "reading\nno such tensor: output\n", "exits": 3})
    with pytest.raises(EngineFailedError) as caught:
        await watched.supervisor.start()
    assert caught.value.message == "The engine fake ended with status 3: no such tensor: output."
    assert str(watched.log) in caught.value.hint
    assert len(watched.ports) == 1


async def test_a_refusal_is_final_and_passes_its_hint_on(watch: Watch) -> None:
    watched = watch({}, {"refuses": "the library is missing"})
    await watched.supervisor.start()
    assert watched.supervisor.pid
    os.kill(watched.supervisor.pid, signal.SIGKILL)
    await watched.until(State.STARTING, State.READY, State.RESTARTING, State.FAILED)
    with pytest.raises(EngineFailedError, match="refused to start: the library is missing") as caught:
        await watched.supervisor.start()
    assert caught.value.hint == "Do as the hint says."


async def test_a_launch_that_is_refused_is_final_and_starts_no_process(tmp_path: Path) -> None:
    inherited = (tmp_path / "weights").open("w+b")
    altered = IsthmusError(Fault.UNAVAILABLE, "The weights are altered.", hint="Get them anew.")
    stdin = msgspec.json.encode({"port": 0})
    launches = [
        Launch(argv=(sys.executable, str(FAKE)), stdin=stdin, environ=dict(os.environ), files=[inherited])
    ]
    changes: list[Change] = []
    failed = asyncio.Event()

    def launch(port: int) -> Launch:
        if not launches:
            raise altered
        return launches.pop()

    def heard(change: Change) -> None:
        changes.append(change)
        if change.state is State.FAILED:
            failed.set()

    supervisor = Supervisor("fake", launch, log=tmp_path / "log", patience=HASTE, listener=heard)
    await supervisor.start()
    assert supervisor.pid
    assert inherited.closed
    assert (tmp_path / "weights").samefile(f"/proc/{supervisor.pid}/fd/{_inherited(supervisor.pid)}")
    os.kill(supervisor.pid, signal.SIGKILL)
    await failed.wait()
    assert changes[-1].reason == "is not started: The weights are altered"
    assert supervisor.pid is None
    with pytest.raises(EngineFailedError, match="is not started: The weights are altered") as caught:
        await supervisor.start()
    assert caught.value.hint == "Get them anew."


def _inherited(pid: int) -> str:
    """The number of the descriptor that leads to a file called `weights`."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return next(link.name for link in links if link.readlink().name == "weights")


async def test_an_engine_that_never_gets_ready_is_given_up(watch: Watch) -> None:
    watched = watch({"loading": 1_000_000}, patience=msgspec.structs.replace(HASTE, start_timeout_s=1.0))
    with pytest.raises(EngineFailedError, match="was not ready within 1 s"):
        await watched.supervisor.start()
    assert watched.supervisor.pid is None


async def test_an_announcement_that_is_none_is_a_failure(watch: Watch) -> None:
    watched = watch({"announces": "Hello!"})
    with pytest.raises(EngineFailedError, match="announced itself in a way that is not understood"):
        await watched.supervisor.start()


async def test_a_program_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    launch = Launch(argv=(str(tmp_path / "nowhere"),), stdin=b"", environ={})
    supervisor = Supervisor("fake", lambda _: launch, log=tmp_path / "log")
    with pytest.raises(EngineFailedError, match="could not be started: No such file"):
        await supervisor.start()


async def test_stop_lets_the_process_end_by_itself(watch: Watch) -> None:
    watched = watch()
    await watched.supervisor.start()
    pid = watched.supervisor.pid
    await watched.supervisor.stop(20)
    assert watched.states == [State.STARTING, State.READY, State.STOPPED]
    assert watched.log.read_text().endswith("ended in good order\n")
    assert pid
    assert not is_running(pid)


async def test_stop_kills_what_does_not_end(watch: Watch) -> None:
    watched = watch({"deaf_to_sigterm": True})
    await watched.supervisor.start()
    pid = watched.supervisor.pid
    await watched.supervisor.stop(0.2)
    assert pid
    assert not is_running(pid)


async def test_stop_while_starting_ends_the_start(watch: Watch) -> None:
    watched = watch({"loading": 1_000_000})
    start = asyncio.create_task(watched.supervisor.start())
    await watched.until(State.STARTING)
    await watched.supervisor.stop(0)
    with pytest.raises(EngineFailedError, match="was stopped"):
        await start
    assert watched.supervisor.pid is None


async def test_a_cancelled_start_leaves_no_process(watch: Watch) -> None:
    watched = watch({"loading": 1_000_000})
    start = asyncio.create_task(watched.supervisor.start())
    await watched.until(State.STARTING)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert watched.supervisor.pid is None
    assert watched.supervisor.state is State.STOPPED


async def test_no_reason_quotes_what_was_written_after_readiness(watch: Watch) -> None:
    watched = watch({"says_ready": "prompt: my secret\n", "dies_when_ready": True})
    await watched.supervisor.start()
    lives = [State.READY, State.RESTARTING] * HASTE.restarts
    await watched.until(State.STARTING, *lives, State.READY, State.FAILED)
    assert not [change for change in watched.changes if "secret" in change.reason]
    assert "my secret" in watched.log.read_text()


async def test_the_log_is_bounded_and_never_holds_the_engine_up(watch: Watch) -> None:
    line = "x" * 1023 + "\n"
    watched = watch({"says": line * 5000})
    await watched.supervisor.start()
    await watched.supervisor.stop()
    kept = sorted(path.name for path in watched.log.parent.iterdir())
    assert kept == ["fake.log", "fake.log.1"]
    assert sum(path.stat().st_size for path in watched.log.parent.iterdir()) <= 2 << 20


async def test_a_log_that_cannot_be_written_does_not_keep_the_engine_from_running(watch: Watch) -> None:
    watched = watch({"says": "x\n" * 100_000})
    watched.log.parent.write_text("a file where the folder should be")
    await watched.supervisor.start()
    assert watched.supervisor.state is State.READY


@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="waiting for a process that is no child takes Linux"
)
def test_an_engine_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, HERE / "supervise_fake_engine.py", FAKE, tmp_path / "log"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        wait_for_end(pid, parent.kill)


def test_an_engine_ends_when_its_standard_input_does() -> None:
    # Of the two bonds to the parent this is the one that every system has.
    engine = subprocess.Popen([sys.executable, FAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with engine:
        assert engine.stdin
        assert engine.stdout
        engine.stdin.write(b"{}\n")
        engine.stdin.flush()
        assert b"listening" in engine.stdout.readline()
        engine.stdin.close()
        assert engine.wait(20) == 1


def test_a_launch_keeps_its_secrets_out_of_its_repr() -> None:
    launch = Launch(argv=("engine",), stdin=b"the key", environ={"TOKEN": "the token"})
    assert "the key" not in repr(launch)
    assert "the token" not in repr(launch)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_delays_grow_but_have_a_bound(restarts: int, chance: float) -> None:
    patience = Patience()
    delay = restart_delay_s(patience, restarts, chance)
    assert patience.first_delay_s / 2 <= delay <= patience.longest_delay_s
    assert delay <= 2 * restart_delay_s(patience, restarts + 1, chance)
    assert restart_delay_s(patience, restarts, 0) <= delay


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int, act: Callable[[], None]) -> None:
    """Do `act` and wait for the end of a process that is not our child; fails after 20 seconds."""
    watched = os.pidfd_open(pid)
    try:
        act()
        ended, _, _ = select.select([watched], [], [], 20)
        assert ended, "the engine is still running"
    finally:
        os.close(watched)
