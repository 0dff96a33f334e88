"""Why a request is labelled so and a model is refused or not, each reason with its line of the config."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from isthmus.config.config import Config
from isthmus.config.findings import format_path
from isthmus.config.lines import Lines
from isthmus.core.decision import Decision
from isthmus.gateway.inspection import Inspected
from isthmus.perimeter import grounds
from isthmus.perimeter.grounds import Ground


class Because(msgspec.Struct, frozen=True):
    """Something that counts, the `path` in the config that says so, and its `line`, such as
    `isthmus.yaml:14`.

    Without a line the config is silent, and it is so by default; without a path it does not depend on it.
    """

    says: str
    path: str | None
    line: str | None

    def __str__(self) -> str:
        if self.path is None:
            return self.says
        return f"{self.says} ({self.path} at {self.line})" if self.line else f"{self.says} (by default)"


class Why(msgspec.Struct, frozen=True):
    """Why the label is what it is, and why each model of the route is allowed or refused."""

    label: tuple[Because, ...]
    models: dict[str, tuple[Because, ...]]


def why(config: Config, decision: Decision, known: Inspected, floors: Sequence[Ground], lines: Lines) -> Why:
    """Why the decision is what it is; `floors` are the grounds of the label that no detector found."""

    def told(reasons: Sequence[Ground]) -> tuple[Because, ...]:
        return tuple(_because(reason, lines) for reason in reasons)

    policy = config.perimeter
    as_it_is = (*floors, *grounds.of_label(policy, known.seen))
    # Whoever may not see the request as it is has been judged by what is left of it.
    left = (*floors, *grounds.of_label(policy, known.hidden.left)) if known.hidden else as_it_is
    hiding = grounds.of_hiding(policy, known.seen)
    refused = {refusal.model: refusal.rule for refusal in decision.refused}
    models = {}
    for name in (*decision.allowed, *refused):
        if name in decision.pseudonymised:
            models[name] = told((*_of_model(config, name, None, left), *hiding))
        else:
            rule = refused.get(name)
            models[name] = told(_of_model(config, name, rule, left if rule else as_it_is))
    return Why(told(as_it_is), models)


def _of_model(
    config: Config, name: str, rule: str | None, of_the_label: Sequence[Ground]
) -> tuple[Ground, ...]:
    model = config.models[name]
    match rule:
        case "capability":
            said = (("models", model.family, "capabilities"), ("models", model.family, "weights"))
            return (Ground(f"{name} is declared capable of less", said),)
        case "wire":
            said = (("providers", model.provider, "preset"), ("providers", model.provider, "dialect"))
            return (Ground(f"{model.provider} speaks no wire for it", said),)
    return grounds.of_model(config.perimeter, model, rule, of_the_label)


def _because(ground: Ground, lines: Lines) -> Because:
    for path in ground.paths:
        if (line := lines.find(path)) is not None:
            return Because(ground.says, format_path(path), line)
    return Because(ground.says, format_path(ground.paths[-1]) if ground.paths else None, None)
