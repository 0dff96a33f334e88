"""What an operator may do to a rollout: begin it, move it on, send it back. Pure."""

from __future__ import annotations

from isthmus.config.config import Config, RolloutRule
from isthmus.config.rollouts import name_of
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model
from isthmus.core.rollout import Stage, Turn, Version, same

_ORDER: tuple[Stage, ...] = ("shadow", "canary", "full")


def model_of(config: Config, name: str) -> Model:
    """The model that is to get new weights.

    Raises IsthmusError: `unknown_model`; `not_promotable` where somebody else decides about its weights, or
    where the answers of two versions cannot stand side by side.
    """
    model = config.models.get(name)
    if model is None:
        known = ", ".join(config.models)
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"There is no model {name[:80]!r} in the config.",
            code="unknown_model",
            hint=f"Models: {known}.",
        )
    provider = config.providers[model.provider]
    if provider.engine is None and not provider.adapters:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"The weights of {name} are not ours to change: {provider.name} loads them.",
            code="not_promotable",
            hint="Add the new model to the config, and let a `split` or a `shadow` lead to it.",
        )
    if model.capabilities is not None and "embeddings" in model.capabilities:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"{name} makes vectors, and those of different weights cannot be compared.",
            code="not_promotable",
            hint="Give the new weights a model and a route of their own, and embed everything anew.",
        )
    return model


def settled(last: Turn | None, own: Version) -> Version:
    """The weights that are in force; those of the config where no rollout is about them."""
    return last.settled if last is not None and last.holds_for(own) else own


def running_of(last: Turn | None, own: Version) -> Turn | None:
    """The rollout that is under way by the model's last turn; None where none is."""
    return last if last is not None and last.holds_for(own) and last.under_way else None


def promoted(
    config: Config,
    model: Model,
    own: Version,
    last: Turn | None,
    new: Version,
    stage: Stage | None,
    *,
    why: str,
    who: str,
    at_us: int,
) -> Turn:
    """The turn that begins the rollout of `new`, or brings it to `stage` by hand.

    `own` are the weights that the config gives to the model, `last` is its last turn. Raises IsthmusError:
    `already_promoted`, `rollout_under_way`, `rollout_backwards`, `path_taken`, `name_taken`.
    """
    rule = config.rule_of(model.name)
    if (running := running_of(last, own)) is not None:
        return _moved(running, rule, new, stage, why=why, who=who, at_us=at_us)
    old = settled(last, own)
    if same(new, old):
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{model.name} runs on these weights already ({new.id}).",
            code="already_promoted",
            hint="Nothing has to be done.",
        )
    if new.weights == old.weights:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{new.weights} is where the weights in force ({old.id}) come from, and has others by now.",
            code="path_taken",
            hint="Put the new weights at a path of their own, and the old ones back to theirs.",
        )
    if (name := name_of(model.name, new, own)) != model.name and name in config.models:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The config has a model {name}, and the new weights would be called so.",
            code="name_taken",
            hint="Call that model something else.",
        )
    first, share = rule.first() if stage is None else rule.entry(stage)
    return Turn(
        model=model.name,
        stage=first,
        share=share,
        ground=own,
        old=old,
        new=new,
        why=why,
        who=who,
        at_us=at_us,
        # What judges the weights in force goes on judging them.
        anew=tuple(it for it in last.anew if it.version == old.id) if last is not None else (),
    )


def rolled_back(model: Model, own: Version, last: Turn | None, why: str, *, who: str, at_us: int) -> Turn:
    """The turn that sends the new weights back. Raises IsthmusError (`nothing_to_roll_back`)."""
    if last is None or not last.holds_for(own) or last.stage == "rolled back":
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"No new weights of {model.name} are in force or under way.",
            code="nothing_to_roll_back",
            hint="See `isthmus models rollouts`.",
        )
    return last.then("rolled back", 0.0, why=why, who=who, at_us=at_us)


def _moved(
    running: Turn, rule: RolloutRule, new: Version, stage: Stage | None, *, why: str, who: str, at_us: int
) -> Turn:
    if not same(running.new, new):
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"A rollout of {running.model} to {running.new.id} is under way: {running.words()}.",
            code="rollout_under_way",
            hint="Wait for its end, or say `isthmus models rollback` first.",
        )
    if stage is None:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"These weights of {running.model} are under way already: {running.words()}.",
            code="rollout_under_way",
            hint="Say `--stage` to bring them further by hand, or `--now` for all of the traffic.",
        )
    if _ORDER.index(stage) <= _ORDER.index(running.stage):
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The rollout of {running.model} is at {running.words()}, not before {stage}.",
            code="rollout_backwards",
            hint="A rollout only goes on, or is rolled back.",
        )
    return running.then(*rule.entry(stage), why=why, who=who, at_us=at_us)
