"""The sums by hour: what was spent, known for longer than the records, and read in seconds for years.

The table `hours` has the sums of all records from before a certain time; what came later is added up here, in
the same transaction. So what is told is always all of it, to the nano-dollar, whether the gateway has just
rolled up its records or never did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import FromClause, Select, func, select, text, union_all

from isthmus.core.traffic import Hour, Spent
from isthmus.core.usage import Usage
from isthmus.store import schema
from isthmus.store.schema import HOUR_US, hours, keys

_COUNTS = tuple(name for name in Usage.__struct_fields__ if name not in ("estimated", "beyond"))
_TOKENS = tuple(f"{name}_tokens" for name in _COUNTS)
_SPENT = ("requests", "charge_nanousd", "unpriced")

# One bound: of two the index takes the first, and goes through all that is rolled up already.
_LATER = f"""{schema.SUMS_OF_RECORDS}
    WHERE at_us >= max(:since_us, coalesce((SELECT until_us FROM hours_until), 0))
    {schema.GROUP_BY_HOUR}"""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests are added up; None leaves that condition out.

    Time is in whole hours: the first is that of `since_us`. `team` is that of the request's key.
    """

    since_us: int = 0
    route: str | None = None
    model: str | None = None
    key_id: str | None = None
    team: str | None = None


ALL = Scope()
"""No condition."""


class SqliteHours:
    """The sums by hour of a ledger's file, read without disturbing who writes it.

    Raises IsthmusError when used: see `isthmus.store.schema.Database.reading`.
    """

    def __init__(self, path: Path) -> None:
        self._database = schema.Database(path)

    def hours(self, scope: Scope = ALL) -> list[Hour]:
        """The requests that are meant, by hour, route and model, in the order of time."""
        query = _added(scope, ("at_us", "route", "model"), (*_SPENT, *_TOKENS))
        with self._database.reading() as connection:
            return [
                Hour(
                    at_us=at_us,
                    route=route,
                    model=model or None,
                    requests=requests,
                    usage=Usage(**dict(zip(_COUNTS, counts, strict=True))),
                    nanousd=nanousd,
                    unpriced=unpriced,
                )
                for at_us, route, model, requests, nanousd, unpriced, *counts in connection.execute(query)
            ]

    def by_key(self, scope: Scope = ALL) -> list[Spent]:
        """What each key has spent, by its id; requests without a key are named `no key`."""
        with self._database.reading() as connection:
            return [
                Spent(name=key or "no key", requests=requests, nanousd=nanousd, unpriced=unpriced)
                for key, requests, nanousd, unpriced in connection.execute(_added(scope, ("key_id",), _SPENT))
            ]

    def teams(self) -> dict[str, str]:
        """The team of each key that has one, by the key's id. It is given with the key, and stays."""
        with self._database.reading() as connection:
            return dict(
                connection.execute(select(keys.c.id, keys.c.team).where(keys.c.team.is_not(None))).all()
            )


def _added(scope: Scope, alike: Sequence[str], sums: Sequence[str]) -> Select[Any]:
    """The sums over what is meant, by the columns `alike` and in their order."""
    since_us = scope.since_us - scope.since_us % HOUR_US
    later = text(_LATER).bindparams(since_us=since_us).columns(*hours.columns).subquery("later")
    # Each by itself first: the rolled up hours lie in the order of their groups, and need no sorting.
    both = union_all(
        *(_grouped(source, scope, since_us, alike, sums) for source in (hours, later))
    ).subquery()
    columns = [both.c[name] for name in alike]
    return select(*columns, *(func.sum(both.c[name]) for name in sums)).group_by(*columns).order_by(*columns)


def _grouped(
    source: FromClause, scope: Scope, since_us: int, alike: Sequence[str], sums: Sequence[str]
) -> Select[Any]:
    column = source.c
    query = select(
        *(column[name] for name in alike), *(func.sum(column[name]).label(name) for name in sums)
    ).where(column.at_us >= since_us)
    for name in ("route", "model", "key_id"):
        value = getattr(scope, name)
        if value is not None:
            query = query.where(column[name] == value)
    if scope.team is not None:
        query = query.where(column.key_id.in_(select(keys.c.id).where(keys.c.team == scope.team)))
    return query.group_by(*(column[name] for name in alike))
