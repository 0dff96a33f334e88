"""Where pieces of work are done: in this process, in processes of this machine, or on a Ray cluster.

All three run the same function and give its results in the order of the pieces. Pieces are taken as they are
needed: what lies in memory is bounded by `AHEAD` for each worker.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from typing import Any, TypeVar

from isthmus.core.errors import Fault, IsthmusError

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")

AHEAD = 4
"""So many pieces wait for each worker."""


def here(make: Callable[[], Callable[[P], R]], pieces: Iterable[P], workers: int) -> Iterator[R]:
    """What the function that `make` gives makes of each piece, in so many processes of this machine.

    Each process makes its own function, once. One worker is this process itself.
    """
    if workers == 1:
        yield from map(make(), pieces)
        return
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(make,)) as pool:
        yield from _in_order(
            pieces, lambda piece: pool.submit(_work, piece), lambda future: future.result(), workers
        )


def on_ray(
    make: Callable[[], Callable[[P], R]], pieces: Iterable[P], address: str, workers: int | None = None
) -> Iterator[R]:
    """The same on the Ray cluster at `address`: one worker for each of its CPUs, or so many.

    `local` starts a cluster of this machine for as long as the work takes. The other machines need the same
    version of this package. Raises IsthmusError: `missing_extra`, `ray_unreachable`, `ray_failed`.
    """
    ray = _ray()
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        # Ray raises what it likes here, `Exception` itself among it.
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"No Ray cluster can be used at {address!r}: {type(error).__name__}.",
            code="ray_unreachable",
            hint="Start one with `ray start --head`, or say `--ray local` for this machine alone.",
        ) from error
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        actor = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_Worker)
        turns = cycle([actor.remote(make) for _ in range(count)])
        yield from _in_order(pieces, lambda piece: next(turns).work.remote(piece), ray.get, count)
    except ray.exceptions.RayError as error:
        # Its text may quote what was worked on.
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The Ray cluster at {address!r} could not do the work: {type(error).__name__}.",
            code="ray_failed",
            hint="Is this version of isthmus installed on each of its machines? See Ray's dashboard or logs.",
        ) from None
    finally:
        ray.shutdown()


def _in_order(
    pieces: Iterable[P], submit: Callable[[P], T], result: Callable[[T], R], workers: int
) -> Iterator[R]:
    rest = iter(pieces)
    waiting = deque(map(submit, islice(rest, workers * AHEAD)))
    while waiting:
        yield result(waiting.popleft())
        waiting.extend(map(submit, islice(rest, 1)))


class _Worker:
    """A process of a cluster, which makes its function once."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = make()

    def work(self, piece: Any) -> Any:
        return self._work(piece)


_working: Callable[[Any], Any]


def _begin(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _working
    _working = make()


def _work(piece: Any) -> Any:
    return _working(piece)


def _reach(address: str) -> None:
    # Ray itself goes on trying for minutes, and says nothing.
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _ray() -> Any:
    # Ray tells its makers of its use otherwise: docs.ray.io, "Usage Stats Collection".
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            "Work on a cluster needs the package ray, which is not installed.",
            code="missing_extra",
            hint="Install it with: pip install 'isthmus[ray]'. Or leave --ray out.",
        ) from error
    return ray
