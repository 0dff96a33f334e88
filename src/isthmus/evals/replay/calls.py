"""What recorded requests cost and take on the models to which they would move: a sample of them is asked."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import mean, median
from typing import NamedTuple, TypeAlias

import msgspec

from isthmus.core.evaluation import Ask, Sample
from isthmus.core.label import BOTTOM, Label
from isthmus.core.record import Record
from isthmus.evals.datasets.from_records import Wish, samples_of
from isthmus.evals.replay.replayed import Judgement
from isthmus.store.history import Past


class Move(NamedTuple):
    """Requests of a route that would be answered by that model, and were not."""

    route: str
    model: str


class Drawn(NamedTuple):
    """A request that was drawn to be asked; its label is at least what it would be, and what it was."""

    past: Past
    label: Label


class Called(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample of the requests that would move took on their new model, beside what they took then.

    Of `drawn` requests `unread` had no texts, or none that can be asked again, and `failed` were asked in
    vain, by their codes. Costs in nano-USD and tokens are means over those that were answered, times in
    milliseconds medians; None where a part is unknown.
    """

    route: str
    model: str
    drawn: int
    unread: int
    failed: dict[str, int]
    answered: int
    then_nanousd: float | None
    now_nanousd: float | None
    then_output: float | None
    now_output: float | None
    then_ms: float | None
    now_ms: float | None


class Draw:
    """Draws at most `most` requests of each move, each with the same probability (J. S. Vitter, Random
    sampling with a reservoir, ACM TOMS 11 (1985) 37, algorithm R)."""

    def __init__(self, most: int, dice: Random) -> None:
        self._most = most
        self._dice = dice
        self._seen: Counter[Move] = Counter()
        self.moves: dict[Move, list[Drawn]] = defaultdict(list)

    def offer(self, past: Past, judgement: Judgement) -> None:
        """One more request, which is drawn or not."""
        if judgement.unknown is not None or past.operation != "chat":
            return
        label = judgement.label.join(judgement.label_then or BOTTOM)
        for outcome in judgement.outcomes:
            # A config that is only tried opens nothing: what it would newly let out is not sent there.
            crosses = outcome.lets_out or outcome.may_let_out
            if crosses or outcome.answers is None or outcome.keeps:
                continue
            move = Move(judgement.route, outcome.answers)
            self._seen[move] += 1
            if len(self.moves[move]) < self._most:
                self.moves[move].append(Drawn(past, label))
            elif (place := self._dice.randrange(self._seen[move])) < self._most:
                self.moves[move][place] = Drawn(past, label)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are to be asked."""
        return tuple(dict.fromkeys(move.model for move in self.moves))


Find: TypeAlias = Callable[[str], Record]
"""Gives a record with its bodies, by its id. It blocks."""


async def call(moves: Mapping[Move, Sequence[Drawn]], find: Find, ask: Ask) -> list[Called]:
    """What each of the moves takes."""
    return [await _called(move, drawn, find, ask) for move, drawn in moves.items()]


async def _called(move: Move, drawn: Sequence[Drawn], find: Find, ask: Ask) -> Called:
    samples = await asyncio.to_thread(_samples, drawn, find)
    told = await asyncio.gather(
        *(ask(move.model, sample.request, one.label.join(sample.label)) for one, sample in samples)
    )
    pairs = [(one.past, it) for (one, _), it in zip(samples, told, strict=True) if it.code is None]
    return Called(
        route=move.route,
        model=move.model,
        drawn=len(drawn),
        unread=len(drawn) - len(samples),
        failed=dict(Counter(it.code for it in told if it.code is not None)),
        answered=len(pairs),
        then_nanousd=_mean([past.nanousd for past, _ in pairs]),
        now_nanousd=_mean([it.charge.nanousd if it.charge else None for _, it in pairs]),
        then_output=_mean([past.output for past, _ in pairs]),
        now_output=_mean([it.usage.output if it.usage else None for _, it in pairs]),
        then_ms=median(past.total_ms for past, _ in pairs) if pairs else None,
        now_ms=median(it.total_ms for _, it in pairs) if pairs else None,
    )


def _samples(drawn: Sequence[Drawn], find: Find) -> list[tuple[Drawn, Sample]]:
    """Those that have texts which can be asked again."""
    found = []
    for one in drawn:
        read = samples_of([find(one.past.id)], lambda _: {}, lambda _, label: label, Wish(), Counter())
        found += [(one, sample) for sample in read]
    return found


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
