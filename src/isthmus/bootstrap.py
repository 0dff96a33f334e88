"""The composition root: the only place that names concrete classes and joins them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Hashable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from isthmus.accounting.breaker import Breaker
from isthmus.accounting.budgets import Budget
from isthmus.catalog.pipelines import ENGLISH
from isthmus.catalog.prices import OWN_ENGINE, Price, PriceBook
from isthmus.catalog.weights import STATIC_VECTORS, STATIC_VOCABULARY
from isthmus.config.archive import Archived, archive, unarchive
from isthmus.config.config import Config, GatewaySettings, LedgerSettings, RolloutRule, Watch
from isthmus.config.digests import Digests
from isthmus.config.doubts import doubted
from isthmus.config.places import ledger_path, state_dir
from isthmus.config.rollouts import in_force, pair_of, rolled
from isthmus.config.secrets import resolve
from isthmus.core.alarm import Alarm
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Client, EngineSettings, Model, Provider, SecretRef
from isthmus.core.record import Record
from isthmus.core.rollout import Turn
from isthmus.dialects import endpoint_wires
from isthmus.dialects.issuers import BOUND_WIRES
from isthmus.evals.drift import standing
from isthmus.evals.drift.standing import Drift
from isthmus.evals.drift.watchman import Watchman
from isthmus.evals.replay.boundary import Portfolio
from isthmus.evals.replay.replayed import Ledger as PastLedger
from isthmus.evals.replay.replayed import Replayer
from isthmus.evals.rollout.guards import Judgement
from isthmus.evals.rollout.jury import MOST_RECALLED, Jury
from isthmus.evals.rollout.steward import Steward
from isthmus.evals.trials.referee import Referee, Standing, experiment_of, standing_of
from isthmus.gateway.app import Gateway
from isthmus.gateway.conversations import KEPT_DAYS, Conversations
from isthmus.gateway.direct import Direct, LabelRing, route_to
from isthmus.gateway.foresight import Foresights, routers_of
from isthmus.gateway.inspection import Inspection
from isthmus.gateway.rescan import Rescanner
from isthmus.gateway.rollover import Hosted, Rollover, first_standing, own_versions, until_ready
from isthmus.gateway.silences import Silences
from isthmus.gateway.snapshot import Snapshot
from isthmus.gateway.story import clock
from isthmus.gateway.treasury import Treasury
from isthmus.perimeter.detectors import Detector, Recogniser
from isthmus.perimeter.detectors.weights import installed
from isthmus.perimeter.engines import Engine
from isthmus.perimeter.policy import Policy
from isthmus.perimeter.scanner import Scanner
from isthmus.providers import anyllm, webhook
from isthmus.providers.engines.adapter import HostedAdapter
from isthmus.providers.engines.fetch import Progress, fetch, weights_folder
from isthmus.providers.engines.hosted import HostedEngine
from isthmus.providers.http1 import Http1Transport
from isthmus.providers.transport import Origin, Proxy, Transport, TransportError
from isthmus.providers.upstream import Upstream
from isthmus.routing.decide import Facts, Router
from isthmus.routing.learned.header import parted
from isthmus.routing.route import Route
from isthmus.store.configs import Configs, SqliteConfigs
from isthmus.store.conversations import SECRET_BYTES, SqliteStandings, secret_beside
from isthmus.store.counters import Counters, SqliteCounters
from isthmus.store.drift import SqliteDrifts
from isthmus.store.feedback import Feedbacks, SqliteFeedback
from isthmus.store.guest import GuestLedger
from isthmus.store.history import History, SqliteHistory
from isthmus.store.hours import SqliteHours
from isthmus.store.keys import KeyRing, Keys, SqliteKeys
from isthmus.store.ledger import SqliteLedger
from isthmus.store.memory import MemoryStandings
from isthmus.store.recent import recent_attempts
from isthmus.store.records import Records, SqliteRecords, Where
from isthmus.store.rollouts import Rollouts, SqliteRollouts
from isthmus.store.runs import Runs, SqliteRuns
from isthmus.store.traffic import SqliteTraffic
from isthmus.store.trials import SqliteTrials
from isthmus.strategies.plan import CallModel
from isthmus.telemetry.metrics import Tally

if TYPE_CHECKING:
    from isthmus.routing.learned.embedding import Embedding
    from isthmus.routing.learned.predictor import Predictor

log = logging.getLogger("isthmus")

_VECTORS = (STATIC_VECTORS, STATIC_VOCABULARY)

ENGINE_GRACE_S = 10.0
FORGET_EVERY_S = 3600.0
ROLL_UP_EVERY_S = 60.0
SETTLED_US = 120_000_000
"""Most requests of so long ago are recorded, so that their records are added up together."""
DAY_US = 86_400_000_000
CLOCKS_DIFFER_US = 3_600_000_000
"""So far may a clock have been set back since a rollout's turn: its records are told by their config."""
RECALLED_AT_ONCE = 500
ASKING_RETRIES = 6
PATIENCE_S = 60.0
"""Nobody sits and waits for each answer of a pilot: providers and detectors may ask for more patience than
live traffic has."""

