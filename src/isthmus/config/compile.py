"""A decoded document → the Config: names joined, presets filled in, contradictions found."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path as FilePath
from typing import Any, cast

import msgspec

from isthmus.accounting.budgets import Budget, Unit
from isthmus.catalog.presets import DIALECTS, PRESETS, QUIRKS, Preset, Speech, find_preset, preset_at
from isthmus.catalog.weights import WEIGHTS, Weights, find_weights
from isthmus.config import urls
from isthmus.config.calibrations import Calibrations
from isthmus.config.config import Config, GatewaySettings, LedgerSettings, RolloutRule, Watch
from isthmus.config.decode import DecodedPlan
from isthmus.config.document import BudgetEntry, ModelEntry, PerimeterEntry, ProviderEntry, RouteEntry
from isthmus.config.faults import Code, did_you_mean
from isthmus.config.findings import Findings
from isthmus.config.nodes import changed
from isthmus.config.panels import Panels
from isthmus.config.paths import absolute, is_file, is_folder
from isthmus.config.perimeter import compile_policy, warn_of_unheeded
from isthmus.config.plans import check_plans
from isthmus.config.routers import Routers
from isthmus.config.secrets import resolve
from isthmus.config.signed import compile_pin, compile_signers
from isthmus.config.styles import compile_style
from isthmus.config.tree import Mapping, Mark, Path, Sequence, Tree, sounds_secret
from isthmus.core.errors import IsthmusError
from isthmus.core.label import BOTTOM, Label
from isthmus.core.money import nanousd
from isthmus.core.portfolio import (
    Capability,
    EngineSettings,
    Model,
    PriceOverride,
    Provider,
    SecretRef,
)
from isthmus.providers.transport import OWNED_HEADERS
from isthmus.routing.route import OF_EVALUATIONS, Route
from isthmus.strategies.plan import Node, Split

MODES: frozenset[Capability] = frozenset({"chat", "embeddings"})
"""Capabilities of which an answer needs exactly one."""

_ENGINE_CAPABILITIES: dict[str, frozenset[Capability]] = {
    "chat": frozenset({"chat", "tools", "json_schema", "logprobs"}),
    "embeddings": frozenset({"embeddings"}),
}
_OF_THE_WAY = ("ca_file", "proxy", "proxy_key")
_NOT_FOR_ENGINES = ("base_url", "key", "auth", "headers", "query", "forward_headers", *_OF_THE_WAY, "prices")
_FOR_ENGINES = ("context", "parallel", "threads")
_NOT_FOR_ANYLLM = ("auth", "headers", "query", "forward_headers", "client", *_OF_THE_WAY)
_ANYLLM_ID = re.compile(r"[a-z0-9_-]+:.+")
_NOTHING_SAID = ProviderEntry()
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Sections(msgspec.Struct, frozen=True, kw_only=True):
    """What was decoded of a file: the whole entries by name, and every plan in them."""

    providers: dict[str, ProviderEntry]
    models: dict[str, ModelEntry]
    routes: dict[str, RouteEntry]
    gateway: GatewaySettings
    ledger: LedgerSettings
    perimeter: PerimeterEntry | None
    budgets: tuple[BudgetEntry, ...]
    drift: tuple[Watch, ...]
    rollouts: tuple[RolloutRule, ...]
    plans: list[DecodedPlan]


def compile_config(
    sections: Sections, tree: Mapping, folder: FilePath, findings: Findings, *, check_secrets: bool
) -> Config | None:
    """The config that the sections mean, None where anything was refused.

    Paths in it are relative to `folder`. Secrets are looked at, not kept, where `check_secrets`.
    """
    return _Compiler(sections, tree, folder, findings, check_secrets).config()


class _Compiler:
    """Compiles one document. Faults are placed by the path of what they are about."""

    def __init__(
        self, sections: Sections, tree: Mapping, folder: FilePath, findings: Findings, check_secrets: bool
    ) -> None:
        self._sections = sections
        self._tree = tree
        self._folder = folder
        self._findings = findings
        self._check_secrets = check_secrets

    def config(self) -> Config | None:
        providers = _compiled(
            (name, self._provider(name, entry)) for name, entry in self._sections.providers.items()
        )
        models = _compiled(
            (name, self._model(name, entry, providers)) for name, entry in self._sections.models.items()
        )
        styles = {
            name: compile_style(entry.style, self._folder, ("routes", name, "style"), self._add)
            for name, entry in self._sections.routes.items()
        }
        cards = {name: style.card for name, style in styles.items() if style is not None}
        known = (self._sections.plans, models, providers, self._folder, self._findings, cards)
        calibrations, routers, panels = Calibrations(*known), Routers(*known), Panels(*known)

        def fill(was: Node, now: Node) -> Node:
            for learned in (calibrations, routers, panels):
                now = learned.fill(was, now)
            return now

        def filled(plan: Node) -> Node:
            # All at once: a strategy is another object as soon as one inside of it is filled.
            return changed(plan, Node, fill)

        routes = {
            name: Route(
                name=name,
                plan=filled(entry.plan),
                record_bodies=entry.record_bodies,
                floor=Label(entry.floor) if entry.floor else BOTTOM,
                thrift=entry.thrift and msgspec.structs.replace(entry.thrift, plan=filled(entry.thrift.plan)),
                continuity=entry.continuity,
                style=styles[name],
            )
            for name, entry in self._sections.routes.items()
        }
        policy = compile_policy(self._sections.perimeter, self._folder, self._add)
        if policy.key is not None:
            self._check_secret(policy.key, ("perimeter", "key"))
        budgets = self._budgets()
        self._check_watches()
        self._check_rollouts()
        self._check_keys_of_anyllm(providers, models)
        check_plans(self._sections.plans, self._names("models"), self._findings)
        for route in routes.values():
            self._check_name(route.name)
            self._check_modes(route, models)
            if isinstance(route.plan, Split) and route.plan.stop is not None and route.plan.stop.webhook:
                self._check_secret(route.plan.stop.webhook, ("routes", route.name))
        if self._findings.refused:
            return None
        self._warn_of_unused(models, routes)
        warn_of_unheeded(policy, self._add)
        config = Config(
            providers=providers,
            models=models,
            routes=routes,
            gateway=self._sections.gateway,
            ledger=self._sections.ledger,
            perimeter=policy,
            budgets=budgets,
            drift=self._sections.drift,
            rollouts=self._sections.rollouts,
            calibrations=(*calibrations.files, *routers.files, *panels.files),
            hash="",
        )
        return _anchored(msgspec.structs.replace(config, hash=_meaning_hash(config)), self._folder)

    # Budgets

    def _budgets(self) -> tuple[Budget, ...]:
        budgets: dict[str, Budget] = {}
        for index, entry in enumerate(self._sections.budgets):
            path: Path = ("budgets", index)
            amounts = {
                "usd": None if entry.usd is None else nanousd(entry.usd),
                "tokens": entry.tokens,
                "requests": entry.requests,
            }
            said = {unit: amount for unit, amount in amounts.items() if amount is not None}
            if len(said) != 1:
                words = " and ".join(f"`{unit}`" for unit in said) or "no amount"
                hint = "Say one of `usd`, `tokens` and `requests`; several budgets may be about one thing."
                self._add(Code.CONFLICT if said else Code.MISSING, f"A budget says {words}.", hint, path)
                continue
            self._check_budgeted(entry, path)
            ((unit, amount),) = said.items()
            budget = Budget(
                amount=amount,
                unit=cast(Unit, unit),
                per=entry.per,
                key=entry.key,
                team=entry.team,
                route=entry.route,
                model=entry.model,
                each=entry.each,
                warn_at=entry.warn_at,
            )
            if budget.name in budgets:
                self._add(
                    Code.CONFLICT, f"There are two budgets of {budget.name}.", "Keep one of them.", path
                )
            budgets[budget.name] = budget
        return tuple(budgets.values())

    def _check_budgeted(self, entry: BudgetEntry, path: Path) -> None:
        for word, section in (("route", "routes"), ("model", "models")):
            pattern = getattr(entry, word)
            known = self._names(section) or {pattern}
            if pattern is not None and not any(fnmatchcase(name, pattern) for name in known):
                message = f"The budget is about no {word} of this config: `{pattern[:60]}`."
                self._add(Code.UNKNOWN_NAME, message, did_you_mean(pattern, known), (*path, word))

    # Drift

    def _check_watches(self) -> None:
        watched: set[str] = set()
        for index, watch in enumerate(self._sections.drift):
            path: Path = ("drift", index)
            known = self._names("routes")
            if known and watch.route not in known:
                message = f"There is no route `{watch.route[:60]}` to watch."
                self._add(Code.UNKNOWN_NAME, message, did_you_mean(watch.route, known), (*path, "route"))
            if watch.route in watched:
                message = f"The route `{watch.route[:60]}` is watched twice."
                self._add(Code.CONFLICT, message, "Keep one of them.", path)
            if not watch.quantities:
                message = "The watch says no quantity."
                self._add(Code.MISSING, message, "Leave `quantities` out to watch all.", path)
            if watch.webhook is not None:
                self._check_secret(watch.webhook, (*path, "webhook"))
            watched.add(watch.route)

    # Rollouts

    def _check_rollouts(self) -> None:
        known = self._names("models")
        ruled: set[str] = set()
        for index, rule in enumerate(self._sections.rollouts):
            path: Path = ("rollouts", index)
            named = [("model", rule.model), *([("judge", rule.judge)] if rule.judge is not None else [])]
            for word, name in named:
                if known and name not in known:
                    message = f"There is no model `{name[:60]}`."
                    self._add(Code.UNKNOWN_NAME, message, did_you_mean(name, known), (*path, word))
            if rule.model in ruled:
                message = f"There are two rules for rollouts of `{rule.model[:60]}`."
                self._add(Code.CONFLICT, message, "Keep one of them.", path)
            if rule.judge == rule.model:
                message = f"`{rule.model[:60]}` would judge itself."
                self._add(Code.CONFLICT, message, "Let another model judge.", (*path, "judge"))
            if rule.judge is not None and not rule.shadow:
                message = "The judge compares what is asked in the shadow, and there is none."
                self._add(Code.UNREACHABLE, message, "Say `shadow`, or remove it.", (*path, "judge"))
            if list(rule.canary) != sorted(set(rule.canary)):
                message = "The shares of a canary rise from each to the next."
                self._add(Code.CONFLICT, message, "Write them such as `[0.05, 0.25]`.", (*path, "canary"))
            if rule.webhook is not None:
                self._check_secret(rule.webhook, (*path, "webhook"))
            ruled.add(rule.model)

    # Providers

    def _provider(self, name: str, entry: ProviderEntry) -> Provider | None:
        path: Path = ("providers", name)
        said = [key for key in ("preset", "dialect", "engine") if getattr(entry, key) is not None]
        if not said:
            hint = "Say `preset:` for a known provider, `dialect:` for any other, or `engine: builtin`."
            self._add(Code.MISSING, "How this provider is spoken to is missing.", hint, path)
            return None
        if len(said) > 1:
            message = f"`{said[0]}` and `{said[1]}` exclude each other."
            self._add(Code.CONFLICT, message, "Keep one of them.", (*path, said[1]))
            return None
        self._check_headers(entry, path)
        self._check_quirks(entry, path)
        if entry.ca_file is not None and not is_file(entry.ca_file, self._folder):
            self._add(Code.FILE_NOT_FOUND, f"There is no file {entry.ca_file}.", "", (*path, "ca_file"))
        named = entry.engine or entry.preset
        preset = find_preset(named) if named is not None else None
        if entry.preset is not None and preset is None:
            hint = (
                did_you_mean(entry.preset, (row.name for row in PRESETS))
                or "Say `dialect:` and `base_url:` instead."
            )
            self._add(Code.UNKNOWN_NAME, f"There is no preset `{entry.preset}`.", hint, (*path, "preset"))
            return None
        if preset is not None and preset.engine is not None:
            return self._engine(name, entry, preset, path)
        return self._endpoint(name, entry, preset, path)

    def _engine(self, name: str, entry: ProviderEntry, preset: Preset, path: Path) -> Provider:
        for key in _NOT_FOR_ENGINES:
            if getattr(entry, key):
                message = f"`{key}` does not go with an engine: Isthmus runs it, and nobody else is called."
                self._add(Code.CONFLICT, message, "Remove it.", (*path, key))
        settings = {key: getattr(entry, key) for key in _FOR_ENGINES if getattr(entry, key) is not None}
        return Provider(
            name=name,
            wires=preset.wires,
            auth=preset.auth,
            kind=entry.kind or preset.kind,
            quirks=preset.quirks if entry.quirks is None else entry.quirks,
            engine=EngineSettings(**settings),
            terms=_terms(entry, preset),
            **_as_said(entry),
        )

    def _endpoint(
        self, name: str, entry: ProviderEntry, preset: Preset | None, path: Path
    ) -> Provider | None:
        for key in _FOR_ENGINES:
            if getattr(entry, key) is not None:
                message = f"`{key}` is for engines that Isthmus runs; this server has its own."
                self._add(Code.CONFLICT, message, "Remove it.", (*path, key))
        if preset is not None and preset.client is not None:
            return self._anyllm(name, entry, preset, path)
        speech: Preset | Speech = preset or DIALECTS[entry.dialect or "openai"]
        base_url = entry.base_url or (preset.base_url if preset else None)
        if base_url is None:
            form = preset.base_url_form if preset else "https://llm.example.com/v1"
            self._add(Code.MISSING, "`base_url` is missing.", f"It looks like {form}.", path)
            return None
        auth = entry.auth or speech.auth
        if not self._url_is_sound(base_url, path):
            return None
        self._check_key(entry, preset, base_url, auth, path)
        self._check_proxy(entry, path)
        return Provider(
            name=name,
            wires=speech.wires,
            base_url=base_url.rstrip("/"),
            key=entry.key,
            auth=auth,
            kind=entry.kind
            or (preset.kind if preset else None)
            or ("local" if urls.is_loopback(base_url) else None),
            headers={**speech.headers, **{key.lower(): value for key, value in entry.headers.items()}},
            query={**(preset.query if preset else {}), **entry.query},
            quirks=speech.quirks if entry.quirks is None else entry.quirks,
            prices=entry.prices or (preset.prices if preset else None),
            client=entry.client,
            ca_file=entry.ca_file,
            proxy=entry.proxy,
            proxy_key=entry.proxy_key,
            forward_headers=_forwarded(entry, speech),
            adapters=preset is not None and preset.adapters,
            terms=_terms(entry, preset_at(base_url) or preset),
            **_as_said(entry),
        )

    def _anyllm(self, name: str, entry: ProviderEntry, preset: Preset, path: Path) -> Provider | None:
        for key in _NOT_FOR_ANYLLM:
            if getattr(entry, key) != getattr(_NOTHING_SAID, key):
                message = f"`{key}` does not go with any-llm: the SDKs behind it make the calls."
                self._add(Code.CONFLICT, message, "Remove it.", (*path, key))
        if entry.base_url is not None and not self._url_is_sound(entry.base_url, path):
            return None
        self._check_key(entry, preset, entry.base_url or "", preset.auth, path)
        return Provider(
            name=name,
            wires=preset.wires,
            base_url=entry.base_url.rstrip("/") if entry.base_url is not None else None,
            key=entry.key,
            auth=preset.auth,
            kind=entry.kind or preset.kind,
            quirks=preset.quirks if entry.quirks is None else entry.quirks,
            prices=entry.prices,
            client="anyllm",
            terms=entry.terms,
            **_as_said(entry),
        )

    def _url_is_sound(self, url: str, path: Path) -> bool:
        if urls.has_credentials(url):
            message = "A URL with a user and a password in it is a secret in clear."
            self._add(Code.SECRET_IN_CLEAR, message, "Put the credential under `key:`.", (*path, "base_url"))
            return False
        if (wrong := urls.what_is_wrong(url)) is not None:
            self._add(Code.BAD_URL, *wrong, (*path, "base_url"))
            return False
        return True

    def _check_key(
        self, entry: ProviderEntry, preset: Preset | None, url: str, auth: str, path: Path
    ) -> None:
        local = urls.is_loopback(url)
        if entry.key is None:
            if preset is not None and preset.key_env is not None and auth != "none" and not local:
                hint = f"Say `key: env:{preset.key_env}`, or `auth: none` where something else adds the key."
                self._add(Code.MISSING, "`key` is missing.", hint, path)
            return
        if auth == "none":
            self._add(
                Code.CONFLICT,
                "`auth: none` sends no key.",
                "Remove the key, or say how it is sent.",
                (*path, "key"),
            )
        if url.startswith("http://") and not local:
            hint = "Say `https://`, or leave it where the network between is yours and sealed."
            self._add(
                Code.KEY_IN_THE_OPEN,
                "The key is sent over http, which is not encrypted.",
                hint,
                (*path, "base_url"),
            )
        self._check_secret(entry.key, (*path, "key"))

    def _check_proxy(self, entry: ProviderEntry, path: Path) -> None:
        if entry.proxy is not None:
            place = (*path, "proxy")
            if entry.client != "aiohttp":
                self._add(
                    Code.CONFLICT,
                    "Only `client: aiohttp` goes through a proxy.",
                    "Say `client: aiohttp`, too.",
                    place,
                )
            if urls.has_credentials(entry.proxy):
                message = "A URL with a user and a password in it is a secret in clear."
                self._add(Code.SECRET_IN_CLEAR, message, "Put `user:password` behind `proxy_key:`.", place)
            elif not urls.names_a_proxy(entry.proxy):
                self._add(Code.BAD_URL, "A proxy is named like `http://HOST:PORT`.", "", place)
        if entry.proxy_key is not None:
            place = (*path, "proxy_key")
            if entry.proxy is None:
                self._add(
                    Code.CONFLICT, "`proxy_key` is for a proxy, and there is none.", "Say `proxy:`.", place
                )
            self._check_secret(entry.proxy_key, place)

    def _check_secret(self, secret: SecretRef, path: Path) -> None:
        if self._check_secrets:
            try:
                resolve(_anchored_secret(secret, self._folder))
            except IsthmusError as error:
                self._add(Code.SECRET_UNAVAILABLE, error.message, error.hint, path)

    def _check_headers(self, entry: ProviderEntry, path: Path) -> None:
        for where in ("headers", "query"):
            for header in getattr(entry, where):
                if sounds_secret(header):
                    message = f"`{header}` is a credential, and the config would hold it in clear."
                    self._add(
                        Code.SECRET_IN_CLEAR,
                        message,
                        "Say `key:` and `auth:` instead.",
                        (*path, where, header),
                    )
        for where, names in (("headers", entry.headers), ("forward_headers", entry.forward_headers or ())):
            for header in OWNED_HEADERS.intersection(name.lower() for name in names):
                message = f"`{header}` is written by the HTTP client itself."
                self._add(Code.CONFLICT, message, "Remove it.", (*path, where))
        for header, value in entry.headers.items():
            if _HEADER_NAME.fullmatch(header) is None or not (value.isascii() and value.isprintable()):
                message = "A header has a name without spaces, and one line of printable ASCII."
                self._add(Code.BAD_NAME, message, "", (*path, "headers", header))
        for index, header in enumerate(entry.forward_headers or ()):
            if _HEADER_NAME.fullmatch(header) is None:
                self._add(
                    Code.BAD_NAME,
                    f"`{header}` is not a header's name.",
                    "",
                    (*path, "forward_headers", index),
                )
            elif sounds_secret(header):
                message = f"`{header}` is the caller's credential for this gateway: it goes no further."
                self._add(Code.CONFLICT, message, "Remove it.", (*path, "forward_headers", index))

    def _check_quirks(self, entry: ProviderEntry, path: Path) -> None:
        for quirk in sorted((entry.quirks or frozenset()) - QUIRKS.keys()):
            hint = did_you_mean(quirk, QUIRKS)
            self._add(Code.UNKNOWN_NAME, f"There is no quirk `{quirk}`.", hint, (*path, "quirks"))

    # Models

    def _model(self, name: str, entry: ModelEntry, providers: dict[str, Provider]) -> Model | None:
        path: Path = ("models", name)
        prices = self._prices(entry, path)
        declared = self._names("providers")
        if not declared:
            return None
        if entry.provider not in declared:
            hint = did_you_mean(entry.provider, declared)
            self._add(
                Code.UNKNOWN_NAME, f"There is no provider `{entry.provider}`.", hint, (*path, "provider")
            )
            return None
        provider = providers.get(entry.provider)
        if provider is None:
            return None
        weights = self._weights(entry, provider, path)
        kind = entry.kind or provider.kind
        if kind is None:
            hint = (
                "Say `closed`, `open` (open weights on rented machines) or `local` (inside your own walls)."
            )
            self._add(
                Code.MISSING, "`kind` is missing: nothing here says whose machines these are.", hint, path
            )
            return None
        model = Model(
            name=name,
            provider=entry.provider,
            id=entry.id or (weights.name if weights else name),
            kind=kind,
            zone=entry.zone or provider.zone,
            context=entry.context or _engine_context(provider, weights),
            max_output=entry.max_output,
            capabilities=entry.capabilities or (_ENGINE_CAPABILITIES[weights.mode] if weights else None),
            licence=entry.licence or (weights.licence if weights else None),
            weights=entry.weights or (weights.name if weights else None),
            sha256=compile_pin(entry, provider, path, self._add),
            base=entry.base,
            signers=compile_signers(entry, provider, path, self._folder, self._add),
            price=prices,
            clearance=entry.clearance,
            promises=provider.promises if entry.promises is None else entry.promises,
        )
        if provider.client == "anyllm" and _ANYLLM_ID.fullmatch(model.id) is None:
            message = f"`{model.id}` does not say which of any-llm's providers it belongs to."
            hint = "Say `id: provider:model`, such as `id: cohere:command-a`."
            self._add(Code.BAD_NAME, message, hint, (*path, "id"))
        self._check_wires(model, provider, path)
        return model

    def _check_keys_of_anyllm(self, providers: dict[str, Provider], models: dict[str, Model]) -> None:
        """A key or an address is one vendor's: no other may be sent it."""
        owners: dict[str, str] = {}
        for model in models.values():
            provider = providers[model.provider]
            if provider.client != "anyllm" or (provider.key is None and provider.base_url is None):
                continue
            vendor = model.id.partition(":")[0]
            owner = owners.setdefault(provider.name, vendor)
            if vendor != owner:
                message = f"`{provider.name}` has a key or base_url of {owner}, and this is {vendor}'s model."
                hint = "Give each of any-llm's providers a provider of its own here."
                self._add(Code.CONFLICT, message, hint, ("models", model.name, "id"))

    def _weights(self, entry: ModelEntry, provider: Provider, path: Path) -> Weights | None:
        """The catalogue's row of what the engine will load; None for a file of the user's."""
        place = (*path, "weights")
        if provider.engine is None:
            if entry.weights is not None:
                message = f"`weights` are for engines that Isthmus runs; `{provider.name}` loads its own."
                self._add(Code.CONFLICT, message, "Say `id:` for the provider's name of the model.", place)
            return None
        if entry.weights is None:
            return next(row for row in WEIGHTS if row.mode == "chat")
        row = find_weights(entry.weights)
        if row is None and entry.signers is not None:
            # Whether they are there is seen where their signature is.
            return None
        if row is None and not _is_path(entry.weights):
            hint = did_you_mean(entry.weights, (each.name for each in WEIGHTS))
            self._add(Code.UNKNOWN_NAME, f"The catalogue has no weights `{entry.weights}`.", hint, place)
        elif row is None and not is_file(entry.weights, self._folder):
            hint = "Relative paths are relative to the config file."
            if is_folder(entry.weights, self._folder):
                hint = (
                    "It is a folder. Say `signers:` where it is a signed artefact, else name its GGUF file."
                )
            self._add(Code.FILE_NOT_FOUND, f"There is no file {entry.weights}.", hint, place)
        return row

    def _check_wires(self, model: Model, provider: Provider, path: Path) -> None:
        wanted = (model.capabilities or frozenset()) & MODES
        spoken = {"embeddings" if wire.endswith("-embeddings") else "chat" for wire in provider.wires}
        for missing in sorted(wanted - spoken):
            message = f"`{provider.name}` is not spoken to about {missing}."
            hint = "Take another provider, or say `dialect:` for one that does more than its preset says."
            self._add(Code.MIXED_CAPABILITIES, message, hint, (*path, "capabilities"))

    def _prices(self, entry: ModelEntry, path: Path) -> tuple[PriceOverride, ...]:
        if entry.price is None:
            return ()
        prices = entry.price if isinstance(entry.price, tuple) else (entry.price,)
        place: Path = (*path, "price")
        for index, price in enumerate(prices):
            here = (*place, index) if isinstance(entry.price, tuple) else place
            if _first_day(price) >= _day_after(price):
                self._add(Code.PRICE_PERIOD, "This price ends before it begins.", "", here)
                continue
            clash = next((each for each in prices[:index] if _overlap(each, price)), None)
            if clash is not None:
                message = f"On some days this price and the one {_period(clash)} are both valid."
                self._add(
                    Code.PRICE_PERIOD,
                    message,
                    "`valid_until` is the first day on which a price is valid no longer.",
                    here,
                )
        return prices

    # Routes

    def _check_name(self, name: str) -> None:
        if name.startswith(OF_EVALUATIONS):
            # Its traffic would be taken for that of evaluations, and be left out where that is.
            message = f"Names that begin with `{OF_EVALUATIONS}` are those of evaluations."
            self._add(Code.BAD_NAME, message, "Call the route something else.", ("routes", name), at_key=True)

    def _check_modes(self, route: Route, models: dict[str, Model]) -> None:
        called = [models[name] for name in route.models() if name in models]
        for model in called:
            for other in called:
                if not _modes(model) & _modes(other):
                    both = " and ".join(f"`{each.name}` ({_in_words(each)})" for each in (model, other))
                    message = f"This route mixes {both}."
                    hint = "No request can be answered by both: make two routes."
                    self._add(Code.MIXED_CAPABILITIES, message, hint, ("routes", route.name))
                    return

    def _warn_of_unused(self, models: dict[str, Model], routes: dict[str, Route]) -> None:
        called = {name for route in routes.values() for name in route.models()}
        called |= {rule.judge for rule in self._sections.rollouts if rule.judge is not None}
        serving = {model.provider for model in models.values()}
        for name in models.keys() - called:
            self._add(Code.UNUSED, f"No route calls the model `{name}`.", "", ("models", name), at_key=True)
        for name in self._names("providers") - serving:
            self._add(
                Code.UNUSED, f"No model uses the provider `{name}`.", "", ("providers", name), at_key=True
            )

    # Places

    def _names(self, section: str) -> set[str]:
        """Every name that the section declares, whether or not its entry is sound."""
        entry = self._tree.entries.get(section)
        return set(entry[1].entries) if entry is not None and isinstance(entry[1], Mapping) else set()

    def _add(self, code: Code, message: str, hint: str, path: Path, *, at_key: bool = False) -> None:
        self._findings.add(code, message, hint, _place(self._tree, path, at_key=at_key), path)


