"""Rollouts → the config that serves: while one is under way, every plan that calls its model is rewritten.

A version is a model of its own, like the one it is a version of in all but its weights. So what decides,
counts, explains and replays needs to know nothing of rollouts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from isthmus.config.artefacts import digest, speech
from isthmus.config.config import CalibrationFile, Config, Kind
from isthmus.config.learned import still_named
from isthmus.config.nodes import changed
from isthmus.core.portfolio import Model
from isthmus.core.rollout import Anew, Recalibrated, Reempanelled, Relearned, Turn, Version, same
from isthmus.routing.route import Route
from isthmus.strategies.plan import Cascade, Choose, Ensemble, Node, Shadow, Split
from isthmus.strategies.plan.node import Calibrated, Empanelled, Learned
from isthmus.strategies.plan.split import Arm

_KINDS: Mapping[type[Anew], Kind] = {
    Recalibrated: "calibration",
    Relearned: "router",
    Reempanelled: "panel",
}

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Pair(NamedTuple):
    """The names of the two versions that run side by side."""

    old: str
    new: str


def rolled(config: Config, turns: Iterable[Turn], own: Mapping[str, Version]) -> Config:
    """The config as these turns want it; `own` are the weights that the config itself gives to models.

    Its hash is another one at each stage, so that records tell the stages apart. A turn that is not about
    the config's model any more changes nothing: see `Turn.holds_for`.
    """
    for turn in sorted(turns, key=lambda it: it.model):
        if turn.model in own and in_force(config, turn, own[turn.model]):
            config = _Rewriting(config, turn, own[turn.model]).config()
    return config


def in_force(config: Config, turn: Turn, own: Version) -> bool:
    """True where the config has the model that the turn is about, with weights that the turn knows."""
    return turn.model in config.models and turn.holds_for(own)


def name_of(model: str, version: Version, own: Version) -> str:
    """What a version is called where models are named: the model's own weights go by the model's name."""
    return model if same(version, own) else f"{model}@{version.id}"


def pair_of(turn: Turn, own: Version) -> Pair:
    """What the two versions of a rollout are called."""
    return Pair(*(name_of(turn.model, version, own) for version in (turn.old, turn.new)))


def version_of(model: Model, version: Version) -> Model:
    """The model with these weights, by the version's name; so is the adapter called that a server loads."""
    name = f"{model.name}@{version.id}"
    called = model.id if model.weights is not None else name
    return msgspec.structs.replace(
        model,
        name=name,
        id=called,
        weights=version.weights,
        sha256=version.sha256,
        version_of=model.name,
    )


