"""A Ray cluster, as this package's processes join it (https://docs.ray.io/en/latest/ray-core/starting-ray.html)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isthmus.core.errors import Fault, IsthmusError

LOCAL = "local"
"""The address of a cluster of this machine alone, which is started, and ended with the work."""

REACHED_WITHIN_S = 5


def ray_package() -> Any:
    """Ray itself. Raises IsthmusError (`missing_extra`)."""
    # Ray tells its makers of its use otherwise: docs.ray.io, "Usage Stats Collection".
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"Work on a cluster needs the package ray, which {sys.executable} does not have.",
            code="missing_extra",
            hint="Install it there: pip install 'isthmus[ray]'. Or work on this machine alone, without Ray.",
        ) from error
    return ray


@contextmanager
def joined(address: str, cpus: int | None = None) -> Iterator[Any]:
    """Ray, in the cluster at that address: host:port, `auto`, or `local`, which then has so many CPUs.

    Raises IsthmusError: `missing_extra`, `ray_unreachable`.
    """
    ray = ray_package()
    try:
        _reach(address)
        own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:
        # Ray raises what it likes here, `Exception` itself among it.
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"No Ray cluster can be used at {address!r}: {type(error).__name__}.",
            code="ray_unreachable",
            hint="Start one with `ray start --head`, or say `local` for this machine alone.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    # Ray itself goes on trying for minutes, and says nothing.
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACHED_WITHIN_S).close()
