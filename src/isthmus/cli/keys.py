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
@click.option("--name", required=True, help="Whose key it is: a team or an application.")
@click.option(
    "--route", "routes", multiple=True, help="A route (or pattern) it may use; repeat. Default: all."
)
@click.option("--expires", type=Span(), help="How long it is valid, e.g. 90d. Default: until it is revoked.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def create(
    name: str, routes: tuple[str, ...], expires: float | None, config_path: Path | None, as_json: bool
) -> None:
    """Create a key and show its secret, this once."""
    if not name.strip():
        raise click.BadParameter("a key needs a name that tells whose it is", param_hint="--name")
    now = _now_us()
    _warn_of_unknown(routes, config_path)
    expires_us = None if expires is None else now + int(expires * 1_000_000)
    _show_new(_keys(config_path).create(name, routes, now, expires_us), as_json)


@keys.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def list_(config_path: Path | None, as_json: bool) -> None:
    """List all keys that were ever made."""
    found = _keys(config_path).list()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    now = _now_us()
    heads = ("ID", "NAME", "ROUTES", "CREATED", "EXPIRES", "STATE")
    click.echo(table(heads, [_row(key, now) for key in found]))
    if not found:
        click.echo("There is none yet, so only programs on this machine are served.", err=True)


@keys.command()
@click.argument("key")
@config_option
@told
def revoke(key: str, config_path: Path | None) -> None:
    """End a key, named by id or name, now and for ever."""
    revoked = _keys(config_path).revoke(key, _now_us())
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
    """Create a key that replaces another, which stays valid for a while."""
    _show_new(_keys(config_path).rotate(key, _now_us(), grace), as_json)


def _warn_of_unknown(routes: tuple[str, ...], config_path: Path | None) -> None:
    """Say which of the routes the config does not have, now: they may come later, or never be meant to."""
    known = load_or_exit(locate(config_path)).routes
    for pattern in routes:
        if not any(fnmatchcase(name, pattern) for name in known):
            click.echo(f"Note: the config has no route {pattern!r} now.", err=True)


def _keys(config_path: Path | None) -> Keys:
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
        ", ".join(key.routes) or "all",
        _day(key.created_us),
        _day(key.expires_us),
        state,
    )


def _day(at_us: int | None) -> str:
    if at_us is None:
        return "-"
    return dt.datetime.fromtimestamp(at_us / 1_000_000, dt.UTC).strftime("%Y-%m-%d %H:%M")


def _now_us() -> int:
    return time.time_ns() // 1000
