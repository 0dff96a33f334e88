"""llama.cpp with an adapter, for tests of students."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("lora_engine.py")


@contextmanager
def adapted(weights: Path, adapter: Path | None) -> Iterator[str]:
    """The address of an engine that serves these weights, with this adapter."""
    command = [sys.executable, str(SCRIPT), str(weights), str(adapter or "-")]
    environ = {"OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            address = process.stdout.readline().decode().strip()
            assert address, "the engine does not start"
            yield address
        finally:
            process.stdin.close()
            process.wait()
