"""`isthmus distill collect`: golden answers, where they may teach, as a versioned dataset with a card."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import inspection_of
from isthmus.cli.distill.gathering import Gathering
from isthmus.cli.distill.permitting import permission_of, recipe_or_exit
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.runs import Usd, check_scorers, judges_of, require_cap
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill import golden
from isthmus.distill.card import Card, card_of, card_report
from isthmus.distill.curation import MEANINGS, Curated, curate
from isthmus.distill.permission import Permission
from isthmus.distill.personal import SESSION, RowLook, personal_policy, place_of
from isthmus.distill.recipe import needed
from isthmus.distill.rows import Look, Row
from isthmus.distill.sections import Collect
from isthmus.distill.terms import terms_of
from isthmus.evals.datasets import open_dataset
from isthmus.reports.markdown import markdown


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder to write; it must not be there yet. Only you may read what is in it.",
)
@click.option("--max-usd", type=Usd(), help="Spend at most so much on asking, however often it is resumed.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
@told
def collect(recipe: Path, output: Path, max_usd: int | None, config_path: Path | None, as_json: bool) -> None:
    """Collect golden answers as the section `collect` of RECIPE says, and write them with a card.

    Rows that may not teach, that are too sensitive for the place of training, that hold personal data, that
    are not good enough, or that touch the held-out set are left out; every one is counted by its reason. The
    same sources give the same folder, byte for byte. The same command goes on after it was stopped: what the
    teacher has answered is kept, and not paid for twice.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    said = recipe_or_exit(recipe)
    rule, name = needed(said.collect, "collect"), said.name or recipe.stem
    permission = permission_of(path, rule.permission)
    if output.exists():
        raise golden.exists(output)
    _require_sound(rule, config, permission)
    require_cap(config, _asked_models(rule, config), max_usd)
    held_out = open_dataset(recipe.parent / rule.held_out) if rule.held_out is not None else None
    gathering = Gathering(rule, recipe.parent, config, path, max_usd)
    rows = list(gathering.rows())
    with _looking(rule, config, len(rows)) as look:
        curated = curate(
            rows,
            rule,
            permission,
            look,
            held_out.samples if held_out is not None else (),
            gathering.left_out,
            name,
        )
    _require_rows(curated)
    card = card_of(name, curated, rule, held_out.hash if held_out is not None else None)
    golden.write(output, curated, card)
    _present(card, output, as_json)


def _require_sound(rule: Collect, config: Config, permission: Permission) -> None:
    """Refuse what cannot work before anything is asked, or paid for."""
    if not (rule.records or rule.runs or rule.files or rule.ask):
        raise _unsound("The recipe names no source.", "Say `records`, `runs`, `files` or `ask`.")
    if rule.scorer is not None:
        check_scorers([rule.scorer])
    if rule.personal_data == "pseudonymise" and config.perimeter.key is None:
        raise _unsound(
            "Pseudonyms need a key of their own, or they would be others each time.",
            "Say `key: env:NAME` under `perimeter` in the config.",
        )
    if rule.confidence and rule.ask is not None and not rule.ask.logprobs:
        raise _unsound("`confidence` needs log-probabilities.", "Say `logprobs: true` under `ask`.")
    for name in _asked_models(rule, config):
        found = permission.ruling(
            terms_of(config.models[name], config.providers[config.models[name].provider]), permission.today
        )
        if not found.may_teach:
            raise IsthmusError(
                Fault.FORBIDDEN,
                f"{name} may not teach: {found.why}",
                code="may_not_teach",
                hint="Take another model, or state a ground under `permission`. See `isthmus distill terms`.",
            )


def _asked_models(rule: Collect, config: Config) -> list[str]:
    """The models that are asked: the teacher, and the judges of its answers."""
    if rule.ask is None:
        return []
    if rule.ask.teacher not in config.models:
        raise _unsound(
            f"The teacher {rule.ask.teacher!r} is no model of the config.",
            f"The models are: {', '.join(config.models)}.",
        )
    judges = judges_of([rule.scorer], config) if rule.scorer is not None else []
    return list(dict.fromkeys([rule.ask.teacher, *judges]))


def _unsound(what: str, hint: str) -> IsthmusError:
    return IsthmusError(Fault.INVALID_REQUEST, what, code="recipe_unsound", hint=hint)


@contextmanager
def _looking(rule: Collect, config: Config, count: int) -> Iterator[Look]:
    """A look into rows, with a bar that says how far it is; the perimeter's threads end with it."""
    secret, policy, talk = secrets.token_bytes(32), config.perimeter, sys.stderr
    by_config = inspection_of(policy, secret)
    for_people = inspection_of(personal_policy(policy), secret)
    look = RowLook(
        lambda body, least: by_config.look(body, (least,), barred=lambda _: False),
        lambda body, least: for_people.look(body, (least,), SESSION, talks=False),
        policy,
        place_of(rule.place, policy),
        rule.personal_data,
    )
    try:
        with click.progressbar(length=count, label="Looking", file=talk, hidden=not talk.isatty()) as bar:

            def counted(row: Row) -> Row | str:
                bar.update(1)
                return look(row)

            yield counted
    finally:
        by_config.close()
        for_people.close()


def _require_rows(curated: Curated) -> None:
    if "train" in curated.parts:
        return
    reasons = "; ".join(f"{MEANINGS[reason]} ({count:,})" for reason, count in curated.dropped.items())
    raise IsthmusError(
        Fault.NOT_FOUND,
        f"Of {curated.considered:,} rows none is left to learn from{f': {reasons}' if reasons else ''}.",
        code="no_rows",
        hint="`isthmus distill terms` says whose outputs may teach; records need `record_bodies: true`.",
    )


def _present(card: Card, output: Path, as_json: bool) -> None:
    click.echo(msgspec.json.encode(card) if as_json else markdown(card_report(card)), nl=as_json)
    for part, share in msgspec.structs.asdict(card.rule.split).items():
        if share and part not in card.parts:
            click.echo(f"Note: there is no {part}: too few rows for its share.", err=True)
    click.echo(f"Written: {output} ({sum(it.rows for it in card.parts.values()):,} rows).", err=True)
