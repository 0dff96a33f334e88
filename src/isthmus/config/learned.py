"""What the plans of routes go by that was learned: calibrations of cascades, routers of choices, panels of
votes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.config.config import CalibrationFile
from isthmus.config.nodes import nodes_in
from isthmus.routing.route import Route
from isthmus.strategies.plan import Cascade, Choose, Ensemble
from isthmus.strategies.plan.node import Calibrated, Empanelled, Learned


def learned_in(route: Route) -> list[Calibrated | Learned | Empanelled]:
    """All that the plans of a route go by, thrifty or not."""
    plans = [route.plan, *([route.thrift.plan] if route.thrift is not None else [])]
    by_answers = [it.calibration for plan in plans for it in nodes_in(plan, Cascade)]
    beforehand = [it.by for plan in plans for it in nodes_in(plan, Choose)]
    votes = [it.by for plan in plans for it in nodes_in(plan, Ensemble)]
    return [it for it in (*by_answers, *beforehand, *votes) if it is not None]


def still_named(files: Iterable[CalibrationFile], routes: Mapping[str, Route]) -> tuple[CalibrationFile, ...]:
    """Those of the files that a plan of their route goes by, each stale where the plan says so."""
    stale: dict[tuple[str, str], bool] = {}
    for name, route in routes.items():
        for it in learned_in(route):
            stale[name, it.sha256] = stale.get((name, it.sha256), False) or bool(it.stale)
    return tuple(
        msgspec.structs.replace(file, stale=stale[file.route, file.sha256])
        for file in files
        if (file.route, file.sha256) in stale
    )