T = TypeVar("T")


class _Lease(NamedTuple):
    thing: Any
    holders: list[int]
    close: Callable[[], None]


class Workshop:
    """Makes snapshots, and shares between them what must outlive a reload: connections, engines, breakers.

    What no snapshot holds any more is closed: connections when their last exchange ends, engines gracefully.
    """

    def __init__(self, state_dir: Path, report: Callable[[Progress], None] = lambda _: None) -> None:
        self._state_dir = state_dir
        self._report = report
        self._leases: dict[Hashable, _Lease] = {}
        self._secret = secrets.token_bytes(32)
        self._ending: set[asyncio.Task[None]] = set()
        self._numbers = iter(range(2**63))
        self._closing = False

    def snapshot(self, config: Config) -> Snapshot:
        """The config, ready to serve. Raises IsthmusError where a secret or a certificate cannot be read."""
        number = next(self._numbers)
        prices = PriceBook()
        told_apart = issuers_of(config)
        try:
            upstreams = {
                name: self._upstream(model, config.providers[model.provider], prices, told_apart, number)
                for name, model in config.models.items()
            }
            foresights = foresights_of(config, prices)
            inspection = inspection_of(config.perimeter, self._secret)
            inspection.prepare()
        except BaseException:
            self._release(number)
            raise

        def retire() -> None:
            inspection.close()
            self._release(number)

        return Snapshot(config, router_of(config), upstreams, inspection, foresights, retire)

    def engines(self) -> dict[str, HostedEngine]:
        """The engines that run for any snapshot, by the name of their model."""
        return {name: it for name, it in self.hosted().items() if isinstance(it, HostedEngine)}

    def hosted(self) -> dict[str, Hosted]:
        """What was started for any snapshot, here or on a server that takes adapters, by its model's name."""
        things = (lease.thing for lease in self._leases.values())
        return {it.name: it for it in things if isinstance(it, HostedEngine | HostedAdapter)}

    def engines_of(self, config: Config) -> dict[str, HostedEngine]:
        """The engines by which a config's models are served."""
        keys = {
            name: self._engine_key(model, config.providers[model.provider].engine)
            for name, model in config.models.items()
        }
        return {name: self._leases[key].thing for name, key in keys.items() if key in self._leases}

    def breakers(self) -> dict[str, Breaker]:
        """The breakers, by the name of their model."""
        named = ((key, lease.thing) for key, lease in self._leases.items())
        return {
            key[1]: thing for key, thing in named if isinstance(thing, Breaker) and isinstance(key, tuple)
        }

    async def close(self) -> None:
        """End every engine and connection; one that will not end keeps none of the others."""
        self._closing = True
        for key, lease in self._leases.items():
            _close(key, lease)
        self._leases.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _upstream(
        self, model: Model, provider: Provider, prices: PriceBook, told_apart: Collection[str], number: int
    ) -> Upstream:
        breaker = self._lease(
            ("breaker", model.name, provider.name, model.id, provider.breaker),
            lambda: Breaker(provider.breaker),
            lambda _: None,
            number,
        )
        wires = endpoint_wires(provider.wires, provider.quirks)
        if provider.engine is not None:
            engine = self._engine(model, provider, number)
            return Upstream(
                model,
                provider,
                base_url="http://engine/v1",
                key=None,
                wires=wires,
                transport=engine.transport,
                breaker=breaker,
                price=price_of(model, provider, prices),
                unready=engine.unready,
                weights=lambda: engine.verified,
            )
        if provider.client == "anyllm":
            anyllm.require(model.id)
        key = resolve(provider.key) if provider.key else None
        transport = self._transport(provider, number)
        upstream = partial(
            Upstream,
            model,
            provider,
            base_url=provider.base_url or "",
            key=key,
            wires=wires,
            transport=transport,
            breaker=breaker,
            price=price_of(model, provider, prices),
            marks=provider.name in told_apart,
        )
        if not (provider.adapters and model.version_of is not None):
            return upstream()
        return upstream(unready=self._adapter(model, provider, key, transport, number).unready)

    def _engine(self, model: Model, provider: Provider, number: int) -> HostedEngine:
        settings = provider.engine
        assert settings is not None
        return self._lease(
            self._engine_key(model, settings),
            lambda: HostedEngine(
                model,
                settings,
                weights_dir=weights_folder(os.environ),
                log_dir=self._state_dir / "logs",
                private_dir=self._state_dir / "private",
                report=self._report,
            ),
            lambda engine: self._end(engine.stop(ENGINE_GRACE_S)),
            number,
        )

    def _engine_key(self, model: Model, settings: EngineSettings | None) -> Hashable:
        """What an engine is leased by: the family, and not the name, so that a version which has become the
        config's own keeps its engine; and the hash, since another version may lie at the same path by now.

        Where the config does not say the hash, the engine is meant that was started last from that path.
        """
        path = ("engine", model.family, model.weights, model.base, model.signers, settings)
        if model.sha256 is not None:
            return (*path, model.sha256)
        running = [key for key in self._leases if isinstance(key, tuple) and key[:-1] == path]
        return running[-1] if running else (*path, None)

    def _adapter(
        self, model: Model, provider: Provider, key: str | None, transport: Transport, number: int
    ) -> HostedAdapter:
        return self._lease(
            ("adapter", model.name, provider.name, provider.base_url),
            lambda: HostedAdapter(
                model, provider, base_url=provider.base_url or "", key=key, transport=transport
            ),
            # Where the gateway ends, the next one goes on with it.
            lambda adapter: self._end(adapter.stop(unload=not self._closing)),
            number,
        )

    def _transport(self, provider: Provider, number: int) -> Transport:
        place = _place(provider)
        settings: dict[str, Any] = {
            "max_connections": provider.max_connections,
            "max_waiting": provider.max_waiting,
        }
        if provider.proxy is not None:
            login = resolve(provider.proxy_key) if provider.proxy_key else None
            settings["proxy"] = Proxy(url=provider.proxy, login=login)
        try:
            return self._lease(
                ("transport", provider.name, provider.client, place, *settings.values()),
                lambda: _transport_of(provider.client)(place, **settings),
                lambda transport: transport.retire(),
                number,
            )
        except TransportError as failure:
            message = f"The provider {provider.name} cannot be reached: {failure.message}."
            raise IsthmusError(
                Fault.INTERNAL, message, code=failure.code, hint=f"{failure.hint.capitalize()}."
            ) from failure

    def _lease(self, key: Hashable, make: Callable[[], T], close: Callable[[T], None], number: int) -> T:
        lease = self._leases.get(key)
        if lease is None:
            thing = make()
            lease = self._leases[key] = _Lease(thing, [], lambda: close(thing))
        lease.holders.append(number)
        thing_: T = lease.thing
        return thing_

    def _release(self, number: int) -> None:
        for key, lease in list(self._leases.items()):
            while number in lease.holders:
                lease.holders.remove(number)
            if not lease.holders:
                del self._leases[key]
                _close(key, lease)

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        task = in_background(ending, "stopping an engine")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _close(key: Hashable, lease: _Lease) -> None:
    try:
        lease.close()
    except Exception as error:
        what = " ".join(map(str, key[:2])) if isinstance(key, tuple) else "a lease"
        log.error("%s was not closed: %s", what, type(error).__name__)