def _compiled(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not None}


def _as_said(entry: ProviderEntry) -> dict[str, Any]:
    """The fields that a provider takes over from its entry as they are."""
    names = ("zone", "promises", "timeouts", "breaker", "max_connections", "max_waiting")
    return {name: getattr(entry, name) for name in names}


def _terms(entry: ProviderEntry, preset: Preset | None) -> str | None:
    """What governs the outputs of a provider's models; a server that one runs oneself has no contract."""
    if entry.terms is not None or preset is None:
        return entry.terms
    is_own = preset.kind in (None, "local") and preset.key_env is None
    return "weights" if is_own else f"{preset.name}/api"


def _forwarded(entry: ProviderEntry, speech: Preset | Speech) -> tuple[str, ...]:
    said = speech.forward_headers if entry.forward_headers is None else entry.forward_headers
    return tuple(header.lower() for header in said)


def _engine_context(provider: Provider, weights: Weights | None) -> int | None:
    if provider.engine is None or weights is None:
        return None
    return min(provider.engine.context, weights.context)


def _is_path(weights: str) -> bool:
    return "/" in weights or weights.endswith(".gguf")


def _modes(model: Model) -> frozenset[Capability]:
    return MODES if model.capabilities is None else model.capabilities & MODES or frozenset({"chat"})


