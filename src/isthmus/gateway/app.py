"""The ASGI application: it finds the endpoint, and answers what needs no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from isthmus.core.codec import ClientWire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import CLIENT_WIRES
from isthmus.gateway.admission import Admission
from isthmus.gateway.asgi import HeaderList, Receive, Scope, Send, respond
from isthmus.gateway.auth import authenticate
from isthmus.gateway.endpoints import ENDPOINTS, Endpoint
from isthmus.gateway.exchange import Exchange
from isthmus.gateway.openapi import openapi
from isthmus.gateway.snapshot import Snapshot
from isthmus.store.keys import Key, KeyRing
from isthmus.store.ledger import Ledger
from isthmus.telemetry.metrics import Tally

JSON_HEADER = (b"content-type", b"application/json")
MODEL_PAGE = "/v1/models/"


class Gateway:
    """Everything that lives longer than a request. Call it as an ASGI application.

    `engines` tells the state of each engine that the gateway runs, by the model's name; `ready` is every
    state `ready`.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        ledger: Ledger,
        ring: KeyRing,
        tally: Tally,
        engines: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        bounds = snapshot.config.gateway
        self.snapshot = snapshot
        self.strict = snapshot.config.ledger.mode == "strict"
        self.ledger = ledger
        self.ring = ring
        self.tally = tally
        self.admission = Admission(bounds.max_in_flight, bounds.max_queued, bounds.queue_timeout)
        self.draining = False
        self._engines = engines
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this application speaks HTTP, not {scope['type']}")
        wire = self._wires.get((scope["method"], scope["path"]))
        if wire is None:
            await self._page(scope, send)
            return
        self.tally.in_flight += 1
        try:
            await Exchange(self, wire, scope, receive, send).serve()
        finally:
            self.tally.in_flight -= 1

    async def _page(self, scope: Scope, send: Send) -> None:
        """Answer an endpoint that needs no model, or say that there is none."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            page = self._find_page(scope)
            key = None
            if page.access == "key":
                key = authenticate(scope, headers, self.ring, time.time_ns() // 1000)
            status, body, content_type = self._render(page, scope, headers, key)
            await respond(send, status, body, [(b"content-type", content_type)])
        except IsthmusError as error:
            extra: HeaderList = [JSON_HEADER]
            if error.fault is Fault.METHOD_NOT_ALLOWED:
                extra.append((b"allow", ", ".join(self._methods[_pattern(scope["path"])]).encode()))
            if error.fault is Fault.UNAUTHENTICATED:
                extra.append((b"www-authenticate", b"Bearer"))
            wire = CLIENT_WIRES["anthropic" if _speaks_anthropic(scope["path"], headers) else "openai"]
            await respond(send, error.status, wire.encode_error(error, ""), extra)

    def _find_page(self, scope: Scope) -> Endpoint:
        path = _pattern(scope["path"])
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
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

    def _render(
        self, page: Endpoint, scope: Scope, headers: Mapping[bytes, bytes], key: Key | None
    ) -> tuple[int, bytes, bytes]:
        json = b"application/json"
        match page.page:
            case "healthz":
                return 200, b'{"status":"ok"}', json
            case "readyz":
                ready, body = self.readiness()
                return 200 if ready else 503, msgspec.json.encode(body), json
            case "metrics":
                encode, content_type = choose_encoder(headers.get(b"accept", b"").decode("latin-1"))
                return 200, encode(self._registry), content_type.encode()
            case "openapi":
                return 200, self._openapi, json
            case "models":
                names = self.snapshot.visible(key)
                return 200, _model_list(names, _speaks_anthropic("", headers)), json
            case "model":
                name = self.snapshot.route(unquote(scope["path"][len(MODEL_PAGE) :]), key).name
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
            "config": self.snapshot.config.hash,
        }
        return ready, body


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
