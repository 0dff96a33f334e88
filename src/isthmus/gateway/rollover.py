"""Which config serves: the file's, with the rollouts that are in force and without what drift has made stale;
and how one follows on another.

Where other weights take over, their engine is started beside the one that serves, verified and warmed, before
the first request goes there. Requests under way keep the snapshot that they began with, and its engines.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from isthmus.artefacts.faults import ArtefactError
from isthmus.config.config import Config
from isthmus.config.digests import Digests
from isthmus.config.doubts import doubted
from isthmus.config.rollouts import Pair, in_force, pair_of, rolled
from isthmus.core.alarm import Alarm
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import Model
from isthmus.core.rollout import Relearned, Turn, Version, same
from isthmus.evals.rollout.steward import GATEWAY, UnfitError
from isthmus.gateway.snapshot import Snapshot
from isthmus.providers.engines.warming import warm
from isthmus.store.rollouts import Rollouts

log = logging.getLogger("isthmus.rollout")

LOOK_S = 0.1
START_PATIENCE_S = 300.0
"""So long may an engine take to be ready, its weights lying there."""


class Hosted(Protocol):
    """What was started for a model: an engine, or an adapter on a server."""

    @property
    def state(self) -> str:
        """The state in one word."""

    async def ready(self) -> None:
        """Return when it answers for the first time."""

    def unready(self) -> IsthmusError | None:
        """Why it cannot be called just now, or None where it can."""


class Maker(Protocol):
    """What makes snapshots, and knows what was started for any of them."""

    def snapshot(self, config: Config) -> Snapshot:
        """The config, ready to serve."""

    def hosted(self) -> dict[str, Hosted]:
        """What was started for any snapshot, by the name of its model."""


class Standing(NamedTuple):
    """What a gateway begins with: the file's config, the turns that it serves by, and what serves so.

    `known` is the number of the last turn before the gateway itself had to decide. `alarms` are those of
    drift that there have been.
    """

    config: Config
    turns: Sequence[Turn]
    serving: Config
    known: int
    alarms: Sequence[Alarm] = ()


def first_standing(
    config: Config, rollouts: Rollouts, alarms: Sequence[Alarm], digests: Digests, at_us: int
) -> Standing:
    """What serves from the start. Blocks; raises IsthmusError where the store cannot be used.

    A version whose weights are not there any more, or are others, is sent back; where there is nothing to go
    back to, the config's own weights serve. What is on trial has no request before its engine is ready: until
    then the old version serves alone, and the trial goes on with the first `take`.
    """
    known = max((turn.number for turn in rollouts.current()), default=0)
    lost: set[int] = set()
    while True:
        turns = [turn for turn in rollouts.current() if turn.number not in lost]
        own = own_versions(config, turns, digests)
        try:
            for model in rolled(config, turns, own).models.values():
                verify(model, turns, digests)
            verify_learned(turns)
        except UnfitError as error:
            turn = next(it for it in turns if it.model == error.model)
            if turn.stage == "rolled back":
                log.error("%s The config's own weights serve.", error.text)
                lost.add(turn.number)
            else:
                back = turn.then("rolled back", 0.0, why=error.text, who=GATEWAY, at_us=at_us)
                _append_first(rollouts, back, turn.number)
            continue
        begun = [_without_trial(turn) for turn in turns]
        return Standing(config, begun, doubted(rolled(config, begun, own), alarms), known, alarms)


def _without_trial(turn: Turn) -> Turn:
    """The turn as if its trial were off: the old version has everything."""
    return msgspec.structs.replace(turn, stage="rolled back", share=0.0) if turn.under_way else turn


def _append_first(rollouts: Rollouts, turn: Turn, after: int) -> None:
    """Add a turn, unless somebody was faster: what they have decided is looked at next."""
    try:
        rollouts.append(turn, after)
    except IsthmusError as error:
        if error.code != "rollout_changed":
            raise


class Rollover:
    """Keeps a gateway on the config of its file, as the rollouts in force want it. For one event loop.

    `serving` tells which config serves, `adopt` lets another one serve from the next request on.
    """

    def __init__(
        self,
        standing: Standing,
        digests: Digests,
        maker: Maker,
        serving: Callable[[], Config],
        adopt: Callable[[Snapshot], None],
    ) -> None:
        self.config = standing.config
        self._turns = standing.turns
        self._alarms = tuple(standing.alarms)
        self._taken: Config | None = standing.config
        self._digests = digests
        self._maker = maker
        self._serving = serving
        self._adopt = adopt

    @property
    def config_hash(self) -> str:
        """The hash of the config that serves, rollouts included."""
        return self._serving().hash

    def reload(self, config: Config) -> None:
        """Serve by another config of the file from the next request on. Raises IsthmusError, and changes
        nothing then."""
        # No file is read here. Whether a rollout holds for weights that nobody has looked at yet, the next
        # `take` finds out.
        self._adopt(self._maker.snapshot(self._as_it_stands(config)))
        self.config, self._taken = config, None

    def heed(self, route: str, alarms: Sequence[Alarm]) -> None:
        """Serve from the next request on as these alarms want it, which are all that there are of the route.
        Where that cannot be, it is said, and tried when next told."""
        others = (alarm for alarm in self._alarms if alarm.route != route)
        heard = tuple(sorted([*others, *alarms]))
        if heard != self._alarms:
            self._alarms = heard
        wanted = self._as_it_stands(self.config)
        if wanted.hash == self.config_hash:
            return
        try:
            self._adopt(self._maker.snapshot(wanted))
        except IsthmusError as error:
            log.error("an alarm of drift of the route %s is not heeded yet: %s", route, error.text)
        else:
            log.warning("drift: what was learned for the route %s is stale: `on_stale` decides", route)

    def names(self, turn: Turn) -> Pair | None:
        """What the two versions of a turn are called; None where the turn is not in force."""
        own = self._own(self.config).get(turn.model)
        return pair_of(turn, own) if own is not None and in_force(self.config, turn, own) else None

    def given_up(self, turn: Turn) -> str | None:
        """Why the engine of the new version, which serves beside the config's own or in its place, has given
        up; None where it has not."""
        names = self.names(turn)
        if names is None or names.new == turn.model or turn.stage == "rolled back":
            return None
        engine = self._maker.hosted().get(names.new)
        return _why_failed(engine) if engine is not None and engine.state == "failed" else None

    async def take(self, turns: Sequence[Turn]) -> None:
        """Serve as these turns want it, once every version that is new is ready.

        Raises UnfitError where one cannot serve, and IsthmusError where something else is in the way; what
        served before serves on then.
        """
        config = self.config
        if self._taken is config and list(turns) == list(self._turns):
            return
        alarms = self._alarms
        own = await asyncio.to_thread(own_versions, config, turns, self._digests)
        wanted = doubted(rolled(config, turns, own), alarms)
        if wanted.hash != self.config_hash:
            await asyncio.to_thread(verify_learned, turns)
            fresh = [it for name, it in wanted.models.items() if self._is_fresh(name, it)]
            for model in fresh:
                await asyncio.to_thread(verify, model, turns, self._digests)
            snapshot = await self._ready(wanted, fresh)
            if self.config is not config or self._alarms is not alarms:
                # Another file, or an alarm, has come meanwhile: the next look takes its turns anew.
                snapshot.release()
                return
            self._adopt(snapshot)
        self._turns, self._taken = tuple(turns), config

    async def _ready(self, config: Config, fresh: Sequence[Model]) -> Snapshot:
        """A snapshot whose new models have answered once."""
        snapshot = self._maker.snapshot(config)
        try:
            for model in fresh:
                await self._start(snapshot, model)
        except BaseException:
            snapshot.release()
            raise
        return snapshot

    async def _start(self, snapshot: Snapshot, model: Model) -> None:
        engine = self._maker.hosted().get(model.name)
        try:
            if engine is not None:
                await until_ready(engine, START_PATIENCE_S)
            await warm(snapshot.upstreams[model.name])
        except TimeoutError:
            message = f"The engine of {model.name} was not ready within {START_PATIENCE_S:.0f} s."
            raise UnfitError(model.family, message) from None
        except IsthmusError as error:
            raise UnfitError(model.family, error.message, error.hint) from error

    def _is_fresh(self, name: str, model: Model) -> bool:
        """True where a rollout brings a version into service that does not serve yet."""
        return name not in self._serving().models and (model.version_of is not None or self._is_back(name))

    def _is_back(self, name: str) -> bool:
        """True where the config's own weights come back after a version that has served in their place."""
        return any(it.version_of == name for it in self._serving().models.values())

    def _as_it_stands(self, config: Config) -> Config:
        """What serves where this is the file's config."""
        return doubted(rolled(config, self._turns, self._own(config)), self._alarms)

    def _own(self, config: Config) -> dict[str, Version]:
        """What is known of the config's own weights without a look into any file."""
        named = {turn.model for turn in self._turns} & config.models.keys()
        known = {name: self._digests.remembered(config.models[name]) for name in named}
        return {name: version for name, version in known.items() if version is not None}


