"""The smallest value that satisfies a JSON Schema: what a model would be forced to answer."""

from __future__ import annotations

from typing import Any

_BY_FORMAT = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "a@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance(schema: Any, *, root: Any = None, depth: int = 8) -> Any:
    """A value that a trivial reading of the schema admits; the same schema always gives the same value.

    Optional properties are filled too. Recursion stops at `depth` with null. Keywords that restrict in other
    ways (`pattern`, `not`, `if`) are not read, nor are those that are malformed.
    """
    root = schema if root is None else root
    read = _object(schema)

    def inner(part: Any) -> Any:
        return instance(part, root=root, depth=depth - 1)

    if depth == 0:
        return None
    if "$ref" in read:
        return inner(_resolve(read["$ref"], root))
    if "const" in read:
        return read["const"]
    for choice in ("enum", "anyOf", "oneOf"):
        options = _array(read.get(choice))
        if options:
            return options[0] if choice == "enum" else inner(options[0])
    if _array(read.get("allOf")):
        return inner(_merged(read["allOf"], root))
    match _type(read):
        case "object":
            return {name: inner(part) for name, part in _object(read.get("properties")).items()}
        case "array":
            return [inner(read.get("items"))] * max(1, _count(read.get("minItems")))
        case "integer" | "number":
            return read.get("minimum", read.get("maximum", 1))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            plain = "text".ljust(_count(read.get("minLength")), ".")
            return _BY_FORMAT.get(str(read.get("format")), plain)


def _type(schema: dict[str, Any]) -> str:
    guessed = "object" if "properties" in schema else "array" if "items" in schema else "string"
    named = schema.get("type", guessed)
    return str(named[0] if isinstance(named, list) and named else named).lower()


def _resolve(reference: Any, root: Any) -> Any:
    found = root
    for step in str(reference).removeprefix("#").strip("/").split("/"):
        found = _object(found).get(step) if step else found
    return found


def _merged(parts: list[Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in map(_object, parts):
        full = _object(_resolve(part["$ref"], root)) if "$ref" in part else part
        properties = _object(merged.get("properties")) | _object(full.get("properties"))
        merged |= full | {"properties": properties}
    return merged


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _array(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
