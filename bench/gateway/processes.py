"""Starting, watching, pausing and ending the processes that a benchmark needs. Linux only: it reads /proc."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_LIMIT_S = 90.0
STOP_LIMIT_S = 10.0


class NotServingError(Exception):
    """The program ended, or never gave a good answer in time. The text says which."""


@dataclass(frozen=True)
class Cores:
    """One core for the gateway, another for the upstream, the load and this program."""

    gateway: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first two cores that this process may use. Raises RuntimeError when there are fewer."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise RuntimeError("the benchmark needs two cores: one for the gateway, one for the load")
        return cls(gateway=allowed[0], load=allowed[1])


def pinned(core: int, command: list[str]) -> list[str]:
    """The same command, kept on one core with everything that it starts."""
    return ["taskset", "-c", str(core), *command]


class Server:
    """A program in a session of its own, so that all its processes can be counted and ended together."""

    def __init__(self, command: list[str], *, core: int, env: dict[str, str], log: Path) -> None:
        self._log = log
        self.started_at = time.monotonic()
        with log.open("wb") as err:
            self._child = subprocess.Popen(
                pinned(core, command),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )

    def first_line(self) -> str:
        """The first line that the program prints. Raises NotServingError when it ends without one."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline().decode().strip()
        if not line:
            raise NotServingError(self.why())
        return line

    def wait_for_answer(self, port: int, path: str, key: str, body: bytes) -> float:
        """Seconds from the program's start to its first 200 on a real request. Raises NotServingError."""
        last = "no connection"
        while time.monotonic() - self.started_at < START_LIMIT_S:
            if self._child.poll() is not None:
                raise NotServingError(self.why())
            try:
                status, text = post(port, path, key, body)
            except OSError:
                time.sleep(0.005)
                continue
            if status == 200:
                return time.monotonic() - self.started_at
            last = f"status {status}: {text[:200]!r}"
            time.sleep(0.02)
        raise NotServingError(f"no good answer within {START_LIMIT_S:.0f} s ({last}); {self.why()}")

    def why(self) -> str:
        """The program's exit status, if it ended, and the last lines of its log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(0.2)
        status = self._child.returncode
        lines = self._log.read_text(errors="replace").strip().splitlines()[-4:]
        state = "running" if status is None else f"ended with status {status}"
        return f"{state}; log: {' / '.join(lines) or '(empty)'}"

    def pids(self) -> list[int]:
        """Every living process of the program."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) == self._child.pid:
                        found.append(int(entry.name))
        return found

    def cpu_s(self) -> float:
        """Processor time used so far by all its processes, user and kernel."""
        return sum(cpu_s_of(pid) for pid in self.pids())

    def rss_mb(self) -> float:
        """Resident memory of all its processes now, in MiB; pages that they share count for each."""
        return sum(status_kb(pid, "VmRSS") for pid in self.pids()) / 1024

    def peak_rss_mb(self) -> float:
        """The highest resident memory of each of its processes, summed, in MiB."""
        return sum(status_kb(pid, "VmHWM") for pid in self.pids()) / 1024

    def pause(self) -> None:
        """Stops all its processes where they stand, so that they cost the others nothing."""
        os.killpg(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets them go on."""
        os.killpg(self._child.pid, signal.SIGCONT)

    def settle(self, limit_s: float = 5.0) -> None:
        """Waits until it is all but idle: work left over from one measure must not fall into the next."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            before = self.cpu_s()
            time.sleep(0.2)
            if self.cpu_s() - before <= 0.02:
                return

    def stop(self) -> None:
        """Asks it to end, and ends it if it does not within ten seconds."""
        with contextlib.suppress(ProcessLookupError):
            self.resume()
            os.killpg(self._child.pid, signal.SIGTERM)
        try:
            self._child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._child.stdout is not None:
            self._child.stdout.close()


def post(port: int, path: str, key: str, body: bytes) -> tuple[int, str]:
    """One POST of JSON on a connection of its own: the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except http.client.HTTPException as fault:
        raise ConnectionError(str(fault)) from fault
    finally:
        connection.close()


def cpu_s_of(pid: int) -> float:
    """Processor time of one process, user and kernel (/proc/PID/stat, fields 14 and 15); 0 once it ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / TICKS_PER_S


def status_kb(pid: int, field: str) -> int:
    """One size in KiB from /proc/PID/status; 0 once the process ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0


def busy_s(core: int) -> float:
    """Time that one core has not idled since the machine started (/proc/stat), stolen time included."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(n) for n in line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
    raise RuntimeError(f"/proc/stat does not list core {core}")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