def why(error: BaseException) -> str:
    """What may be told of an error: its text where that is ours, else its kind: the rest may be secret."""
    return error.text if isinstance(error, IsthmusError) else type(error).__name__


def in_background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """The work as a task, whose end by an error is logged."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_tell_of_failure)
    return task


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.error("%s has failed: %s", task.get_name(), why(error))


async def _end_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _place(provider: Provider) -> Origin | str | None:
    """Where a provider's transport leads: to an origin, or to where any-llm takes us."""
    if provider.client == "anyllm":
        return provider.base_url
    assert provider.base_url is not None, "the config gives every other provider without an engine one"
    return Origin.from_url(provider.base_url, ca_file=provider.ca_file)


def _transport_of(client: Client) -> Callable[..., Transport]:
    """The class of transport for a client's name; what few use is imported where it is used."""
    match client:
        case "http1":
            return Http1Transport
        case "aiohttp":
            from isthmus.providers.http_aiohttp import AiohttpTransport

            return AiohttpTransport
        case "anyllm":
            return anyllm.AnyLlmTransport


def facts_of(config: Config) -> Facts:
    """What routing knows of a config."""
    policy = config.perimeter
    return Facts(
        providers=config.providers,
        models=config.models,
        routes=config.routes,
        config_hash=config.hash,
        outside=policy.refuses,
        perimeter=policy.hash,
    )


def issuers_of(config: Config) -> frozenset[str]:
    """The providers whose reasoning could be sent to another one: they share a wire that binds it."""
    called = [config.providers[model.provider] for model in config.models.values()]
    speakers = [
        {provider.name for provider in called if provider.engine is None and wire in provider.wires}
        for wire in BOUND_WIRES
    ]
    return frozenset().union(*(names for names in speakers if len(names) > 1))


def router_of(config: Config) -> Router:
    """What decides by this config, for live requests and for `explain`."""
    return Router(facts_of(config))


def price_of(model: Model, provider: Provider, prices: PriceBook) -> Price:
    """What a model's tokens cost; on an engine of one's own nothing, but for what the config says."""
    own = OWN_ENGINE.lists if provider.engine is not None else ()
    listed_as = provider.prices if provider.engine is None else None
    return Price((*prices.price(listed_as, model.id, model.price).lists, *own))


def prices_of(config: Config, book: PriceBook | None = None) -> dict[str, Price]:
    """What the tokens of each model of a config cost."""
    book = book or PriceBook()
    return {
        name: price_of(model, config.providers[model.provider], book) for name, model in config.models.items()
    }


def traffic_of(ledger: Path) -> SqliteTraffic:
    """The sums of the ledger at that path."""
    return SqliteTraffic(ledger)


def hours_of(ledger: Path) -> SqliteHours:
    """The sums by hour of the ledger at that path."""
    return SqliteHours(ledger)


