"""What a killed process and a full disk leave of a ledger. Real processes, real files."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.core.record import Record, Timings
from isthmus.store.ledger import SqliteLedger
from isthmus.store.records import SqliteRecords

# A gateway in small: it is started with a path, a mode and the name of one of its functions.
GATEWAY = textwrap.dedent(
    '''
    import asyncio, logging, os, resource, sys
    from pathlib import Path

    from isthmus.core.errors import IsthmusError
    from isthmus.core.record import Intent, Record, Timings
    from isthmus.store.ledger import SqliteLedger

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    def record(number, body=None):
        return Record(
            id=f"req_{number:032x}", at_us=number, dialect="openai-chat", operation="chat", route="r",
            stream=False, status=200, outcome="ok", config_hash="c", request_body=body,
            timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=1.0),
        )

    def intent(number):
        return Intent(
            id=f"req_{number:032x}", at_us=number, dialect="openai-chat", operation="chat", route="r",
            stream=False, key_id=None, config_hash="c",
        )

    async def strict(ledger):
        """Serves for ever, eight at a time; says what has begun and what was acknowledged."""
        numbers = iter(range(10**9))

        async def serve():
            for number in numbers:
                await ledger.begin(intent(number))
                say("begun", number)
                await ledger.commit(record(number))
                say("done", number)

        await asyncio.gather(*(serve() for _ in range(8)))

    async def batched(ledger):
        """Appends every millisecond for ever; says what is appended and committed, and the longest lag."""
        longest_ms = 0.0
        for number in range(10**9):
            ledger.append(record(number))
            health = ledger.health()
            longest_ms = max(longest_ms, health.lag_ms)
            say("appended", number, health.committed, longest_ms)
            await asyncio.sleep(0.001)

    async def fill_batched(ledger):
        """Fills the disk, tells how the ledger is, and goes on when it is told that there is room again."""
        number = 0
        while ledger.health().state == "ok":
            for _ in range(20):
                ledger.append(record(number, os.urandom(2000)))
                number += 1
            await asyncio.sleep(0.001)
        for _ in range(2000):
            ledger.append(record(number))
            number += 1
        health = ledger.health()
        say("failing", number, health.queued, health.lost, health.reason)
        await asyncio.to_thread(sys.stdin.readline)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        while ledger.health().state != "ok" or ledger.health().queued:
            await asyncio.sleep(0.005)
        await ledger.close()
        say("closed", ledger.health().committed, ledger.health().lost)

    async def fill_strict(ledger):
        """Fills the disk, and says how a request is refused then, and how long that took."""
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            begun = loop.time()
            try:
                await ledger.begin(intent(number))
                await ledger.commit(record(number, os.urandom(20000)))
            except IsthmusError as error:
                say("refused", error.code, error.status, loop.time() - begun, number)
                break
            say("done", number)
            number += 1
        # An intent is small, and may find room where a record found none.
        while True:
            number += 1
            begun = loop.time()
            try:
                await ledger.begin(intent(number))
            except IsthmusError as error:
                say("refused", error.code, error.status, loop.time() - begun, number)
                break
        await asyncio.to_thread(sys.stdin.readline)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        while ledger.health().state != "ok" or ledger.health().queued:
            await asyncio.sleep(0.005)
        await ledger.begin(intent(number + 1))
        await ledger.commit(record(number + 1))
        await ledger.close()
        say("closed", number + 1)

    async def main(path, mode, what, limit):
        ledger = SqliteLedger(Path(path), mode, max_queued=1000)
        if int(limit):
            import signal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        say("ready")
        await globals()[what](ledger)

    logging.disable()
    asyncio.run(main(*sys.argv[1:]))
    '''
)


class Gateway:
    """The process, and what it has said."""

    def __init__(self, path: Path, mode: str, what: str, limit: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, str(path), mode, what, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.hear() == ["ready"]

    def hear(self) -> list[str]:
        """The next thing that it says; nothing at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().split()

    def tell(self) -> None:
        """Lets it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> list[list[str]]:
        """Kills it with signal 9; returns what it had said unheard. A last half line was not said."""
        self._process.send_signal(signal.SIGKILL)
        assert self._process.stdout is not None
        rest = self._process.stdout.read().decode()
        self._process.wait()
        return [line.split() for line in rest.splitlines(keepends=True) if line.endswith("\n")]

    def end(self) -> None:
        """Makes sure that it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def gateways() -> Iterator[list[Gateway]]:
    started: list[Gateway] = []
    yield started
    for gateway in started:
        gateway.end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def numbers(path: Path, outcome: str) -> set[int]:
    return {int(record.id[4:], 16) for record in SqliteRecords(path).scan() if record.outcome == outcome}