def _in_words(model: Model) -> str:
    return " and ".join(sorted(_modes(model)))


def _first_day(price: PriceOverride) -> dt.date:
    return price.valid_from or dt.date.min


def _day_after(price: PriceOverride) -> dt.date:
    return price.valid_until or dt.date.max


def _overlap(one: PriceOverride, other: PriceOverride) -> bool:
    return _first_day(one) < _day_after(other) and _first_day(other) < _day_after(one)


def _period(price: PriceOverride) -> str:
    if price.valid_from is None and price.valid_until is None:
        return "without dates"
    return f"from {price.valid_from or 'ever'} until {price.valid_until or 'ever'}"


def _place(tree: Tree, path: Path, *, at_key: bool = False) -> Mark:
    """Where the value at `path` stands, or the nearest thing above it that exists."""
    key: Mark | None = None
    for step in path:
        if isinstance(tree, Mapping) and step in tree.entries:
            scalar, tree = tree.entries[str(step)]
            key = scalar.start
        elif isinstance(tree, Sequence) and isinstance(step, int) and step < len(tree.items):
            tree = tree.items[step]
        else:
            break
    return key if at_key and key is not None else tree.start


def _meaning_hash(config: Config) -> str:
    """SHA-256 of the config as canonical JSON: keys sorted, defaults written out, paths as they were said."""
    return hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()