def inspection_of(policy: Policy, secret: bytes) -> Inspection:
    """What looks into requests by this policy; `secret` keys what it remembers, and pseudonyms where the
    policy has no key for them.

    Raises IsthmusError where that key, an engine or its weights cannot be used, or a file of terms or rules
    cannot be read, or is not what it was with the config.
    """
    if not policy.rules:
        return Inspection(policy, ())
    # Heavy, and not needed where nothing is looked at.
    from isthmus.perimeter.detectors.classifier import Classifier
    from isthmus.perimeter.detectors.patterns import Patterns
    from isthmus.perimeter.detectors.people import KINDS, People
    from isthmus.perimeter.detectors.secrets import credentials

    detectors: list[Detector] = [Patterns(), credentials()]
    try:
        given = [file.detector(Path(file.path).read_bytes()) for file in policy.files]
    except (OSError, ValueError) as fault:
        raise IsthmusError(
            Fault.INTERNAL,
            f"A file of the perimeter cannot be used: {fault}.",
            code="perimeter_file",
            hint="Run `isthmus check`.",
        ) from fault
    topics = [detector for detector in given if isinstance(detector, Classifier)]
    detectors += [detector for detector in given if not isinstance(detector, Classifier)]
    witness = next((_witness(engine) for engine in policy.engines if engine.engine == "spacy"), None)
    recognisers = [_recogniser(engine) for engine in policy.engines if engine.engine != "spacy"]
    return Inspection(
        policy,
        [
            (None, Scanner(detectors, secret)),
            *((topic.kinds, Scanner([topic], secret)) for topic in topics),
            (KINDS, Scanner([People(witness)], secret)),
            *((recogniser.kinds, Scanner([recogniser], secret)) for recogniser in recognisers),
        ],
        resolve(policy.key).encode() if policy.key else secret,
    )


# Weights take seconds to load: a reload finds them here again, unless another engine is chosen.
@lru_cache(maxsize=4)
def _witness(engine: Engine) -> Detector:
    from isthmus.perimeter.detectors.ner import Ner

    folder, sha256 = _weights(engine)
    return Ner(folder, sha256=sha256, clock=clock)


@lru_cache(maxsize=4)
def _recogniser(engine: Engine) -> Recogniser:
    from isthmus.perimeter.detectors.gliner import Gliner
    from isthmus.perimeter.detectors.presidio import Presidio

    folder, sha256 = _weights(engine)
    return (Gliner if engine.engine == "gliner" else Presidio)(folder, sha256=sha256)


def _weights(engine: Engine) -> tuple[Path, str | None]:
    if engine.folder is not None:
        return Path(engine.folder), engine.sha256
    return installed(ENGLISH), ENGLISH.sha256


def foresights_of(config: Config, book: PriceBook | None = None) -> Foresights:
    """What asks the learned routers of a config.

    Raises IsthmusError: `bad_router`, `router_changed`, `weights_unavailable`, `bad_embedding`.
    """
    predictors = load_routers(config)
    return Foresights(config.routes, predictors, prices_of(config, book) if predictors else {}, config.models)


def load_routers(config: Config) -> dict[str, Predictor]:
    """The learned routers of a config, by the SHA-256 of their files. It blocks where they are not known yet.

    Raises IsthmusError: `bad_router`, `router_changed`, `weights_unavailable`, `bad_embedding`.
    """
    wanted = {it for route in config.routes.values() for it in routers_of(route)}
    files = {file.sha256: file.path for file in config.routers if file.sha256 in wanted}
    return {sha256: _predictor(path, sha256) for sha256, path in files.items()}


# Read in tenths of a second: a reload finds them here again.
@lru_cache(maxsize=8)
def _predictor(path: str, sha256: str) -> Predictor:
    from isthmus.routing.learned.predictor import Predictor

    content = _router(path, sha256)
    return Predictor(content, sha256, _vectors() if _needs_vectors(content) else None)


def _router(path: str, sha256: str) -> bytes:
    """The content of a learned router's file. Raises IsthmusError where it is another than it was."""
    with suppress(OSError):
        content = Path(path).read_bytes()
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
    raise IsthmusError(
        Fault.INTERNAL,
        f"The learned router {path} is not what it was with the config.",
        code="router_changed",
        hint="Run `isthmus check`.",
    )


def _needs_vectors(content: bytes) -> bool:
    return parted(content)[0].embedding is not None


def bring_vectors(config: Config, report: Callable[[Progress], None] = lambda _: None) -> None:
    """Fetch the static vectors, where a learned router of the config needs them. It blocks.

    Raises IsthmusError: `weights_unavailable`, `router_changed`, `bad_router`.
    """
    if any(_needs_vectors(_router(file.path, file.sha256)) for file in config.routers):
        _fetched_vectors(report)


@lru_cache(maxsize=1)
def _vectors() -> Embedding:
    folder = weights_folder(os.environ)
    if not all((folder / it.file).exists() for it in _VECTORS):
        # Nothing is fetched here: the event loop may be waiting.
        raise IsthmusError(
            Fault.UNAVAILABLE,
            "The static vectors of the learned router are not on this machine.",
            code="weights_unavailable",
            hint="Start the gateway anew: it fetches them then.",
        )
    return static_embedding()


