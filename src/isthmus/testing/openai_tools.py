"""What OpenAI's two generation endpoints check in the same way: tools and JSON Schemas."""

from __future__ import annotations

import re
from typing import Any

from isthmus.testing.wire import JsonObject, Offered, field, require, strings

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def function(tool: JsonObject, where: str) -> Offered:
    """A function that is offered, with its name and schema checked."""
    name = field(tool, "name", str)
    require(
        name is not None, f"Missing required parameter: '{where}.name'.", code="missing_required_parameter"
    )
    require(
        _NAME.fullmatch(name) is not None,
        f"Invalid '{where}.name': string does not match pattern. Expected a string that matches the pattern "
        "'^[a-zA-Z0-9_-]+$', with at most 64 characters.",
        code="invalid_value",
        param=f"{where}.name",
    )
    schema = field(tool, "parameters", dict, {})
    if schema:
        require(
            schema.get("type") == "object",
            f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', "
            f"got 'type: \"{schema.get('type')}\"'.",
            code="invalid_function_parameters",
            param=f"{where}.parameters",
        )
    if field(tool, "strict", bool, False):
        check_strict(schema, f"function '{name}'", "invalid_function_parameters")
    return Offered(name, schema)


def check_strict(schema: Any, what: str, code: str, context: str = "") -> None:
    """Refuses a schema that structured outputs would refuse: every object closed, every property required."""
    if isinstance(schema, list):
        for part in schema:
            check_strict(part, what, code, context)
    if not isinstance(schema, dict):
        return
    properties = field(schema, "properties", dict, {})
    if schema.get("type") == "object":
        require(
            schema.get("additionalProperties") is False,
            f"Invalid schema for {what}: In context=({context}), 'additionalProperties' is required to "
            "be supplied and to be false.",
            code=code,
        )
        require(
            set(strings(schema, "required")) == set(properties),
            f"Invalid schema for {what}: In context=({context}), 'required' is required to be supplied "
            "and to be an array including every key in properties.",
            code=code,
        )
    for name, part in properties.items():
        check_strict(part, what, code, f"{context}'properties', '{name}'")
    for keyword in ("items", "anyOf", "$defs"):
        part = schema.get(keyword)
        nested = list(part.values()) if keyword == "$defs" and isinstance(part, dict) else part
        check_strict(nested, what, code, f"{context}'{keyword}'")


def forced(choice: Any, offered: tuple[Offered, ...], named: str | None) -> str | None:
    """The tool that must be called, from a tool_choice whose own name for one is already extracted."""
    require(bool(offered), "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    if isinstance(choice, str):
        require(
            choice in ("none", "auto", "required"),
            f"Invalid value: '{choice}'. Supported values are: 'none', 'auto', and 'required'.",
            code="invalid_value",
            param="tool_choice",
        )
        return "*" if choice == "required" else None
    if named is not None:
        require(
            any(tool.name == named for tool in offered),
            f"Tool choice '{named}' not found in 'tools' parameter.",
            param="tool_choice",
        )
    return named


def check_format(format_: JsonObject) -> JsonObject:
    """The schema of a json_schema format whose name and strictness are checked."""
    name = field(format_, "name", str)
    require(
        name is not None,
        "Missing required parameter: 'response_format.name'.",
        code="missing_required_parameter",
    )
    schema: JsonObject = field(format_, "schema", dict, {})
    if field(format_, "strict", bool, False):
        check_strict(schema, f"response_format '{name}'", "invalid_json_schema")
    return schema
