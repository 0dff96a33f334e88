"""Where pieces of work are done: in this process, in processes of this machine, or on a Ray cluster.

All three run the same function and give its results in the order of the pieces. Pieces are taken as they are
needed: what lies in memory is bounded by `AHEAD` for each worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from typing import Any, TypeVar

from isthmus.cluster import joined
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
    with joined(address) as ray:
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
                hint="Is this version of isthmus installed on each of its machines? See Ray's logs.",
            ) from None


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
