"""Strategies in the words of isthmus.yaml, so that what wins here is pasted there."""

from __future__ import annotations

import re
from io import StringIO
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.core.errors import Fault, IsthmusError

_PLAIN = re.compile(r"[A-Za-z][\w./@+-]*(?::[\w./@+-]+)*")
_NOT_NAMES = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", "oracle", "random"})
_Share = Annotated[float, Meta(gt=0, lt=1)]


class Accept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a step's answer is accepted: by a risk that is not passed, or by a confidence that is stated.

    With `costs`, answers are kept in the order of what escalating gains for what it costs, as `isthmus
    calibrate` learns it.
    """

    max_risk: _Share | None = None
    delta: _Share = 0.1
    risk: Literal["added", "accepted"] = "added"
    costs: bool = False
    confidence: float | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step of a cascade. The last one has no `accept`."""

    model: str
    accept: Accept | None = None


class Single(msgspec.Struct, frozen=True):
    """One model answers everything."""

    model: str


class Cascade(msgspec.Struct, frozen=True):
    """The first model answers; what is not accepted goes to the second."""

    first: Step
    second: Step


class Choose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"among": "from"}):
    """The cheapest model that is good enough, or the best that is cheap enough, chosen before the call."""

    among: Annotated[tuple[str, ...], Meta(min_length=2)]
    minimise: Literal["cost"] | None = None
    quality_at_least: Annotated[float, Meta(ge=0, le=1)] | None = None
    cost_at_most: Annotated[float, Meta(gt=0)] | None = None


class Ensemble(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several models answer, and vote. With `otherwise`, that model answers where they do not all agree."""

    models: Annotated[tuple[str, ...], Meta(min_length=2)]
    combine: Literal["vote"] = "vote"
    otherwise: str | None = None


class Oracle(msgspec.Struct, frozen=True):
    """The cheapest of the best answers, known beforehand: what no strategy can reach."""


class Random(msgspec.Struct, frozen=True):
    """A model by chance, each as often."""


Strategy: TypeAlias = Single | Cascade | Choose | Ensemble | Oracle | Random


def strategy_of(text: str) -> Strategy:
    """The strategy that is written so: as under a route of isthmus.yaml, or `oracle`, or `random`.

    Raises IsthmusError (`bad_strategy`).
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe").load(StringIO(text))
    except (YAMLError, RecursionError, ValueError) as error:
        raise _bad(text, "it is no YAML") from error
    match value:
        case "oracle":
            return Oracle()
        case "random":
            return Random()
        case str() if value:
            return Single(value)
        case {"call": str(model)} if len(value) == 1:
            return Single(model)
        case {"cascade": steps} if len(value) == 1:
            return _cascade(text, steps)
        case {"choose": choose} if len(value) == 1:
            return _choose(text, choose)
        case {"ensemble": ensemble} if len(value) == 1:
            found: Ensemble = _convert(text, ensemble, Ensemble)
            return found
    raise _bad(text, "it is none of call, cascade, choose, ensemble, oracle and random")


def written(strategy: Strategy) -> str:
    """The strategy as one line of YAML."""
    match strategy:
        case Single(model):
            return f"{{call: {_scalar(model)}}}"
        case Cascade(first, second):
            accept = first.accept or Accept()
            words = ", ".join(
                f"{name}: {value:g}" if isinstance(value, float) else f"{name}: {str(value).lower()}"
                for name, value in msgspec.structs.asdict(accept).items()
                if value is not None and value != getattr(Accept(), name)
            )
            one, two = _scalar(first.model), _scalar(second.model)
            return f"{{cascade: [{{model: {one}, accept: {{{words}}}}}, {{model: {two}}}]}}"
        case Choose():
            words = f"from: [{', '.join(map(_scalar, strategy.among))}]"
            if strategy.quality_at_least is not None:
                words += f", minimise: cost, quality_at_least: {strategy.quality_at_least:g}"
            if strategy.cost_at_most is not None:
                words += f", cost_at_most: {strategy.cost_at_most:g}"
            return f"{{choose: {{{words}}}}}"
        case Ensemble(models=models, otherwise=otherwise):
            rest = f", otherwise: {_scalar(otherwise)}" if otherwise else ""
            return f"{{ensemble: {{models: [{', '.join(map(_scalar, models))}], combine: vote{rest}}}}}"
        case Oracle():
            return "oracle"
        case Random():
            return "random"


def named(strategy: Strategy) -> str:
    """The strategy in a few words, for tables."""
    match strategy:
        case Single(model):
            return model
        case Cascade(first, second):
            accept = first.accept or Accept()
            bound = (
                f"at confidence {accept.confidence}"
                if accept.max_risk is None
                else f"at {accept.max_risk:g} {accept.risk}" + (", by costs" if accept.costs else "")
            )
            return f"{first.model}, then {second.model} {bound}"
        case Choose(among=among, quality_at_least=floor, cost_at_most=price):
            bound = f"for at most {price:g}" if floor is None else f"of at least {floor:g}"
            return f"choice of {len(among)} {bound}"
        case Ensemble(models=models, otherwise=otherwise):
            return f"vote of {', '.join(models)}" + (f", else {otherwise}" if otherwise else "")
    return written(strategy)


def models_of(strategy: Strategy) -> tuple[str, ...]:
    """The models that it names."""
    match strategy:
        case Single(model):
            return (model,)
        case Cascade(first, second):
            return (first.model, second.model)
        case Choose(among=among):
            return among
        case Ensemble(models=models, otherwise=otherwise):
            return (*models, otherwise) if otherwise else models
    return ()


def _scalar(name: str) -> str:
    """A model's name as YAML reads it again, in quotes where it must have them."""
    plain = _PLAIN.fullmatch(name) and name.lower() not in _NOT_NAMES
    return name if plain else msgspec.json.encode(name).decode()


def _cascade(text: str, steps: Any) -> Cascade:
    found: tuple[Step, ...] = _convert(text, steps, tuple[Step, ...])
    if len(found) != 2:
        raise _bad(text, "a cascade has two steps here: longer ones lose (arXiv 2605.06350)")
    first, second = found
    if first.accept is None or (first.accept.max_risk is None) == (first.accept.confidence is None):
        raise _bad(text, "its first step needs `accept: {max_risk: 0.05}` or `accept: {confidence: 0.8}`")
    if first.accept.costs and first.accept.max_risk is None:
        raise _bad(text, "`costs` goes with `max_risk`: a threshold of your own is one of confidences")
    if second.accept is not None:
        raise _bad(text, "its last step accepts everything")
    return Cascade(first, second)


def _choose(text: str, value: Any) -> Choose:
    found: Choose = _convert(text, value, Choose)
    if (found.quality_at_least is None) == (found.cost_at_most is None):
        raise _bad(text, "it needs `quality_at_least` or `cost_at_most`")
    return found


def _convert(text: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _bad(text, str(error).lower()) from error


def _bad(text: str, why: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"{text[:200]!r} is no strategy: {why}.",
        code="bad_strategy",
        hint="Write it as under a route, for instance "
        "'{cascade: [{model: small, accept: {max_risk: 0.05}}, {model: large}]}'.",
    )
