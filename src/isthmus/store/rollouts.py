"""Rollouts: every turn of each, in one history that only grows. The last turn of a model is in force."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from sqlalchemy import BigInteger, ColumnElement, func, insert, literal_column, select

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.rollout import Turn
from isthmus.store import schema
from isthmus.store.schema import feedback, records
from isthmus.store.schema import rollouts as table

_LAST = f"SELECT coalesce(max(number), 0) FROM {table.name}"
_to_json = msgspec.json.Encoder(order="deterministic").encode
_to_turn = msgspec.json.Decoder(Turn).decode


class Opinion(NamedTuple):
    """A score that somebody gave to an answer of a model; `place` is where it stands among all feedback."""

    place: int
    record_id: str
    model: str
    score: float


class Rollouts(Protocol):
    """The turns of all rollouts. Every method blocks: call it off the event loop. Raises IsthmusError."""

    def current(self) -> Sequence[Turn]:
        """The last turn of each model, by the models' names."""

    def history(self, model: str | None = None) -> Sequence[Turn]:
        """All turns, or those of one model, the oldest first."""

    def append(self, turn: Turn, after: int) -> Turn:
        """Adds a turn, durably; returns it with its number.

        `after` is the number of the model's last turn as whoever decides knows it, 0 for none. Raises
        IsthmusError (`rollout_changed`) where another has been added since, and changes nothing.
        """


class Opinions(Protocol):
    """What people say of answers. It blocks: call it off the event loop. Raises IsthmusError."""

    def opinions(self, config_hash: str, models: Collection[str], after: int) -> Sequence[Opinion]:
        """The scores of answers that these models gave under that config, said after that place, in order."""


class SqliteRollouts:
    """The turns in the ledger's file."""

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)
        self._known: tuple[schema.Mark, Sequence[Turn]] | None = None

    def current(self) -> Sequence[Turn]:
        """See `Rollouts.current`."""
        # The number first: what is added between the two readings is read twice rather than never.
        known, self._known = self._known, None
        last = self._database.mark(_LAST)
        if known is None or known[0] != last:
            known = last, self._current()
        self._known = known
        return known[1]

    def close(self) -> None:
        """Hold nothing of the file any more."""
        self._database.close()

    def _current(self) -> Sequence[Turn]:
        last = select(func.max(table.c.number)).group_by(table.c.model)
        query = select(table.c.number, table.c.body).where(table.c.number.in_(last)).order_by(table.c.model)
        with self._database.reading() as connection:
            return [_turn(row.number, row.body) for row in connection.execute(query)]

    def history(self, model: str | None = None) -> Sequence[Turn]:
        """See `Rollouts.history`."""
        query = select(table.c.number, table.c.body).order_by(table.c.number)
        if model is not None:
            query = query.where(table.c.model == model)
        with self._database.reading() as connection:
            return [_turn(row.number, row.body) for row in connection.execute(query)]

    def append(self, turn: Turn, after: int) -> Turn:
        """See `Rollouts.append`."""
        with self._database.writing() as connection:
            number = func.coalesce(func.max(table.c.number), 0)
            require_unchanged(
                turn, connection.scalar(select(number).where(table.c.model == turn.model)), after
            )
            numbered = msgspec.structs.replace(turn, number=1 + (connection.scalar(select(number)) or 0))
            row = {"number": numbered.number, "model": turn.model, "at_us": turn.at_us}
            connection.execute(insert(table), row | {"body": _to_json(numbered)})
            return numbered

    def opinions(self, config_hash: str, models: Collection[str], after: int) -> Sequence[Opinion]:
        """See `Opinions.opinions`."""
        # Rows are numbered as they come, whatever the clocks of those who wrote them say.
        place: ColumnElement[int] = literal_column("feedback.rowid", BigInteger).label("place")
        query = (
            select(place, feedback.c.record_id, records.c.model, feedback.c.score)
            .join(records, records.c.id == feedback.c.record_id)
            .where(place > after, feedback.c.score.is_not(None))
            .where(records.c.config_hash == config_hash, records.c.model.in_(models))
            .where(records.c.mirrors.is_(None))
            .order_by(place)
        )
        with self._database.reading() as connection:
            return [Opinion(*row) for row in connection.execute(query)]


def require_unchanged(turn: Turn, last: int | None, after: int) -> None:
    """Raises IsthmusError (`rollout_changed`) where the model's last turn is not the one that is known."""
    if last != after:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"Somebody else has changed the rollout of {turn.model} meanwhile, and nothing was done.",
            code="rollout_changed",
            hint="Look at `isthmus models rollouts`, and say it again if it is still wanted.",
        )


def _turn(number: int, body: bytes) -> Turn:
    return msgspec.structs.replace(_to_turn(body), number=number)
