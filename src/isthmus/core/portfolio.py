"""What can be called, and under which names: providers, models, routes."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.core.label import Level
from isthmus.core.promises import NO_PROMISES, Promises

Kind: TypeAlias = Literal["closed", "open", "local"]
Capability: TypeAlias = Literal["chat", "embeddings", "tools", "vision", "json_schema", "logprobs"]
Client: TypeAlias = Literal["http1", "aiohttp", "anyllm"]
Auth: TypeAlias = Literal["bearer", "x-api-key", "api-key", "x-goog-api-key", "none"]
Seconds: TypeAlias = Annotated[float, Meta(gt=0)]
EngineContext: TypeAlias = Annotated[int, Meta(ge=256)]
EngineParallel: TypeAlias = Annotated[int, Meta(ge=1, le=64)]
EngineThreads: TypeAlias = Annotated[int, Meta(ge=1)]


class SecretRef(msgspec.Struct, frozen=True):
    """Where a secret is to be found: `env` NAME or `file` PATH. The secret itself is never a part of the
    config.
    """

    source: Literal["env", "file"]
    name: str


class Signer(msgspec.Struct, frozen=True):
    """Whose signature on weights counts: a public key, or an authority's certificate, as PEM.

    `file` is where the config found it.
    """

    file: str
    pem: str


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait, in seconds.

    `connect` is for TCP and TLS. `first_token` is from the request sent to the first byte of a streamed
    answer. `idle` is between two reads. `total` is for the whole attempt.
    """

    connect: Seconds = 5.0
    first_token: Seconds = 60.0
    idle: Seconds = 60.0
    total: Seconds = 600.0


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When a model is left alone after failures.

    `failures` is how many in a row it takes. `cooldown` is how many seconds it is left alone. `max_cooldown`
    is what that grows to while it keeps failing, in seconds. `recovery` is for how many seconds after its
    first success it is coming back still: a few requests at a time try it, more with each success, and one
    failure ends that.
    """

    failures: Annotated[int, Meta(ge=1)] = 5
    cooldown: Seconds = 5.0
    max_cooldown: Seconds = 60.0
    recovery: Annotated[float, Meta(ge=0)] = 0.0


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a local engine is run.

    `context` is the longest request and answer together, in tokens; each of the `parallel` requests that are
    worked on at once has room for that much. `threads` None leaves one core to the gateway.
    """

    context: EngineContext = 4096
    parallel: EngineParallel = 4
    threads: EngineThreads | None = None


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint, its credential reference and the wires that it speaks.

    `wires` names codecs of `isthmus.dialects`, preferred first; `engine` is set where the gateway itself runs
    the engine, one process a model, and there is no `base_url` then; nor need there be one where `client` is
    `anyllm`, which knows the addresses itself. `prices` is the provider's id in genai-prices. `quirks` names
    the known departures from the dialect (see `isthmus.catalog.presets`). `headers` and `query` are sent with
    every call. `proxy_key` refers to the `user:password` of `proxy`, through which `client: aiohttp` can go.
    `promises` is what its terms promise of what it is sent. `adapters` says that the server can load LoRA
    adapters while it runs. `terms` names what governs the use of outputs: `openai/api`, or `weights` where
    the licence of the weights does; None where nobody says.
    """

    name: str
    wires: tuple[str, ...]
    base_url: str | None = None
    key: SecretRef | None = None
    auth: Auth = "bearer"
    zone: str | None = None
    kind: Kind | None = None
    promises: Promises = NO_PROMISES
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    quirks: frozenset[str] = frozenset()
    prices: str | None = None
    timeouts: Timeouts = Timeouts()
    breaker: BreakerSettings = BreakerSettings()
    max_connections: int = 1024
    max_waiting: int = 1024
    client: Client = "http1"
    ca_file: str | None = None
    proxy: str | None = None
    proxy_key: SecretRef | None = None
    forward_headers: tuple[str, ...] = ()
    engine: EngineSettings | None = None
    adapters: bool = False
    terms: str | None = None


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True):
    """A price of your own contract, in USD per million tokens.

    `input` is the price of a token read. `output` is the price of a token written. `cache_read`,
    `cache_write_5m`, `cache_write_1h` and `input_audio` cost what `input` costs unless they are said.
    `output_audio` costs what `output` costs unless it is said. `valid_from` is the first day (UTC) of the
    price. `valid_until` is the day (UTC) before which it ends.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None
    input_audio: Decimal | None = None
    output_audio: Decimal | None = None
    valid_from: dt.date | None = None
    valid_until: dt.date | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A callable target: a provider, the provider's model id, and facts.

    `clearance` is the highest level that it may receive, None where its kind decides.
    `promises` is what those who run it promise of what they are sent.
    `weights` is what a local engine loads: a name of `isthmus.catalog.weights`, the path of a GGUF file, or
    with `signers` that of a signed artefact. `sha256` is the identity that these must have, None where nobody
    says. `base` is the GGUF file that an adapter was made for, where the catalogue does not have it.
    `context` is in tokens, and so is `max_output`, the longest answer. `capabilities` None means "assume
    all": it is the provider who refuses then. `version_of` is set where a rollout has made it: it is the
    model of that name in the config with other weights, and like it in all else.
    """

    name: str
    provider: str
    id: str
    kind: Kind
    zone: str | None = None
    context: int | None = None
    max_output: int | None = None
    capabilities: frozenset[Capability] | None = None
    licence: str | None = None
    weights: str | None = None
    sha256: str | None = None
    base: str | None = None
    signers: tuple[Signer, ...] = ()
    price: tuple[PriceOverride, ...] = ()
    clearance: Level | None = None
    promises: Promises = NO_PROMISES
    version_of: str | None = None

    @property
    def family(self) -> str:
        """The model's name in the config, whichever of its versions this is."""
        return self.version_of or self.name
