"""YAML that others wrote, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from isthmus.evals.datasets.faults import refused
from isthmus.evals.datasets.rows import as_json

MOST_VALUES = 1_000_000
"""So many values a file may hold: an alias of an alias of an alias can mean billions."""


def load_yaml(path: Path) -> Any:
    """The value of the one document in the file. Raises IsthmusError (`bad_dataset`) with the line."""
    try:
        value = YAML(typ="safe", pure=True).load(path.read_bytes().decode())
    except UnicodeDecodeError:
        raise refused(str(path), "This is not UTF-8.", "Save the file as UTF-8.") from None
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise refused(f"{path}{line}", f"This is not YAML: {error.problem or 'it breaks here'}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise refused(str(path), f"This is not YAML ({type(error).__name__}).") from None
    _count(value, str(path))
    return as_json(value)


def lines_of(path: Path, name: str | None) -> list[int]:
    """The lines where the items of a list begin, or the one value: of the field `name`, or of the document.

    The file is one that `load_yaml` has read, or JSON; there are none for JSON that is no YAML.
    """
    try:
        node = YAML(typ="safe", pure=True).compose(path.read_bytes().decode())
    except YAMLError:
        return []
    if name is not None:
        fields = node.value if isinstance(node, MappingNode) else ()
        node = next((value for key, value in fields if key.value == name), None)
    items = node.value if isinstance(node, SequenceNode) else [node] if node is not None else []
    return [item.start_mark.line + 1 for item in items]


def _count(value: Any, where: str) -> None:
    waiting, seen = [value], 0
    while waiting:
        seen += 1
        if seen > MOST_VALUES:
            raise refused(
                where, f"It holds more than {MOST_VALUES:,} values, aliases counted where they stand."
            )
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
