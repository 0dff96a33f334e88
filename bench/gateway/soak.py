"""The soak: a million requests through one gateway at the mock, while its resident memory is watched.

    python -m bench.gateway.soak [--requests N] [--target isthmus] [--output FILE.csv]

Every fifth request is a stream of 100 chunks. Memory is sampled once a second. The slope is a least-squares
line over the samples after the first fifth of the requests, in MiB per 100,000 requests: pools, caches and
allocator arenas fill in the beginning, and only what goes on growing is a leak. stdout gets a plot and one
last line of JSON; the samples go to bench/results/soak-DATE.csv. The exit status is 1 when memory is not flat
or an answer was wrong.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.gateway.measures import Address, build_tools, chat_request, loadgen_at
from bench.gateway.peers import BENCH, TARGETS, UnavailableError, clean_environment, start_mock
from bench.gateway.processes import Cores, NotServingError, Server, pinned
from bench.gateway.run import address_of, commit, machine, say

STREAM_EVERY = 5
CONNECTIONS = 64
FLAT_MIB_PER_100K = 1.0
PLOT_COLUMNS, PLOT_ROWS = 72, 12


@dataclass(frozen=True)
class Sample:
    """One look at the gateway while it works."""

    at_s: float
    requests: int
    rss_mib: float
    disk_mib: float


def slope_per_100k(samples: list[Sample]) -> float | None:
    """Growth of memory in MiB per 100,000 requests over the last four fifths; None from few samples."""
    if not samples:
        return None
    settled = [s for s in samples if s.requests >= samples[-1].requests / 5]
    if len(settled) < 5:
        return None
    x_mean = sum(s.requests for s in settled) / len(settled)
    y_mean = sum(s.rss_mib for s in settled) / len(settled)
    spread = sum((s.requests - x_mean) ** 2 for s in settled)
    rise = sum((s.requests - x_mean) * (s.rss_mib - y_mean) for s in settled)
    return rise / spread * 100_000 if spread else None


def plot(samples: list[Sample]) -> str:
    """Resident memory over requests, from zero, so that flat looks flat."""
    top = max(s.rss_mib for s in samples) * 1.1
    last = samples[-1].requests or 1
    columns: list[float | None] = [None] * PLOT_COLUMNS
    for s in samples:
        columns[min(PLOT_COLUMNS - 1, s.requests * PLOT_COLUMNS // last)] = s.rss_mib
    lines = []
    for row in range(PLOT_ROWS, 0, -1):
        low, high = top * (row - 1) / PLOT_ROWS, top * row / PLOT_ROWS
        dots = "".join("•" if rss is not None and low <= rss < high else " " for rss in columns)
        lines.append(f"{high:7.1f} │{dots}")
    lines.append(f"{'MiB':>7} └{'─' * PLOT_COLUMNS}")
    lines.append(f"{'':8} 0{'requests':^{PLOT_COLUMNS - 12}}{last:>11,}")
    return "\n".join(lines)


def requests_seen(mock_port: int) -> int:
    """How many requests have reached the upstream."""
    connection = http.client.HTTPConnection("127.0.0.1", mock_port, timeout=10)
    try:
        connection.request("GET", "/stats")
        count: int = json.loads(connection.getresponse().read())["requests"]
        return count
    finally:
        connection.close()


def folder_mib(folder: Path) -> float:
    """The size of the files under a folder, in MiB: the ledger's growth."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20


def start_load(address: Address, room: Path, core: int, requests: int, log: Path) -> subprocess.Popen[str]:
    """The load generator, working through the requests; its report comes on its stdout."""
    unary, stream = room / "unary.json", room / "stream.json"
    unary.write_bytes(chat_request(address.model_prefix + "mock", stream=False))
    stream.write_bytes(chat_request(address.model_prefix + "mock-burst-100", stream=True))
    command = [*loadgen_at(address), "--connections", str(CONNECTIONS), "--requests", str(requests)]
    command += ["--body", str(unary), "--stream-body", str(stream), "--stream-every", str(STREAM_EVERY)]
    command += ["--duration", "86400", "--warmup", "0"]
    with log.open("w") as err:
        return subprocess.Popen(pinned(core, command), stdout=subprocess.PIPE, stderr=err, text=True)


