"""Tables as samples: the columns have the names of our own form, and all others are metadata.

The columns are those of inspect-ai's CSV (inspect.aisi.org.uk/datasets.html), where choices may stand in one
cell, separated by commas. A cell that holds JSON of the kind that is wanted is read as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from isthmus.evals.datasets.faults import refused
from isthmus.evals.datasets.samples import FIELDS

_LIKE_INPUT = ("question", "prompt", "query", "text", "instruction", "problem")


def translate(cells: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row in our own form. Raises IsthmusError (`bad_dataset`) where no column says what is asked."""
    if "input" not in cells and "request" not in cells:
        near = next((name for name in cells if name.lower() in _LIKE_INPUT), None)
        columns = f"The columns are {', '.join(cells)}."
        hint = f"Import it with --input {near}, or rename that column." if near else columns
        raise refused(where, "There is no text in a column `input`.", hint)
    own = {name: _READERS.get(name, _as_is)(value) for name, value in cells.items() if name in FIELDS}
    others = {name: value for name, value in cells.items() if name not in FIELDS}
    metadata = own.get("metadata")
    if isinstance(metadata, dict) or (metadata is None and others):
        own["metadata"] = others | (metadata or {})
    return own


def _as_is(value: Any) -> Any:
    return value


def _json_in(value: Any) -> Any:
    """What a cell says in JSON; else the cell."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    return value


def _input(value: Any) -> Any:
    found = _json_in(value)
    turns = isinstance(found, list) and all(isinstance(turn, dict) and "role" in turn for turn in found)
    return found if turns and found else value


def _choices(value: Any) -> Any:
    found = _json_in(value)
    if isinstance(found, str):
        return [choice.strip() for choice in (found.split(",") if "," in found else found.split())]
    return found


_READERS = {
    "input": _input,
    "choices": _choices,
    "request": _json_in,
    "label": _json_in,
    "metadata": _json_in,
}
