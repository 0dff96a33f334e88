"""The way of one request: decode → decide → run → settle → append, as folds over one stream of events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from functools import reduce
from random import random
from typing import TYPE_CHECKING, Any, Self

import msgspec

from isthmus.accounting.budgets import Caller
from isthmus.core.call import Message, Text
from isthmus.core.codec import ClientWire
from isthmus.core.decision import Decision, Previous
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.events import AttemptStarted, Delta, Event, Finished, Revised
from isthmus.core.label import Label
from isthmus.core.record import Outcome, Record
from isthmus.core.state import State
from isthmus.dialects.responses.stored import is_stored, stored, without_pointer
from isthmus.dialects.revisions import CARRIERS
from isthmus.dialects.style import body_of, styled
from isthmus.gateway.answer import Answer
from isthmus.gateway.auth import authenticate
from isthmus.gateway.conversations import NAME_HEADER, Trail
from isthmus.gateway.foresight import TASK_HEADER
from isthmus.gateway.inspection import Inspected, floors_of
from isthmus.gateway.mirrors import Overheard
from isthmus.gateway.request import Request
from isthmus.gateway.snapshot import Snapshot
from isthmus.gateway.story import Story, clock
from isthmus.gateway.treasury import Purse
from isthmus.perimeter.policy import by_kind
from isthmus.providers.attempts import Attempts, Question
from isthmus.routing.route import Route
from isthmus.store.conversations import Standing
from isthmus.strategies.plan.node import Attempt, Circumstances, Draft
from isthmus.strategies.run import run

if TYPE_CHECKING:
    from isthmus.gateway.app import Gateway

log = logging.getLogger("isthmus.gateway")

LABEL_HEADER = b"x-isthmus-label"
"""By this header a caller says how sensitive the request is at least; it can raise the label, never lower it.
"""

REVISIONS_HEADER = b"x-isthmus-revisions"
"""By `accept` in this header a caller says that it takes back what it has seen of a stream when told."""


class Exchange(State):
    """One request and its answer. Made for a single use: `await Exchange.begin(...).serve()`.

    It is a task of its own, which is cancelled when the client leaves or the gateway ends.
    """

    _gateway: Gateway
    _wire: ClientWire
    _request: Request
    _snapshot: Snapshot
    _story: Story
    _answer: Answer
    _heard: Overheard | None = None
    _trail: Trail | None = None
    _known: bool = False
    _goes_on: bool = False
    _keeps_answer: bool = False
    _settled: bool = False

    @classmethod
    def begin(cls, gateway: Gateway, wire: ClientWire, request: Request) -> Self:
        """The exchange of a request that comes now."""
        snapshot = gateway.snapshot
        story = Story.begin(wire, snapshot.config.hash)
        return cls(gateway, wire, request, snapshot, story, Answer(request, wire, story))

    async def serve(self) -> None:
        """Answer the request, whatever happens, and record it."""
        gateway, admission = self._gateway, self._gateway.admission
        self._snapshot.hold()
        gateway.tally.in_flight += 1
        inside = False
        try:
            self._story.key = authenticate(self._request, gateway.ring, self._story.at_us)
            self._known = True
            if gateway.draining:
                raise _shutting_down()
            if admission.free:
                admission.enter()
            else:
                began = clock()
                try:
                    self._request.accept(self._snapshot.max_body)
                    await admission.wait()
                finally:
                    self._story.queued = clock() - began
            inside = True
            await self._serve_inside()
        except IsthmusError as error:
            # With its traceback, it would hold the whole request in a cycle.
            error.__context__ = None
            await self._refuse(error.with_traceback(None))
        except asyncio.CancelledError:
            if self._request.left:
                self._abandon("cancelled", _left())
            else:
                # The gateway ends, and waits for nothing but this last word.
                self._abandon("interrupted", _shutting_down())
                await self._refuse(_shutting_down())
        except Exception as bug:
            # The text of an exception may quote the prompt: only its kind and place are logged.
            nameless = (RuntimeError, RuntimeError(type(bug).__name__), bug.__traceback__)
            log.error("request %s failed by a bug: %s", self._story.id, type(bug).__name__, exc_info=nameless)
            await self._refuse(
                IsthmusError(Fault.INTERNAL, "The gateway failed at this request; its log says where.")
            )
        finally:
            if inside:
                admission.leave()
            gateway.tally.in_flight -= 1
            self._snapshot.release()

    async def _serve_inside(self) -> None:
        story, snapshot = self._story, self._snapshot
        began = clock()
        try:
            body = story.body = await self._request.body(snapshot.max_body)
        finally:
            story.uploading = clock() - began
        envelope = story.envelope = self._wire.peek(body)
        route = story.route = snapshot.route(envelope.model, story.key)
        story.keeps_bodies = route.record_bodies
        if route.style is not None and self._wire.operation != "embeddings":
            envelope = styled(envelope, route.style.card)
            body = body_of(envelope)
        floors = floors_of(route, story.key)
        standing = None
        if route.continuity or self._request.headers.get(NAME_HEADER):
            standing = await self._standing()
        if self._goes_on:
            body = body_of(without_pointer(envelope))
        label, hidden = snapshot.inspection.unseen(floors), None
        if label is None or LABEL_HEADER in self._request.headers:
            label, _, hidden = await self._inspect(body, floors, route)
        hidden_label = hidden.label if hidden else None
        if standing is not None:
            story.before = standing.label
            label = label.join(standing.label)
            hidden_label = hidden_label and hidden_label.join(standing.hidden or standing.label)
        purse = await self._purse(route) if snapshot.config.budgets else None
        thrifty = purse is not None and route.thrift is not None and purse.spent(route.thrift.at)
        decision: Decision | None = None
        if standing is None and REVISIONS_HEADER not in self._request.headers:
            decision = snapshot.router.settled(route.name, envelope.operation, label, hidden_label, thrifty)
        if decision is None:
            decision = snapshot.router.decide(
                route.name,
                envelope.operation,
                label,
                self._circumstances(route, thrifty, standing.previous if standing is not None else None),
                hidden_label,
                thrifty,
            )
        story.decision = decision
        if self._trail is not None and self._trail.now is not None:
            # Its label counts from now on, whatever comes of this request.
            self._gateway.conversations.keep(self._trail.now, Standing.of(decision))
            if self._gateway.strict:
                await self._gateway.conversations.write()
        if decision.plan is None:
            raise _nothing_allowed(decision)
        if self._gateway.strict:
            await self._gateway.ledger.begin(story.intent())
        question = Question(
            envelope=envelope,
            wire=self._wire,
            client_headers=self._request.headers,
            arrived=story.arrived,
            at_us=story.at_us,
            clock=clock,
        )
        if decision.pseudonymised:
            assert hidden is not None, "without it no model is allowed to see pseudonyms"
            veiled = question.with_pseudonyms(self._wire.peek(hidden.body), hidden.values)
            veils = dict.fromkeys(decision.pseudonymised, veiled)
            attempts = story.attempts = Attempts(question, snapshot.upstreams, veils, purse)
        else:
            attempts = story.attempts = Attempts(question, snapshot.upstreams, {}, purse)
        listen = self._listen
        if decision.plan.hears:
            self._heard, listen = Overheard(), self._overhear
        await run(decision.plan, attempts, self._permits, self._pause, listen)

    def _listen(self, event: Event) -> Awaitable[None] | None:
        """The folds over the one stream of events: the client's answer, and the record with its metrics."""
        kind = type(event)
        if kind is Delta:
            return self._answer.take(event)  # type: ignore[arg-type]
        if kind is AttemptStarted:
            return None
        if kind is Finished:
            self._story.answered_by = event.model  # type: ignore[union-attr]
            return self._finish(event.error)  # type: ignore[union-attr]
        if kind is Revised:
            return self._answer.revise()
        self._story.take(event)
        return None

    def _overhear(self, event: Event) -> Awaitable[None] | None:
        """The same, where the answer is to be compared with another."""
        if type(event) is Delta:
            assert self._heard is not None
            self._heard.take(event)
        elif type(event) is Revised:
            self._heard = Overheard()
        return self._listen(event)

    def _permits(self, effect: Attempt | Draft) -> bool | Awaitable[bool]:
        """Whether a model may be called so: it is allowed, and may see what a strategy adds to the
        question."""
        decision = self._story.decision
        assert decision is not None
        if effect.model not in decision.allowed:
            return False
        return effect.amendment is None or not effect.amendment.turns or self._may_see(effect)

    async def _may_see(self, effect: Attempt | Draft) -> bool:
        """Whether a model may see the turns that are added: answers may say what the question did not."""
        inspection, decision = self._snapshot.inspection, self._story.decision
        assert decision is not None
        assert effect.amendment is not None
        if effect.model in decision.pseudonymised:
            # Answers of others hold the values themselves.
            return False
        if not inspection.looks:
            return True
        said = [{"role": it.role, "content": _words(it)} for it in effect.amendment.turns]
        label = await self._label_with(decision.label, {"messages": said})
        return inspection.policy.refuses(self._snapshot.config.models[effect.model], label) is None

    async def _label_with(self, label: Label, turns: dict[str, Any]) -> Label:
        """What is so labelled, labelled with these turns."""
        body = msgspec.json.encode({"model": "", **turns})
        seen = await self._snapshot.inspection.inspect(body, (label,), b"", {}, barred=lambda _: False)
        return label.join(seen.label)

    async def _finish(self, error: IsthmusError | None) -> None:
        """End the answer: a strict ledger has it before the client does, a batched one right after."""
        answer = self._answer
        if error is not None and not answer.started:
            raise error
        last = answer.last(error)
        outcome: Outcome = "error" if error else "ok"
        record: Record | None = None
        if self._gateway.strict:
            record = await self._commit(outcome, 200, error)
        elif answer.has_receipt:
            record = self._record(outcome, 200, error)
        decision = self._story.decision
        if error is None and decision is not None and self._trail is not None:
            await self._remember(decision, self._trail, last)
        unread = answer.end(last, record)
        if record is None:
            # The client has its answer by now; nothing comes between that and this.
            self._record(outcome, 200, error)
        if unread is not None:
            await unread
        if error is None and decision is not None and decision.plan.casts:
            mirrors = self._gateway.mirrors
            mirrors.cast(self._story, self._snapshot, decision.plan, self._heard, self._permits)

    async def _remember(self, decision: Decision, trail: Trail, last: bytes) -> None:
        """Know the conversation by its answer, before the client can go on from it."""
        conversations, key = self._gateway.conversations, self._story.key
        standing = Standing.of(decision, self._story.answered_by)
        if trail.now is not None:
            conversations.keep(trail.now, standing)
        if not self._keeps_answer:
            return
        assert self._story.envelope is not None
        answer = stored(last, stream=self._story.envelope.stream) if self._answer.relayed else None
        if answer is not None:
            label = await self._label_with(decision.label, {"input": answer.output})
            digest = conversations.answer(key.id if key else None, answer.id)
            conversations.keep(digest, msgspec.structs.replace(standing, label=label, hidden=None))

    async def _refuse(self, error: IsthmusError) -> None:
        """Answer with an error in the caller's dialect; or, once an answer has begun, end it as broken."""
        if not self._known:
            # Not recorded: whoever has no key must not be able to fill the ledger.
            self._gateway.tally.unauthenticated += 1
        elif not self._settled:
            await self._settle_failure(error)
        if self._request.answered:
            # Its last byte is on its way: whatever was added would be taken for another answer.
            return
        answer = self._answer
        unread = answer.break_stream(error) if answer.started else answer.refuse(error)
        if unread is not None:
            await unread

    async def _settle_failure(self, error: IsthmusError) -> None:
        self._story.abandon("error", error)
        status = 200 if self._answer.started else self._wire.status_of(error)
        # Before anything was tried, a ledger that has just been waited for in vain is not waited for again.
        unkept = self._story.attempts is None and error.code == "ledger_unavailable"
        if unkept or not self._gateway.strict:
            self._record("error", status, error)
            return
        with suppress(IsthmusError):
            # A ledger that fails shows in /readyz; the caller is told of the request's own failure.
            await self._commit("error", status, error)

    def _abandon(self, outcome: Outcome, error: IsthmusError) -> None:
        """The client left, or the gateway ends: tell the story of what was running, and record."""
        self._story.abandon(outcome, error)
        if not self._settled and self._known:
            self._record(outcome, 200 if self._answer.started else self._wire.status_of(error), error)

    async def _commit(self, outcome: Outcome, status: int, error: IsthmusError | None) -> Record:
        """Record, and wait until a strict ledger has it."""
        record = self._story.record(outcome, status, error)
        self._settled = True
        try:
            await self._gateway.ledger.commit(record)
        except asyncio.CancelledError:
            # The ledger has it, or will: the counts have to agree with it.
            self._gateway.tally.count(record)
            raise
        except IsthmusError as unkept:
            failed = {"status": unkept.status, "outcome": "error", "code": unkept.code}
            self._gateway.tally.count(msgspec.structs.replace(record, **failed))
            raise
        self._gateway.tally.count(record)
        return record

    def _record(self, outcome: Outcome, status: int, error: IsthmusError | None) -> Record:
        """Record without waiting."""
        record = self._story.record(outcome, status, error)
        self._settled = True
        self._gateway.tally.count(record)
        self._gateway.ledger.append(record)
        return record

    async def _inspect(self, body: bytes, floors: tuple[Label, ...], route: Route) -> Inspected:
        """What is known of the request: its floors, its caller's word and what is found, joined upward."""
        inspection, key, headers = self._snapshot.inspection, self._story.key, self._request.headers
        if LABEL_HEADER in headers:
            # Said twice, by a client and by a proxy before us, both count.
            said = tuple(name.strip() for name in headers[LABEL_HEADER].decode("latin-1").split(","))
            floors = (*floors, *map(inspection.policy.said, said))
            # Only now, for these are names that the config knows, and no texts.
            self._story.vouched = tuple(dict.fromkeys(said))
        envelope = self._story.envelope
        caller = msgspec.json.encode([key.id if key else None, envelope.user if envelope else None])
        models = [self._snapshot.config.models[name] for name in route.models()]
        known = await inspection.inspect(
            body,
            floors,
            caller,
            self._passed_on(),
            talks=self._wire.operation != "embeddings",
            # What an endpoint has stored is not said anew, with pseudonyms or without.
            barred=lambda label: (
                not self._goes_on and any(inspection.policy.refuses(model, label) for model in models)
            ),
        )
        if inspection.looks:
            self._story.findings = by_kind(known.seen)
            self._story.blind, self._story.unlooked = bool(known.seen.blind), known.seen.unlooked
            self._gateway.tally.blind += bool(known.seen.blind)
        return known

    def _passed_on(self) -> dict[str, str]:
        """The headers of the request that some provider gets to see."""
        headers, forwarded = self._request.headers, self._snapshot.forwarded
        return {name.decode(): headers[name].decode("latin-1") for name in forwarded if name in headers}

    async def _purse(self, route: Route) -> Purse:
        """What the request spends from; it is counted, or refused where there were too many."""
        key, story = self._story.key, self._story
        caller = Caller(
            key=key.name if key else "",
            team=(key.team or "") if key else "",
            user=story.user or "",
            route=route.name,
        )
        purse = self._gateway.treasury.purse(self._snapshot.config.budgets, caller, story.at_us)
        await purse.enter()
        story.warnings = purse.warnings
        return purse

    async def _standing(self) -> Standing | None:
        """What is known of the conversation, which the route or the caller wants to be known."""
        if self._wire.operation != "chat":
            return None
        name = self._request.headers.get(NAME_HEADER)
        conversations, key, envelope = self._gateway.conversations, self._story.key, self._story.envelope
        assert envelope is not None
        trail = self._trail = conversations.trail(envelope, key.id if key else None, name)
        if trail is None:
            return None
        self._keeps_answer = is_stored(envelope)
        known = await conversations.known(trail)
        if trail.pointed in known:
            # By other rules it would have to be looked at again, and it does not stand here.
            self._goes_on = known[trail.pointed].perimeter == self._snapshot.inspection.policy.hash
        return reduce(Standing.then, known.values()) if known else None

    def _circumstances(self, route: Route, thrifty: bool, previous: Previous | None) -> Circumstances:
        story, key = self._story, self._story.key
        awaited = self._snapshot.awaited[route.name, thrifty]
        headers = self._request.headers
        task = headers[TASK_HEADER].decode("utf-8", "replace") if TASK_HEADER in headers else ""
        assert story.envelope is not None
        # What the client asks, without the card that all requests of the route have.
        foreseen = self._snapshot.foresights.of(
            route.name, story.envelope, task, story.at_us, thrifty=thrifty
        )
        return Circumstances(
            draw=random(),
            key=key.id if key else None,
            user=story.user,
            foreseen=foreseen,
            previous=previous,
            revises=REVISIONS_HEADER in headers and self._revises(),
            weights=self._gateway.arm_weights().get((self._snapshot.config.hash, route.name), ()),
            silences=self._gateway.silences(awaited, self._wire.operation, story.envelope.stream)
            if awaited
            else (),
        )

    def _revises(self) -> bool:
        """True where the client heeds it when an answer is taken back, and its dialect can say so."""
        envelope, headers = self._story.envelope, self._request.headers
        return (
            headers[REVISIONS_HEADER].strip().lower() == b"accept"
            and self._wire.name in CARRIERS
            and envelope is not None
            and envelope.stream
        )

    async def _pause(self, seconds: float) -> None:
        assert self._story.attempts is not None, "there is a plan, and so there are attempts"
        waiting = self._story.attempts.question.waiting
        waiting.begin(clock())
        try:
            await asyncio.sleep(seconds)
        finally:
            waiting.end(clock())


def _words(message: Message) -> str:
    return "\n".join(part.text for part in message.parts if isinstance(part, Text))


def _nothing_allowed(decision: Decision) -> IsthmusError:
    reasons = "; ".join(refused.reason for refused in decision.refused)
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"No model of the route {decision.route!r} can serve {decision.operation}: {reasons}.",
        code="no_model_allowed",
        hint="Ask another route, or have an operator add a model to this one.",
        param="model",
    )


def _left() -> IsthmusError:
    return IsthmusError(Fault.CANCELLED, "The client went away.")


def _shutting_down() -> IsthmusError:
    return IsthmusError(
        Fault.UNAVAILABLE,
        "The gateway is shutting down, and takes no more requests.",
        code="shutting_down",
        hint="Ask again: another instance, or this one when it is back.",
        retry_after_s=1.0,
    )
