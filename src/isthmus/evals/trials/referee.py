"""Who decides experiments while the gateway serves: stops losers, moves shares, and tells of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from isthmus.config.config import Config
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import SecretRef
from isthmus.evals.trials.evidence import Evidence, Measure, Worse
from isthmus.store.trials import BEGINNING, Kept, Trials
from isthmus.strategies.plan import Split
from isthmus.strategies.plan.node import Weights

log = logging.getLogger("isthmus.experiments")

EVERY_S = 60.0
SETTLED_US = 300_000_000
"""A request counts this long after it came: nearly all have ended and are recorded by then, also those that
fail for taking long."""

MOST_AT_ONCE = 20_000
"""Requests that are read in one go."""

MOST_TRIES = 10

Post = Callable[[SecretRef, bytes], Awaitable[None]]
"""Posts JSON to a webhook; raises IsthmusError where it was not taken."""

BetaDraw = Callable[[float, float], float]
"""Draws from a Beta distribution."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """An arm that was stopped, when, and why; whether the webhook has taken it, and how often it was told."""

    arm: str
    than: str
    measure: Measure
    p: float
    at_us: int
    told: bool = False
    tries: int = 0

    def in_words(self) -> str:
        """Why, in words."""
        return Worse(self.arm, self.than, self.measure, self.p).in_words()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How an experiment stands: under which configs its split was in force, who was stopped, and what its
    arms weigh, where that is not what the config says."""

    configs: tuple[str, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    weights: Weights = ()


class Experiment(msgspec.Struct, frozen=True):
    """A split that learns, on the route whose whole strategy it is."""

    id: str
    route: str
    split: Split


def experiment_of(route: str, config: Config) -> Experiment | None:
    """The experiment on a route of the config, None where there is none.

    Its id is of all that its arms are: who changes the split, or which model a name of it stands for, begins
    another experiment.
    """
    split = config.routes[route].plan
    if not isinstance(split, Split) or not split.learns:
        return None
    told = split.stop and msgspec.structs.replace(split.stop, webhook=None)
    models = [config.models[name] for name in split.models()]
    stand_for = [(model.name, model.provider, model.id, model.weights) for model in models]
    known = [route, msgspec.structs.replace(split, stop=told), stand_for]
    body = msgspec.json.encode(known, order="sorted")
    return Experiment(hashlib.sha256(body).hexdigest()[:32], route, split)


def experiments_of(config: Config) -> list[Experiment]:
    """Every experiment of the config."""
    found = (experiment_of(route, config) for route in config.routes)
    return [experiment for experiment in found if experiment is not None]


def standing_of(trials: Trials, experiment: Experiment) -> Standing:
    """How the experiment stands, as it was last written down. Blocks; raises IsthmusError."""
    kept = trials.kept(experiment.id)
    return msgspec.json.decode(kept.body, type=Standing) if kept is not None else Standing()


class _Live:
    """One experiment under way: what is known of it, and up to where the ledger was read."""

    def __init__(self, experiment: Experiment, standing: Standing) -> None:
        self.experiment = experiment
        self.standing = standing
        self.evidence = Evidence(experiment.split)
        self.tried_until = BEGINNING
        self.heard_until = 0


class Referee:
    """Looks every minute at what the ledger has of each experiment.

    A stop is written down before it is in force, so that a restart knows it; the evidence is read anew then.
    A webhook may hear of a stop twice.
    """

    def __init__(
        self,
        trials: Trials,
        config: Callable[[], Config],
        post: Post,
        beta: BetaDraw,
        now_us: Callable[[], int],
    ) -> None:
        self._trials = trials
        self._config = config
        self._post = post
        self._beta = beta
        self._now_us = now_us
        self._live: dict[str, _Live] = {}
        # A reload asks for a look of its own: what two read at once would count twice.
        self._looking = asyncio.Lock()
        self.weights: Mapping[tuple[str, str], Weights] = {}
        """What is not as the config says: by the config's hash and the route's name."""

    async def keep_looking(self) -> None:
        """Looks every minute, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    def recall(self) -> None:
        """Puts in force what was written down. Blocks; raises IsthmusError."""
        config = self._config()
        self._live = {it.id: self._entered(config, it) for it in experiments_of(config)}
        self._put_in_force(config)

    async def look(self) -> None:
        """Takes in all that is new; an experiment that fails keeps none of the others."""
        async with self._looking:
            config = self._config()
            running = experiments_of(config)
            for experiment in running:
                try:
                    await self._look_at(config, experiment)
                except Exception as error:
                    why = error.text if isinstance(error, IsthmusError) else type(error).__name__
                    log.error("the experiment on the route %s was not looked at: %s", experiment.route, why)
            known = {experiment.id for experiment in running}
            self._live = {id: live for id, live in self._live.items() if id in known}
            self._put_in_force(config)

    def shares(self) -> dict[tuple[str, ...], float]:
        """The share of each arm of each experiment, by route and arm; 0 for one that is stopped."""
        found: dict[tuple[str, ...], float] = {}
        for live in self._live.values():
            changed = dict(live.standing.weights)
            weights = {arm.called: changed.get(arm.called, arm.weight) for arm in live.experiment.split.arms}
            for arm, weight in weights.items():
                found[live.experiment.route, arm] = weight / sum(weights.values())
        return found

    def _entered(self, config: Config, experiment: Experiment) -> _Live:
        """The experiment as it was written down, which from now on runs under this config, too."""
        live = _Live(experiment, standing_of(self._trials, experiment))
        if config.hash not in live.standing.configs:
            configs = (*live.standing.configs, config.hash)
            self._write(live, msgspec.structs.replace(live.standing, configs=configs))
        return live

    async def _look_at(self, config: Config, experiment: Experiment) -> None:
        live = self._live.get(experiment.id)
        if live is None or config.hash not in live.standing.configs:
            live = await asyncio.to_thread(self._entered, config, experiment)
            self._live[experiment.id] = live
        while await asyncio.to_thread(self._read, live):
            pass
        await asyncio.to_thread(self._decide, live)
        for stopped in live.standing.stopped:
            await self._tell(live, stopped)

    def _read(self, live: _Live) -> bool:
        """Takes in what the ledger has, piece by piece; False once there is no more."""
        route, configs = live.experiment.route, live.standing.configs
        settled = self._now_us() - SETTLED_US
        tried, until = self._trials.tried(route, configs, live.tried_until, settled, MOST_AT_ONCE)
        heard, heard_until = self._trials.opinions(route, configs, live.heard_until, MOST_AT_ONCE)
        for one in tried:
            live.evidence.see(one)
        for opinion in heard:
            live.evidence.hear(opinion)
        more = (until, heard_until) != (live.tried_until, live.heard_until)
        live.tried_until, live.heard_until = until, heard_until
        return more

    def _decide(self, live: _Live) -> None:
        """Stops whoever is to be stopped, and weighs the arms."""
        standing = live.standing
        stopped = {it.arm: it for it in standing.stopped}
        for loser in list(live.evidence.losers(stopped)):
            stopped[loser.arm] = Stopped(
                arm=loser.arm, than=loser.than, measure=loser.measure, p=loser.p, at_us=self._now_us()
            )
            log.warning("an arm of the route %s is stopped: %s", live.experiment.route, loser.in_words())
        weights = live.evidence.weights(stopped, self._beta)
        now = Standing(configs=standing.configs, stopped=tuple(stopped.values()), weights=weights)
        if now != standing:
            self._write(live, now)

    def _write(self, live: _Live, standing: Standing) -> None:
        body = msgspec.json.encode(standing)
        self._trials.keep(Kept(live.experiment.id, live.experiment.route, body))
        live.standing = standing

    def _put_in_force(self, config: Config) -> None:
        standing = {live.experiment.route: live.standing.weights for live in self._live.values()}
        self.weights = {(config.hash, route): weights for route, weights in standing.items() if weights}

    async def _tell(self, live: _Live, stopped: Stopped) -> None:
        hook = live.experiment.split.stop.webhook if live.experiment.split.stop is not None else None
        if hook is None or stopped.told or stopped.tries >= MOST_TRIES:
            return
        told = True
        try:
            await self._post(hook, message(live.experiment.route, stopped))
        except IsthmusError as error:
            told = False
            log.error("a stop was not taken by the webhook: %s", error.text)
        now = msgspec.structs.replace(stopped, told=told, tries=stopped.tries + 1)
        all_now = tuple(now if it is stopped else it for it in live.standing.stopped)
        await asyncio.to_thread(self._write, live, msgspec.structs.replace(live.standing, stopped=all_now))


def message(route: str, stopped: Stopped) -> bytes:
    """What a webhook is told: JSON with everything that is known, and `text` for those that show a text."""
    text = f"The arm {stopped.arm} of the route {route} was stopped: {stopped.in_words()}."
    facts = {"arm": stopped.arm, "than": stopped.than, "measure": stopped.measure, "p": stopped.p}
    return msgspec.json.encode(
        {"event": "arm_stopped", "text": text, "route": route, **facts, "at_us": stopped.at_us}
    )
