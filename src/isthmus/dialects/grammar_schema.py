"""JSON Schemas in the form that llama.cpp can turn into a grammar.

Source: ggml-org/llama.cpp, grammars/README.md, "JSON Schemas → GBNF". Keywords that it ignores are harmless,
but some make it refuse the whole request: a pattern that is not anchored, a schema without a type, very long
repetitions. Those are left out or said in another way, so the grammar may allow more than the schema did; and
an object that lists its properties is closed, which every schema allows a writer to do.
"""

from __future__ import annotations

from typing import Any

MAX_REPETITIONS = 200

_ANYTHING = {"type": ["string", "number", "boolean", "null", "array", "object"]}
_KEPT = (
    "type",
    "enum",
    "const",
    "required",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
)
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions")
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems")
_FORMATS = ("date", "time", "date-time", "uuid")
_SHAPES = frozenset(["type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "properties", "items"])


def refer_to(name: str) -> str:
    """The reference to the definition `name` of the whole schema."""
    return f"#/$defs/{name}"


def grammar_schema(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """`schema` as it may stand in the definition `name` of a larger one: its own references point there."""
    clean: dict[str, Any] = {}
    for keyword, value in schema.items():
        said = _keyword(keyword, value, name)
        if said is not None:
            clean[keyword] = said
    properties = clean.get("properties")
    if properties is not None:
        clean.setdefault("type", "object")
        clean["required"] = [field for field in clean.get("required", ()) if field in properties]
        if properties or not schema.get("additionalProperties"):
            clean["additionalProperties"] = False
    if not _SHAPES & clean.keys():
        return clean | _ANYTHING
    return clean


def _keyword(keyword: str, value: Any, name: str) -> Any:
    """What is kept of one keyword; None where it is left out."""
    if keyword == "$ref":
        inside = isinstance(value, str) and value.startswith("#")
        return refer_to(name) + value[1:] if inside else None
    if keyword in _MAPS and isinstance(value, dict):
        return {key: _sub(item, name) for key, item in value.items()}
    if keyword in _LISTS and isinstance(value, list):
        return [_sub(item, name) for item in value]
    if keyword in ("items", "additionalProperties") and isinstance(value, dict):
        return _sub(value, name)
    if keyword in _LENGTHS:
        return value if isinstance(value, int) and value <= MAX_REPETITIONS else None
    if keyword == "format":
        return value if value in _FORMATS else None
    return value if keyword in _KEPT else None


def _sub(schema: Any, name: str) -> dict[str, Any]:
    return grammar_schema(schema, name) if isinstance(schema, dict) else dict(_ANYTHING)
