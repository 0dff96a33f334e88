"""The gateway benchmark: the same work direct and through each gateway, on one core, interleaved.

    python -m bench.gateway.run [--quick] [--rounds N] [--only NAME,NAME] [--output FILE]

Progress goes to stderr; stdout gets a table, the goals, and as its last line one JSON object. A full run
writes its raw results to bench/results/gateway-DATE.json. Each round starts every target afresh, then goes
through the measures one by one, and in each through the targets, in an order that moves on by one from round
to round; those that are not being measured are paused (SIGSTOP).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gateway.measures import (
    BURST,
    MEASURES,
    SATURATION,
    Address,
    Measure,
    build_tools,
    chat_request,
    offer_load,
    rates_of,
)
from bench.gateway.peers import (
    BENCH,
    ROOT,
    TARGETS,
    VARIANTS,
    Launch,
    Target,
    UnavailableError,
    clean_environment,
    start_mock,
)
from bench.gateway.processes import Cores, NotServingError, Server, busy_s
from bench.gateway.report import headline, table, verdicts


@dataclass(frozen=True)
class Plan:
    """How long the run takes: rounds, and what share of each measure's full time."""

    rounds: int
    share: float
    warmup_s: float


FULL = Plan(rounds=3, share=1.0, warmup_s=1.0)
QUICK = Plan(rounds=2, share=0.3, warmup_s=0.4)


@dataclass
class Running:
    """A target that serves. The direct way has no server."""

    name: str
    address: Address
    server: Server | None


class Bench:
    """One run: its upstream, its targets, and the rows that it has gathered so far."""

    def __init__(self, plan: Plan, cores: Cores, room: Path) -> None:
        self.plan = plan
        self.cores = cores
        self.room = room
        self.rows: list[dict[str, Any]] = []
        self.starts: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}

    def run(self, targets: list[Target]) -> None:
        """Every round, with everything that it started ended at its end, whatever happens."""
        with self._serving_mock() as mock_port:
            for round_number in range(1, self.plan.rounds + 1):
                with contextlib.ExitStack() as stack:
                    running = [Running("direct", Address(mock_port), None)]
                    for target in targets:
                        if (one := self._start(target, mock_port, round_number, stack)) is not None:
                            running.append(one)
                    self._measure_all(running, round_number)

    @contextlib.contextmanager
    def _serving_mock(self) -> Iterator[int]:
        mock = start_mock(self.cores, self.room)
        try:
            yield int(mock.first_line())
        finally:
            mock.stop()

    def _start(
        self, target: Target, mock_port: int, round_number: int, stack: contextlib.ExitStack
    ) -> Running | None:
        """The target, serving and paused; None when it does not come up, which is then on record."""
        room = self.room / f"{target.name}-{round_number}"
        room.mkdir()
        say(f"round {round_number}: starting {target.name}")
        try:
            launch = target.launch(room, mock_port)
            env, log = clean_environment(launch.env), room / "stderr.log"
            server = Server(launch.command, core=self.cores.gateway, env=env, log=log)
            stack.callback(server.stop)
            address = address_of(launch, server)
            body = chat_request(address.model_prefix + "mock", stream=False)
            cold_start_s = server.wait_for_answer(address.port, address.path, address.key, body)
        except (NotServingError, UnavailableError) as fault:
            self._fail(target.name, f"round {round_number}: {self._without_paths(str(fault))}")
            return None
        server.settle()
        rss_mb = server.rss_mb()
        self._warm(address)
        start = {"target": target.name, "round": round_number}
        self.starts.append({**start, "cold_start_s": cold_start_s, "rss_idle_mb": rss_mb})
        server.pause()
        return Running(target.name, address, server)

    def _warm(self, address: Address) -> None:
        """Lets a gateway fill its pools and caches on every kind of request before anything is measured."""
        for measure in (SATURATION, BURST):
            seconds = self.plan.warmup_s
            offer_load(
                measure, address, room=self.room, core=self.cores.load, rate=0, seconds=seconds, warmup_s=0
            )

    def _measure_all(self, running: list[Running], round_number: int) -> None:
        for measure in MEASURES:
            turn = round_number % len(running)
            for one in running[turn:] + running[:turn]:
                for rate in rates_of(measure, one.name):
                    self._measure(measure, one, round_number, rate)

    def _measure(self, measure: Measure, one: Running, round_number: int, rate: float) -> None:
        gateway_core, server = self.cores.gateway, one.server
        if server is not None:
            server.resume()
            server.settle()
        cpu, busy, began = server.cpu_s() if server else 0.0, busy_s(gateway_core), time.monotonic()
        seconds = measure.seconds * self.plan.share
        report = offer_load(
            measure,
            one.address,
            room=self.room,
            core=self.cores.load,
            rate=rate,
            seconds=seconds,
            warmup_s=self.plan.warmup_s,
        )
        wall = time.monotonic() - began
        cpu = server.cpu_s() - cpu if server else 0.0
        row: dict[str, Any] = {
            "target": one.name,
            "round": round_number,
            "measure": measure.name,
            "rate": rate,
            "cpu_s": round(cpu, 3),
            "foreign_share": round(max(0.0, busy_s(gateway_core) - busy - cpu) / wall, 4),
            **report,
        }
        if server is not None:
            row |= {"rss_mb": server.rss_mb(), "peak_rss_mb": server.peak_rss_mb()}
            if not server.pids():
                why = self._without_paths(server.why())
                self._fail(one.name, f"round {round_number}: died in {measure.name}: {why}")
            server.pause()
        self.rows.append(row)
        if report["errors"]:
            say(f"  {one.name} {measure.name}: {report['errors']} errors, first: {report['sample_fault']}")
        say(f"  {measure.name:<12} {one.name:<11} {shorthand(row)}")

    def _fail(self, name: str, why: str) -> None:
        say(f"{name} FAILED, {why}")
        self.failures[name] = f"{self.failures[name]}; {why}" if name in self.failures else why

    def _without_paths(self, text: str) -> str:
        for folder, word in (
            (self.room, "ROOM"),
            (ROOT, "."),
            (Path(sys.base_prefix), "PYTHON"),
            (Path.home(), "~"),
        ):
            text = text.replace(str(folder), word)
        return text


