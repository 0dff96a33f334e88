"""`isthmus distill check`: whether every row of a dataset may still teach."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from isthmus.cli.distill.permitting import permission_of, recipe_or_exit
from isthmus.cli.options import config_option, told
from isthmus.config.load import locate
from isthmus.distill.golden import hashes_of
from isthmus.distill.permission import Batch, require_may_teach
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
    opened = [(file, open_dataset(file)) for file in datasets]
    batches = [Batch(dataset.samples, hashes_of(file, dataset)) for file, dataset in opened]
    for batch in batches if as_json else ():
        for it in batch.samples:
            if (refusal := permission.refuses(it, batch.known_by)) is not None:
                click.echo(msgspec.json.encode({"id": it.id, "reason": refusal.reason, "why": refusal.why}))
    require_may_teach(batches, permission)
    click.echo(f"All {sum(len(it.samples) for it in batches):,} rows may teach.", err=True)