class _Rewriting:
    """Rewrites a config for one turn of one rollout."""

    def __init__(self, config: Config, turn: Turn, own: Version) -> None:
        self._config = config
        self._turn = turn
        self._own = own
        self._rule = config.rule_of(turn.model)
        self._names = pair_of(turn, own)

    def config(self) -> Config:
        config, turn = self._config, self._turn
        serving = (turn.old, turn.new) if turn.under_way else (turn.settled,)
        if all(same(version, self._own) for version in serving):
            return config
        routes = {name: self._route(route) for name, route in config.routes.items()}
        return msgspec.structs.replace(
            config,
            models=self._models(serving),
            routes=routes,
            calibrations=still_named((*config.calibrations, *map(_file_of, turn.anew)), routes),
            hash=hashlib.sha256(_canonical([config.hash, *_meaning(turn)])).hexdigest(),
        )

    def _models(self, serving: Iterable[Version]) -> dict[str, Model]:
        """The models, each version that serves in the place of the model that it is one of."""
        model = self._config.models[self._turn.model]
        versions = [model if same(it, self._own) else version_of(model, it) for it in serving]
        return {
            each.name: each
            for name, it in self._config.models.items()
            for each in (versions if name == model.name else [it])
        }

    def _route(self, route: Route) -> Route:
        if self._turn.model not in route.models():
            return route
        thrift = route.thrift and msgspec.structs.replace(
            route.thrift, plan=self._plan(route.name, route.thrift.plan)
        )
        return msgspec.structs.replace(route, plan=self._plan(route.name, route.plan), thrift=thrift)

    def _plan(self, route: str, plan: Node) -> Node:
        turn, names = self._turn, self._names
        if turn.model not in plan.models():
            return plan
        match turn.stage:
            case "shadow":
                judge = self._judge()
                of = self._alone(route, plan, turn.old)
                return Shadow(candidate=names.new, of=of, share=turn.share, judge=judge)
            case "canary":
                # The new ones first: whoever was drawn for a small share stays with them when it grows.
                arms = (
                    Arm(plan=self._alone(route, plan, turn.new), weight=turn.share, name=self._arm(turn.new)),
                    Arm(
                        plan=self._alone(route, plan, turn.old),
                        weight=1 - turn.share,
                        name=self._arm(turn.old),
                    ),
                )
                sticky = None if self._rule.sticky == "none" else self._rule.sticky
                return Split(arms=arms, sticky=sticky, salt=self._arm(turn.new))
        return self._alone(route, plan, turn.settled)

    def _alone(self, route: str, plan: Node, version: Version) -> Node:
        """The plan with one version for the model."""
        model = self._turn.model
        name = name_of(model, version, self._own)
        if name == model:
            return plan
        renamed = plan.renamed(lambda it: name if it == model else it)
        anew = self._turn.anew_of(route, version)

        def cascade(_: Cascade, now: Cascade) -> Cascade:
            tied = {*now.stages[0].plan.models(), *now.stages[-1].plan.models()}
            if now.calibration is None or name not in tied:
                return now
            if not isinstance(anew, Recalibrated):
                return now.doubting((_other(name),))
            return now.calibrated(
                Calibrated(
                    file=anew.file,
                    sha256=anew.sha256,
                    asked_at_us=anew.asked_at_us,
                    calibrator=anew.calibrator,
                    threshold=anew.threshold,
                    stale=self._changes(anew, version, tied - {name}),
                )
            )

        def choose(_: Choose, now: Choose) -> Choose:
            if now.by is None or name not in now.among:
                return now
            if not isinstance(anew, Relearned):
                return now.doubting((_other(name),))
            return msgspec.structs.replace(
                now,
                by=Learned(
                    file=anew.file,
                    sha256=anew.sha256,
                    asked_at_us=anew.asked_at_us,
                    overall=tuple((name if it == model else it, quality) for it, quality in anew.overall),
                    stale=self._changes(anew, version, {*now.among} - {name}),
                ),
            )

        def ensemble(_: Ensemble, now: Ensemble) -> Ensemble:
            if now.by is None or name not in now.members:
                return now
            if not isinstance(anew, Reempanelled):
                return now.doubting((_other(name),))
            panel = Empanelled(
                file=anew.file,
                sha256=anew.sha256,
                asked_at_us=anew.asked_at_us,
                weights=anew.weights,
                why=anew.why,
                overall=anew.overall,
                stale=self._changes(anew, version, {*now.members} - {name}),
            )
            return now.seating(panel.renamed(lambda it: name if it == model else it))

        return changed(changed(changed(renamed, Cascade, cascade), Choose, choose), Ensemble, ensemble)

    def _changes(self, anew: Anew, version: Version, others: set[str]) -> tuple[str, ...]:
        """What has changed since something was learned of a version's answers; `others` are the models that
        answer beside it."""
        model = self._config.models[self._turn.model]
        ties = [it.tie for it in self._config.calibrations if it.route == anew.route and it.tie is not None]
        if len(ties) != 1:
            return ("the route goes by other things that were learned",)
        who = version.sha256 or model.id
        if isinstance(anew, Relearned):
            who = digest([who, speech(self._config.providers[model.provider])])
        now = msgspec.structs.replace(ties[0], models={**ties[0].models, model.name: who})
        rolling = sorted(it for it in others if self._config.models[it].version_of is not None)
        return (*anew.tie.changes(now), *map(_other, rolling))

    def _judge(self) -> str | None:
        # It may be called by another name, where it has new weights itself.
        models = self._config.models.values()
        return next((it.name for it in models if it.family == self._rule.judge), None)

    def _arm(self, version: Version) -> str:
        return f"{self._turn.model}@{version.id}"


def _other(name: str) -> str:
    """Why something that was learned of a model does not hold for the version of that name."""
    return f"{name} has other weights"


def _file_of(anew: Anew) -> CalibrationFile:
    return CalibrationFile(
        route=anew.route,
        path=anew.file,
        sha256=anew.sha256,
        stale=False,
        tie=anew.tie,
        kind=_KINDS[type(anew)],
    )


def _meaning(turn: Turn) -> list[object]:
    """What a turn means for traffic, and nothing of when and why it came about."""
    learned = [[it.route, it.version, it.sha256] for it in turn.anew]
    return [turn.model, turn.stage, turn.share, turn.old.id, turn.new.id, *learned]
