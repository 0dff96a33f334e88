"""Requests that cannot be served: each is told what is wrong and what to do, and nothing of it leaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from isthmus.core.errors import IsthmusError
from isthmus.gateway import feedback
from isthmus.store.keys import NewKey, SqliteKeys
from isthmus.testing import Simulator

from .gateway import (
    ANTHROPIC,
    DIALECTS,
    OPENAI,
    PROMPT,
    Answer,
    Dialect,
    Served,
    config_text,
    eventually,
    serving,
)
from .gateway import simulated as simulating

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_BODY = 100_000
ROUTES = {
    "support": "openai/sim-echo",
    "review": "anthropic/sim-echo",
    "gpt-*": "openai/sim-echo",
    "embeddings-only": "openai/embedder",
}


def _text(url: str) -> str:
    text = config_text(url, ROUTES, gateway={"max_body_mb": MAX_BODY / 1e6})
    return text.replace('"id": "embedder",', '"id": "embedder", "capabilities": ["embeddings"],')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Simulator, Served]]:
    """A gateway without keys."""
    async with Simulator() as sim, serving(_text(sim.url), tmp_path_factory.mktemp("open")) as served:
        yield sim, served


def _check(answer: Answer, dialect: Dialect, status: int, code: str) -> None:
    """The error is in the caller's dialect, and no stack trace."""
    assert (answer.status, answer.error["code"]) == (status, code), answer.body
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.error["message"]) > 10
    assert (answer.json.get("type") == "error") == (dialect is ANTHROPIC)
    assert answer.error["type"]
    assert b"Traceback" not in answer.body


DIALECT = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


@DIALECT
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "support", "messages": [}',
        b"null",
        b"[]",
        b'"support"',
        b"\xff\xfe{}",
        b'{"model": "support", "messages": "\xc3\x28", "input": "\xc3\x28"}',
        b'{"model": 7, "messages": [], "input": "x"}',
        b'{"messages": [], "input": "x"}',
        b'{"model": "", "messages": [], "input": "x"}',
        b'{"model": "review", "messages": "hello", "input": 7, "max_tokens": 5}',
        b'{"model": "review", "messages": [{"role": "user", "content": 7}], "input": {}, "max_tokens": 5}',
        b'{"model": "review", "messages": [], "input": [7], "max_tokens": 5}',
        b'{"model": "support", "stream": "yes", "messages": [{"role": "user", "content": 1}], "input": "x"}',
        b'{"model":' * 2000 + b"1" + b"}" * 2000,
        b"[" * 90_000,
    ],
)
async def test_what_is_no_request_is_refused(
    open_gateway: tuple[Simulator, Served], dialect: Dialect, body: bytes
) -> None:
    sim, served = open_gateway
    seen = len(sim.requests)
    answer = await served.post(dialect.path, body)
    assert answer.status == 400, answer.body
    _check(answer, dialect, 400, answer.error["code"])
    if b"review" not in body:
        # Where bytes pass through, it is the model's endpoint that judges the rest of the request.
        assert len(sim.requests) == seen
    assert (await served.record(answer)).outcome == "error"


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"temperature": b"1" * 400}, id="number"),
        pytest.param({"temperature": b"1" * 5000}, id="longer number"),
        pytest.param({"metadata": b'{"a":' * 400 + b"1" + b"}" * 400}, id="nest"),
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
async def test_odd_json_is_refused_where_it_has_to_be_read(
    open_gateway: tuple[Simulator, Served], dialect: Dialect, odd: dict[str, bytes]
) -> None:
    _, served = open_gateway
    route = "support" if dialect is ANTHROPIC else "review"
    answer = await served.ask(route, dialect, **{name: msgspec.Raw(raw) for name, raw in odd.items()})
    assert answer.status == 400, answer.body
    assert answer.error["param"] in odd
    assert (await served.record(answer)).status == 400


@DIALECT
async def test_an_unknown_route_is_answered_with_those_that_are(
    open_gateway: tuple[Simulator, Served], dialect: Dialect
) -> None:
    _, served = open_gateway
    answer = await served.ask("suport", dialect)
    _check(answer, dialect, 404, "unknown_route")
    assert "Did you mean 'support'?" in answer.error["message"]
    assert answer.headers["x-request-id"] == (await served.record(answer)).id