def _anchored(config: Config, folder: FilePath) -> Config:
    """The config with every path made absolute."""
    providers = {name: _anchored_provider(provider, folder) for name, provider in config.providers.items()}
    models = {name: _anchored_model(model, folder) for name, model in config.models.items()}
    routes = {name: _anchored_route(route, folder) for name, route in config.routes.items()}
    ledger = config.ledger
    if ledger.path is not None:
        ledger = msgspec.structs.replace(ledger, path=absolute(ledger.path, folder))
    policy = config.perimeter.moved(lambda path: absolute(path, folder))
    if policy.key is not None:
        policy = msgspec.structs.replace(policy, key=_anchored_secret(policy.key, folder))
    drift = tuple(
        watch
        if watch.webhook is None
        else msgspec.structs.replace(watch, webhook=_anchored_secret(watch.webhook, folder))
        for watch in config.drift
    )
    rollouts = tuple(
        rule
        if rule.webhook is None
        else msgspec.structs.replace(rule, webhook=_anchored_secret(rule.webhook, folder))
        for rule in config.rollouts
    )
    calibrations = tuple(
        msgspec.structs.replace(file, path=absolute(file.path, folder)) for file in config.calibrations
    )
    return msgspec.structs.replace(
        config,
        providers=providers,
        models=models,
        routes=routes,
        ledger=ledger,
        perimeter=policy,
        drift=drift,
        rollouts=rollouts,
        calibrations=calibrations,
    )


