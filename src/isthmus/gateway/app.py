"""The application: it finds the endpoint of a request, and answers what needs no model."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from random import getrandbits
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from isthmus.core.codec import ClientWire
from isthmus.core.decision import Silence
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.ids import request_id
from isthmus.dialects import CLIENT_WIRES
from isthmus.gateway.admission import Admission
from isthmus.gateway.answer import JSON, identity
from isthmus.gateway.auth import Ring, authenticate
from isthmus.gateway.conversations import Conversations
from isthmus.gateway.endpoints import ENDPOINTS, Endpoint
from isthmus.gateway.exchange import Exchange
from isthmus.gateway.feedback import LONGEST_BODY, FeedbackDesk
from isthmus.gateway.mirrors import Mirrors
from isthmus.gateway.openapi import openapi
from isthmus.gateway.request import Request
from isthmus.gateway.silences import Awaited
from isthmus.gateway.snapshot import Snapshot
from isthmus.gateway.treasury import Treasury
from isthmus.store.feedback import Feedbacks
from isthmus.store.keys import Key
from isthmus.store.ledger import Ledger
from isthmus.strategies.plan.node import Weights
from isthmus.telemetry.metrics import Tally

log = logging.getLogger("isthmus.gateway")

MODEL_PAGE = "/v1/models/"


class Gateway:
    """Everything that lives longer than a request; `serve` serves one.

    `engines` tells the state of each engine that the gateway runs, by the model's name; `ready` is every
    state `ready`. `weights` tells of which signed artefact an engine was started, where it was of one.
    `arm_weights` tells what arms of splits weigh by now, by the config's hash and the route's name;
    `silences` how long models are silent, for requests of an operation that are streamed, or not.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        ledger: Ledger,
        ring: Ring,
        treasury: Treasury,
        tally: Tally,
        feedbacks: Feedbacks,
        conversations: Conversations,
        engines: Callable[[], Mapping[str, str]] = dict,
        weights: Callable[[], Mapping[str, str]] = dict,
        arm_weights: Callable[[], Mapping[tuple[str, str], Weights]] = dict,
        silences: Callable[[Awaited, str, bool], tuple[Silence, ...]] = lambda *_: (),
    ) -> None:
        bounds = snapshot.config.gateway
        self.snapshot = snapshot
        self.strict = snapshot.config.ledger.mode == "strict"
        self.ledger = ledger
        self.ring = ring
        self.treasury = treasury
        self.tally = tally
        self._feedback = FeedbackDesk(feedbacks, ledger, ring)
        self.mirrors = Mirrors(ledger, tally, self._feedback)
        self.conversations = conversations
        self.admission = Admission(bounds.max_in_flight, bounds.max_queued, bounds.queue_timeout)
        self.draining = False
        self.arm_weights = arm_weights
        self.silences = silences
        self._engines = engines
        self._weights = weights
        self._registry = CollectorRegistry()
        self._registry.register(tally)
        self._openapi = msgspec.json.encode(openapi(ENDPOINTS))
        self._wires: dict[tuple[str, str], ClientWire] = {
            (it.method, it.path): CLIENT_WIRES[it.wire] for it in ENDPOINTS if it.wire is not None
        }
        self._pages: dict[tuple[str, str], Endpoint] = {
            (it.method, it.path): it for it in ENDPOINTS if it.page is not None
        }
        self._methods: dict[str, list[str]] = {}
        for endpoint in ENDPOINTS:
            self._methods.setdefault(endpoint.path, []).append(endpoint.method)

    def adopt(self, snapshot: Snapshot) -> None:
        """Serve by another config from the next request on; open requests keep theirs."""
        old, self.snapshot = self.snapshot, snapshot
        bounds = snapshot.config.gateway
        self.admission.resize(bounds.max_in_flight, bounds.max_queued, bounds.queue_timeout)
        self.tally.config_hash = snapshot.config.hash
        old.release()

    def serve(self, request: Request) -> Awaitable[None]:
        """Answer one request."""
        wire = self._wires.get((request.method, request.path))
        return self._page(request) if wire is None else Exchange.begin(self, wire, request).serve()

    async def _page(self, request: Request) -> None:
        """Answer an endpoint that needs no model, or say that there is none."""
        unread = request.respond(*await self._paged(request))
        if unread is not None:
            await unread

    async def _paged(self, request: Request) -> tuple[int, bytes, bytes]:
        """The answer's status, body and headers, whatever happens."""
        name = request_id(time.time_ns() // 1000, getrandbits(80))
        try:
            status, body, content_type = await self._page_for(request)
            return status, body, b"content-type: %b\r\n" % content_type
        except IsthmusError as error:
            return self._refused(request, name, error)
        except Exception as bug:
            # The text of an exception may quote what was sent: only its kind and place are logged.
            nameless = (RuntimeError, RuntimeError(type(bug).__name__), bug.__traceback__)
            log.error("page %s failed by a bug: %s", name, type(bug).__name__, exc_info=nameless)
            failed = "The gateway failed at this request; its log says where."
            return self._refused(request, name, IsthmusError(Fault.INTERNAL, failed))

    async def _page_for(self, request: Request) -> tuple[int, bytes, bytes]:
        """The answer's status, body and content type."""
        page = self._find_page(request)
        key = None
        if page.access == "key":
            key = authenticate(request, self.ring, time.time_ns() // 1000)
        if page.page != "feedback":
            return self._render(page, request, key)
        given = await request.body(LONGEST_BODY)
        return 200, await self._feedback.take(given, key, time.time_ns() // 1000), b"application/json"

    def _refused(self, request: Request, name: str, error: IsthmusError) -> tuple[int, bytes, bytes]:
        """An error's status, body and headers, in the caller's dialect."""
        wire = CLIENT_WIRES["anthropic" if _speaks_anthropic(request.path, request.headers) else "openai"]
        extra = identity(name, wire).encode("ascii") + JSON
        if error.fault is Fault.METHOD_NOT_ALLOWED:
            extra += b"allow: %b\r\n" % ", ".join(self._methods[_pattern(request.path)]).encode()
        if error.fault is Fault.UNAUTHENTICATED:
            extra += b"www-authenticate: Bearer\r\n"
        return wire.status_of(error), wire.encode_error(error, name), extra

    def _find_page(self, request: Request) -> Endpoint:
        path = _pattern(request.path)
        method = "GET" if request.method == "HEAD" else request.method
        page = self._pages.get((method, path))
        if page is not None:
            return page
        if path in self._methods:
            raise IsthmusError(
                Fault.METHOD_NOT_ALLOWED,
                f"{path} does not take {method[:16]}.",
                hint=f"Use {' or '.join(self._methods[path])}.",
            )
        raise IsthmusError(
            Fault.NOT_FOUND,
            "There is no such endpoint.",
            code="unknown_endpoint",
            hint="See /openapi.json; base_url ends in /v1 for OpenAI's clients, but not for Anthropic's.",
        )

    def _render(self, page: Endpoint, request: Request, key: Key | None) -> tuple[int, bytes, bytes]:
        json = b"application/json"
        headers = request.headers
        match page.page:
            case "healthz":
                return 200, b'{"status":"ok"}', json
            case "readyz":
                ready, body = self.readiness()
                return 200 if ready else 503, msgspec.json.encode(body), json
            case "metrics":
                encode, content_type = _format_for(headers.get(b"accept", b"").decode("latin-1"))
                return 200, encode(self._registry), content_type.encode()
            case "openapi":
                return 200, self._openapi, json
            case "models":
                names = self.snapshot.visible(key)
                return 200, _model_list(names, _speaks_anthropic("", headers)), json
            case "model":
                name = self.snapshot.route(request.path[len(MODEL_PAGE) :], key).name
                return 200, msgspec.json.encode(_model_card(name, _speaks_anthropic("", headers))), json
            case _:
                raise AssertionError(f"no page {page.page}")

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether the gateway can serve, and each thing that this depends on."""
        ledger = self.ledger.health()
        engines = dict(self._engines())
        ready = (
            not self.draining and ledger.state == "ok" and all(state == "ready" for state in engines.values())
        )
        body = {
            "status": "ready" if ready else "draining" if self.draining else "not ready",
            "ledger": msgspec.to_builtins(ledger),
            "engines": engines,
            "weights": dict(self._weights()),
            "config": self.snapshot.config.hash,
        }
        return ready, body


def _format_for(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """How metrics are written for who accepts this, and its name; plainly where it cannot be read."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # The library compares the numbers of versions, whatever they are made of.
        return choose_encoder("")


def _pattern(path: str) -> str:
    """The path as the table of endpoints writes it."""
    return "/v1/models/{model}" if path.startswith(MODEL_PAGE) and len(path) > len(MODEL_PAGE) else path


def _speaks_anthropic(path: str, headers: Mapping[bytes, bytes]) -> bool:
    return path.startswith("/v1/messages") or b"anthropic-version" in headers


def _model_card(name: str, anthropic: bool) -> dict[str, Any]:
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "isthmus"}


def _model_list(names: list[str], anthropic: bool) -> bytes:
    cards = [_model_card(name, anthropic) for name in names]
    if anthropic:
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return msgspec.json.encode({"data": cards, "has_more": False, **ends})
    return msgspec.json.encode({"object": "list", "data": cards})