def own_versions(config: Config, turns: Sequence[Turn], digests: Digests) -> Mapping[str, Version]:
    """The weights that the config itself gives to the models of these turns. Blocks.

    Of a file that cannot be read the turns know which one it was. Weights of which nobody knows anything are
    left out: no rollout is about them.
    """
    found = {}
    for turn in turns:
        if turn.model in config.models:
            model = config.models[turn.model]
            try:
                version: Version | None = digests.version(model)
            except (OSError, ArtefactError):
                # Nobody needs the file any more, once other weights have taken over.
                version = digests.remembered(model) or _lain_at(model.weights, turn)
            if version is not None:
                found[turn.model] = version
    return found


def _lain_at(path: str | None, turn: Turn) -> Version | None:
    """The version of that path in the time of the turn."""
    return next((it for it in (turn.ground, turn.old, turn.new) if it.weights == path), None)


def verify(model: Model, turns: Sequence[Turn], digests: Digests) -> None:
    """Raises UnfitError where a version's weights are not those that were promoted. Blocks."""
    promised = promised_of(model, turns)
    if promised is None or promised.sha256 is None:
        # What another server loads, only that server can look at.
        return
    try:
        found = digests.version(model)
    except OSError as error:
        message = f"The weights of {model.name} cannot be read: {error.strerror or 'unknown error'}."
        raise UnfitError(model.family, message, "Is the file still where it was promoted from?") from None
    except ArtefactError as error:
        raise UnfitError(model.family, error.message, error.hint) from error
    if not same(found, promised):
        raise _others(model.name, model.family)