def _fetched_vectors(report: Callable[[Progress], None]) -> list[Path]:
    folder = weights_folder(os.environ)
    return [fetch(it, folder, report) for it in _VECTORS]


def static_embedding(report: Callable[[Progress], None] = lambda _: None) -> Embedding:
    """The static vectors of the learned router, fetched first where they are not there.

    Raises IsthmusError: `weights_unavailable`, `bad_embedding`.
    """
    # It needs numpy, which only the extra `evals` brings.
    from isthmus.routing.learned.embedding import Embedding

    table, vocabulary = _fetched_vectors(report)
    return Embedding(table.read_bytes(), vocabulary.read_bytes(), STATIC_VECTORS.sha256)


def open_keys(config: Config, config_path: Path | None) -> Keys:
    """The keys of this config's gateway, whether it runs or not."""
    return SqliteKeys(ledger_path(config, config_path))


def open_counters(config: Config, config_path: Path | None) -> Counters:
    """What is used of the budgets of this config's gateway, whether it runs or not."""
    return SqliteCounters(ledger_path(config, config_path))


def open_records(config: Config, config_path: Path | None) -> Records:
    """The records of this config's gateway, whether it runs or not."""
    return SqliteRecords(ledger_path(config, config_path))


def open_runs(config: Config, config_path: Path | None) -> Runs:
    """The evaluation runs beside this config's ledger."""
    return SqliteRuns(ledger_path(config, config_path))


def drifts_of(config: Config, config_path: Path | None) -> Iterator[Drift]:
    """What was last found of each watched route, whether the gateway runs or not."""
    kept = SqliteDrifts(ledger_path(config, config_path))
    for watch in config.drift:
        yield from standing.drifts(watch, standing.read(watch, kept.standing(watch.route)))


def experiment_on(route: str, config: Config, config_path: Path | None) -> Standing:
    """How the experiment on a route stands, whether the gateway runs or not; as at its begin without one.

    The config is that which is served by: see `in_service`.
    """
    path = ledger_path(config, config_path)
    found = experiment_of(route, config) if route in config.routes else None
    return standing_of(SqliteTrials(path), found) if found is not None and path.exists() else Standing()


def silences_in(config: Config, config_path: Path | None) -> Silences:
    """How long those models are silent by whom the hedges of a config go, by what its ledger has. Blocks.

    The config is that which is served by: see `in_service`.
    """
    path, silences = ledger_path(config, config_path), Silences()
    models = silences.heed(config)
    if models and path.exists():
        silences.recall(models, recent_attempts(path, models))
    return silences


def open_rollouts(config: Config, config_path: Path | None) -> Rollouts:
    """The rollouts of this config's gateway, whether it runs or not."""
    return SqliteRollouts(ledger_path(config, config_path))


def in_service(config: Config, config_path: Path | None, digests: Digests | None = None) -> Config:
    """The config as this ledger's rollouts and alarms of drift want it: what a gateway serves by, or would.

    `digests` are those of weights that were read already. Raises IsthmusError: see
    `isthmus.store.schema.Database.reading`.
    """
    path = ledger_path(config, config_path)
    if not path.exists():
        return config
    turns = SqliteRollouts(path).current()
    own = own_versions(config, turns, digests or Digests())
    return doubted(rolled(config, turns, own), alarms_in(path))


def alarms_in(ledger: Path) -> tuple[Alarm, ...]:
    """The alarms of drift that stand in the ledger at that path."""
    if not ledger.exists():
        return ()
    return tuple(alarm for kept in SqliteDrifts(ledger).standings() for alarm in standing.alarms(kept))


def evidence_of(config: Config, config_path: Path | None, turn: Turn, digests: Digests) -> Judgement | None:
    """What the ledger shows of a rollout that is under way; None where it is not, or not in force.

    The gateway may know more: what has not been committed yet, and what is too long ago to be read again.
    """
    path = ledger_path(config, config_path)
    own = own_versions(config, [turn], digests).get(turn.model)
    if own is None or not turn.under_way or not in_force(config, turn, own):
        return None
    serving = in_service(config, config_path, digests)
    jury = Jury(turn, pair_of(turn, own), serving.hash, config.rule_of(turn.model))
    jury.recall(_recall(path, turn.at_us))
    jury.listen(SqliteRollouts(path).opinions(jury.config_hash, jury.models, 0))
    return jury.judgement()


def open_feedback(config: Config, config_path: Path | None) -> Feedbacks:
    """The feedback on what this config's gateway answered, whether it runs or not."""
    return SqliteFeedback(ledger_path(config, config_path))


def open_history(config: Config, config_path: Path | None) -> History:
    """What this config's gateway has recorded, for one pass over all of it."""
    return SqliteHistory(ledger_path(config, config_path))


def past_configs(config: Config, config_path: Path | None) -> dict[str, Archived]:
    """The configs that ever decided a record or a run in this ledger, by their hashes, so far as they can be
    read. Raises IsthmusError: see `isthmus.store.schema.Database.reading`."""
    kept = SqliteConfigs(ledger_path(config, config_path)).all()
    read = ((hash, unarchive(body)) for hash, body in kept.items())
    return {hash: it for hash, it in read if it is not None}