async def test_a_pattern_takes_the_names_that_applications_are_used_to(
    open_gateway: tuple[Simulator, Served],
) -> None:
    _, served = open_gateway
    answer = await served.ask("gpt-5-turbo")
    assert OPENAI.text(answer) == PROMPT
    assert (await served.record(answer)).route == "gpt-*"


@DIALECT
async def test_a_route_whose_models_cannot_do_it_says_which_and_why(
    open_gateway: tuple[Simulator, Served], dialect: Dialect
) -> None:
    _, served = open_gateway
    answer = await served.ask("embeddings-only", dialect)
    _check(answer, dialect, 400, "no_model_allowed")
    assert "openai/embedder is not declared capable of chat" in answer.error["message"]
    record = await served.record(answer)
    assert record.decision is not None
    assert [refused.rule for refused in record.decision.refused] == ["capability"]


@DIALECT
async def test_a_body_that_is_too_large_is_refused_at_its_announcement_and_on_its_way(
    open_gateway: tuple[Simulator, Served], dialect: Dialect
) -> None:
    sim, served = open_gateway
    seen = len(sim.requests)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 1000 + 1):
            yield b"x" * 1000

    for body in (b"x" * (MAX_BODY + 1), pieces()):
        answer = await served.post(dialect.path, body)
        _check(answer, dialect, 413, "body_too_large")
        assert (await served.record(answer)).code == "body_too_large"
    assert len(sim.requests) == seen


async def test_a_body_in_pieces_is_as_good_as_a_whole_one(open_gateway: tuple[Simulator, Served]) -> None:
    _, served = open_gateway

    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"model":"support","messages":[{"role":"user","content":"by pieces"}]}':
            yield bytes([byte])

    assert OPENAI.text(await served.post(OPENAI.path, pieces())) == "by pieces"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/messages", 405, "method_not_allowed"),
        ("PUT", "/v1/responses", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/support", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/completions", 404, "unknown_endpoint"),
        ("POST", "/chat/completions", 404, "unknown_endpoint"),
        ("POST", "/v1/v1/messages", 404, "unknown_endpoint"),
        ("GET", "/", 404, "unknown_endpoint"),
        ("GET", "/v1/models/nothing", 404, "unknown_route"),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404, "unknown_route"),
    ],
)
async def test_a_wrong_door_is_told_from_a_wrong_knock(
    open_gateway: tuple[Simulator, Served], method: str, path: str, status: int, code: str
) -> None:
    _, served = open_gateway
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        answer = await served.request(method, path, b"{}", headers)
        anthropic = bool(headers) or path.startswith("/v1/messages")
        _check(answer, ANTHROPIC if anthropic else OPENAI, status, code)
        assert ("allow" in answer.headers) == (status == 405)
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.json["request_id"] == answer.headers["x-request-id"]
        assert answer.headers.get("request-id") == (answer.headers["x-request-id"] if anthropic else None)


async def test_without_keys_only_this_machine_is_served(open_gateway: tuple[Simulator, Served]) -> None:
    _, served = open_gateway
    foreign: list[Mapping[str, str]] = [
        {"host": "attacker.example"},
        {"origin": "https://attacker.example"},
        {"x-forwarded-for": "192.0.2.7"},
        {"forwarded": "for=192.0.2.7"},
    ]
    count = len(await served.records())
    for headers in foreign:
        for dialect in DIALECTS:
            answer = await served.ask("support", dialect, headers=headers)
            _check(answer, dialect, 403, "keys_required")
            assert "isthmus keys create" in answer.error["message"]
        assert (await served.get("/metrics", headers)).status == 403
        assert (await served.get("/v1/models", headers)).status == 403
        assert (await served.get("/healthz", headers)).status == 200
    assert len(await served.records()) == count, "whoever is not let in cannot fill the ledger"


# -- with keys


