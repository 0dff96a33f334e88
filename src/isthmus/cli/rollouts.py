"""`isthmus models promote`, `rollback` and `rollouts`: new weights of a model, behind the same routes."""

from __future__ import annotations

import datetime as dt
import getpass
import time
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from isthmus.artefacts.faults import MalformedWeightsError
from isthmus.artefacts.gguf import check_gguf
from isthmus.artefacts.verify import verified
from isthmus.bootstrap import evidence_of, open_rollouts
from isthmus.catalog.weights import find_weights
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.recalibration import learned_anew, learned_of
from isthmus.cli.runs import Usd
from isthmus.cli.table import table
from isthmus.config.config import Config
from isthmus.config.digests import Digests
from isthmus.config.load import locate
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model
from isthmus.core.rollout import Stage, Turn, Version
from isthmus.evals.rollout.guards import Judgement
from isthmus.evals.rollout.promotion import model_of, promoted, rolled_back, running_of
from isthmus.store.rollouts import Rollouts


@click.command()
@click.argument("model")
@click.argument("artefact")
@click.option(
    "--stage",
    type=click.Choice(["shadow", "canary", "full"]),
    help="Begin at this stage, or bring a rollout that is under way to it.",
)
@click.option("--now", is_flag=True, help="The same as --stage full: all of the traffic, unguarded.")
@click.option(
    "--max-usd", type=Usd(), help="Where a route is calibrated for it: spend at most so much on asking."
)
@click.option(
    "--uncalibrated",
    is_flag=True,
    help="Calibrate nothing: on routes that are calibrated, `on_stale` decides about the new weights.",
)
@click.option("--why", default="promoted", help="What the history is to say.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the turn as JSON.")
@told
def promote(
    model: str,
    artefact: str,
    stage: Stage | None,
    now: bool,
    max_usd: int | None,
    uncalibrated: bool,
    why: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Let new weights take over a model's traffic.

    They are asked in the shadow first, answer a share of the requests then, and all of them at last.
    ARTEFACT is a GGUF file, a name of the catalogue, or a signed artefact where the model has `signers`.
    Where a server of yours loads it, it is the adapter's path there.

    Where a route's cascade is calibrated for the model, or its choice was learned, that is done again first,
    on an engine of this command: by the same samples, scorer and promise. Without a good result nothing is
    promoted.

    The gateway takes it up within a second or two, and leads it by the rule under `rollouts` of the config;
    what is worse than the old weights is sent back. Without a running gateway, the next one begins.
    """
    if now and stage not in (None, "full"):
        raise click.UsageError("--now means --stage full: say one of the two.")
    path = locate(config_path)
    config = load_or_exit(path)
    mine = model_of(config, model)
    digests = Digests()
    new = _version(config, mine, artefact, digests)
    rollouts = open_rollouts(config, path)
    last = _last(rollouts, model)
    turn = promoted(
        config,
        mine,
        _own(mine, digests),
        last,
        new,
        "full" if now else stage,
        why=why,
        who=_who(),
        at_us=time.time_ns() // 1000,
    )
    begins = running_of(last, _own(mine, digests)) is None
    if begins and not uncalibrated and config.providers[mine.provider].engine is not None:
        anew = learned_anew(config, path, model, new, max_usd)
        turn = msgspec.structs.replace(turn, anew=(*turn.anew, *anew), at_us=time.time_ns() // 1000)
    _add(rollouts, turn, last, as_json)
    known = {it.route for it in turn.anew if it.version == new.id}
    for route in sorted({it.route for it in learned_of(config, model)} - known):
        click.echo(
            f"The calibration of the route {route} was made for other weights: `on_stale` decides what its "
            f"cascade does with the new ones. `isthmus calibrate {route}` makes another.",
            err=True,
        )


@click.command()
@click.argument("model")
@click.option("--why", default="rolled back by hand", help="What the history is to say.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the turn as JSON.")
@told
def rollback(model: str, why: str, config_path: Path | None, as_json: bool) -> None:
    """Send a model's new weights back.

    Those before them answer everything again.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    mine = model_of(config, model)
    rollouts = open_rollouts(config, path)
    last = _last(rollouts, model)
    turn = rolled_back(mine, _own(mine, Digests()), last, why, who=_who(), at_us=time.time_ns() // 1000)
    _add(rollouts, turn, last, as_json)


@click.command()
@click.option("--model", help="Only this model.")
@click.option("--history", is_flag=True, help="Every turn, and not only where each rollout is.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each turn.")
@told
def rollouts(model: str | None, history: bool, config_path: Path | None, as_json: bool) -> None:
    """Say where each rollout is, and why.

    Of what is under way it tells what the guards have seen.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    store = open_rollouts(config, path)
    turns = [it for it in turns_of(store, history=history) if model in (None, it.model)]
    digests = Digests()
    judged = {} if history else {it.number: evidence_of(config, path, it, digests) for it in turns}
    if as_json:
        for turn in turns:
            click.echo(
                msgspec.json.encode(
                    _as_data(turn, judged.get(turn.number), in_force=_is_about(config, turn, digests))
                )
            )
        return
    if not turns:
        click.echo("There was no rollout yet: `isthmus models promote` begins one.", err=True)
        return
    heads = ("MODEL", "VERSION", "STAGE", "SINCE", "BY", "WHY")
    click.echo(table(heads, [_row(turn) for turn in turns]))
    for turn in () if history else turns:
        if not _is_about(config, turn, digests):
            click.echo(f"{turn.model}: not in force, as the config has other weights.", err=True)
        elif (judgement := judged[turn.number]) is not None:
            click.echo(f"{turn.model}: {judgement.verdict}, {judgement.why}.", err=True)


def _version(config: Config, model: Model, artefact: str, digests: Digests) -> Version:
    """The weights that are meant, looked at. Raises IsthmusError (`bad_weights`)."""
    if config.providers[model.provider].engine is None:
        return Version(artefact)
    if not model.signers and (row := find_weights(artefact)) is not None:
        if row.mode != "chat":
            raise _bad(f"The weights {row.name} are for {row.mode}, and {model.name} talks.")
        return Version(row.name, row.sha256)
    path = Path(artefact).absolute()
    if model.signers:
        # Raises ArtefactError. It is verified again before every start of its engine.
        with verified(path, model.signers, dt.datetime.now(dt.UTC)) as found:
            return Version(str(path), found.identity)
    try:
        with path.open("rb") as file:
            check_gguf(file)
        return digests.version(msgspec.structs.replace(model, weights=str(path)))
    except MalformedWeightsError as fault:
        raise _bad(f"{artefact} cannot be loaded: {fault}.") from fault
    except OSError as fault:
        raise _bad(f"{artefact} cannot be read: {fault.strerror or 'unknown error'}.") from fault


def _bad(message: str) -> IsthmusError:
    hint = "Name a GGUF file, whole and in one piece, or weights of the catalogue."
    return IsthmusError(Fault.INVALID_REQUEST, message, code="bad_weights", hint=hint)


def _own(model: Model, digests: Digests) -> Version:
    try:
        return digests.version(model)
    except OSError as fault:
        raise _bad(f"The weights of {model.name} cannot be read: {fault.strerror}.") from fault


def turns_of(rollouts: Rollouts, *, history: bool = False) -> Iterable[Turn]:
    """The last turn of each model, or all; none where there is no ledger yet."""
    try:
        return rollouts.history() if history else rollouts.current()
    except IsthmusError as error:
        if error.code != "ledger_missing":
            raise
        return ()


def _last(rollouts: Rollouts, model: str) -> Turn | None:
    return next((turn for turn in turns_of(rollouts) if turn.model == model), None)


def _add(rollouts: Rollouts, turn: Turn, last: Turn | None, as_json: bool) -> None:
    added = rollouts.append(turn, last.number if last is not None else 0)
    if as_json:
        click.echo(msgspec.json.encode(added))
    else:
        click.echo(f"{added.model}@{added.new.id}: {added.words()}")


def _is_about(config: Config, turn: Turn, digests: Digests) -> bool:
    return turn.model in config.models and turn.holds_for(_own(config.models[turn.model], digests))


def _as_data(turn: Turn, judgement: Judgement | None, *, in_force: bool) -> dict[str, object]:
    evidence = None if judgement is None else msgspec.to_builtins(judgement)
    known: dict[str, object] = msgspec.to_builtins(turn)
    return {**known, "version": turn.new.id, "in_force": in_force, "evidence": evidence}


def _row(turn: Turn) -> tuple[str, ...]:
    since = dt.datetime.fromtimestamp(turn.at_us / 1_000_000, dt.UTC)
    return (turn.model, turn.new.id, turn.words(), f"{since:%Y-%m-%d %H:%M} UTC", turn.who, turn.why)


def _who() -> str:
    """Who is at the terminal, as the system says."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have a number, and no name.
        return "an operator"
