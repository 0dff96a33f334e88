"""What a watch for drift reads of the ledger, and where it writes down how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from sqlalchemy import distinct, func, select
from sqlalchemy.dialects.sqlite import insert

from isthmus.core.label import Label
from isthmus.core.record import Features, Outcome
from isthmus.store import schema
from isthmus.store.schema import attempts, decisions, feedback, records
from isthmus.store.schema import drift as table

REFUSALS = ("refusal", "content_filter")
"""Why an answer ended, where the model or its provider would not give it."""

_FOR_THE_CALLER = ("answer", "draft")
_RANDOM_DIGITS = -20
_to_features = msgspec.json.Decoder(Features).decode


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch sees of one request: no text. None is what the record does not tell."""

    operation: str
    outcome: Outcome
    status: int
    label: Label | None = None
    features: Features | None = None
    prompt: int | None = None
    output: int | None = None
    total_ms: float = 0.0
    models: int = 0
    refused: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How far a route was looked at, and what was found until then, in the words of who wrote it."""

    route: str
    until_us: int
    body: bytes


class Drifts(Protocol):
    """What is known of drift. Every method blocks: call it off the event loop. Raises IsthmusError."""

    def standing(self, route: str) -> Standing | None:
        """What was last written down of a route."""

    def standings(self) -> Sequence[Standing]:
        """What was last written down of every route that was ever watched."""

    def write(self, standing: Standing) -> None:
        """Writes it down, durably, in the place of what was there."""

    def observed(self, route: str, since_us: int, until_us: int, most: int) -> Sequence[Observed]:
        """The requests of a route in that time, at most so many of them, in an order that chance made."""

    def scores(
        self, route: str, since_us: int, until_us: int, most: int, *, by_judges: bool
    ) -> Sequence[float]:
        """The scores that people, or judges, gave in that time to answers of a route, the last one of each
        answer alone.

        At most so many of them, in an order that chance made.
        """


class SqliteDrifts:
    """Drift in the ledger's file."""

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def standing(self, route: str) -> Standing | None:
        """See `Drifts.standing`."""
        query = select(table.c.route, table.c.until_us, table.c.body).where(table.c.route == route)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Standing(row.route, row.until_us, row.body)

    def standings(self) -> Sequence[Standing]:
        """See `Drifts.standings`."""
        query = select(table.c.route, table.c.until_us, table.c.body).order_by(table.c.route)
        with self._database.reading() as connection:
            return [Standing(row.route, row.until_us, row.body) for row in connection.execute(query)]

    def write(self, standing: Standing) -> None:
        """See `Drifts.write`."""
        statement = insert(table)
        new = {word: statement.excluded[word] for word in ("until_us", "body")}
        with self._database.writing() as connection:
            connection.execute(statement.on_conflict_do_update(set_=new), msgspec.structs.asdict(standing))

    def observed(self, route: str, since_us: int, until_us: int, most: int) -> Sequence[Observed]:
        """See `Drifts.observed`. An id ends in 80 random bits: to sort by them is to shuffle."""
        column = records.c
        meant = (
            select(
                column.id,
                column.at_us,
                column.operation,
                column.outcome,
                column.status,
                column.decision,
                column.features,
                (
                    column.input_tokens
                    + column.cache_read_tokens
                    + column.cache_write_5m_tokens
                    + column.cache_write_1h_tokens
                ).label("prompt"),
                column.output_tokens,
                column.total_ms,
            )
            .where(
                column.at_us >= since_us,
                column.at_us < until_us,
                column.route == route,
                # Copies that shadows made answer nobody.
                column.mirrors.is_(None),
            )
            .order_by(func.substr(column.id, _RANDOM_DIGITS))
            .limit(most)
            .subquery()
        )
        tried = (
            select(
                attempts.c.record_id,
                func.count(distinct(attempts.c.model)).label("models"),
                func.max(attempts.c.finish.in_(REFUSALS)).label("refused"),
            )
            .where(attempts.c.record_id.in_(select(meant.c.id)), attempts.c.purpose.in_(_FOR_THE_CALLER))
            .group_by(attempts.c.record_id)
            .subquery()
        )
        query = (
            select(meant, tried.c.models, tried.c.refused)
            .outerjoin(tried, tried.c.record_id == meant.c.id)
            .order_by(func.substr(meant.c.id, _RANDOM_DIGITS))
        )
        with self._database.reading() as connection:
            found = connection.execute(query).all()
            wanted = {row.decision for row in found if row.decision is not None}
            labels = {
                digest: msgspec.json.decode(body, type=_Labelled).label
                for digest, body in connection.execute(
                    select(decisions.c.hash, func.min(decisions.c.body)).group_by(decisions.c.hash)
                )
                if digest in wanted
            }
        return [
            Observed(
                operation=row.operation,
                outcome=row.outcome,
                status=row.status,
                label=labels.get(row.decision),
                features=None if row.features is None else _to_features(row.features),
                prompt=row.prompt,
                output=row.output_tokens,
                total_ms=row.total_ms,
                models=row.models or 0,
                refused=bool(row.refused),
            )
            for row in found
        ]

    def scores(
        self, route: str, since_us: int, until_us: int, most: int, *, by_judges: bool
    ) -> Sequence[float]:
        """See `Drifts.scores`. The ids of feedback sort by time, too, and end at random."""
        last = (
            select(func.max(feedback.c.id).label("id"))
            .join(records, records.c.id == feedback.c.record_id)
            .where(
                feedback.c.at_us >= since_us,
                feedback.c.at_us < until_us,
                feedback.c.score.is_not(None),
                feedback.c.judge.is_not(None) if by_judges else feedback.c.judge.is_(None),
                records.c.route == route,
            )
            .group_by(feedback.c.record_id)
            .subquery()
        )
        query = (
            select(feedback.c.score)
            .join(last, last.c.id == feedback.c.id)
            .order_by(func.substr(feedback.c.id, _RANDOM_DIGITS))
            .limit(most)
        )
        with self._database.reading() as connection:
            return list(connection.scalars(query))


class _Labelled(msgspec.Struct, frozen=True):
    """What is read of a decision."""

    label: Label = Label()