class Doors:
    """Keys of every kind."""

    def __init__(self, keys: SqliteKeys) -> None:
        now_us = time.time_ns() // 1000
        self.all = keys.create("all", (), now_us)
        self.support = keys.create("support", ("support", "gpt-*"), now_us)
        self.expired = keys.create("expired", (), now_us, now_us + 1)
        self.revoked = keys.create("revoked", (), now_us)
        keys.revoke(self.revoked.key.id, now_us)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Served, Doors]]:
    """A gateway with keys."""
    folder = tmp_path_factory.mktemp("locked")
    async with Simulator() as sim, serving(_text(sim.url), folder) as served:
        doors = await asyncio.to_thread(lambda: Doors(SqliteKeys(served.house.ledger_path)))
        await asyncio.to_thread(served.house.gateway.ring.refresh)
        yield served, doors


def _bearer(new: NewKey) -> dict[str, str]:
    return {"authorization": f"Bearer {new.secret}"}


@DIALECT
async def test_a_key_opens_its_routes_and_no_others(locked: tuple[Served, Doors], dialect: Dialect) -> None:
    served, doors = locked
    for headers in (_bearer(doors.support), {"x-api-key": doors.support.secret}):
        answer = await served.ask("support", dialect, headers=headers)
        assert dialect.text(answer) == PROMPT
        assert (await served.record(answer)).key_id == doors.support.key.id
        answer = await served.ask("review", dialect, headers=headers)
        _check(answer, dialect, 403, "route_not_allowed")
        assert "support" in answer.error["message"]
    answer = await served.ask("reviw", dialect, headers=_bearer(doors.support))
    _check(answer, dialect, 404, "unknown_route")
    assert "review" not in answer.error["message"], "a key is not told of routes that are not its own"


@DIALECT
async def test_no_key_wrong_key_old_key(locked: tuple[Served, Doors], dialect: Dialect) -> None:
    served, doors = locked
    count = len(await served.records())
    before = (await _metrics(served, doors))["isthmus_unauthenticated_requests_total"]
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "missing_key"),
        ({"authorization": "Bearer isk_not-a-key-at-all"}, "invalid_key"),
        (_bearer(doors.expired), "expired_key"),
        (_bearer(doors.revoked), "revoked_key"),
    ]
    for headers, code in cases:
        answer = await served.ask("support", dialect, headers=headers)
        _check(answer, dialect, 401, code)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "isk_not" not in answer.error["message"]
    assert len(await served.records()) == count
    after = (await _metrics(served, doors))["isthmus_unauthenticated_requests_total"]
    assert after - before == len(cases)


async def _metrics(served: Served, doors: Doors) -> dict[str, float]:
    answer = await served.get("/metrics", _bearer(doors.all))
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_pages_ask_for_the_key_where_they_tell_something(locked: tuple[Served, Doors]) -> None:
    served, doors = locked
    for path in ("/v1/models", "/v1/models/support", "/metrics"):
        answer = await served.get(path)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await served.get(path, _bearer(doors.support))).status == 200
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert (await served.get(path)).status == 200
    mine = (await served.get("/v1/models", _bearer(doors.support))).json["data"]
    assert [model["id"] for model in mine] == ["support", "gpt-*"]
    for path in ("/v1/models/review", "/v1/models/gpt-5"):
        assert (await served.get(path, _bearer(doors.all))).status == 200
    assert (await served.get("/v1/models/review", _bearer(doors.support))).status == 403


