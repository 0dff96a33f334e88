"""What can be wrong with strategies that are well written: names that lead nowhere, and words that nothing
heeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import TypeAlias

from isthmus.config.decode import DecodedPlan
from isthmus.config.faults import Code, did_you_mean
from isthmus.config.findings import Findings
from isthmus.config.tree import Mapping, Mark, Path, Scalar, Tree
from isthmus.config.tree import Sequence as Listed
from isthmus.strategies.plan import (
    Burst,
    CallModel,
    Cascade,
    Choose,
    Edge,
    Ensemble,
    Fallback,
    Hedge,
    Node,
    Split,
)
from isthmus.strategies.plan.aside import Accompanied
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.hedge import QUANTILE
from isthmus.strategies.plan.node import Acceptance, Early

_Fault: TypeAlias = tuple[Code, str, str, Mark, Path]


def check_plans(plans: Sequence[DecodedPlan], models: set[str], findings: Findings) -> None:
    """Notes what is wrong with the plans, which were written for these models; inner plans come first."""
    origins = {id(plan.node): plan for plan in plans}
    for plan in plans:
        for fault in (*_dangling(plan, models), *_misused(plan, origins)):
            findings.add(*fault)


def _dangling(plan: DecodedPlan, models: set[str]) -> Iterator[_Fault]:
    for model in plan.node.models():
        if model not in models:
            hint = did_you_mean(model, models)
            for mark in _places(plan.tree, model):
                yield Code.UNKNOWN_NAME, f"There is no model `{model}`.", hint, mark, plan.path


def _misused(plan: DecodedPlan, origins: dict[int, DecodedPlan]) -> Iterator[_Fault]:
    for inner in _parts(plan.node):
        aside = isinstance(inner, Accompanied) and not isinstance(plan.node, Accompanied)
        if aside and (origin := origins.get(id(inner))) is not None:
            message = f"Inside of `{plan.node.keyword}` there is no {inner.keyword}: only of a whole answer."
            hint = f"Write `{inner.keyword}` around it, with this strategy under `of`."
            yield Code.UNREACHABLE, message, hint, origin.tree.start, origin.path
    match plan.node:
        case Fallback(plans=plans):
            yield from _failed_just_now(plans, origins)
        case Split() if plan.node.learns:
            yield from _learning(plan, plan.node)
        case Burst(queue=models):
            if len(models) == 1:
                hint = "Name the models to go to when it is full, or write it as a call."
                yield _unheeded(plan, "at", "There is nowhere else to go.", hint)
        case Hedge(quantile=str(words)) if re.fullmatch(QUANTILE, words) is None:
            hint = "Write seconds, as in `after: 1.5`; or p50 to p99, as in `after: p95`."
            message = f"`{words[:40]}` is no time that a hedge can go by."
            yield Code.OUT_OF_RANGE, message, hint, _mark(plan, "after"), plan.path
        case Ensemble():
            yield from _ensemble(plan, plan.node)
        case Cascade(stages=stages):
            yield from _cascade(stages, origins)
            yield from _seen_at_once(plan, plan.node)
        case Choose():
            yield from _choose(plan, plan.node)


def _learning(plan: DecodedPlan, split: Split) -> Iterator[_Fault]:
    word = "stop" if split.stop is not None else "bandit"
    # The plan of a route: written beside its other keys, or under `plan`.
    if plan.path[0] != "routes" or plan.path[2:] not in ((), ("plan",)):
        message = f"`{word}` is for a split that is a route's whole strategy."
        yield _unheeded(plan, word, message, "Remove it, or make the split a route of its own.")
    names = [arm.called for arm in split.arms]
    for name in sorted({name for name in names if names.count(name) > 1}):
        message = f"Two arms are called `{name}`, so that nobody could tell which is better."
        yield Code.CONFLICT, message, "Give them a `name` each.", plan.tree.start, plan.path
    if len(names) == 1:
        yield _unheeded(plan, word, "There is no other arm.", "Add one, or write the plan by itself.")


def _parts(node: Node) -> tuple[Node, ...]:
    """The strategies inside of one that makes an answer of theirs."""
    match node:
        case Fallback(plans=plans):
            return plans
        case Edge(far=far, near=near):
            return (far, near)
        case Cascade(stages=stages):
            return tuple(stage.plan for stage in stages)
        case Ensemble(otherwise=Node() as otherwise):
            return (otherwise,)
        case Accompanied(of=of):
            return (of,)
    return ()


def _failed_just_now(plans: Sequence[Node], origins: dict[int, DecodedPlan]) -> Iterator[_Fault]:
    for before, after in pairwise(plans):
        if isinstance(before, CallModel) and isinstance(after, CallModel) and before.model == after.model:
            message = f"`{after.model}` has just failed when this is reached."
            hint = "Remove it, and raise `retries` of the one before if it should be asked again."
            origin = origins[id(after)]
            yield Code.UNREACHABLE, message, hint, origin.tree.start, origin.path


def _choose(plan: DecodedPlan, choose: Choose) -> Iterator[_Fault]:
    if len(choose.models()) < 2:
        hint = "Name another model under `from`, or write it as a call."
        yield _unheeded(plan, "from", "There is nothing to choose from.", hint)
    floor, price = choose.quality_at_least, choose.cost_at_most
    words = ("quality_at_least", "cost_at_most")
    if all(_mark(plan, word) == plan.tree.start for word in words):
        hint = "Say `quality_at_least: 0.9`, or `cost_at_most:` and US dollars for a request."
        yield Code.MISSING, "What to choose by is missing.", hint, _mark(plan, "from"), plan.path
    for other, word in ((floor, "quality_at_least"), (choose.minimise, "minimise")):
        if price is not None and other is not None:
            message = f"`{word}` and `cost_at_most` exclude each other."
            yield Code.CONFLICT, message, "Keep one of them.", _mark(plan, word), plan.path


def _ensemble(plan: DecodedPlan, ensemble: Ensemble) -> Iterator[_Fault]:
    combine, judged = ensemble.combine, ensemble.combine in ("judge", "fuse")
    if judged and ensemble.judge is None:
        hint = "Say `judge:` and a model; it may be one of `models`, or another."
        message = f"`combine: {combine}` needs a model to do it."
        yield Code.MISSING, message, hint, _mark(plan, "combine"), plan.path
    if not judged and ensemble.judge is not None:
        yield _unheeded(plan, "judge", f"`combine: {combine}` asks no judge.", "Say `combine: judge`.")
    if combine != "vote" and ensemble.weights:
        yield _unheeded(plan, "weights", f"`combine: {combine}` counts no votes.", "Remove it.")
    if combine != "vote" and ensemble.by is not None:
        yield _unheeded(plan, "by", f"`combine: {combine}` counts no votes.", "Remove it.")
    if ensemble.by is not None and ensemble.weights:
        message = "`weights` and `by` exclude each other: the panel has weights of its own."
        yield Code.CONFLICT, message, "Keep one of them.", _mark(plan, "weights"), plan.path
    for name in sorted(ensemble.weights.keys() - {*ensemble.members}):
        message = f"`{name}` has a weight, and is none of `models`."
        hint = did_you_mean(name, ensemble.members)
        yield Code.UNKNOWN_NAME, message, hint, _mark(plan, "weights", name), plan.path
    if combine not in ("first_valid", "critique") and ensemble.accept != Acceptance():
        hint = "Say `combine: first_valid`, or put the ensemble into a step of a cascade."
        yield _unheeded(plan, "accept", f"`combine: {combine}` accepts every answer.", hint)
    for word in ("agreement", "self_check", "calibration", "early"):
        if getattr(ensemble.accept, word) is not None:
            hint = "Put the ensemble into a step of a cascade, which can."
            yield _unheeded(plan, "accept", f"An ensemble does not look at `{word}`.", hint)
    yield from _uncheckable(ensemble.accept, _mark(plan, "accept"), plan.path)


def _cascade(stages: Sequence[Step], origins: dict[int, DecodedPlan]) -> Iterator[_Fault]:
    for at, stage in enumerate(stages):
        origin = origins.get(id(stage.plan))
        if origin is None:
            # What is wrong within the step has been said.
            continue
        where = origin.tree.start, origin.path
        if at == len(stages) - 1:
            if stage.accept != Acceptance() or stage.among or stage.samples:
                message = "The last step's answer is always taken: nothing is demanded of it."
                yield Code.UNREACHABLE, message, "Remove `accept`, or add a step after it.", *where
        elif stage.accept.demands_nothing():
            message = "This step's answer is always taken, so the next is asked only where it fails."
            yield Code.UNREACHABLE, message, "Say what to demand of it; or write a `fallback`.", *where
        elif stage.accept.agreement is not None and not (stage.among or stage.samples):
            hint = "Say `among:` and other models, or `samples:` for more answers of its own."
            yield Code.MISSING, "There is nobody with whom it could agree.", hint, *where
        elif stage.accept.agreement is None and (stage.among or stage.samples):
            message = "Others are asked, and nobody minds what they say."
            yield (
                Code.UNREACHABLE,
                message,
                "Say `agreement:` in `accept`: the share that must agree.",
                *where,
            )
        if at == 0 and stage.context == "with_attempt":
            message = "Before the first step there is no attempt to be shown."
            yield Code.UNREACHABLE, message, "Remove `context`, or move it to a later step.", *where
        yield from _uncheckable(stage.accept, *where)
        if stage.accept.early is not None and at < len(stages) - 1:
            yield from _early(stage, stage.accept.early, *where)


def _seen_at_once(plan: DecodedPlan, cascade: Cascade) -> Iterator[_Fault]:
    early = [stage.accept.early for stage in cascade.stages if stage.accept.early is not None]
    if cascade.stream == "optimistic" and any(it.surely is not None for it in early):
        message = "What is streamed before it is judged is not streamed sooner by `surely`."
        yield Code.CONFLICT, message, "Remove one of the two.", _mark(plan, "stream"), plan.path


def _early(stage: Step, early: Early, mark: Mark, path: Path) -> Iterator[_Fault]:
    if early.logprob is None and early.surely is None:
        message = "The first tokens decide nothing."
        yield Code.MISSING, message, "Say `logprob:`, `surely:` or both in `early`.", mark, path
    if early.logprob is not None and early.surely is not None and early.surely < early.logprob:
        message = "By these first tokens an answer would be streamed and cut off at once."
        yield Code.CONFLICT, message, "Let `surely` be greater than `logprob`.", mark, path
    if not isinstance(stage.plan, CallModel):
        message = "Only a call of one model has first tokens to decide by."
        yield Code.UNREACHABLE, message, "Remove `early`, or let the step be a call.", mark, path
    if early.surely is not None:
        for word in ("schema", "agreement", "self_check", "calibration"):
            if getattr(stage.accept, word):
                message = f"What is streamed by `surely` is not judged by `{word}` any more."
                yield Code.CONFLICT, message, "Remove one of the two.", mark, path


def _uncheckable(accept: Acceptance, mark: Mark, path: Path) -> Iterator[_Fault]:
    if accept.schema and find_spec("jsonschema") is None:
        hint = "Run: pip install 'isthmus[evals]'"
        yield Code.NOT_INSTALLED, "`schema` needs a package that is not installed.", hint, mark, path


def _unheeded(plan: DecodedPlan, field: str, message: str, hint: str) -> _Fault:
    return Code.UNREACHABLE, message, hint, _mark(plan, field), plan.path


def _mark(plan: DecodedPlan, *names: str) -> Mark:
    """Where a strategy's field is written, under its keyword or beside it; else where the strategy is."""
    trees: list[Tree] = [plan.tree]
    if isinstance(plan.tree, Mapping) and plan.node.keyword in plan.tree.entries:
        trees.append(plan.tree.entries[plan.node.keyword][1])
    found = (mark for tree in trees if (mark := _found(tree, names)) is not None)
    return next(found, plan.tree.start)


def _found(tree: Tree, names: Iterable[str]) -> Mark | None:
    mark: Mark | None = None
    for name in names:
        if not isinstance(tree, Mapping) or name not in tree.entries:
            return None
        key, tree = tree.entries[name]
        mark = key.start
    return mark


def _places(tree: Tree, text: str) -> list[Mark]:
    """Where a text stands in a tree."""
    if isinstance(tree, Scalar):
        return [tree.start] if tree.text == text else []
    if isinstance(tree, Listed):
        return [mark for item in tree.items for mark in _places(item, text)]
    keys = [key.start for key, _ in tree.entries.values() if key.text == text]
    return keys + [mark for _, value in tree.entries.values() for mark in _places(value, text)]
