"""What a running experiment reads of the ledger, and where it writes down what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Row, Select, func, literal_column, select, tuple_
from sqlalchemy.dialects.sqlite import insert

from isthmus.store import schema
from isthmus.store.schema import decisions, feedback, records
from isthmus.store.schema import experiments as table

_OPINION: ColumnElement[int] = literal_column("feedback.rowid", BigInteger)


Place: TypeAlias = tuple[int, str]
"""How far the records were read: the time and the id of the last one."""

BEGINNING: Place = (0, "")


class Tried(NamedTuple):
    """One request that was drawn into an arm, and what came of it. `nanousd` is None where no price is
    known."""

    arm: str
    answered: bool
    nanousd: int | None
    total_ms: float


class Opinion(NamedTuple):
    """The first score of an answer of an arm."""

    arm: str
    score: float


class Kept(msgspec.Struct, frozen=True):
    """What was written down of an experiment, in the words of who wrote it."""

    id: str
    route: str
    body: bytes


class Trials(Protocol):
    """What is known of experiments. Every method blocks: call it off the event loop. Raises IsthmusError.

    What is read `after` a place comes with the next place, so that nothing is read twice.
    """

    def kept(self, id: str) -> Kept | None:
        """What was last written down of an experiment."""

    def keep(self, kept: Kept) -> None:
        """Writes it down, durably, in the place of what was there."""

    def tried(
        self, route: str, configs: Collection[str], after: Place, until_us: int, most: int
    ) -> tuple[Sequence[Tried], Place]:
        """The next requests of a route under these configs that came before that time, at most so many."""

    def opinions(
        self, route: str, configs: Collection[str], after: int, most: int
    ) -> tuple[Sequence[Opinion], int]:
        """The next answers of theirs that were scored, at most so many."""


class SqliteTrials:
    """Experiments in the ledger's file."""

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)
        self._arms: dict[bytes, str | None] = {}

    def kept(self, id: str) -> Kept | None:
        """See `Trials.kept`."""
        query = select(table.c.id, table.c.route, table.c.body).where(table.c.id == id)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Kept(row.id, row.route, row.body)

    def keep(self, kept: Kept) -> None:
        """See `Trials.keep`."""
        statement = insert(table)
        new = {"body": statement.excluded.body}
        with self._database.writing() as connection:
            connection.execute(statement.on_conflict_do_update(set_=new), msgspec.structs.asdict(kept))

    def tried(
        self, route: str, configs: Collection[str], after: Place, until_us: int, most: int
    ) -> tuple[Sequence[Tried], Place]:
        """See `Trials.tried`. Whose client left tells nothing, and copies are nobody's."""
        column = records.c
        query = (
            select(
                column.at_us,
                column.id,
                column.outcome,
                column.charge_basis,
                column.charge_nanousd,
                column.total_ms,
                column.decision,
            )
            .where(
                tuple_(column.at_us, column.id) > after,
                column.at_us < until_us,
                column.route == route,
                column.config_hash.in_(configs),
                column.outcome.in_(("ok", "error")),
                column.mirrors.is_(None),
                column.decision.is_not(None),
            )
            .order_by(column.at_us, column.id)
            .limit(most)
        )
        rows, arms = self._read(query)
        # What used nothing has no basis, and costs nothing.
        found = [
            Tried(
                arm,
                row.outcome == "ok",
                0 if row.charge_basis is None else row.charge_nanousd,
                row.total_ms,
            )
            for row in rows
            if (arm := arms[row.decision]) is not None
        ]
        return found, (rows[-1].at_us, rows[-1].id) if rows else after

    def opinions(
        self, route: str, configs: Collection[str], after: int, most: int
    ) -> tuple[Sequence[Opinion], int]:
        """See `Trials.opinions`."""
        first = (
            select(func.min(_OPINION).label("place"))
            .where(feedback.c.score.is_not(None))
            .group_by(feedback.c.record_id)
            .having(func.min(_OPINION) > after)
        )
        query = (
            select(_OPINION.label("place"), feedback.c.score, records.c.decision)
            .join(records, records.c.id == feedback.c.record_id)
            .where(
                _OPINION.in_(first),
                records.c.route == route,
                records.c.config_hash.in_(configs),
                records.c.decision.is_not(None),
            )
            .order_by(_OPINION)
            .limit(most)
        )
        rows, arms = self._read(query)
        found = [Opinion(arm, row.score) for row in rows if (arm := arms[row.decision]) is not None]
        return found, rows[-1].place if rows else after

    def _read(self, query: Select[Any]) -> tuple[Sequence[Row[Any]], dict[bytes, str | None]]:
        """The rows, and the outermost arm of each decision in them."""
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            new = {row.decision for row in rows} - self._arms.keys()
            for digest in new:
                body = connection.scalar(select(decisions.c.body).where(decisions.c.hash == digest).limit(1))
                drawn = msgspec.json.decode(body, type=_Drawn).arms if body is not None else ()
                self._arms[digest] = drawn[0] if drawn else None
        return rows, self._arms


class _Drawn(msgspec.Struct, frozen=True):
    """What is read of a decision."""

    arms: tuple[str, ...] = ()
