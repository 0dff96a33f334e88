"""`isthmus check`: is the config sound, and what does it say?"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import alarms_in, price_of
from isthmus.catalog.prices import PriceBook
from isthmus.cli.options import config_option, use_colour
from isthmus.cli.table import table
from isthmus.config.config import Config
from isthmus.config.doubts import doubted
from isthmus.config.faults import Code, ConfigFault
from isthmus.config.findings import format_path
from isthmus.config.learned import learned_in
from isthmus.config.lines import Lines
from isthmus.config.load import DEFAULT_FILE, lines_of, locate, read
from isthmus.config.places import ledger_path
from isthmus.config.report import as_data, render
from isthmus.config.spending import bounded_in_usd, is_priced
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.routing.route import Route


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the faults as a JSON list.")
@click.option("--no-secrets", is_flag=True, help="Do not look whether the secrets are there (for CI).")
def check(config_path: Path | None, as_json: bool, no_secrets: bool) -> None:
    """Check the config and show what it says.

    Exits with 0 where it can be used, and with 1 where it is refused.
    """
    path = locate(config_path)
    config, faults = read(path, check_secrets=not no_secrets)
    if config is not None:
        faults = (*faults, *_doubts(config, path), *_unpriced(config, path))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(as_data(faults))).decode())
    else:
        click.echo(render(faults, colour=use_colour(sys.stdout)), nl=False)
        if config is not None:
            click.echo(summary(config))
    if config is None:
        sys.exit(1)


def _doubts(config: Config, path: Path | None) -> list[ConfigFault]:
    """What alarms of drift, which stand in the ledger, make stale of what the config names."""
    try:
        alarms = alarms_in(ledger_path(config, path))
    except IsthmusError as error:
        click.echo(f"isthmus: whether drift was alarmed is not known: {error.text}", err=True)
        return []
    places = lines_of(path)
    return [
        _doubt(name, _new_reasons(route, config.routes[name]), places)
        for name, route in doubted(config, alarms).routes.items()
        if route is not config.routes[name]
    ]


def _new_reasons(route: Route, before: Route) -> list[str]:
    """Why something is stale that was learned for the route, and was not stale for that reason before."""
    known = {why for it in learned_in(before) for why in it.stale}
    return list(dict.fromkeys(why for it in learned_in(route) for why in it.stale if why not in known))


def _doubt(route: str, why: Sequence[str], places: Lines) -> ConfigFault:
    said = f"What was learned for the route {route} is stale, as {', and '.join(why)}."
    return _warning(
        Code.STALE_CALIBRATION,
        f"{said} Requests do what `on_stale` says.",
        "Run `isthmus calibrate` with `--fresh`; or, where all is well, move `since` of the watch.",
        ("routes", route),
        places,
    )


def _unpriced(config: Config, path: Path | None) -> list[ConfigFault]:
    """The models that a budget in USD is about, and whose price nobody knows."""
    places, book, now_us = lines_of(path), PriceBook(), time.time_ns() // 1000
    return [
        _warning(
            Code.UNPRICED,
            f"No price of `{name}` is known, and the budget `{budget.name}` is about it: each such call is "
            "refused (cost_unbounded).",
            "Say its `price:`, 0 where it costs nothing; or bound it by `tokens` or `requests`.",
            ("models", name),
            places,
        )
        for name, budget in bounded_in_usd(config).items()
        if not _is_priced(config, config.models[name], book, now_us)
    ]


def _is_priced(config: Config, model: Model, book: PriceBook, at_us: int) -> bool:
    return is_priced(model, price_of(model, config.providers[model.provider], book), at_us)


def _warning(code: Code, message: str, hint: str, path: tuple[str, str], places: Lines) -> ConfigFault:
    place = places.place(path)
    return ConfigFault(
        code=code,
        message=message,
        hint=hint,
        file=place.file if place is not None else DEFAULT_FILE.name,
        line=place.mark.line + 1 if place is not None else 1,
        column=place.mark.column + 1 if place is not None else 1,
        path=format_path(path),
    )


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