def replayer_of(policy: Config, config: Config, config_path: Path | None, where: Where) -> Replayer:
    """What decides by `policy` those requests that the gateway of `config` has recorded and that are meant.

    Raises IsthmusError: see `isthmus.store.schema.Database.reading`.
    """
    path = ledger_path(config, config_path)
    history = SqliteHistory(path)
    ledger = PastLedger(
        decisions=history.decisions(where),
        newer=history.decision,
        configs=past_configs(config, config_path),
        keys={key.id: key for key in SqliteKeys(path).list()},
        today=Portfolio(config.models, config.providers),
    )
    return Replayer(policy, router_of(policy), prices_of(policy), ledger)


def rescanner_of(policy: Config, history: History) -> Rescanner:
    """What looks again, by `policy`, into the requests of a history whose texts were kept."""
    inspection = inspection_of(policy.perimeter, secrets.token_bytes(32))
    return Rescanner(policy, inspection, history.bodies)


class House(NamedTuple):
    """A gateway that can be served, and what stands behind it."""

    gateway: Gateway
    workshop: Workshop
    ledger: SqliteLedger
    ledger_path: Path
    rollover: Rollover
    referee: Referee

    def records(self) -> Records:
        """What the ledger has."""
        return SqliteRecords(self.ledger_path)

    def reload(self, config: Config) -> None:
        """Serve by another config from the next request on; raises IsthmusError and changes nothing else."""
        self.rollover.reload(config)
        self.gateway.tally.reloads["ok"] += 1


