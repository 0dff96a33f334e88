"""Alarms of drift → the config that serves: what was learned before an alarm is stale from then on. Pure.

What a calibration promises, and what a learned router foresees, holds on the mean over requests like those
that were labelled, and for models that answer as they did then. So an alarm voids it where the quantity is a
function of either, and of nothing else:

- `label` and `task` are functions of the request alone: where their mix is another one, so are the requests.
- `quality` and `grades` are of the answers. One that rises is no better: the promise is a difference to the
  strong model, and where that one has improved, so has what is lost by not asking it.
- `escalation` is of a cascade's confidences, which the promise was tested on. Routers and panels have no part
  in it: where a router has chosen, it counts failures.

The others may move while the promise holds: `latency` and `failures` are of machines, `length` is of how long
people like their answers, and `refusals` of what they ask for; neither is right or wrong by that.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Sequence

import msgspec

from isthmus.config.config import Config, Quantity
from isthmus.config.learned import learned_in, still_named
from isthmus.config.nodes import changed
from isthmus.core.alarm import Alarm
from isthmus.routing.route import Route
from isthmus.strategies.plan import Cascade, Choose, Ensemble

OF_REQUESTS_AND_ANSWERS: frozenset[Quantity] = frozenset({"quality", "grades", "label", "task"})
VOIDS_CALIBRATIONS: frozenset[Quantity] = OF_REQUESTS_AND_ANSWERS | {"escalation"}

_canonical = msgspec.json.Encoder(order="deterministic").encode


def doubted(config: Config, alarms: Iterable[Alarm]) -> Config:
    """The config in which whatever these alarms speak against is stale, with a hash of its own; the very same
    one where that is nothing.

    An alarm of a watch that the config does not have, or has with another baseline, says nothing: by moving
    `since` an operator has settled it.
    """
    against = heard(config, alarms)
    routes = {name: _doubted(route, against.get(name, ())) for name, route in config.routes.items()}
    if all(route is config.routes[name] for name, route in routes.items()):
        return config
    stale = {
        (name, it.sha256): it.stale for name, route in routes.items() for it in learned_in(route) if it.stale
    }
    return msgspec.structs.replace(
        config,
        routes=routes,
        calibrations=still_named(config.calibrations, routes),
        hash=hashlib.sha256(_canonical([config.hash, sorted(stale.items())])).hexdigest(),
    )


def objections(alarms: Sequence[Alarm], asked_at_us: int, voiding: Collection[str]) -> tuple[str, ...]:
    """What these alarms of one route say, as reasons, against something that was learned from answers of that
    time; nothing where it is newer than they are."""
    return tuple(
        f"drift of its {alarm.quantity} was alarmed on {_day(alarm.at_us)}"
        for alarm in sorted(alarms)
        if alarm.quantity in voiding and alarm.at_us > asked_at_us
    )


def heard(config: Config, alarms: Iterable[Alarm]) -> dict[str, tuple[Alarm, ...]]:
    """The alarms that the config's own watches have raised, by route."""
    own = {(watch.route, watch.identity) for watch in config.drift}
    found: dict[str, tuple[Alarm, ...]] = {}
    for alarm in alarms:
        if (alarm.route, alarm.watch) in own:
            found[alarm.route] = (*found.get(alarm.route, ()), alarm)
    return found


def _doubted(route: Route, alarms: Sequence[Alarm]) -> Route:
    def cascade(_: Cascade, now: Cascade) -> Cascade:
        by = now.calibration
        why = objections(alarms, by.asked_at_us, VOIDS_CALIBRATIONS) if by is not None else ()
        return now.doubting(why) if why else now

    def choose(_: Choose, now: Choose) -> Choose:
        why = objections(alarms, now.by.asked_at_us, OF_REQUESTS_AND_ANSWERS) if now.by is not None else ()
        return now.doubting(why) if why else now

    def ensemble(_: Ensemble, now: Ensemble) -> Ensemble:
        why = objections(alarms, now.by.asked_at_us, OF_REQUESTS_AND_ANSWERS) if now.by is not None else ()
        return now.doubting(why) if why else now

    return changed(changed(changed(route, Cascade, cascade), Choose, choose), Ensemble, ensemble)


def _day(at_us: int) -> str:
    return f"{dt.datetime.fromtimestamp(at_us / 1_000_000, dt.UTC):%Y-%m-%d %H:%M} UTC"
