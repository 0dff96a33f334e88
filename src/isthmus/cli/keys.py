"""`isthmus keys`: who may call."""

from __future__ import annotations

import datetime as dt
import re
import time
from fnmatch import fnmatchcase
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import open_keys
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.core.label import BOTTOM, LEVELS, Label, Level
from isthmus.store.keys import Key, Keys, NewKey

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_S = 36_525 * UNITS_S["d"]


class Span(click.ParamType[float]):
    """A length of time such as 90d, 12h or 30m, in seconds: 100 years at most, and some, unless `or_none`."""

    name = "duration"

    def __init__(self, *, or_none: bool = False) -> None:
        self._or_none = or_none

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a length of time; write it like 90d, 12h or 30m", param, ctx)
        seconds = float(match[1]) * UNITS_S[match[2]]
        if seconds > LONGEST_S or (seconds == 0 and not self._or_none):
            self.fail(f"{value!r} is out of range; say more than 0 and at most 36525d, 100 years", param, ctx)
        return seconds


@click.group()
def keys() -> None:
    """Keys are 256 random bits, shown once; only their hash is kept.

    A running gateway heeds changes within a second.
    """


@keys.command()
@click.option(
    "--name", required=True, help="Whose key it is: a team or an application. No two in force share one."
)
@click.option(
    "--route", "routes", multiple=True, help="A route (or pattern) it may use; repeat. Default: all."
)
@click.option("--team", help="Whose budgets it spends from.")
@click.option("--expires", type=Span(), help="How long it is valid, e.g. 90d. Default: until it is revoked.")
@click.option(
    "--floor", type=click.Choice(LEVELS), default="public", help="How sensitive what it sends is at least."
)
@click.option(
    "--zone", "zones", multiple=True, help="A zone where what it sends may go; repeat. Default: anywhere."
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def create(
    name: str,
    routes: tuple[str, ...],
    team: str | None,
    expires: float | None,
    floor: Level,
    zones: tuple[str, ...],
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Create a key and show its secret, this once."""
    if not name.strip():
        raise click.BadParameter("a key needs a name that tells whose it is", param_hint="--name")
    now = now_us()
    _warn_of_unknown(routes, zones, config_path)
    expires_us = None if expires is None else now + int(expires * 1_000_000)
    least = Label(floor, zones=frozenset(zones) if zones else None)
    _show_new(opened(config_path).create(name, routes, now, expires_us, least, team), as_json)


@keys.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def list_(config_path: Path | None, as_json: bool) -> None:
    """List all keys that were ever made."""
    found = opened(config_path).list()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    now = now_us()
    heads = ("ID", "NAME", "TEAM", "ROUTES", "FLOOR", "CREATED", "EXPIRES", "STATE")
    click.echo(table(heads, [_row(key, now) for key in found]))
    if not found:
        click.echo("There is none yet, so only programs on this machine are served.", err=True)


@keys.command()
@click.argument("key")
@config_option
@told
def revoke(key: str, config_path: Path | None) -> None:
    """End a key, named by id or name, now and for ever.

    By its name, the ones end too that it replaces and that are in their time of grace.
    """
    for revoked in opened(config_path).revoke(key, now_us()):
        click.echo(
            f"{revoked.id} ({revoked.name}) is revoked; running gateways refuse it within a second.", err=True
        )


@keys.command()
@click.argument("key")
@click.option(
    "--grace",
    type=Span(or_none=True),
    default="1h",
    show_default=True,
    help="How long the old one stays valid.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def rotate(key: str, grace: float, config_path: Path | None, as_json: bool) -> None:
    """Create a key that replaces another, which stays valid for a while.

    The other is named by its id or name. From then on the name means the new one.
    """
    _show_new(opened(config_path).rotate(key, now_us(), grace), as_json)


def _warn_of_unknown(routes: tuple[str, ...], zones: tuple[str, ...], config_path: Path | None) -> None:
    """Say which of these the config does not have, now: they may come later, or never be meant to."""
    config = load_or_exit(locate(config_path))
    for pattern in routes:
        if not any(fnmatchcase(name, pattern) for name in config.routes):
            click.echo(f"Note: the config has no route {pattern!r} now.", err=True)
    known_zones = {model.zone for model in config.models.values()}
    for zone in zones:
        if zone not in known_zones:
            click.echo(f"Note: no model of the config runs in the zone {zone!r} now.", err=True)


def opened(config_path: Path | None) -> Keys:
    """The keys of the gateway with this config."""
    path = locate(config_path)
    return open_keys(load_or_exit(path), path)


def _show_new(new: NewKey, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"key": new.secret, **msgspec.to_builtins(new.key)}))
        return
    click.echo(new.secret)
    click.echo(
        f"This is {new.key.id} ({new.key.name}). The secret is not kept and not shown again.", err=True
    )


def _row(key: Key, now_us: int) -> tuple[str, ...]:
    state = "revoked" if key.revoked_us is not None else "valid" if key.valid(now_us) else "expired"
    return (
        key.id,
        key.name,
        key.team or "-",
        ", ".join(key.routes) or "all",
        "-" if key.floor == BOTTOM else key.floor.in_words(),
        _day(key.created_us),
        _day(key.expires_us),
        state,
    )


def _day(at_us: int | None) -> str:
    if at_us is None:
        return "-"
    return dt.datetime.fromtimestamp(at_us / 1_000_000, dt.UTC).strftime("%Y-%m-%d %H:%M")


def now_us() -> int:
    """The time of the wall clock in microseconds since the epoch, as keys count it."""
    return time.time_ns() // 1000
