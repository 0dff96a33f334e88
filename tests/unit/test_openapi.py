"""The description of the interface is true: it names what is mounted, and its schemas fit what is sent."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import CLIENT_WIRES
from isthmus.dialects.responses import OpenAIResponses
from isthmus.gateway.endpoints import ENDPOINTS, Endpoint
from isthmus.gateway.openapi import openapi

MODEL_ENDPOINTS = pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.wire is not None], ids=lambda one: one.path
)
UNSEEN = {Fault.CANCELLED, Fault.METHOD_NOT_ALLOWED}
"""Nobody is left to see the first; the second is of methods that the document does not name."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi(ENDPOINTS)


def test_every_endpoint_is_an_operation(document: dict[str, Any]) -> None:
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert told == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_every_schema_is_a_schema(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    schemas = list(_schemas(document))
    assert len(schemas) > len(ENDPOINTS)
    for schema in schemas:
        jsonschema_rs.Draft202012Validator(schema)


def _schemas(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [found for each in value for found in _schemas(each)]
    if not isinstance(value, dict):
        return []
    own = [value["schema"]] if "schema" in value else []
    return own + [found for key, each in value.items() if key != "schema" for found in _schemas(each)]


def test_the_document_is_json_and_has_no_references_to_follow(document: dict[str, Any]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(document)) == document
    assert b"$ref" not in msgspec.json.encode(document)


def test_whoever_needs_a_key_is_told_so(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        assert bool(operation["security"]) == (endpoint.access == "key")
        assert all(name in schemes for scheme in operation["security"] for name in scheme)
        assert (401 in endpoint.statuses) == (endpoint.access == "key")


@MODEL_ENDPOINTS
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in UNSEEN])
def test_every_failure_has_a_status_and_a_form(endpoint: Endpoint, fault: Fault) -> None:
    assert fault.status in endpoint.statuses
    assert endpoint.wire is not None
    assert endpoint.error is not None
    error = IsthmusError(fault, "It went wrong.", hint="Do better.", param="messages[0]")
    body = msgspec.json.decode(CLIENT_WIRES[endpoint.wire].encode_error(error, "req_1"))
    jsonschema_rs.validate(endpoint.error, body)


@MODEL_ENDPOINTS
def test_the_forms_of_two_vendors_are_told_apart(endpoint: Endpoint) -> None:
    """A schema that takes everything would prove nothing."""
    assert endpoint.error is not None
    other = "openai" if endpoint.wire in ("anthropic", "anthropic-count") else "anthropic"
    body = CLIENT_WIRES[other].encode_error(IsthmusError(Fault.NOT_FOUND, "No."), "req_1")
    wrong = msgspec.json.decode(body) | {"error": {"message": "No."}}
    assert not jsonschema_rs.is_valid(endpoint.error, wrong)


def test_what_is_said_of_storing_is_what_is_done(document: dict[str, Any]) -> None:
    body = document["paths"]["/v1/responses"]["post"]["requestBody"]
    said = body["content"]["application/json"]["schema"]["properties"]["store"]["description"]
    wire = OpenAIResponses()
    silent = wire.peek(b'{"model":"r","input":"Hi"}')
    assert "store" not in msgspec.json.decode(wire.patch(silent, "m"))
    assert "the provider's default" in said
    assert msgspec.json.decode(wire.encode_call(wire.decode_call(silent), "m").body)["store"] is False
    with pytest.raises(IsthmusError) as refused:
        wire.decode_call(wire.peek(b'{"model":"r","input":"Hi","store":true}'))
    assert refused.value.param == "store"
    assert "true is refused" in said
