"""`isthmus check`: is the config sound, and what does it say?"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from isthmus.cli.options import config_option, use_colour
from isthmus.cli.table import table
from isthmus.config.config import Config
from isthmus.config.load import locate, read
from isthmus.config.report import as_data, render
from isthmus.core.portfolio import Provider


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the faults as a JSON list.")
@click.option("--no-secrets", is_flag=True, help="Do not look whether the secrets are there (for CI).")
def check(config_path: Path | None, as_json: bool, no_secrets: bool) -> None:
    """Check the config and show what it says.

    Exits with 0 where it can be used, and with 1 where it is refused.
    """
    config, faults = read(locate(config_path), check_secrets=not no_secrets)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(as_data(faults))).decode())
    else:
        click.echo(render(faults, colour=use_colour(sys.stdout)), nl=False)
        if config is not None:
            click.echo(summary(config))
    if config is None:
        sys.exit(1)


def summary(config: Config) -> str:
    """The config in three tables: providers, models, routes."""
    providers = [
        (name, each.wires[0], _place(each), each.zone or "-", _key(each))
        for name, each in config.providers.items()
    ]
    models = [
        (name, each.provider, each.id, each.kind, each.zone or "-") for name, each in config.models.items()
    ]
    routes = [
        (name, each.plan.keyword, ", ".join(each.plan.models()), "kept" if each.record_bodies else "-")
        for name, each in config.routes.items()
    ]
    tables = (
        table(("provider", "dialect", "endpoint", "zone", "key"), providers),
        table(("model", "provider", "id", "kind", "zone"), models),
        table(("route", "strategy", "models", "bodies"), routes),
    )
    return "\n\n".join((*tables, f"config {config.hash[:12]}"))


def _place(provider: Provider) -> str:
    return provider.base_url or ("(known to any-llm)" if provider.client == "anyllm" else "(run by Isthmus)")


def _key(provider: Provider) -> str:
    return f"{provider.key.source}:{provider.key.name}" if provider.key else "-"
