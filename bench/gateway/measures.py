"""What is measured: the load of each measure, the requests that it sends, and what one run of it yields."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateway.peers import BUILD, HERE
from bench.gateway.processes import pinned

SYSTEM_PROMPT = (
    "You are the help desk of a ferry line that runs between two continents. Answer in the language of "
    "the traveller, in at most four sentences, and never promise a crossing that the timetable does not "
    "show. The morning boat leaves at seven, the noon boat at half past twelve, the evening boat at six; "
    "each takes forty minutes. A bicycle travels free, a car needs a ticket of its own, and a group of "
    "ten or more books a day ahead. When the wind is above force eight no boat leaves, and tickets of "
    "that day stay good for a week. If you do not know, say so and name the harbour office."
)
QUESTION = "We are eleven people with two cars and want to cross tomorrow at noon. What should we do today?"


@dataclass(frozen=True)
class Measure:
    """One kind of load. `slow_rate` serves targets that the usual rate would saturate."""

    name: str
    model: str
    seconds: float
    connections: int
    chunks: int = 0  # > 0: streamed
    rate: float = 0  # > 0: open loop, requests/s
    slow_rate: float = 0
    ramp_s: float = 0  # connections open evenly over this time
    quick_ack: bool = False  # spares gateways without TCP_NODELAY the kernel's delayed ACK


LOW_RATE = Measure("low_rate", "mock", seconds=6, connections=16, rate=200, slow_rate=20)
FIRST_TOKEN = Measure(
    "first_token",
    "mock-paced-10-5ms",
    seconds=6,
    connections=32,
    chunks=10,
    rate=50,
    slow_rate=10,
    quick_ack=True,
)
SATURATION = Measure("saturation", "mock", seconds=5, connections=64)
BURST = Measure("burst", "mock-burst-100", seconds=5, connections=50, chunks=100)
INFLIGHT = Measure("inflight", "mock-250ms", seconds=4, connections=500, ramp_s=0.25)

#: In this order: the gentle ones first, the one that leaves the slowest targets with a backlog last.
MEASURES = (LOW_RATE, FIRST_TOKEN, SATURATION, BURST, INFLIGHT)

INFLIGHT_IDEAL_RPS = 500 / 0.250

#: LiteLLM serves about a hundred requests/s on one core: the usual rate would measure its queue.
SLOW_TARGETS = frozenset({"litellm"})


def rates_of(measure: Measure, target: str) -> tuple[float, ...]:
    """The rates at which a target runs a measure. The direct way runs at each of them."""
    if not measure.rate:
        return (0.0,)
    if target == "direct":
        return (measure.rate, measure.slow_rate)
    return (measure.slow_rate if target in SLOW_TARGETS else measure.rate,)


def chat_request(model: str, *, stream: bool) -> bytes:
    """A chat request of about 1 KB, as an application would send it. Streams ask for usage."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": QUESTION},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    if stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request).encode()


def build_tools() -> None:
    """Compiles the mock and the load generator into the build folder. Raises CalledProcessError."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for tool in ("mock", "loadgen"):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(BUILD / tool), str(HERE / f"{tool}.c")], check=True)


@dataclass(frozen=True)
class Address:
    """Where a gateway listens, and how a request for an upstream model is written for it."""

    port: int
    path: str = "/v1/chat/completions"
    key: str = "none"
    model_prefix: str = ""


def loadgen_at(address: Address) -> list[str]:
    """The load generator's command, as far as the gateway's address settles it."""
    port, path, key = str(address.port), address.path, address.key
    return [str(BUILD / "loadgen"), "--port", port, "--path", path, "--key", key]


def offer_load(
    measure: Measure, address: Address, *, room: Path, core: int, rate: float, seconds: float, warmup_s: float
) -> dict[str, Any]:
    """Runs the load generator once and returns what it reports (loadgen.c says what each field means)."""
    body = room / "request.json"
    body.write_bytes(chat_request(address.model_prefix + measure.model, stream=measure.chunks > 0))
    command = [*loadgen_at(address), "--connections", str(measure.connections), "--rate", str(rate)]
    command += ["--duration", str(seconds), "--warmup", str(warmup_s), "--ramp", str(measure.ramp_s)]
    command += ["--quick-ack", str(int(measure.quick_ack))]
    if measure.chunks:
        command += ["--stream-body", str(body), "--stream-every", "1", "--chunks", str(measure.chunks)]
    else:
        command += ["--body", str(body)]
    said = subprocess.run(pinned(core, command), capture_output=True, text=True, timeout=seconds + 60)
    if said.returncode:
        raise RuntimeError(f"the load generator failed: {said.stderr.strip()}")
    report: dict[str, Any] = json.loads(said.stdout)
    return report
