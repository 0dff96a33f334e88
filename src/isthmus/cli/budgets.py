"""`isthmus budgets`: what is used of each budget, and what is left."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.accounting.budgets import Budget, window
from isthmus.bootstrap import open_counters
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.store.counters import Count, Name


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each account.")
@told
def budgets(config_path: Path | None, as_json: bool) -> None:
    """Say what is used of each budget in its window, and what is left.

    A running gateway draws its budgets ahead in small portions, and tells every two seconds what it has
    spent: what is held for running calls is a part of what it has drawn.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    at_us = time.time_ns() // 1000
    kept = open_counters(config, path).list(at_us)
    accounts = [it for budget in config.budgets for it in _accounts(budget, kept, at_us)]
    if as_json:
        for account in accounts:
            click.echo(msgspec.json.encode(_as_data(*account)))
    elif accounts:
        heads = ("BUDGET", "OF", "USED", "DRAWN", "LEFT", "FULL AGAIN (UTC)")
        click.echo(table(heads, [_row(*account) for account in accounts]))
    else:
        click.echo("There are no budgets: see `budgets` in the reference of the config.", err=True)


def _accounts(budget: Budget, kept: list[tuple[Name, Count]], at_us: int) -> list[tuple[Budget, Name, Count]]:
    """The accounts of a budget; one that is whole where nobody has used it."""
    used = [(budget, name, count) for name, count in kept if name.budget == budget.name]
    if used or budget.each:
        return used
    now = window(budget.per, at_us)
    return [(budget, Name(budget.name, "", now.start_us, now.end_us), Count(0, 0))]


def _row(budget: Budget, name: Name, count: Count) -> tuple[str, ...]:
    full_again = dt.datetime.fromtimestamp(name.end_us // 1_000_000, dt.UTC)
    return (
        budget.name,
        name.subject or "all",
        budget.in_words(count.spent),
        budget.in_words(count.drawn),
        f"{budget.in_words(max(0, budget.amount - count.spent))} of {budget.in_words(budget.amount)}",
        f"{full_again:%Y-%m-%d %H:%M}",
    )


def _as_data(budget: Budget, name: Name, count: Count) -> dict[str, Any]:
    return {
        "budget": budget.name,
        "subject": name.subject,
        "unit": "nanousd" if budget.unit == "usd" else budget.unit,
        "amount": budget.amount,
        "spent": count.spent,
        "drawn": count.drawn,
        "start_us": name.start_us,
        "end_us": name.end_us,
    }
