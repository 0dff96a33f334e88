"""`isthmus label`: how sensitive files and logs of requests are, found on this machine."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.bootstrap import inspection_of
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.core.label import LEVELS, Label
from isthmus.gateway.inspection import Inspection
from isthmus.perimeter.policy import RULES, Policy
from isthmus.perimeter.scanner import Sightings

LARGEST = 32_000_000
"""A file that is labelled as a whole may have so many bytes; of JSON Lines, each line."""


class Labelled(msgspec.Struct, frozen=True):
    """One thing that was labelled: a file, or a `line` of one."""

    file: str
    line: int | None
    label: Label
    seen: Sightings


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@config_option
@click.option("--all", "everything", is_flag=True, help="Show also what is at or below the config's default.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each thing that is labelled."
)
@told
def label(files: tuple[Path, ...], config_path: Path | None, everything: bool, as_json: bool) -> None:
    """Label FILES: texts, JSON, or logs of requests as JSON Lines (one request a line).

    The rules are those of the config's section `perimeter`; without one, personal data is confidential and a
    secret is restricted. Nothing leaves this machine, and what was found is never shown, only where.
    """
    policy = load_or_exit(locate(config_path)).perimeter
    if not policy.rules:
        policy = Policy(rules=RULES)
    inspection = inspection_of(policy, secrets.token_bytes(32))
    levels: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    rows: list[tuple[str, str, str]] = []
    size = sum(file.stat().st_size for file in files)
    talk = sys.stderr
    with click.progressbar(length=size, label="Labelling", file=talk, hidden=not talk.isatty()) as bar:
        for one in _labelled(files, inspection, bar):
            levels[one.label.level] += 1
            kinds.update(one.label.categories)
            if as_json:
                click.echo(msgspec.json.encode(one))
            elif everything or one.label != Label(policy.default):
                where = one.file if one.line is None else f"{one.file}:{one.line}"
                blind = ["not looked into"] if one.seen.blind else []
                rows.append((one.label.level, where, ", ".join([*sorted(one.label.categories), *blind])))
    if not as_json:
        click.echo(_report(rows, levels, kinds))


def _labelled(files: tuple[Path, ...], inspection: Inspection, bar: Any) -> Iterator[Labelled]:
    for file in files:
        if file.suffix == ".jsonl":
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    bar.update(len(line))
                    if line.strip():
                        yield _one(str(file), number, line, inspection)
        else:
            body = file.read_bytes()
            bar.update(len(body))
            yield _one(str(file), None, body if file.suffix == ".json" else _as_json(body), inspection)


def _one(file: str, line: int | None, body: bytes, inspection: Inspection) -> Labelled:
    known = inspection.unread(()) if len(body) > LARGEST else inspection.look(body, ())
    return Labelled(file, line, known.label, known.seen)


def _as_json(body: bytes) -> bytes:
    # Bytes that are no UTF-8 may be anything: an archive, a picture. They are not read as if they were text.
    try:
        return msgspec.json.encode(body.decode())
    except UnicodeDecodeError:
        return b""


def _report(rows: list[tuple[str, str, str]], levels: Counter[str], kinds: Counter[str]) -> str:
    parts = [table(("LABEL", "WHERE", "FOUND"), rows)] if rows else []
    counted = [(level, f"{levels[level]:,}") for level in LEVELS if levels[level]]
    parts.append(table(("LEVEL", "COUNT"), counted))
    if kinds:
        parts.append(table(("FOUND", "IN"), [(kind, f"{count:,}") for kind, count in kinds.most_common()]))
    return "\n\n".join(parts)
