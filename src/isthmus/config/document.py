"""What isthmus.yaml may say: the one source of the decoder, the JSON Schema and the reference.

Each docstring names every key of its section in backticks, in a sentence of its own: that sentence is the
key's description in editors and in the reference. (The tests insist.)
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.accounting.budgets import Period, Subject
from isthmus.catalog.presets import Dialect
from isthmus.config.config import GatewaySettings, LedgerSettings, RolloutRule, Watch
from isthmus.core.label import Level
from isthmus.core.portfolio import (
    Auth,
    BreakerSettings,
    Capability,
    EngineContext,
    EngineParallel,
    EngineThreads,
    Kind,
    PriceOverride,
    Seconds,
    SecretRef,
    Timeouts,
)
from isthmus.core.promises import Promises
from isthmus.perimeter.engines import Engine
from isthmus.perimeter.policy import RULES, Clearance, Rule
from isthmus.routing.route import Style, Thrift
from isthmus.strategies.plan import Node

Count: TypeAlias = Annotated[int, Meta(ge=1)]


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint, how it is spoken to, and where its key is found.

    `preset` is a provider that Isthmus knows by name. `dialect` is the wire format of a server without a
    preset. `engine` says that Isthmus runs the models itself: `builtin`. `base_url` is the endpoint with
    the API's version, such as `http://vllm.internal:8000/v1`. `key` is where the credential is found,
    `env:NAME` or `file:PATH`, never the credential itself. `auth` is the header that carries the key.
    `zone` is where the provider's machines are, such as `eu`. `kind` is what its models are unless they say
    otherwise: `closed`, `open` (open weights on rented machines) or `local` (inside your own walls).
    `promises` is what your contract with the provider says of what it is sent. `terms` says which terms
    govern the use of outputs, by provider and surface, such as `openai/api`; or `weights`, where you run them
    yourself and their licence alone counts; by default what the preset says.
    `headers` are sent with every call. `query` is added to every URL. `forward_headers` names headers of
    the caller that are passed on, instead of the preset's. `quirks` names departures from the dialect,
    instead of the preset's. `prices` is the provider's id in genai-prices. `timeouts` says how long to wait.
    `breaker` says when a model is left alone. `max_connections` is how many connections are open at once.
    `max_waiting` is how many requests may wait for one. `client` is the HTTP client. `ca_file` is a PEM file
    of certificate authorities to trust instead of the system's. `proxy` is an HTTP proxy on the way to the
    endpoint, such as `http://proxy.internal:3128`; it goes with `client: aiohttp`. `proxy_key` is where the
    proxy's `user:password` is found, `env:NAME` or `file:PATH`. `context` is an engine's longest request and
    answer together, in tokens, for each request at once. `parallel` is how many requests an engine works on
    at once. `threads` is how many CPU threads an engine takes, by default all cores but one.
    """

    preset: str | None = None
    dialect: Dialect | None = None
    engine: Literal["builtin"] | None = None
    base_url: str | None = None
    key: SecretRef | None = None
    auth: Auth | None = None
    zone: str | None = None
    kind: Kind | None = None
    promises: Promises = Promises()
    terms: str | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    forward_headers: tuple[str, ...] | None = None
    quirks: frozenset[str] | None = None
    prices: str | None = None
    timeouts: Timeouts = Timeouts()
    breaker: BreakerSettings = BreakerSettings()
    max_connections: Count = 1024
    max_waiting: Annotated[int, Meta(ge=0)] = 1024
    client: Literal["http1", "aiohttp"] = "http1"
    ca_file: str | None = None
    proxy: str | None = None
    proxy_key: SecretRef | None = None
    context: EngineContext | None = None
    parallel: EngineParallel | None = None
    threads: EngineThreads | None = None


class PerimeterEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What requests may reach which models. With this section every request is looked into.

    `default` is the level of a request for which nobody vouches and in which nothing is found. `clearance`
    is the highest level that models may receive. `labels` say what findings mean; without them personal data
    is `confidential` and a secret is `restricted`, and with an empty list nothing is looked at. `names` are
    other names of levels that callers may send in `x-isthmus-label`, such as the ids of Microsoft Purview's
    labels. `timeout` is how many seconds a request
    may be looked at; what takes longer is `restricted`. `terms` are files of your own words by the name of
    the list, one term a line: a customer or a code name of `projects: terms/projects.txt` is found as
    `term.projects`. `fingerprints` are files that `isthmus fingerprint` has made of your documents and source
    code, by a name of yours: a piece of what `designs: designs.fp` was made of is found as
    `fingerprint.designs`. `topics` are classifiers that `isthmus topic` has trained on your texts, by a name
    of yours: what is about `contracts: contracts.topic` is found as `topic.contracts`. `gitleaks` is a file
    of rules for secrets in gitleaks' format, added to those built in. `engines` are recognisers of others'
    making that look, too, where what they may find would still raise the label. `key` is a secret from which
    pseudonyms are made, `env:NAME` or `file:PATH`; without it they last as long as the process, and differ
    between replicas.
    """

    default: Level = "internal"
    clearance: Clearance = Clearance()
    labels: tuple[Rule, ...] = RULES
    names: dict[str, Level] = {}
    timeout: Seconds = 2.0
    terms: dict[str, str] = {}
    fingerprints: dict[str, str] = {}
    topics: dict[str, str] = {}
    gitleaks: str | None = None
    engines: tuple[Engine, ...] = ()
    key: SecretRef | None = None


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model that routes may call.

    `provider` is the name of the provider that serves it. `id` is the provider's name for it, by default the
    name that it has here. `kind` is `closed`, `open` or `local`, by default what the provider says. `zone` is
    where it runs, by default the provider's. `context` is the longest input and output together, in tokens.
    `capabilities` is what it can do; without it everything is tried. `licence` is the SPDX identifier of
    the weights' licence. `weights` is what an engine loads: a name of the catalogue, or the path of a
    GGUF file or of a signed artefact's folder, relative to the config. `signers` are files of public
    keys, or of certificates of authorities: the weights are verified before every start of the engine,
    and are served only as one of these has signed them. `sha256` is the one version of the weights that is
    served, as `isthmus models verify` or `sha256sum` tells it: whatever else lies there is refused. `base` is
    the GGUF file that a signed adapter was made for, where the catalogue does not have it. `price` is what
    you pay, where it is not the list price, or what you reckon for the tokens of an engine of your own, which
    are free without it: one price, or several with the days on which they are valid.
    `max_output` is its longest answer in tokens; by it a budget knows what a call may cost at most.
    `clearance` is the highest level that it may receive, where that is not what its kind may. `promises` is
    what the contract says of what this model is sent, by default what it says of all of the provider's.
    """

    provider: str
    id: str | None = None
    kind: Kind | None = None
    zone: str | None = None
    context: Count | None = None
    max_output: Count | None = None
    capabilities: frozenset[Capability] | None = None
    licence: str | None = None
    weights: str | None = None
    signers: tuple[str, ...] | None = None
    sha256: str | None = None
    base: str | None = None
    price: PriceOverride | tuple[PriceOverride, ...] | None = None
    clearance: Level | None = None
    promises: Promises | None = None


class BudgetEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be used in every minute, hour, day, week or month of the UTC calendar; never more.

    One of `usd`, `tokens` and `requests` says how much. `per` is the time. `key` is the name of a key or a
    pattern such as `ci-*`: the budget is about what it asks, else about everybody's. `team`, `route` and
    `model` are such names too; all that are said must fit. `each` makes it a budget of every key, team, user,
    route or model by itself. `warn_at` is the share from which on callers are warned, in the header
    `x-isthmus-warning`.
    """

    usd: Decimal | None = None
    tokens: Count | None = None
    requests: Count | None = None
    per: Period
    key: str | None = None
    team: str | None = None
    route: str | None = None
    model: str | None = None
    each: Subject | None = None
    warn_at: Annotated[float, Meta(gt=0, le=1)] = 1.0


class RouteEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The name that applications send as `model`, and the strategy behind it, written in place.

    A name may be a pattern such as `gpt-*`: it serves what no route is named exactly; of several that fit,
    the longest does.
    `plan` is the strategy, where you prefer to write it apart from the other keys. `record_bodies` keeps the
    texts of requests and answers in the ledger; by default none are kept. `floor` is the least level of what
    comes this way. `thrift` is another strategy, for the time when a budget is nearly used. `continuity`
    keeps a conversation with the model that has answered it, for as long as it may and the plan has it.
    `style` is what every model of the route is told, before the client's own system prompt.
    """

    plan: Node
    record_bodies: bool = False
    floor: Level | None = None
    thrift: Thrift | None = None
    continuity: bool = False
    style: Style | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The sections of the file.

    `providers` are the endpoints by name. `models` are the callable models by name. `perimeter` says which
    models may receive what. `routes` are the names that applications call. `budgets` bound what may be used.
    `drift` says which routes are watched for traffic and answers that are not what they were. `rollouts`
    say how new weights of a model take over its traffic. `gateway` says where to listen, and the bounds.
    `ledger` says how records are kept; a bare word is its mode.
    """

    providers: dict[str, ProviderEntry] = {}
    models: dict[str, ModelEntry] = {}
    perimeter: PerimeterEntry | None = None
    routes: dict[str, RouteEntry] = {}
    budgets: tuple[BudgetEntry, ...] = ()
    drift: tuple[Watch, ...] = ()
    rollouts: tuple[RolloutRule, ...] = ()
    gateway: GatewaySettings = GatewaySettings()
    ledger: LedgerSettings = LedgerSettings()


PLANNED_SECTIONS = frozenset({"limits", "keys", "audit", "evals"})
"""Sections of later versions: whoever writes one expects something of it, so it is refused by name."""
