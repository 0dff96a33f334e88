"""What a valid isthmus.yaml means: the compiled config, immutable and complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from isthmus.accounting.budgets import Budget
from isthmus.core.portfolio import Model, Provider, Seconds
from isthmus.perimeter.policy import Policy
from isthmus.routing.route import Route


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
    hash: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The files besides its own whose content is a part of what it means."""
        return tuple(Path(file.path) for file in self.perimeter.files)
