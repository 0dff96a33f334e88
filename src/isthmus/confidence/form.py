"""Whether an answer has the form that its caller asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from isthmus.core.call import Call

MOST_STEPS = 10_000
"""So much work a schema may ask for, in keywords applied and values compared. Schema and answer are others'
words, and a small schema can ask for more than there is time."""

_NOT_APPLIED = frozenset({"pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties"})
"""Keywords that apply regular expressions, of which one can take for ever."""

_Keyword: TypeAlias = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


def misfit(text: str, call: Call) -> str | None:
    """Why this is not the JSON that the caller asked for; None where it is. It never quotes the answer.

    Regular expressions in a schema are not applied, and references lead nowhere but within the schema.
    """
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "it is no JSON"
    schema = call.response_format.schema if call.response_format is not None else None
    if schema is None:
        return None
    try:
        import jsonschema
    except ImportError:
        return "its form cannot be checked without `pip install 'isthmus[evals]'`"
    try:
        fault = _first_fault(jsonschema, value, schema)
    except Exception:
        # A schema that is none fails in many ways. Its words are the caller's, and go nowhere.
        return "the form that was asked for cannot be checked"
    return None if fault is None else f"its JSON does not fit the form ({fault})"


def _first_fault(jsonschema: Any, value: Any, schema: dict[str, Any]) -> str | None:
    """The keyword that the value does not satisfy."""
    from referencing import Registry

    known = jsonschema.Draft202012Validator
    left = [MOST_STEPS]
    keywords = {
        name: _nothing if name in _NOT_APPLIED else _bounded(name, keyword, left)
        for name, keyword in known.VALIDATORS.items()
    }
    # An empty registry: the default one would fetch what a reference points to.
    validator = jsonschema.validators.extend(known, keywords)(_of_one_edition(schema), registry=Registry())
    fault = next(validator.iter_errors(value), None)
    return None if fault is None else str(fault.validator)


def _bounded(name: str, keyword: _Keyword, left: list[int]) -> _Keyword:
    """The keyword, which fails when nothing is left of the work that a schema may ask for."""

    def apply(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        size = len(value) if isinstance(value, list | dict) else 1
        others = len(wanted) if isinstance(wanted, list) else 1
        left[0] -= size * (size if name == "uniqueItems" else others)
        if left[0] < 0:
            raise OverflowError("this schema asks for too much")
        # Which properties are additional, patterns say, too.
        if name != "additionalProperties" or "patternProperties" not in schema:
            yield from keyword(validator, wanted, value, schema) or ()

    return apply


def _nothing(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    yield from ()


def _of_one_edition(schema: Any) -> Any:
    """The schema without words about its edition, by which another validator would take over."""
    if isinstance(schema, dict):
        return {
            name: _of_one_edition(it)
            for name, it in schema.items()
            if not (name == "$schema" and isinstance(it, str))
        }
    return [_of_one_edition(it) for it in schema] if isinstance(schema, list) else schema
