"""The public package pii-leak-benchmark, against a gateway that lets people's data go out under pseudonyms.

It starts a model of its own that notes what reaches it, and reads what the client gets back. Its second
profile also asks that personal data which a model makes up be taken out of the answer (`LeakRate`): answers
are not looked at, and that part is not claimed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

from .gateway import serving

LABELS = [
    {"when": "pii", "level": "confidential", "pseudonymise": True},
    {"when": "secret", "level": "restricted", "pseudonymise": True},
]


def _config(port: int) -> str:
    # Its model says [DONE] and no finish reason.
    provider = {
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "kind": "closed",
        "quirks": ["no_finish_reason"],
    }
    document = {
        "providers": {"capture": provider},
        "models": {"m": {"provider": "capture"}},
        "routes": {"*": "m"},
        "perimeter": {"labels": LABELS},
    }
    return msgspec.json.encode(document).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


async def _measure(tmp_path: Path, module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"pii_leak_benchmark.{module}", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return said.decode()


def _report(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


async def test_nothing_reaches_the_model_and_everything_comes_back(tmp_path: Path) -> None:
    port = _free_port()
    async with serving(_config(port), tmp_path) as served:
        target, capture = ("--target-base-url", f"{served.url}/v1"), ("--capture-port", str(port))
        said = await _measure(tmp_path, "cli", "selfcheck", *target, *capture, "--json-out", "report.json")
    assert "CLEAN" in said, said
    checks = _report(tmp_path / "report.json")["checks"]
    assert {name for name, check in checks.items() if not check["passed"]} == set(), said
    assert checks["configured_upstream_boundary"]["correlated_requests"] > 0


async def test_no_split_of_a_value_makes_a_difference(tmp_path: Path) -> None:
    port = _free_port()
    async with serving(_config(port), tmp_path) as served:
        target = ("--gateway-url", f"{served.url}/v1/chat/completions", "--upstream-port", str(port))
        kept = (
            "--out",
            "out",
            "--only",
            "isthmus",
            "--json-out",
            "summary.json",
            "--seed",
            "a1b2c3d4e5f60001",
        )
        said = await _measure(tmp_path, "v2_emitter", *target, *kept, "--exhaustive-splits")
    (row,) = _report(tmp_path / "summary.json")["rows"]
    assert row["request_path_leak"] == [], said
    assert (row["fidelity_rate"], row["delta_frag"], row["inconclusive"]) == (1.0, 0.0, 0), said
    assert row["cases_applicable"] == row["echo_observable"] == row["cases_attempted"] > 0