def address_of(launch: Launch, server: Server) -> Address:
    """Where the launched gateway listens: the port asked for, or that in the base URL that it prints."""
    port = launch.port
    if port is None:
        port = int(server.first_line().split("://", 1)[1].split("/", 1)[0].rpartition(":")[2])
    return Address(port, launch.path, launch.key, launch.model_prefix)


def shorthand(row: dict[str, Any]) -> str:
    """One row, for the eye that follows the run."""
    latency = row["latency_ms"] or {"p50": float("nan"), "p99": float("nan")}
    return (
        f"{row['rps']:>9.1f}/s  p50 {latency['p50']:8.2f}  p99 {latency['p99']:8.2f} ms  "
        f"{row['chunks_per_s']:>10.0f} chunks/s  cpu {row['cpu_s']:5.2f} s  "
        f"foreign {row['foreign_share']:.0%}  errors {row['errors']}  unfinished {row['unfinished']}"
    )


def say(text: str) -> None:
    """Talk, on stderr."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """The machine's shape, without its name."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
    }


def commit() -> str | None:
    """The commit that was measured, with a `+` when the tree holds more; None outside a repository."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode:
        return None
    status = ["git", "status", "--porcelain", "--", "src"]
    changed = subprocess.run(status, cwd=ROOT, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def prepare(names: list[str]) -> tuple[list[Target], dict[str, str], dict[str, str]]:
    """The targets that can be had, the version of each, and why the others cannot."""
    ready, versions, missing = [], {}, {}
    for target in (*TARGETS, *VARIANTS):
        if target.name not in names:
            continue
        try:
            versions[target.name] = target.prepare()
            ready.append(target)
        except UnavailableError as fault:
            missing[target.name] = str(fault)
            say(f"{target.name} is not there: {fault}")
    return ready, versions, missing


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures gateways on one core; see bench/README.md.")
    parser.add_argument("--quick", action="store_true", help="short rounds: rough numbers")
    parser.add_argument("--rounds", type=int, help="rounds to run (3, or 2 with --quick)")
    parser.add_argument("--only", default=",".join(t.name for t in TARGETS), help="targets, comma-separated")
    parser.add_argument("--output", type=Path, help="where raw results go (--quick: nowhere)")
    return parser.parse_args()


def main() -> int:
    """Runs the benchmark; the exit status is 1 when a target failed, or Isthmus is not there."""
    arguments = read_arguments()
    plan = QUICK if arguments.quick else FULL
    plan = Plan(arguments.rounds or plan.rounds, plan.share, plan.warmup_s)
    cores = Cores.of_this_machine()
    began = datetime.now(UTC)
    shape = machine()
    build_tools()
    ready, versions, missing = prepare(arguments.only.split(","))
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        bench = Bench(plan, cores, Path(folder))
        bench.run(ready)
    results = {
        "began_at": began.isoformat(timespec="seconds"),
        "took_s": round((datetime.now(UTC) - began).total_seconds(), 1),
        "quick": arguments.quick,
        "rounds": plan.rounds,
        "commit": commit(),
        "machine": shape,
        "versions": versions,
        "missing": missing,
        "failures": bench.failures,
        "starts": bench.starts,
        "rows": bench.rows,
    }
    line = headline(results)
    results["headline"] = line
    dated = BENCH / f"results/gateway-{began:%Y-%m-%d}.json"
    output = arguments.output or (None if arguments.quick else dated)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=1) + "\n")
        say(f"raw results: {os.path.relpath(output)}")
    print(table(results), verdicts(results), json.dumps(line), sep="\n\n")
    return 1 if bench.failures or "isthmus" in missing else 0


if __name__ == "__main__":
    sys.exit(main())
