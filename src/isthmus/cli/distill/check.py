"""`isthmus distill check`: whether every row of a dataset may still teach."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from isthmus.cli.distill.permitting import permission_of, recipe_or_exit
from isthmus.cli.options import config_option, told
from isthmus.config.load import locate
from isthmus.distill.permission import require_may_teach
from isthmus.distill.recipe import needed
from isthmus.evals.datasets import open_dataset


@click.command()
@click.argument(
    "datasets", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Count the grounds of this recipe, too.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print every row that may not teach, one a line.")
@told
def check(datasets: tuple[Path, ...], recipe: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Say whether every row of DATASETS may teach today: by its provenance, the terms, and the quarantine.

    Training refuses a dataset as a whole where one row may not. Ends with status 1 then.
    """
    grounds = needed(recipe_or_exit(recipe).collect, "collect").permission if recipe is not None else ()
    permission = permission_of(locate(config_path), grounds)
    samples = [it for file in datasets for it in open_dataset(file).samples]
    if as_json:
        for it in samples:
            if (refusal := permission.refuses(it)) is not None:
                click.echo(msgspec.json.encode({"id": it.id, "reason": refusal.reason, "why": refusal.why}))
    require_may_teach(samples, permission)
    click.echo(f"All {len(samples):,} rows may teach.", err=True)
