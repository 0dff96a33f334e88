"""`isthmus models`: the portfolio, the supply chain of its weights, and new ones."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import prices_of
from isthmus.catalog.prices import Price
from isthmus.cli.artefacts import bom, keygen, lineage, sign, verify
from isthmus.cli.options import config_option, load_or_exit
from isthmus.cli.rollouts import promote, rollback, rollouts
from isthmus.cli.table import table
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.core.portfolio import Model


@click.group()
def models() -> None:
    """The models of the portfolio, and who vouches for their weights."""


for command in (keygen, sign, verify, bom, lineage, promote, rollback, rollouts):
    models.add_command(command)


@models.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(config_path: Path | None, as_json: bool) -> None:
    """List every model.

    It tells where each runs, what its price is known from today, and which routes lead to it.
    """
    config = load_or_exit(locate(config_path))
    prices, now_us = prices_of(config), time.time_ns() // 1000
    listed = [(model, _basis(prices[name], now_us)) for name, model in config.models.items()]
    if as_json:
        rows = [
            msgspec.to_builtins(model) | {"priced_by": basis, "routes": _routes(config, model)}
            for model, basis in listed
        ]
        click.echo(msgspec.json.encode(rows))
        return
    heads = ("MODEL", "KIND", "PROVIDER", "ID", "ZONE", "PRICE", "ROUTES")
    click.echo(table(heads, [_row(config, model, basis) for model, basis in listed]))


def _row(config: Config, model: Model, basis: str | None) -> tuple[str, ...]:
    return (
        model.name,
        model.kind,
        model.provider,
        model.id,
        model.zone or "-",
        basis or "unknown",
        ", ".join(_routes(config, model)) or "-",
    )


def _basis(price: Price, at_us: int) -> str | None:
    """What a charge would be based on at that time, None where it would be unknown."""
    found = price.in_force(at_us)
    return found[0].basis if found is not None else None


def _routes(config: Config, model: Model) -> list[str]:
    return [route.name for route in config.routes.values() if model.name in route.models()]
