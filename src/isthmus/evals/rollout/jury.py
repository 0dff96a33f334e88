"""What is known of one stage of a rollout: its guards, and how they came to be fed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from isthmus.config.config import RolloutRule
from isthmus.config.rollouts import Pair
from isthmus.core.record import Record
from isthmus.core.rollout import Turn
from isthmus.evals.rollout.guards import Guards, Judgement
from isthmus.evals.rollout.trials import Side, Trials
from isthmus.store.rollouts import Opinion

MOST_RECALLED = 20_000
"""So many of a stage's last records are read again after a restart."""


class Jury:
    """Hears the records of one stage, and what people say of them, each once. It is for one thread at a time.

    `config_hash` is that of the config which the stage is: another one, and what was seen is of other things.
    """

    def __init__(self, turn: Turn, names: Pair, config_hash: str, rule: RolloutRule) -> None:
        self.turn = turn
        self.config_hash = config_hash
        self.rule = rule
        self.has_recalled = False
        self.opinions_until = 0
        self._sides: Mapping[str, Side] = {names.old: "old", names.new: "new"}
        self._trials = Trials(names, config_hash)
        self._guards = Guards(rule)
        self._recalled: frozenset[str] = frozenset()
        self._judged: set[str] = set()

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the versions."""
        return tuple(self._sides)

    def recall(self, records: Iterable[Record]) -> None:
        """Take what was recorded before this process looked, in the order in which it ended."""
        mine = sorted((it for it in records if it.config_hash == self.config_hash), key=_ended_us)
        self.hear(mine)
        self._recalled = frozenset(it.id for it in mine)
        self.has_recalled = True

    def hear(self, records: Iterable[Record]) -> None:
        """Take records, in the order in which their requests ended."""
        for record in records:
            if record.id not in self._recalled:
                for trial in self._trials.of(record):
                    self._guards.take(trial)

    def listen(self, opinions: Iterable[Opinion]) -> None:
        """Take what was said of answers, in the order in which it was said; of each, the first counts."""
        for opinion in opinions:
            self.opinions_until = opinion.place
            if opinion.record_id not in self._judged:
                self._judged.add(opinion.record_id)
                self._guards.hear(self._sides[opinion.model], opinion.score)

    def judgement(self) -> Judgement:
        """What follows so far."""
        return self._guards.judgement()


def _ended_us(record: Record) -> float:
    return record.at_us + record.timings.total_ms * 1000