async def test_the_first_key_locks_a_running_gateway(tmp_path: Path) -> None:
    async with simulating({"r": "openai/sim-echo"}, tmp_path) as (_, served):
        assert (await served.ask("r")).status == 200
        keys = await asyncio.to_thread(SqliteKeys, served.house.ledger_path)
        new = await asyncio.to_thread(keys.create, "first", (), time.time_ns() // 1000)
        await eventually(lambda: not served.house.gateway.ring.empty, within_s=2.0)
        _check(await served.ask("r"), OPENAI, 401, "missing_key")
        assert (await served.ask("r", headers=_bearer(new))).status == 200
        await asyncio.to_thread(keys.revoke, new.key.id, time.time_ns() // 1000)
        await eventually(lambda: _is_revoked(served, new), within_s=2.0)
        _check(await served.ask("r", headers=_bearer(new)), OPENAI, 401, "revoked_key")
        _check(await served.ask("r"), OPENAI, 401, "missing_key")


def _is_revoked(served: Served, new: NewKey) -> bool:
    try:
        served.house.gateway.ring.verify(new.secret.encode(), time.time_ns() // 1000)
    except IsthmusError:
        return True
    return False


# -- what must not be seen

CANARY = "zanzibar-canary-7391"


async def test_no_prompt_and_no_key_is_seen_in_logs_metrics_and_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CANARY_KEY", f"upstream-{CANARY}")
    names = (
        "echo",
        "500",
        "400",
        "401",
        "cut",
        "not-json",
        "bad-utf8",
        "error-mid-stream",
        "disconnect",
        "html-502",
    )
    routes = {
        f"{upstream}-{name}": {"model": f"{upstream}/sim-{name}", "retries": 0}
        for upstream in ("openai", "anthropic", "gemini")
        for name in names
    }
    async with simulating(routes, tmp_path, provider={"key": "env:CANARY_KEY"}) as (sim, served):
        keys = await asyncio.to_thread(SqliteKeys, served.house.ledger_path)
        new = await asyncio.to_thread(keys.create, "app", (), time.time_ns() // 1000)
        await asyncio.to_thread(served.house.gateway.ring.refresh)
        says: dict[str, Any] = {"messages": [{"role": "user", "content": CANARY}], "input": CANARY}
        for route in (*routes, "unknown"):
            for dialect in DIALECTS:
                for stream in (False, True):
                    body = {**dialect.body(route, stream), **says}
                    body = {key: body[key] for key in dialect.body(route, stream)}
                    await served.post(dialect.path, body, _bearer(new))
        await served.post(
            OPENAI.path, f'{{"model": "openai-echo", "messages": "{CANARY}'.encode(), _bearer(new)
        )
        await served.ask("openai-echo", headers={"authorization": f"Bearer isk_{CANARY}"})
        assert any(CANARY.encode() in one.raw for one in sim.requests)
        assert any(CANARY in str(one.headers) for one in sim.requests), "the upstream has its key"
        metrics = await served.get("/metrics", _bearer(new))
        records = await served.records()
    assert len(records) > 100
    kept = await asyncio.to_thread(_everything_in, tmp_path)
    for place in (caplog.text.encode(), metrics.body, repr(records).encode(), kept):
        assert CANARY.encode() not in place
        assert new.secret.encode() not in place


def _everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("anthropic", [False, True])
async def test_a_bug_in_a_page_is_told_without_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, anthropic: bool
) -> None:
    async with simulating({"r": "openai/sim-echo"}, tmp_path) as (_, served):

        def fail(*_: object) -> None:
            raise ValueError(CANARY)

        monkeypatch.setattr(feedback, "read", fail)
        headers = {"anthropic-version": "2023-06-01"} if anthropic else None
        answer = await served.post("/v1/feedback", {"request_id": "req_1", "score": 1}, headers)
        _check(answer, ANTHROPIC if anthropic else OPENAI, 500, "internal")
        assert ("type" in answer.json) == anthropic
    assert CANARY not in caplog.text
    assert "ValueError" in caplog.text
    assert "in fail" in caplog.text, "the log says where"


@pytest.mark.parametrize("media", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["abc", "1..2", "1.x", "\xb2"])
async def test_metrics_are_plain_for_whom_nobody_can_read(
    open_gateway: tuple[Simulator, Served], media: str, version: str
) -> None:
    _, served = open_gateway
    answer = await served.get("/metrics", {"accept": f"{media}; version={version}"})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"isthmus_requests" in answer.body


async def test_a_bug_of_ours_is_told_without_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with simulating({"r": "openai/sim-echo"}, tmp_path) as (_, served):
        router = served.house.gateway.snapshot.router

        def fail(*_: object) -> None:
            raise ValueError(CANARY)

        monkeypatch.setattr(router, "decide", fail)
        answer = await served.ask("r", ANTHROPIC)
        _check(answer, ANTHROPIC, 500, "internal")
        assert answer.headers["x-should-retry"] == "false"
        assert (await served.record(answer)).code == "internal"
        assert served.house.gateway.admission.inside == 0
    assert CANARY not in caplog.text
    assert "ValueError" in caplog.text
    assert "in fail" in caplog.text, "the log says where"
