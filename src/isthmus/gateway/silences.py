"""How long models are silent before their first token, measured for the hedges that go by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

from isthmus.config.config import Config
from isthmus.config.nodes import nodes_in
from isthmus.core.decision import Silence
from isthmus.core.errors import Fault
from isthmus.core.record import MS, AttemptRecord, Record
from isthmus.statistics.durations import Durations
from isthmus.store.recent import Recent
from isthmus.strategies.plan import Hedge, Node

LEAST = 20
"""So many first tokens have to be measured before a quantile of their times is known."""

_SILENT_TO_THE_END = frozenset({Fault.TIMEOUT.value, Fault.TOOK_TOO_LONG.value})

Awaited: TypeAlias = tuple[tuple[str, str], ...]
"""Models, each with a quantile of its silence by which some hedge goes."""

Kind: TypeAlias = tuple[str, bool]
"""What is told apart: the operation, and whether the answer is streamed. The first token of a whole answer is
its end."""


def awaited_in(plan: Node) -> Awaited:
    """What the hedges of a plan go by."""
    hedges = ((it.model, it.quantile) for it in nodes_in(plan, Hedge))
    return tuple(dict.fromkeys((model, quantile) for model, quantile in hedges if quantile is not None))


def awaited_by(config: Config) -> Awaited:
    """What the hedges of a config go by."""
    plans = (route.plan_for(thrifty) for route in config.routes.values() for thrifty in (False, True))
    return tuple(dict.fromkeys(pair for plan in plans for pair in awaited_in(plan)))


class _Measured:
    """The silence of one model, which is meant by that id at its provider."""

    def __init__(self, provider: str, model_id: str) -> None:
        self.identity = provider, model_id
        self.kinds: defaultdict[Kind, Durations] = defaultdict(Durations)


class Silences:
    """Measures those models by whose silence a hedge of the config that it heeds goes, and no others.

    It is fed with records, so that what a restart reads of the ledger gives what was measured before.
    """

    def __init__(self) -> None:
        self._awaited: Awaited = ()
        self._measured: dict[str, _Measured] = {}

    def heed(self, config: Config) -> tuple[str, ...]:
        """Measure for this config from now on; the models of which nothing is known yet.

        What was measured of a model that is the same as before stays known.
        """
        self._awaited = awaited_by(config)
        models = [config.models[name] for name in dict(self._awaited)]
        fresh = {it.name: _Measured(it.provider, it.id) for it in models}
        known = {
            name: it
            for name, it in self._measured.items()
            if name in fresh and it.identity == fresh[name].identity
        }
        self._measured = fresh | known
        return tuple(name for name in fresh if name not in known)

    def hear(self, record: Record) -> None:
        """Measure the attempts of a request that has ended."""
        if self._measured and record.mirrors is None:
            for attempt in record.attempts:
                self._take(Recent(record.operation, record.stream, attempt))

    def recall(self, models: Collection[str], past: Iterable[Recent]) -> None:
        """Know of these models what is recorded of them, the oldest first, and nothing else."""
        for name in models:
            if (measured := self._measured.get(name)) is not None:
                measured.kinds.clear()
        for recent in past:
            self._take(recent)

    def of(self, awaited: Awaited, operation: str, stream: bool) -> tuple[Silence, ...]:
        """What is known of that for such a request."""
        kind = operation, stream
        known = ((pair, self._seconds(*pair, kind)) for pair in awaited)
        return tuple(
            Silence(model=model, quantile=quantile, seconds=seconds)
            for (model, quantile), seconds in known
            if seconds is not None
        )

    def gauge(self) -> dict[tuple[str, ...], float]:
        """All that is known, by model, quantile, operation and whether answers are streamed."""
        return dict(self._all())

    def _all(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for model, quantile in self._awaited:
            for operation, stream in list(self._measured[model].kinds):
                seconds = self._seconds(model, quantile, (operation, stream))
                if seconds is not None:
                    yield (model, quantile, operation, str(stream).lower()), seconds

    def _seconds(self, model: str, quantile: str, kind: Kind) -> float | None:
        measured = self._measured.get(model)
        durations = measured.kinds.get(kind) if measured is not None else None
        if durations is None or durations.ended < LEAST:
            return None
        seconds = durations.quantile(int(quantile[1:]) / 100)
        # By the last of many digits, no two decisions would be alike.
        return None if seconds is None else float(f"{seconds:.3g}")

    def _take(self, recent: Recent) -> None:
        operation, stream, attempt = recent
        measured = self._measured.get(attempt.model)
        if measured is None or measured.identity != (attempt.provider, attempt.model_id):
            return
        if attempt.purpose != "answer":
            return
        if attempt.first_token_ms is not None:
            measured.kinds[operation, stream].add(attempt.first_token_ms / MS)
        elif _was_cut_off(attempt):
            measured.kinds[operation, stream].add(attempt.total_ms / MS, cut_off=True)


def _was_cut_off(attempt: AttemptRecord) -> bool:
    """True where it was silent until nobody waited for it any more: it lost a race, its client left, or its
    time was over. Of one that failed it is not known when it would have spoken."""
    return attempt.outcome in ("cancelled", "interrupted") or attempt.fault in _SILENT_TO_THE_END