def verify_learned(turns: Sequence[Turn]) -> None:
    """Raises UnfitError where a router that was learned for a version is gone, or is another one. Blocks."""
    for turn in turns:
        serving = {it.id for it in ((turn.old, turn.new) if turn.under_way else (turn.settled,))}
        for it in turn.anew:
            if it.version in serving and isinstance(it, Relearned) and not _is_there(it):
                message = (
                    f"The router {it.file}, by which {it.route} chooses, is not the one that was learned."
                )
                hint = f"Promote {turn.model}@{it.version} again: it is learned anew."
                raise UnfitError(turn.model, message, hint)


def _is_there(router: Relearned) -> bool:
    try:
        with Path(router.file).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == router.sha256
    except OSError:
        return False


def promised_of(model: Model, turns: Sequence[Turn]) -> Version | None:
    """The weights that were promoted under the model's name; None where it is no version."""
    mine = (turn for turn in turns if turn.model == model.version_of)
    versions = (version for turn in mine for version in (turn.old, turn.new))
    return next((it for it in versions if it.weights == model.weights), None)


def _others(name: str, model: str) -> UnfitError:
    message = f"The weights of {name} are not those that were promoted: the file has changed."
    return UnfitError(model, message, "Promote them as they are now.")


async def until_ready(engine: Hosted, patience_s: float = math.inf) -> None:
    """Return when the engine answers; raises IsthmusError once it has failed, though it would try again.

    Raises TimeoutError where it takes so many seconds longer than its weights took to come.
    """
    ready = asyncio.ensure_future(engine.ready())
    try:
        while not ready.done():
            await asyncio.wait([ready], timeout=LOOK_S)
            if (failure := engine.unready()) is not None and engine.state == "failed":
                raise failure
            if engine.state != "fetching":
                patience_s -= LOOK_S
            if patience_s < 0 and not ready.done():
                raise TimeoutError
        await ready
    finally:
        ready.cancel()


def _why_failed(engine: Hosted) -> str:
    failure = engine.unready()
    return failure.message if failure is not None else "Its engine has failed."
