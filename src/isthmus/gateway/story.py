"""The record's fold: what is known of a request while it is served, and at its end, its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import getrandbits
from typing import Any, Self

import msgspec

from isthmus.accounting.charge import total as total_charge
from isthmus.core.call import Call, Envelope
from isthmus.core.codec import ClientWire
from isthmus.core.decision import Decision
from isthmus.core.errors import IsthmusError
from isthmus.core.events import AttemptEnded, Delivered, Event, Judged
from isthmus.core.ids import request_id
from isthmus.core.label import BOTTOM, Label
from isthmus.core.record import (
    MS,
    NO_GROUNDS,
    AttemptRecord,
    Grounds,
    Intent,
    Outcome,
    Record,
    Timings,
)
from isthmus.core.state import State
from isthmus.core.usage import Charge, Usage
from isthmus.dialects.features import features_of
from isthmus.providers.attempts import Attempts
from isthmus.routing.route import LONGEST_NAME, Route
from isthmus.store.keys import Key
from isthmus.strategies.plan import CallModel
from isthmus.strategies.plan.aside import Aside

LONGEST_USER = 256
"""How much of the end user's name is recorded and counted: it is a name, and no place for texts."""

_OF_THE_REQUEST = (
    "key",
    "envelope",
    "route",
    "keeps_bodies",
    "vouched",
    "findings",
    "blind",
    "unlooked",
    "body",
)
"""What is known of a request before it is decided."""

clock: Callable[[], float] = time.perf_counter


