"""Sums over records, made by the database: traffic as it is asked of other models and other machines."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from isthmus.core.label import BOTTOM, Label
from isthmus.core.traffic import Flow, HourOfWeek
from isthmus.core.usage import Usage
from isthmus.store import schema
from isthmus.store.records import EVERYTHING, Where, of_callers
from isthmus.store.schema import HOUR_US, decisions, records

_HOURS = 168
_HOURS_OF_A_DAY = 24
# The epoch was a Thursday.
_SINCE_MONDAY = 72


_COUNTS = tuple(name for name in Usage.__struct_fields__ if name not in ("estimated", "beyond"))


_SPENT = (
    func.count(),
    func.coalesce(func.sum(records.c.charge_nanousd), 0),
    # A request that used nothing has no basis; one whose price is not known has one, and no amount.
    func.count(records.c.charge_basis) - func.count(records.c.charge_nanousd),
)


class _Decided(msgspec.Struct, frozen=True):
    """What the sums keep of a decision."""

    label: Label = BOTTOM
    pseudonymised: frozenset[str] = frozenset()


_UNDECIDED = _Decided()


class SqliteTraffic:
    """The sums of a ledger's file, read without disturbing who writes it.

    Raises IsthmusError when used: see `isthmus.store.schema.Database.reading`.
    """

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def since_us(self, where: Where = EVERYTHING) -> int | None:
        """When the first request came that is meant, None where there is none."""
        with self._database.reading() as connection:
            found: int | None = connection.scalar(select(func.min(records.c.at_us)).where(*of_callers(where)))
            return found

    def week(self, where: Where = EVERYTHING) -> list[HourOfWeek]:
        """The chats that are meant and whose usage is known, by the hour of the week; empty hours are left
        out."""
        hour = (records.c.at_us // HOUR_US + _SINCE_MONDAY) % _HOURS
        cached = func.sum(records.c.cache_read_tokens)
        written = records.c.cache_write_5m_tokens + records.c.cache_write_1h_tokens
        query = (
            select(
                hour,
                func.count(),
                func.sum(records.c.input_tokens + records.c.cache_read_tokens + written),
                cached,
                func.sum(records.c.output_tokens),
            )
            .where(*of_callers(where), records.c.operation == "chat", records.c.input_tokens.is_not(None))
            .group_by(hour)
            .order_by(hour)
        )
        with self._database.reading() as connection:
            return [
                HourOfWeek(hour=hour, requests=requests, prompt=prompt, cached=cached, output=output)
                for hour, requests, prompt, cached, output in connection.execute(query)
            ]

    def flows(self, where: Where = EVERYTHING) -> list[Flow]:
        """The answered requests that are meant and whose usage is known, those that are alike together."""
        column = records.c
        hour = column.at_us // HOUR_US % _HOURS_OF_A_DAY
        alike = (column.route, column.operation, column.decision, column.model, hour)
        query = (
            select(
                *alike,
                *_SPENT,
                *(func.sum(column[f"{name}_tokens"]) for name in _COUNTS),
            )
            .where(*of_callers(where), column.model.is_not(None), column.input_tokens.is_not(None))
            .group_by(*alike)
            .order_by(*alike)
        )
        with self._database.reading() as connection:
            found = connection.execute(query).all()
            decided = _decided(connection)
        flows = []
        for route, operation, decision, model, hour, requests, nanousd, unpriced, *counts in found:
            known = decided.get(decision, _UNDECIDED)
            flows.append(
                Flow(
                    route=route,
                    operation=operation,
                    label=known.label,
                    pseudonymised=known.pseudonymised,
                    model=model,
                    hour=hour,
                    requests=requests,
                    usage=Usage(**dict(zip(_COUNTS, counts, strict=True))),
                    nanousd=nanousd,
                    unpriced=unpriced,
                )
            )
        return flows


def _decided(connection: Connection) -> dict[bytes, _Decided]:
    query = select(decisions.c.hash, func.min(decisions.c.body)).group_by(decisions.c.hash)
    return {digest: msgspec.json.decode(body, type=_Decided) for digest, body in connection.execute(query)}