@asynccontextmanager
async def open_house(
    config: Config, config_path: Path | None = None, report: Callable[[Progress], None] = lambda _: None
) -> AsyncIterator[House]:
    """Everything that a gateway needs, opened, and closed again in good order: the ledger last, whatever else
    fails to close."""
    path = ledger_path(config, config_path)
    async with AsyncExitStack() as closing:
        listeners: list[Callable[[Record], None]] = []
        ledger = await asyncio.to_thread(lambda: SqliteLedger(path, config.ledger.mode, listeners=listeners))
        closing.push_async_callback(ledger.close)
        workshop = Workshop(state_dir(config_path), report)
        closing.push_async_callback(workshop.close)
        keys = await asyncio.to_thread(SqliteKeys, path)
        closing.callback(keys.close)
        ring = await asyncio.to_thread(KeyRing, keys)
        treasury = Treasury(await asyncio.to_thread(SqliteCounters, path))
        closing.push_async_callback(treasury.close)
        conversations = await asyncio.to_thread(conversations_of, config, path)
        closing.push_async_callback(conversations.close)
        configs, rollouts, digests = SqliteConfigs(path), SqliteRollouts(path), Digests()
        closing.callback(rollouts.close)
        alarms = await asyncio.to_thread(alarms_in, path)
        begun = await asyncio.to_thread(first_standing, config, rollouts, alarms, digests, _now_us())
        await _keep(begun.serving, configs)
        silences = await asyncio.to_thread(silences_in, begun.serving, config_path)
        tally = _tally(ledger, workshop, ring)
        await asyncio.to_thread(bring_vectors, config, report)
        snapshot = workshop.snapshot(begun.serving)
        gateway = Gateway(
            snapshot=snapshot,
            ledger=ledger,
            ring=ring,
            treasury=treasury,
            tally=tally,
            feedbacks=SqliteFeedback(path),
            conversations=conversations,
            engines=lambda: {
                name: engine.state for name, engine in workshop.engines_of(gateway.snapshot.config).items()
            },
            weights=lambda: {
                name: engine.verified
                for name, engine in workshop.engines_of(gateway.snapshot.config).items()
                if engine.verified
            },
            arm_weights=lambda: referee.weights,
            silences=silences.of,
        )
        referee = Referee(
            SqliteTrials(path),
            lambda: gateway.snapshot.config,
            _post_to,
            random.Random().betavariate,
            _now_us,
        )
        # Before anything is served: who was stopped stays so.
        await asyncio.to_thread(referee.recall)
        closing.push_async_callback(gateway.mirrors.close)
        tally.config_hash = begun.serving.hash

        def adopt(snapshot: Snapshot) -> None:
            gateway.adopt(snapshot)
            in_background(_keep(snapshot.config, configs), "keeping the config")
            # Who was stopped is so under this config, too.
            in_background(referee.look(), "deciding experiments")
            if fresh := silences.heed(snapshot.config):
                in_background(_recall_silences(silences, fresh, path), "reading models' times")

        rollover = Rollover(begun, digests, workshop, lambda: gateway.snapshot.config, adopt)
        steward = Steward(
            rollouts, rollover, partial(_recall, path), _post, _now_us, in_force=begun.turns, told=begun.known
        )
        listeners += (steward.hear, silences.hear)

        tally.gauges["budget_used_ratio"] = (
            "The share of a budget that is used in its window, by the fullest of its accounts.",
            ("budget",),
            lambda: treasury.used(gateway.snapshot.config.budgets),
        )
        tally.gauges["hedge_after_seconds"] = (
            "The quantile of a model's times to the first token by which hedges go now.",
            ("model", "quantile", "operation", "stream"),
            silences.gauge,
        )
        tally.gauges["calibration_stale"] = (
            "1 where a route's calibration was made for another state of things, and promises nothing.",
            ("route",),
            lambda: gateway.snapshot.config.stale_calibrations,
        )
        chores = [
            in_background(ring.keep_fresh(), "keeping the keys fresh"),
            in_background(treasury.keep_told(lambda: time.time_ns() // 1000), "keeping the budgets told"),
            in_background(conversations.keep_written(), "writing conversations down"),
            in_background(_roll_up(ledger), "adding up records by hour"),
        ]
        watchman = Watchman(
            SqliteDrifts(path),
            lambda: gateway.snapshot.config.drift,
            _post,
            _draws,
            _now_us,
            heed=rollover.heed,
        )
        tally.gauges |= {
            "drift_alarm": (
                "1 where a watched route is not what it was in its baseline.",
                ("route", "quantity"),
                watchman.alarms,
            ),
            "drift_p_value": (
                "The p-value of the claim that nothing has changed since the baseline.",
                ("route", "quantity"),
                watchman.p_values,
            ),
        }
        closing.push_async_callback(steward.close)
        tally.gauges |= {
            "arm_share": (
                "The share of an arm of a split that learns; 0 where it was stopped.",
                ("route", "arm"),
                referee.shares,
            ),
            "rollout_stage": (
                "1 for the stage at which new weights of a model are.",
                ("model", "version", "stage"),
                steward.stages,
            ),
            "rollout_p_value": (
                "The p-value of the claim that new weights do no worse than they may.",
                ("model", "quantity"),
                steward.p_values,
            ),
        }
        chores.append(in_background(watchman.keep_watch(), "watching for drift"))
        chores.append(in_background(steward.lead(), "leading rollouts"))
        chores.append(in_background(referee.keep_looking(), "deciding experiments"))
        if config.ledger.keep_days is not None:
            forgetting = _forget_old_records(ledger, config.ledger.keep_days)
            chores.append(in_background(forgetting, "forgetting old records"))
        closing.push_async_callback(_end_all, chores)
        yield House(gateway, workshop, ledger, path, rollover, referee)


def conversations_of(config: Config, ledger: Path) -> Conversations:
    """What this ledger's gateways know of conversations; no longer than they keep records. It blocks.

    Raises IsthmusError: `ledger_unavailable`, `bad_secret`.
    """
    days = config.ledger.keep_days
    return Conversations(
        SqliteStandings(ledger), secret_beside(ledger), _now_us, KEPT_DAYS if days is None else days
    )


async def _keep(config: Config, configs: Configs) -> None:
    """Keep the config beside the records that it will decide; without it they are served all the same."""
    try:
        await asyncio.to_thread(configs.keep, config.hash, time.time_ns() // 1000, archive(config))
    except IsthmusError as error:
        log.error("the config was not kept beside its records: %s", error.text)


@asynccontextmanager
async def open_ask(
    config: Config,
    config_path: Path | None,
    models: Collection[str],
    *,
    name: str,
    cap_nanousd: int | None = None,
    concurrency: int = 8,
    retries: int = ASKING_RETRIES,
    report: Callable[[Progress], None] = lambda _: None,
) -> AsyncIterator[Direct]:
    """What asks these models of the config, by the way of live traffic, from a process that may run beside
    the gateway.

    Its records go to the gateway's ledger, with routes `pilot/MODEL` and `name` for a key. It spends from
    none of the config's budgets, whose counters the gateway alone may move, but from a budget of its own:
    `cap_nanousd` in all under that name, whenever and however often it is opened. At most `concurrency` calls
    run at once of the models of a provider, and a call is tried again `retries` times. Engines are ready when
    it opens.
    """
    path = ledger_path(config, config_path)
    heard: dict[str, Record] = {}
    async with AsyncExitStack() as closing:
        ledger = await asyncio.to_thread(GuestLedger, path, lambda it: heard.update({it.id: it}))
        closing.push_async_callback(ledger.close)
        await _keep(config, SqliteConfigs(path))
        workshop = Workshop(state_dir(config_path), report)
        closing.push_async_callback(workshop.close)
        treasury = Treasury(await asyncio.to_thread(SqliteCounters, path))
        closing.push_async_callback(treasury.close)
        ring = LabelRing(name)
        snapshot = workshop.snapshot(_for_asking(config, models, name, cap_nanousd, retries))
        gateway = Gateway(
            snapshot=snapshot,
            ledger=ledger,
            ring=ring,
            treasury=treasury,
            tally=Tally(),
            feedbacks=SqliteFeedback(path),
            # What is asked here goes on from nothing.
            conversations=Conversations(MemoryStandings(), secrets.token_bytes(SECRET_BYTES), _now_us),
        )
        telling = in_background(treasury.keep_told(lambda: time.time_ns() // 1000), "keeping the cap told")
        closing.push_async_callback(_end_all, [telling])
        await asyncio.gather(*map(until_ready, workshop.engines().values()))
        yield Direct(gateway, ring, heard, _places(snapshot.config, concurrency))


def _for_asking(
    config: Config, models: Collection[str], name: str, cap_nanousd: int | None, retries: int
) -> Config:
    """The config with a route to each of these models by itself, and with the cap for its only budget."""
    asked = {model: config.models[model] for model in models}
    cap = () if cap_nanousd is None else (Budget(amount=cap_nanousd, unit="usd", per="ever", key=name),)
    routes = [
        Route(name=route_to(model), plan=CallModel(model=model, retries=retries, patience=PATIENCE_S))
        for model in asked
    ]
    return msgspec.structs.replace(
        config,
        providers={model.provider: config.providers[model.provider] for model in asked.values()},
        models=asked,
        routes={route.name: route for route in routes},
        gateway=GatewaySettings(max_body_mb=config.gateway.max_body_mb),
        # A sample that is not looked at in time would be missing, for no reason of its own.
        perimeter=msgspec.structs.replace(
            config.perimeter, timeout=max(config.perimeter.timeout, PATIENCE_S)
        ),
        # An answer counts when its record is kept.
        ledger=LedgerSettings(mode="strict"),
        budgets=cap,
    )


def _places(config: Config, concurrency: int) -> dict[str, asyncio.Semaphore]:
    """How many calls may run at once, by model: of an engine as many as it works on, else of a provider."""
    shared = {name: asyncio.Semaphore(concurrency) for name in config.providers}
    engines = {name: it.engine for name, it in config.providers.items() if it.engine is not None}
    return {
        name: asyncio.Semaphore(min(concurrency, engines[model.provider].parallel))
        if model.provider in engines
        else shared[model.provider]
        for name, model in config.models.items()
    }


async def _post(rule: Watch | RolloutRule, body: bytes) -> None:
    """Tell the webhook of a watch or a rollout, which has one."""
    assert rule.webhook is not None
    await webhook.post(resolve(rule.webhook), body)


def _recall(ledger: Path, since_us: int) -> list[Record]:
    """The last records of that time, as many as a jury wants."""
    records, where = SqliteRecords(ledger), Where(since_us=since_us - CLOCKS_DIFFER_US)
    found: list[Record] = []
    page = records.page(where, RECALLED_AT_ONCE)
    found += page.records
    while page.next is not None and len(found) < MOST_RECALLED:
        page = records.page(where, RECALLED_AT_ONCE, page.next)
        found += page.records
    return found


async def _recall_silences(silences: Silences, models: Collection[str], ledger: Path) -> None:
    silences.recall(models, await asyncio.to_thread(recent_attempts, ledger, models))


async def _post_to(hook: SecretRef, body: bytes) -> None:
    await webhook.post(resolve(hook), body)


def _draws(name: str) -> Callable[[], float]:
    """Draws that a restart repeats; they break ties between equal values, and guard nothing."""
    return random.Random(name).random


def _now_us() -> int:
    return time.time_ns() // 1000


async def _roll_up(ledger: SqliteLedger) -> None:
    while True:
        try:
            await ledger.roll_up_before(time.time_ns() // 1000 - SETTLED_US)
        except Exception as error:
            log.error("records were not added up by hour: %s", why(error))
        await asyncio.sleep(ROLL_UP_EVERY_S)


async def _forget_old_records(ledger: SqliteLedger, keep_days: int) -> None:
    while True:
        try:
            await ledger.delete_before(time.time_ns() // 1000 - keep_days * DAY_US)
        except Exception as error:
            log.error("old records were not deleted: %s", why(error))
        await asyncio.sleep(FORGET_EVERY_S)


def _tally(ledger: SqliteLedger, workshop: Workshop, ring: KeyRing) -> Tally:
    """The counts, and what is to be asked for when they are scraped."""
    tally = Tally()

    def health(name: str) -> Callable[[], dict[tuple[str, ...], float]]:
        return lambda: {(): float(getattr(ledger.health(), name))}

    tally.gauges |= {
        "ledger_failing": (
            "1 while the ledger's disk cannot be written.",
            (),
            lambda: {(): _failing(ledger)},
        ),
        "ledger_queued_records": ("Records that wait to be committed.", (), health("queued")),
        "ledger_lost_records": ("Records that could not be kept.", (), health("lost")),
        "ledger_lag_milliseconds": ("How long the last batch's oldest record waited.", (), health("lag_ms")),
        "keys_stale": (
            "1 while the keys cannot be read, so that new and revoked ones do not count.",
            (),
            lambda: {(): float(ring.stale)},
        ),
        "engine_ready": (
            "1 where an engine of ours answers.",
            ("model",),
            lambda: {(name,): float(engine.unready() is None) for name, engine in workshop.engines().items()},
        ),
        "breaker_open": (
            "1 where a model is left alone for having failed.",
            ("model",),
            lambda: {
                (name,): float(it.state(clock()) != "closed") for name, it in workshop.breakers().items()
            },
        ),
    }
    return tally


def _failing(ledger: SqliteLedger) -> float:
    return float(ledger.health().state != "ok")
