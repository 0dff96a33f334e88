"""What a running experiment reads of the ledger, and where it writes down what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.sqlite import insert

from isthmus.core.decision import NEEDLESS, Decision
from isthmus.core.record import answered
from isthmus.store import schema
from isthmus.store.rows import DAY_US
from isthmus.store.schema import attempts, decisions, feedback, records
from isthmus.store.schema import experiments as table
from isthmus.strategies.plan.node import Weights

_OPINION: ColumnElement[int] = literal_column("feedback.rowid", BigInteger)


Place: TypeAlias = tuple[int, str]
"""How far the records were read: the time and the id of the last one."""

BEGINNING: Place = (0, "")


class Dealt(NamedTuple):
    """How a request came to its arm.

    `key` and `user` sent it; `weights` are those in force that the config does not say, and `refused` the
    models that it could not reach. `drawn` is False where no draw decided: its conversation was kept there.
    """

    key: str | None = None
    user: str | None = None
    weights: Weights = ()
    refused: tuple[str, ...] = ()
    drawn: bool = True


ANYHOW = Dealt()
"""By the config's weights, from somebody unknown who may reach all models."""


class Tried(NamedTuple):
    """One request that came to an arm, and what is to be said for or against the arm. `nanousd` is None where
    no price is known."""

    arm: str
    answered: bool
    nanousd: int | None
    total_ms: float
    dealt: Dealt = ANYHOW


class Opinion(NamedTuple):
    """The first score of an answer of an arm."""

    arm: str
    score: float
    dealt: Dealt = ANYHOW


def dealt(decision: Decision, key: str | None, user: str | None) -> Dealt:
    """How the request of that key and user, on which this was decided, came to its arm."""
    # A model that had nothing to do was left out with its arm, or with none.
    refused = tuple(it.model for it in decision.refused if it.rule != NEEDLESS)
    return Dealt(key, user, decision.weights, refused, decision.previous is None)


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
        """The next requests of a route under these configs that came before that time, of at most so many:
        those that say something for or against their arm. See `core.record.answered`."""

    def opinions(
        self, route: str, configs: Collection[str], after: int, most: int
    ) -> tuple[Sequence[Opinion], int]:
        """The next answers of theirs that were scored, at most so many."""


class SqliteTrials:
    """Experiments in the ledger's file."""

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

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
        """See `Trials.tried`. Copies are nobody's."""
        column = records.c
        query = (
            select(
                column.at_us,
                column.id,
                column.outcome,
                case((column.outcome == "error", _FAULT)).label("fault"),
                column.charge_basis,
                column.charge_nanousd,
                column.total_ms,
                *_ON_ITS_WAY,
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
        rows, ways = self._read(query)
        # What used nothing has no basis, and costs nothing.
        found = [
            Tried(
                way.arms[0],
                told,
                0 if row.charge_basis is None else row.charge_nanousd,
                row.total_ms,
                dealt(way, row.key_id, row.user),
            )
            for row, way in zip(rows, ways, strict=True)
            if way is not None and (told := answered(row.outcome, row.fault)) is not None
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
            select(_OPINION.label("place"), feedback.c.score, records.c.at_us, *_ON_ITS_WAY)
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
        rows, ways = self._read(query)
        found = [
            Opinion(way.arms[0], row.score, dealt(way, row.key_id, row.user))
            for row, way in zip(rows, ways, strict=True)
            if way is not None
        ]
        return found, rows[-1].place if rows else after

    def _read(self, query: Select[Any]) -> tuple[Sequence[Row[Any]], list[Decision | None]]:
        """The rows, and what was decided on each; None where no arm of the route's own plan was drawn."""
        decided: dict[bytes, Decision | None] = {}
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            for row in rows:
                if row.decision not in decided:
                    same = and_(decisions.c.day == row.at_us // DAY_US, decisions.c.hash == row.decision)
                    body = connection.scalar(select(decisions.c.body).where(same))
                    decided[row.decision] = _of_the_plan(body)
        return rows, [decided[row.decision] for row in rows]


def _of_the_plan(body: bytes | None) -> Decision | None:
    decision = msgspec.json.decode(body, type=Decision) if body is not None else None
    # While money is short, the route has another plan, whose arms may have the same names.
    return decision if decision is not None and decision.arms and not decision.thrifty else None


_ON_ITS_WAY = (records.c.key_id, records.c.user, records.c.decision)

_FAULT = (
    select(attempts.c.fault)
    .where(
        attempts.c.record_id == records.c.id,
        attempts.c.code == records.c.code,
        attempts.c.fault.is_not(None),
    )
    .order_by(attempts.c.number.desc())
    .limit(1)
    .scalar_subquery()
)
"""What `Record.fault` is."""
