"""`isthmus distill terms`: whose outputs may teach."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from isthmus.cli.distill.permitting import permission_of, recipe_or_exit
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.config.load import locate
from isthmus.distill.recipe import needed
from isthmus.distill.terms import known_terms, terms_of


@click.command()
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Count the grounds of this recipe, too.",
)
@click.option("--table", "whole", is_flag=True, help="Show the table of documents instead.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@told
def terms(recipe: Path | None, whole: bool, config_path: Path | None, as_json: bool) -> None:
    """Say of each model of the config whether its outputs may teach today, by which document, and why.

    What is unknown is refused: name the terms under the provider (`terms:`), or the weights' licence under
    the model (`licence:`). The table is no legal advice.
    """
    if whole:
        _show_table(as_json)
        return
    path = locate(config_path)
    config = load_or_exit(path)
    grounds = needed(recipe_or_exit(recipe).collect, "collect").permission if recipe is not None else ()
    permission = permission_of(path, grounds)
    found = {
        name: permission.ruling(terms_of(model, config.providers[model.provider]), permission.today)
        for name, model in config.models.items()
    }
    if as_json:
        for name, it in found.items():
            click.echo(msgspec.json.encode({"model": name, **msgspec.to_builtins(it)}))
        return
    rows = [
        (name, "yes" if it.may_teach else "NO", it.terms or "-", it.verdict) for name, it in found.items()
    ]
    click.echo(table(("MODEL", "MAY TEACH", "TERMS", "VERDICT"), rows))
    for name, it in found.items():
        click.echo(f"\n{name}: {it.why}")
        for duty in it.duties:
            click.echo(f"  Duty: {duty}")


def _show_table(as_json: bool) -> None:
    if as_json:
        for it in known_terms():
            click.echo(msgspec.json.encode(it))
        return
    rows = [
        (it.key, it.verdict, str(it.dated or "-"), f"{it.seen:%Y-%m}", it.certainty, it.document)
        for it in known_terms()
    ]
    click.echo(table(("TERMS", "VERDICT", "DATED", "SEEN", "HOW", "DOCUMENT"), rows))
