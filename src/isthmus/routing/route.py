"""The name that applications call as `model`, bound to a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Protocol

import msgspec
from msgspec import Meta

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import BOTTOM, Label
from isthmus.strategies.plan.node import Node, once_each

OF_EVALUATIONS = "pilot/"
"""What the routes are called by which evaluations ask one model each: a config may have none of them."""

LONGEST_NAME = 128
"""The longest name that a route can have; what is longer cannot be meant for one."""


class Thrift(msgspec.Struct, frozen=True, kw_only=True):
    """What a route does while a budget is nearly used.

    `plan` is its strategy then. `at` is the share from which on a budget that is about the request counts as
    nearly used.
    """

    plan: Node
    at: Annotated[float, Meta(gt=0, le=1)] = 0.9


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How every model of a route is told to speak: a style card, which stands before whatever the client's
    own system prompt says.

    `system` is the card itself: who speaks, and in which tone. `file` is where it stands instead, relative to
    the config. `format` are rules for the form of answers, which are said last; nobody checks them.
    """

    shorthand: ClassVar[str] = "system"

    system: str | None = None
    file: str | None = None
    format: str | None = None

    @property
    def card(self) -> str:
        """The card's text."""
        return "\n\n".join(part for part in (self.system, self.format) if part)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route: applications know it by `name`, never the models behind it.

    A name with `*`, `?` or `[` is a pattern, so that an application may go on saying `gpt-4o`.
    `record_bodies` keeps the texts of requests and answers in the ledger; the default keeps none. `floor` is
    the least label of what comes this way. `thrift` is what it does while money is short. `continuity` keeps
    a conversation with the model that has answered it. `style` is said to each of its models.
    """

    name: str
    plan: Node
    record_bodies: bool = False
    floor: Label = BOTTOM
    thrift: Thrift | None = None
    continuity: bool = False
    style: Style | None = None

    def models(self) -> tuple[str, ...]:
        """Every model that the route may call, each once."""
        thrifty = self.thrift.plan.models() if self.thrift is not None else ()
        return once_each([*self.plan.models(), *thrifty])

    def plan_for(self, thrifty: bool) -> Node:
        """The strategy, or the thrifty one, where there is one."""
        return self.thrift.plan if thrifty and self.thrift is not None else self.plan


def resolve(name: str, routes: Mapping[str, Route]) -> Route:
    """The route of that name, else that of the longest pattern which fits. Raises IsthmusError(NOT_FOUND)."""
    route = routes.get(name)
    if route is not None:
        return route
    fitting = [pattern for pattern in routes if fnmatchcase(name, pattern)]
    if not fitting:
        raise unknown_route(name, list(routes))
    # The length, then the name: never the order of the file, which has no meaning elsewhere.
    return routes[max(fitting, key=lambda pattern: (len(pattern), pattern))]


class Bearer(Protocol):
    """Who asks, by a key that may be bound to some of the routes."""

    @property
    def id(self) -> str:
        """The key's id."""

    def allows(self, route: str) -> bool:
        """True where the key may ask this route."""


def route_of(name: str, key: Bearer | None, routes: Mapping[str, Route]) -> Route:
    """The one of the routes that this key means by that name. Raises IsthmusError(NOT_FOUND or FORBIDDEN)."""
    try:
        route = resolve(name, routes)
    except IsthmusError:
        raise unknown_route(name, visible(key, routes)) from None
    if key is None or key.allows(route.name):
        return route
    raise IsthmusError(
        Fault.FORBIDDEN,
        f"The key {key.id} may not use the route {route.name!r}.",
        code="route_not_allowed",
        hint=f"It may use: {', '.join(visible(key, routes)) or 'none of the routes of this config'}.",
        param="model",
    )


def visible(key: Bearer | None, routes: Mapping[str, Route]) -> list[str]:
    """The names of those routes that the key may use."""
    return [name for name in routes if key is None or key.allows(name)]


def unknown_route(name: str, known: list[str]) -> IsthmusError:
    """What to tell somebody who asks for a route that is not there; `known` are those they may know of."""
    close = get_close_matches(name[:LONGEST_NAME], known, n=1)
    listed = f"Routes: {', '.join(known)}." if known else "This key may use no route."
    return IsthmusError(
        Fault.NOT_FOUND,
        f"There is no route {name[:80]!r}.",
        code="unknown_route",
        hint=f"Did you mean {close[0]!r}? {listed}" if close else listed,
        param="model",
    )
