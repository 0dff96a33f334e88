"""`isthmus models`: the portfolio, the supply chain of its weights, and new ones."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

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

    It tells where each runs, what its price is known from, and which routes lead to it.
    """
    config = load_or_exit(locate(config_path))
    if as_json:
        rows = [
            msgspec.to_builtins(model) | {"routes": _routes(config, model)}
            for model in config.models.values()
        ]
        click.echo(msgspec.json.encode(rows))
        return
    heads = ("MODEL", "KIND", "PROVIDER", "ID", "ZONE", "PRICE", "ROUTES")
    click.echo(table(heads, [_row(config, model) for model in config.models.values()]))


def _row(config: Config, model: Model) -> tuple[str, ...]:
    provider = config.providers[model.provider]
    price = "own engine" if provider.engine else "config" if model.price else provider.prices or "unknown"
    return (
        model.name,
        model.kind,
        provider.name,
        model.id,
        model.zone or "-",
        price,
        ", ".join(_routes(config, model)) or "-",
    )


def _routes(config: Config, model: Model) -> list[str]:
    return [route.name for route in config.routes.values() if model.name in route.models()]
