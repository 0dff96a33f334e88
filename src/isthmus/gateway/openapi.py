"""OpenAPI 3.1, made from the table of endpoints that are mounted."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from isthmus import __version__
from isthmus.gateway.endpoints import Endpoint

HEADERS = {
    "x-request-id": "The request's id: `isthmus records show` tells its story.",
    "x-isthmus-model": "The model that answered.",
    "x-isthmus-cost-usd": "What the answer cost, or `unknown`; not on streams.",
    "x-isthmus-cost-estimated": "`true` where that cost is no more than an estimate.",
    "x-isthmus-overhead-ms": "The gateway's own share of the time, in milliseconds.",
    "x-isthmus-dropped": "Hints of the request that the model's dialect cannot express.",
}


def openapi(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of these endpoints. Format: spec.openapis.org/oas/v3.1.1."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Isthmus",
            "version": __version__,
            "description": "One gateway between applications and any language model.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": (endpoint.method + endpoint.path).lower().translate(str.maketrans("/{}.", "____")),
        "responses": {str(status): _response(endpoint, status) for status in endpoint.statuses},
        "security": [{"bearer": []}, {"x-api-key": []}, {}] if endpoint.access == "key" else [],
    }
    if endpoint.request is not None:
        content = {"application/json": {"schema": endpoint.request}}
        operation["requestBody"] = {"required": True, "content": content}
    if "{model}" in endpoint.path:
        parameter = {
            "name": "model",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        operation["parameters"] = [parameter]
    return operation


def _response(endpoint: Endpoint, status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status >= 400:
        response["content"] = {"application/json": {"schema": endpoint.error}}
        return response
    response["content"] = {endpoint.answer_type: {"schema": endpoint.answer}}
    if endpoint.wire is not None:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()
        }
        properties = endpoint.request["properties"] if endpoint.request else {}
        if "stream" in properties:
            response["content"]["text/event-stream"] = {}
    return response
