"""JSON Schemas in the form that Anthropic's structured outputs take.

Source: platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations": every
object must be closed, and bounds of numbers, strings and arrays are refused. A bound becomes part of the
description, so that the model still reads it; what the grammar enforces is only ever less than what was
asked, never other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError

_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
_KEPT = ("type", "enum", "const", "description", "title", "default", "required", "$ref")
_LISTS = ("anyOf", "allOf")
_MAPS = ("properties", "$defs", "definitions")


def closed(schema: dict[str, Any], param: str) -> dict[str, Any]:
    """The schema with closed objects and bounds turned into words.

    Raises IsthmusError(UNSUPPORTED) for an object with arbitrary keys, which closing would empty.
    """
    result: dict[str, Any] = {}
    bounds: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _MAPS and isinstance(value, dict):
            result[name] = {key: _closed_any(part, param) for key, part in value.items()}
        elif name in _LISTS and isinstance(value, list):
            result[name] = [_closed_any(part, param) for part in value]
        elif name == "oneOf" and isinstance(value, list):
            result["anyOf"] = [_closed_any(part, param) for part in value]
        elif name == "items":
            result[name] = _closed_any(value, param)
        elif name in _KEPT or _allowed(name, value):
            result[name] = value
        elif name != "additionalProperties" and not name.startswith("$"):
            bounds[name] = value
    if schema.get("type") == "object" or "properties" in schema:
        _check_closable(schema, param)
        result["additionalProperties"] = False
    if bounds:
        result["description"] = _described(schema.get("description"), bounds)
    return result


def _closed_any(value: Any, param: str) -> Any:
    return closed(value, param) if isinstance(value, dict) else value


def _allowed(name: str, value: Any) -> bool:
    return (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1))


def _check_closable(schema: dict[str, Any], param: str) -> None:
    additional = schema.get("additionalProperties", True)
    if isinstance(additional, dict) or (additional is True and not schema.get("properties")):
        raise IsthmusError(
            Fault.UNSUPPORTED,
            "The schema has an object with arbitrary keys, which Anthropic's structured outputs cannot say.",
            hint="List the properties, or choose a model of another provider.",
            param=param,
        )


def _described(description: Any, bounds: dict[str, Any]) -> str:
    words = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in bounds.items())
    return f"{description} ({words})" if isinstance(description, str) and description else f"({words})"
