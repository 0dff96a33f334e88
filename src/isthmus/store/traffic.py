"""Sums over the ledger, made by the database: a year of it is added up without a record being read."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import func, select

from isthmus.core.traffic import HourOfWeek
from isthmus.store import schema
from isthmus.store.records import EVERYTHING, Where, conditions
from isthmus.store.schema import records

_HOUR_US = 3_600_000_000
_HOURS = 168
# The epoch was a Thursday.
_SINCE_MONDAY = 72


class SqliteTraffic:
    """The sums of a ledger's file, read without disturbing who writes it.

    Raises IsthmusError when used: see `isthmus.store.schema.Database.reading`.
    """

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def since_us(self, where: Where = EVERYTHING) -> int | None:
        """When the first request came that is meant, None where there is none."""
        with self._database.reading() as connection:
            found: int | None = connection.scalar(select(func.min(records.c.at_us)).where(*conditions(where)))
            return found

    def week(self, where: Where = EVERYTHING) -> list[HourOfWeek]:
        """The chats that are meant and whose usage is known, by the hour of the week; empty hours are left
        out."""
        hour = (records.c.at_us // _HOUR_US + _SINCE_MONDAY) % _HOURS
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
            .where(*conditions(where), records.c.operation == "chat", records.c.input_tokens.is_not(None))
            .group_by(hour)
            .order_by(hour)
        )
        with self._database.reading() as connection:
            return [
                HourOfWeek(hour=hour, requests=requests, prompt=prompt, cached=cached, output=output)
                for hour, requests, prompt, cached, output in connection.execute(query)
            ]