class Story(State):
    """What is known of one request so far. Its facts are set as they become known.

    `arrived`, `first_out` are readings of `clock`; `queued` and `uploading` are seconds spent waiting for a
    place, and for the request's body. `overhead_ms` is what of the time until `first_out` was the gateway's
    own. `before` is how its conversation was labelled. `vouched` are the levels that the caller named;
    `blind` and `unlooked` are as in `Sightings`. `keeps_bodies` tells that the route's config wants the texts
    recorded, and `said` gathers the answer's bytes then.
    """

    wire: ClientWire
    config_hash: str
    arrived: float
    at_us: int
    id: str
    queued: float = 0.0
    uploading: float = 0.0
    first_out: float | None = None
    overhead_ms: float = 0.0
    keeps_bodies: bool = False
    key: Key | None = None
    mirrors: str | None = None
    envelope: Envelope | None = None
    route: Route | None = None
    before: Label = BOTTOM
    vouched: tuple[str, ...] = ()
    findings: dict[str, int] | None = None
    blind: bool = False
    unlooked: tuple[str, ...] = ()
    decision: Decision | None = None
    attempts: Attempts | None = None
    ended: list[AttemptRecord] = msgspec.field(default_factory=list)
    answered_by: str | None = None
    body: bytes | None = None
    said: list[bytes] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)

    @classmethod
    def begin(cls, wire: ClientWire, config_hash: str) -> Self:
        """The story of a request that comes now."""
        at_us = time.time_ns() // 1000
        return cls(wire, config_hash, clock(), at_us, request_id(at_us, getrandbits(80)))

    @property
    def call(self) -> Call:
        """The whole request, decoded."""
        assert self.attempts is not None
        return self.attempts.question.call

    @property
    def user(self) -> str | None:
        """The end user's name, as far as it is recorded, counted, and decided by."""
        envelope = self.envelope
        return envelope.user[:LONGEST_USER] if envelope is not None and envelope.user else None

    def begin_answer(self) -> None:
        """Its first byte goes out to the client now."""
        self.first_out = now = clock()
        self.overhead_ms = self._overhead_ms(now)

    def abandon(self, outcome: Outcome, error: IsthmusError) -> None:
        """End the attempt that is still running, if one is."""
        if self.attempts is not None:
            self.ended += self.attempts.abandon(outcome, error)

    def take(self, event: Event) -> None:
        """Note what has happened."""
        kind = type(event)
        if kind is AttemptEnded:
            self.ended.append(event.record)  # type: ignore[union-attr]
        elif kind is Judged:
            facts = {"confidence": event.confidence, "verdict": event.verdict}  # type: ignore[union-attr]
            self._amend(event.number, **facts)  # type: ignore[union-attr]
        elif kind is Delivered:
            self._amend(event.number, committed=True)  # type: ignore[union-attr]

    def mirror(self, aside: Aside) -> Story:
        """The story of what is done with this request aside, which begins now and is for no client."""
        assert self.attempts is not None
        assert self.decision is not None
        copy = Story.begin(self.wire, self.config_hash)
        copy.mirrors = self.id
        for name in _OF_THE_REQUEST:
            setattr(copy, name, getattr(self, name))
        copy.attempts = self.attempts.again(copy.arrived)
        copy.decision = msgspec.structs.replace(
            self.decision,
            plan=CallModel(model=aside.asked, retries=0),
            reasons=(aside.reason(self.id),),
            propensity=1.0,
        )
        return copy

    def _amend(self, number: int, **facts: Any) -> None:
        self.ended = [
            msgspec.structs.replace(it, **facts) if it.number == number else it for it in self.ended
        ]

    def intent(self) -> Intent:
        """What a strict ledger must know before the first attempt."""
        assert self.envelope is not None
        assert self.route is not None
        return Intent(
            id=self.id,
            at_us=self.at_us,
            dialect=self.wire.name,
            operation=self.wire.operation,
            route=self.route.name,
            stream=self.envelope.stream,
            key_id=self.key.id if self.key else None,
            config_hash=self.config_hash,
        )

    def record(self, outcome: Outcome, status: int, error: IsthmusError | None) -> Record:
        """The whole story, now that it is over."""
        ended, envelope, keeps = self.ended, self.envelope, self.keeps_bodies
        return Record(
            id=self.id,
            at_us=self.at_us,
            dialect=self.wire.name,
            operation=self.wire.operation,
            route=self.route.name if self.route else "",
            stream=envelope.stream if envelope else False,
            status=status,
            outcome=outcome,
            key_id=self.key.id if self.key else None,
            team=self.key.team if self.key else None,
            user=self.user,
            model=self.answered_by if outcome == "ok" else None,
            mirrors=self.mirrors,
            code=error.code if error else None,
            message=error.message if error and error.upstream_status is None else None,
            decision=self.decision,
            findings=self.findings,
            features=features_of(envelope, len(self.body or b"")) if envelope else None,
            grounds=self._grounds() if envelope else None,
            attempts=tuple(sorted(ended, key=_number)) if len(ended) > 1 else tuple(ended),
            usage=ended[0].usage if len(ended) == 1 else _total_usage(ended),
            charge=self.charge(),
            timings=self._timings(),
            config_hash=self.config_hash,
            request_body=self.body if keeps else None,
            response_body=b"".join(self.said) if keeps else None,
        )

    def charge(self) -> Charge | None:
        """What the attempts that have ended cost."""
        ended = self.ended
        return ended[0].charge if len(ended) == 1 else total_charge([it.charge for it in ended])

    def _overhead_ms(self, until: float) -> float:
        """What of the time until then was the gateway's own: not the upload, the queue or the model."""
        waited = self.attempts.waited(until) if self.attempts else 0.0
        own = until - self.arrived - self.uploading - self.queued - waited
        return own * MS if own > 0.0 else 0.0

    def _grounds(self) -> Grounds:
        assert self.envelope is not None
        name, key = self.envelope.model, self.key
        asked = None if self.route is not None and self.route.name == name else name[:LONGEST_NAME]
        floor = BOTTOM if key is None else key.floor
        seen = self.vouched or self.blind or self.unlooked
        if asked is None and floor is BOTTOM and self.before is BOTTOM and not seen:
            return NO_GROUNDS
        return Grounds(
            asked=asked,
            floor=floor,
            before=self.before,
            said=self.vouched,
            blind=self.blind,
            unlooked=self.unlooked,
        )

    def _timings(self) -> Timings:
        now = clock()
        first = self._first_token()
        return Timings(
            queue_ms=self.queued * MS,
            overhead_ms=self._overhead_ms(now) if self.first_out is None else self.overhead_ms,
            first_token_ms=None if first is None else (first - self.arrived) * MS,
            total_ms=(now - self.arrived) * MS,
        )

    def _first_token(self) -> float | None:
        """When the first content of the answer was there for the client, by `clock`."""
        answering = self.attempts.answering if self.attempts is not None else None
        if answering is None:
            return None
        # What is kept until it is judged is there only then.
        return answering.first_token if answering.purpose == "answer" else self.first_out


def _number(attempt: AttemptRecord) -> int:
    return attempt.number


def _total_usage(ended: list[AttemptRecord]) -> Usage | None:
    used = [attempt.usage for attempt in ended if attempt.usage is not None]
    if len(used) <= 1:
        return used[0] if used else None
    return sum(used[1:], used[0])