def _anchored_provider(provider: Provider, folder: FilePath) -> Provider:
    ca_file = absolute(provider.ca_file, folder) if provider.ca_file is not None else None
    secrets = {
        name: _anchored_secret(secret, folder)
        for name in ("key", "proxy_key")
        if (secret := getattr(provider, name)) is not None
    }
    return msgspec.structs.replace(provider, ca_file=ca_file, **secrets)


def _anchored_route(route: Route, folder: FilePath) -> Route:
    style, plan = route.style, route.plan
    if style is not None and style.file is not None:
        style = msgspec.structs.replace(style, file=absolute(style.file, folder))
    if isinstance(plan, Split) and plan.stop is not None and plan.stop.webhook is not None:
        hook = _anchored_secret(plan.stop.webhook, folder)
        plan = msgspec.structs.replace(plan, stop=msgspec.structs.replace(plan.stop, webhook=hook))
    return msgspec.structs.replace(route, style=style, plan=plan)


def _anchored_secret(secret: SecretRef, folder: FilePath) -> SecretRef:
    return secret if secret.source == "env" else SecretRef("file", absolute(secret.name, folder))


def _anchored_model(model: Model, folder: FilePath) -> Model:
    if model.weights is None or find_weights(model.weights) is not None:
        return model
    base = absolute(model.base, folder) if model.base is not None else None
    return msgspec.structs.replace(model, weights=absolute(model.weights, folder), base=base)