def make_record(number: int, body: bytes) -> Record:
    return Record(
        id=f"req_{number:032x}",
        at_us=number,
        dialect="openai-chat",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="ok",
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=1.0),
        config_hash="c",
        request_body=body,
    )


def check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@pytest.mark.parametrize("heard", [1, 60, 400])
async def test_a_killed_strict_ledger_has_lost_nothing(
    path: Path, gateways: list[Gateway], heard: int
) -> None:
    gateways.append(Gateway(path, "strict", "strict"))
    said = [gateways[-1].hear() for _ in range(heard)]
    said += gateways[-1].kill()
    begun = {int(number) for what, number in said if what == "begun"}
    done = {int(number) for what, number in said if what == "done"}
    # Readable at once, by who only reads; whole after the next start.
    assert done <= numbers(path, "ok")
    await SqliteLedger(path, "strict").close()
    answered, interrupted = numbers(path, "ok"), numbers(path, "interrupted")
    assert done <= answered
    assert begun <= answered | interrupted
    assert not answered & interrupted
    # Eight were served at a time: only they can be open.
    assert len(interrupted) <= 8
    check_integrity(path)


@pytest.mark.parametrize("heard", [30, 333, 700])
async def test_a_killed_batched_ledger_has_lost_its_last_moment_only(
    path: Path, gateways: list[Gateway], heard: int
) -> None:
    gateways.append(Gateway(path, "batched", "batched"))
    said = [gateways[-1].hear() for _ in range(heard)]
    said += gateways[-1].kill()
    _, last, committed, longest_ms = said[-1]
    kept = numbers(path, "ok")
    # What is kept is a beginning of what was appended, without a hole.
    assert kept == set(range(len(kept)))
    assert len(kept) >= int(committed)
    # At one record a millisecond at most, the lost ones span at least as many milliseconds as they are many.
    # The bound is the promised 100 ms, or what the process itself has seen when this machine was too busy to
    # keep it.
    assert int(last) + 1 - len(kept) <= max(100.0, 2 * float(longest_ms))
    check_integrity(path)
    ledger = SqliteLedger(path)
    await ledger.close()


def test_a_full_disk_fails_the_batched_ledger_softly(path: Path, gateways: list[Gateway]) -> None:
    gateway = Gateway(path, "batched", "fill_batched", limit=400_000)
    gateways.append(gateway)
    what, appended, queued, lost, *reason = gateway.hear()
    assert what == "failing"
    assert int(queued) <= 1000 <= int(lost)
    assert any(word in " ".join(reason) for word in ("full", "I/O"))
    gateway.tell()
    what, committed, lost = gateway.hear()
    assert what == "closed"
    # Every record that was appended is either there or counted as lost.
    kept = numbers(path, "ok")
    assert len(kept) == int(committed) == int(appended) - int(lost)
    check_integrity(path)


async def test_a_full_disk_makes_the_strict_ledger_refuse_within_its_bound(
    path: Path, gateways: list[Gateway]
) -> None:
    gateway = Gateway(path, "strict", "fill_strict", limit=400_000)
    gateways.append(gateway)
    done = set()
    while (said := gateway.hear())[0] == "done":
        done.add(int(said[1]))
    refusals = [said, gateway.hear()]
    for what, code, status, seconds, _ in refusals:
        assert (what, code, status) == ("refused", "ledger_unavailable", "503")
        # The bound is two seconds; this machine may be slow.
        assert float(seconds) < 10.0
    gateway.tell()
    what, last = gateway.hear()
    assert what == "closed"
    assert done | {int(last)} <= numbers(path, "ok")
    await SqliteLedger(path).close()
    # Who was refused at the begin has never been tried, and is no interrupted request.
    assert int(refusals[1][4]) not in numbers(path, "ok") | numbers(path, "interrupted")
    check_integrity(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_file_system_recovers_when_there_is_room(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    ledger = SqliteLedger(path, max_queued=100)
    appended = 0
    async with asyncio.timeout(30):
        while ledger.health().state == "ok":
            ledger.append(make_record(appended, os.urandom(1000)))
            appended += 1
            await asyncio.sleep(0.001)
        assert "full" in (ledger.health().reason or "")
        ballast.unlink()
        # What happens in a thread sets no event of ours.
        while ledger.health().state != "ok" or ledger.health().queued:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await ledger.close()
    health = ledger.health()
    assert len(numbers(path, "ok")) == health.committed == appended - health.lost
    check_integrity(path)