def watch(load: subprocess.Popen[str], server: Server, mock_port: int, room: Path) -> list[Sample]:
    """A sample each second until the load generator is done."""
    began, samples = time.monotonic(), []
    while True:
        try:
            load.wait(1.0)
        except subprocess.TimeoutExpired:
            pass
        samples.append(
            Sample(time.monotonic() - began, requests_seen(mock_port), server.rss_mb(), folder_mib(room))
        )
        if len(samples) % 10 == 0:
            say(f"  {samples[-1].requests:>10,} requests  {samples[-1].rss_mib:7.1f} MiB")
        if load.returncode is not None:
            return samples


def soak(name: str, requests: int, cores: Cores, room: Path) -> tuple[list[Sample], dict[str, object]]:
    """One gateway, one load, to the end: the samples and the load generator's report."""
    target = next(t for t in TARGETS if t.name == name)
    say(f"soak: {requests:,} requests through {name} {target.prepare()}")
    os.sched_setaffinity(0, {cores.load})
    state = room / "target"
    state.mkdir()
    mock = start_mock(cores, room)
    try:
        mock_port = int(mock.first_line())
        launch = target.launch(state, mock_port)
        log = room / "stderr.log"
        server = Server(launch.command, core=cores.gateway, env=clean_environment(launch.env), log=log)
        try:
            address = address_of(launch, server)
            body = chat_request(address.model_prefix + "mock", stream=False)
            server.wait_for_answer(address.port, address.path, address.key, body)
            load = start_load(address, room, cores.load, requests, room / "loadgen.log")
            try:
                samples = watch(load, server, mock_port, state)
            finally:
                load.kill()
            assert load.stdout is not None
            report: dict[str, object] = json.loads(load.stdout.read())
            return samples, report
        finally:
            server.stop()
    finally:
        mock.stop()


def write_csv(samples: list[Sample], file: Path) -> None:
    """The samples as data."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(("at_s", "requests", "rss_mib", "disk_mib"))
        rows.writerows(
            (f"{s.at_s:.1f}", s.requests, f"{s.rss_mib:.2f}", f"{s.disk_mib:.2f}") for s in samples
        )


def main() -> int:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description="Watches a gateway's memory over a million requests.")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--target", choices=[t.name for t in TARGETS], default="isthmus")
    parser.add_argument("--output", type=Path, help="the CSV file (default: bench/results/soak-DATE.csv)")
    arguments = parser.parse_args()
    began, cores = datetime.now(UTC), Cores.of_this_machine()
    build_tools()
    with tempfile.TemporaryDirectory(prefix="isthmus-soak-") as folder:
        try:
            samples, report = soak(arguments.target, arguments.requests, cores, Path(folder))
        except (UnavailableError, NotServingError) as fault:
            say(f"soak: {fault}")
            return 1
    output = arguments.output or BENCH / f"results/soak-{began:%Y-%m-%d}.csv"
    write_csv(samples, output)
    slope = slope_per_100k(samples)
    wrong = int(str(report["errors"])) + int(str(report["unfinished"]))
    summary = {
        "target": arguments.target,
        "requests": report["sent"],
        "completed": report["completed"],
        "errors": wrong,
        "took_s": round(samples[-1].at_s, 1),
        "rss_first_mib": round(samples[0].rss_mib, 1),
        "rss_last_mib": round(samples[-1].rss_mib, 1),
        "rss_max_mib": round(max(s.rss_mib for s in samples), 1),
        "slope_mib_per_100k": None if slope is None else round(slope, 3),
        "flat": slope is not None and slope <= FLAT_MIB_PER_100K,
        "disk_bytes_per_request": round(samples[-1].disk_mib * 2**20 / max(1, samples[-1].requests)),
        "commit": commit(),
        "machine": machine(),
    }
    output.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    print(plot(samples), json.dumps(summary), sep="\n\n")
    return 0 if summary["flat"] and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
