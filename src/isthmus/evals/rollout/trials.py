"""Records → trials: what a request shows of one of two versions of a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from isthmus.config.rollouts import Pair
from isthmus.core.errors import Fault
from isthmus.core.record import AttemptRecord, Record
from isthmus.routing.route import OF_EVALUATIONS

Side: TypeAlias = Literal["old", "new"]

MOST_REMEMBERED = 10_000
"""A copy is asked right after its original was answered, so that few originals wait for theirs."""

_ASKED = frozenset({"answer", "draft", "shadow"})
_FOR_THE_CALLER = frozenset({"answer", "draft"})
_NEUTRAL = frozenset({"cancelled", "interrupted"})
_REFUSALS = frozenset({Fault.INVALID_REQUEST, Fault.CONTEXT_TOO_LONG, Fault.UNSUPPORTED, Fault.TOO_LARGE})


class Trial(NamedTuple):
    """One request of which a version was asked, or, by `preference`, how it was compared.

    `failed` says that it gave no whole answer, by its own fault. `ms` is how long its answer took, where the
    caller waited for it: copies are asked at other moments, when the machine has other things to do.
    `escalated` says that another model answered the caller. `preference` is 1 where a judge preferred the
    version to the other, 0 where it was the other way, and between where it saw no difference. None is what
    the request does not tell.
    """

    side: Side
    failed: bool | None = None
    ms: float | None = None
    escalated: bool | None = None
    preference: float | None = None


class Trials:
    """Reads the records of one stage, as they end: those that `config_hash` decided."""

    def __init__(self, names: Pair, config_hash: str) -> None:
        self.config_hash = config_hash
        self._names = names
        self._answered: OrderedDict[str, None] = OrderedDict()

    def of(self, record: Record) -> Iterator[Trial]:
        """What the record shows; nothing where it is of another config, or of an evaluation."""
        if record.config_hash != self.config_hash or record.route.startswith(OF_EVALUATIONS):
            return
        for side, name in (("old", self._names.old), ("new", self._names.new)):
            asked = [it for it in record.attempts if it.model == name and it.purpose in _ASKED]
            if asked and asked[0].outcome not in _NEUTRAL and not self._is_of_the_request(asked[0], record):
                yield _trial(side, name, asked[0], record)  # type: ignore[arg-type]
        yield from self._compared(record)

    def _is_of_the_request(self, attempt: AttemptRecord, record: Record) -> bool:
        """True where any model would have failed: it says nothing of this one."""
        if attempt.fault is None:
            return False
        fault = Fault(attempt.fault)
        # The old version has answered the very same request.
        could_be_answered = fault in _REFUSALS and record.mirrors in self._answered
        return fault.status < 500 and not could_be_answered

    def _compared(self, record: Record) -> Iterator[Trial]:
        """The judge's preference, where the new version was held against the old one and nobody else."""
        if record.mirrors is None:
            if record.model == self._names.old:
                self._answered[record.id] = None
                if len(self._answered) > MOST_REMEMBERED:
                    self._answered.popitem(last=False)
        elif record.mirrors in self._answered:
            del self._answered[record.mirrors]
            for attempt in record.attempts:
                if attempt.model == self._names.new and attempt.confidence is not None:
                    yield Trial("new", preference=attempt.confidence)


def _trial(side: Side, name: str, first: AttemptRecord, record: Record) -> Trial:
    failed = first.outcome != "ok"
    seen = first.purpose in _FOR_THE_CALLER and record.model is not None
    return Trial(
        side,
        failed=failed,
        ms=first.total_ms if not failed and first.purpose in _FOR_THE_CALLER else None,
        escalated=record.model != name if seen else None,
    )
