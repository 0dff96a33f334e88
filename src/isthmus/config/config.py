"""What a valid isthmus.yaml means: the compiled config, immutable and complete."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from isthmus.accounting.budgets import Budget
from isthmus.core.portfolio import Model, Provider, Seconds, SecretRef
from isthmus.core.rollout import Stage
from isthmus.core.tie import Evidence, Tie
from isthmus.perimeter.policy import Policy
from isthmus.routing.route import Route

_canonical = msgspec.json.Encoder(order="deterministic").encode


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gateway listens, and its bounds.

    `host` is the address to listen on. `port` is the TCP port, 0 for any that is free. `max_body_mb` limits a
    request's body, in megabytes. `max_in_flight` requests are served at once. `max_queued` requests more wait
    for their turn. `queue_timeout` is how many seconds they wait at most. `drain` is how many seconds open
    requests are given at shutdown.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 4141
    max_body_mb: Annotated[float, Meta(gt=0)] = 32.0
    max_in_flight: Annotated[int, Meta(ge=1)] = 1000
    max_queued: Annotated[int, Meta(ge=0)] = 1000
    queue_timeout: Seconds = 30.0
    drain: Annotated[float, Meta(ge=0)] = 30.0


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How records are kept.

    `mode` says when a record is committed: `batched` within 100 ms, `strict` before the answer's end. `path`
    is the SQLite file. `keep_days` is the age in days at which records are deleted, while their sums by hour
    stay for `isthmus cost report`; without it all is kept.
    """

    shorthand: ClassVar[str] = "mode"

    mode: Literal["batched", "strict"] = "batched"
    path: str | None = None
    keep_days: Annotated[int, Meta(ge=1)] | None = None


