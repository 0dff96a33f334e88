"""Finding and changing the strategies of one kind in a plan, however deep they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from isthmus.strategies.plan import Node

T = TypeVar("T")
N = TypeVar("N", bound=Node)


def nodes_in(plan: Node, kind: type[N]) -> list[N]:
    """Every strategy of that kind in a plan, inner ones first."""
    found: list[N] = []

    def look(node: N, _: N) -> N:
        found.append(node)
        return node

    changed(plan, kind, look)
    return found


def changed(value: T, kind: type[N], change: Callable[[N, N], N]) -> T:
    """The value with every strategy of that kind in it changed: `change` gets it as it was, and with its
    parts changed. What holds none is the very same object."""
    return _changed(value, kind, change)  # type: ignore[no-any-return]


def _changed(value: Any, kind: type[N], change: Callable[[N, N], N]) -> Any:
    if isinstance(value, tuple):
        items = tuple(_changed(it, kind, change) for it in value)
        return items if any(now is not was for now, was in zip(items, value, strict=True)) else value
    if not isinstance(value, msgspec.Struct):
        return value
    changes = dict(_changes(value, kind, change))
    now = msgspec.structs.replace(value, **changes) if changes else value
    return change(value, now) if isinstance(value, kind) and isinstance(now, kind) else now


def _changes(value: msgspec.Struct, kind: type[N], change: Callable[[N, N], N]) -> Iterator[tuple[str, Any]]:
    for name in value.__struct_fields__:
        was = getattr(value, name)
        now = _changed(was, kind, change)
        if now is not was:
            yield name, now
