"""What providers' errors mean, from bodies in the shapes that they send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import CLIENT_WIRES
from isthmus.dialects.faults import decode_error, decode_stream_error, explain, not_an_answer, retry_after_s


def openai(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **fields}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def gemini(code: int, status: str, message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, **fields}}


CASES = [
    (
        400,
        openai("This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
        Fault.CONTEXT_TOO_LONG,
    ),
    (
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        Fault.CONTEXT_TOO_LONG,
    ),
    (
        400,
        gemini(
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
        ),
        Fault.CONTEXT_TOO_LONG,
    ),
    (
        500,
        openai("the request exceeds the available context size", type="exceed_context_size_error"),
        Fault.CONTEXT_TOO_LONG,
    ),
    (
        500,
        openai("input (3002 tokens) is too large to process. increase the physical batch size", code=500),
        Fault.CONTEXT_TOO_LONG,
    ),
    (429, openai("Rate limit reached. Please reduce the length of the messages."), Fault.RATE_LIMITED),
    (400, openai("Rate limit exceeded", type="rate_limit_error"), Fault.RATE_LIMITED),
    (429, gemini(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."), Fault.RATE_LIMITED),
    (429, openai("You exceeded your current quota.", code="insufficient_quota"), Fault.UNAVAILABLE),
    (402, openai("Insufficient Balance"), Fault.UNAVAILABLE),
    (400, anthropic("invalid_request_error", "Your credit balance is too low"), Fault.UNAVAILABLE),
    (
        401,
        openai("Incorrect API key provided: sk-ab***yz", code="invalid_api_key"),
        Fault.UPSTREAM_AUTHENTICATION,
    ),
    (403, anthropic("permission_error", "no"), Fault.UPSTREAM_AUTHENTICATION),
    (
        400,
        gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
        Fault.UPSTREAM_AUTHENTICATION,
    ),
    (404, openai("nope"), Fault.UPSTREAM_NOT_FOUND),
    (400, openai("The model `x` does not exist", code="model_not_found"), Fault.UPSTREAM_NOT_FOUND),
    (408, {}, Fault.TIMEOUT),
    (413, anthropic("request_too_large", "too big"), Fault.TOO_LARGE),
    (529, anthropic("overloaded_error", "Overloaded"), Fault.OVERLOADED),
    (503, {}, Fault.OVERLOADED),
    (500, anthropic("overloaded_error", "Overloaded"), Fault.OVERLOADED),
    (500, {}, Fault.UPSTREAM_ERROR),
    (504, {}, Fault.UPSTREAM_ERROR),
    (302, {}, Fault.UPSTREAM_ERROR),
    (400, openai("content management policy", code="content_filter"), Fault.INVALID_REQUEST),
    (403, openai("Your input was flagged by moderation"), Fault.INVALID_REQUEST),
    (422, {"detail": [{"loc": ["body"], "msg": "Field required", "input": "secret"}]}, Fault.INVALID_REQUEST),
    (
        400,
        {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400},
        Fault.INVALID_REQUEST,
    ),
    (400, {"error": "bad thing"}, Fault.INVALID_REQUEST),
    (400, [gemini(400, "INVALID_ARGUMENT", "bad")], Fault.INVALID_REQUEST),
]


@pytest.mark.parametrize(("status", "body", "fault"), CASES)
def test_an_error_is_classed_by_its_status_and_its_body(status: int, body: Any, fault: Fault) -> None:
    raw = json.dumps(body).encode()
    error = decode_error(status, {}, raw)
    assert error.fault is fault
    assert (error.upstream_status, error.upstream_body) == (status, raw)


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"7"]
)
def test_a_body_that_says_nothing_is_classed_by_its_status(body: bytes) -> None:
    assert decode_error(502, {}, body).fault is Fault.UPSTREAM_ERROR
    assert not_an_answer(body).fault is Fault.MALFORMED_ANSWER


def test_words_of_a_provider_reach_the_caller_but_not_the_message() -> None:
    error = decode_error(
        400, {}, json.dumps(openai("Bad value: my secret prompt", code="bad_value")).encode()
    )
    assert "secret" not in error.text
    assert "my secret prompt" in explain(error)
    assert error.code == "bad_value"


def test_words_about_the_gateways_own_key_reach_nobody() -> None:
    error = decode_error(401, {}, json.dumps(openai("Incorrect API key provided: sk-ab")).encode())
    assert "sk-ab" not in explain(error)
    assert error.status == 502


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "999999"}, 3600.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "Sun, 06 Nov 1994 08:49:07 GMT"}, 30.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT", "date": "Sun Nov  6 08:49:07 1994"}, 30.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:07 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, None),
    ],
)
def test_retry_after_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds
    assert decode_error(429, headers, b"{}").retry_after_s == seconds


def test_a_delay_in_the_body_is_taken_where_no_header_says_one() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31s"}
    body = json.dumps(gemini(429, "RESOURCE_EXHAUSTED", "Quota", details=[info])).encode()
    assert decode_error(429, {}, body).retry_after_s == 31.0
    assert decode_error(429, {"retry-after": "5"}, body).retry_after_s == 5.0


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (anthropic("overloaded_error", "Overloaded"), Fault.OVERLOADED),
        (anthropic("api_error", "Internal"), Fault.UPSTREAM_ERROR),
        (gemini(503, "UNAVAILABLE", "busy"), Fault.OVERLOADED),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}, Fault.RATE_LIMITED),
        ({"response": {"error": {"code": "server_error", "message": "x"}}}, Fault.UPSTREAM_ERROR),
    ],
)
def test_an_error_event_is_classed_without_a_status(body: Any, fault: Fault) -> None:
    assert decode_stream_error(json.dumps(body).encode()).fault is fault


@pytest.mark.parametrize("wire", ["openai", "responses", "openai-embeddings"])
@pytest.mark.parametrize("fault", list(Fault))
def test_openais_clients_see_the_status_of_the_fault(wire: str, fault: Fault) -> None:
    assert CLIENT_WIRES[wire].status_of(IsthmusError(fault, "It went wrong.")) == fault.status