Quantity: TypeAlias = Literal[
    "quality", "grades", "label", "task", "refusals", "failures", "length", "latency", "escalation"
]
"""What may be watched of a route's traffic."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """A route that is watched for drift: is its traffic still what it was in a time that was good?

    `route` is its name. `since` is the first day (UTC) of the time that was good, its baseline. `days` is how
    many days that lasts. `per` is what is looked at once it is over: an `hour`, a `day` or a `week`; what
    changes within it and comes back is no drift. `quantities` are what is watched, by default all that can
    be: `quality` (the scores that people give), `grades` (those that judges give), `label`, `task`,
    `refusals`, `failures`, `length`, `latency` and `escalation`. `alpha` is the chance that there is ever a
    false alarm, over all quantities and all time. `webhook` is where the URL is found to which an alarm is
    posted, `env:NAME` or `file:PATH`.
    """

    route: str
    since: dt.date
    days: Annotated[int, Meta(ge=1, le=366)] = 14
    per: Literal["hour", "day", "week"] = "day"
    quantities: tuple[Quantity, ...] = get_args(Quantity)
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    webhook: SecretRef | None = None

    @property
    def identity(self) -> str:
        """What its findings rest on, as a hash: everything but where alarms are told."""
        return hashlib.sha256(_canonical(msgspec.structs.replace(self, webhook=None))).hexdigest()


_SMALL_SHARE = 0.05

Share: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]
Margin: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class RolloutRule(msgspec.Struct, frozen=True, kw_only=True):
    """How new weights of a model take over its traffic, and what sends them back.

    `model` is its name. `shadow` is the share of the requests that the new weights are asked as well, without
    a client noticing, before they answer any; 0 leaves that out. `judge` is a model that compares their
    answers in the shadow with those that clients get. `canary` are the shares of the requests that they
    answer then, one after the other, before they answer all. `sticky` keeps a `user` or a `key` with the same
    weights for as long as the share stays; `none` draws each request afresh. `least` is how many requests the
    new weights have at each stage at least. `errors` is by how much of the requests more they may fail.
    `escalation` is by how much of the requests more another model may be needed. `quality` is by how much
    worse the judge or the feedback may find them. `slower` is how many times as long they may take. `alpha`
    is the chance that weights which keep to all of that are sent back all the same, over the whole rollout.
    `webhook` is where the URL is found to which each turn is posted, `env:NAME` or `file:PATH`.
    """

    model: str
    shadow: Annotated[float, Meta(ge=0, le=1)] = 1.0
    judge: str | None = None
    canary: tuple[Share, ...] = (0.05, 0.25)
    sticky: Literal["user", "key", "none"] = "none"
    least: Annotated[int, Meta(ge=1)] = 200
    errors: Margin = 0.01
    escalation: Margin = 0.05
    quality: Margin = 0.05
    slower: Annotated[float, Meta(ge=1)] = 1.5
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    webhook: SecretRef | None = None

    def after(self, stage: Stage, share: float) -> tuple[Stage, float]:
        """The stage that follows, and its share."""
        shares = sorted(self.canary)
        following = [it for it in shares if stage == "shadow" or it > share]
        return ("canary", following[0]) if following else ("full", 1.0)

    def first(self) -> tuple[Stage, float]:
        """The stage that a rollout begins with, and its share."""
        return self.entry("shadow") if self.shadow else self.after("shadow", 0.0)

    def entry(self, stage: Stage) -> tuple[Stage, float]:
        """A stage with the share that it begins with, also where a rollout would leave it out."""
        match stage:
            case "shadow":
                return stage, self.shadow or 1.0
            case "canary":
                return stage, min(self.canary, default=_SMALL_SHARE)
            case "full":
                return stage, 1.0
        return stage, 0.0

    @property
    def stages(self) -> int:
        """How many stages lie before the last."""
        return bool(self.shadow) + len(self.canary)


Kind: TypeAlias = Literal["calibration", "router", "panel"]
"""What a learned file is: for a cascade, a choice or a vote."""


class CalibrationFile(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration that a route's cascade goes by, the router of its `choose`, or the panel of its vote:
    where it stands, the SHA-256 of what stood there when the config was read, and whether it was made for
    another state of things.

    `tie` is what one would hold for that were made now, `evidence` what this one was made from, as far as it
    says that.
    """

    route: str
    path: str
    sha256: str
    stale: bool
    tie: Tie | None = None
    evidence: Evidence | None = None
    kind: Kind = "calibration"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole config. Every name in it is defined; `hash` is the SHA-256 of its meaning, and stands on every
    record.
    """

    providers: dict[str, Provider]
    models: dict[str, Model]
    routes: dict[str, Route]
    gateway: GatewaySettings
    ledger: LedgerSettings
    perimeter: Policy = Policy()
    budgets: tuple[Budget, ...] = ()
    drift: tuple[Watch, ...] = ()
    rollouts: tuple[RolloutRule, ...] = ()
    calibrations: tuple[CalibrationFile, ...] = ()
    hash: str

    def rule_of(self, model: str) -> RolloutRule:
        """How new weights of this model take over: as the config says, or as is usual."""
        return next((rule for rule in self.rollouts if rule.model == model), RolloutRule(model=model))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files besides its own whose content is a part of what it means."""
        cards = (route.style.file for route in self.routes.values() if route.style is not None)
        paths = (
            *(file.path for file in self.perimeter.files),
            *(file.path for file in self.calibrations),
            *(card for card in cards if card is not None),
        )
        return tuple(map(Path, paths))

    @property
    def routers(self) -> tuple[CalibrationFile, ...]:
        """The files of learned routers."""
        return tuple(file for file in self.calibrations if file.kind == "router")

    @property
    def stale_calibrations(self) -> dict[tuple[str, ...], float]:
        """1 for each calibrated route with a calibration that holds no longer, else 0."""
        routes = dict.fromkeys((file.route for file in self.calibrations), 0.0)
        routes |= {file.route: 1.0 for file in self.calibrations if file.stale}
        return {(route,): is_stale for route, is_stale in routes.items()}
