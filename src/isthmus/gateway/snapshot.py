"""One config, ready to serve. A request keeps the snapshot it began with; a reload swaps the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isthmus.config.config import Config
from isthmus.gateway.foresight import Foresights
from isthmus.gateway.inspection import Inspection
from isthmus.gateway.silences import awaited_in
from isthmus.providers.upstream import Upstream
from isthmus.routing.decide import Router
from isthmus.routing.route import Route, route_of, visible
from isthmus.store.keys import Key


class Snapshot:
    """The config, its router, what looks into requests and ahead, and every model ready to be called.

    `retire` is called once, when a newer snapshot has taken over and the last request of this one has ended.
    """

    def __init__(
        self,
        config: Config,
        router: Router,
        upstreams: Mapping[str, Upstream],
        inspection: Inspection,
        foresights: Foresights,
        retire: Callable[[], None],
    ) -> None:
        self.config = config
        self.router = router
        self.upstreams = upstreams
        self.inspection = inspection
        self.foresights = foresights
        self.max_body = int(config.gateway.max_body_mb * 1_000_000)
        self.forwarded = frozenset(
            name.lower().encode("ascii")
            for provider in config.providers.values()
            for name in provider.forward_headers
        )
        """The callers' headers, in lower case, that some provider gets to see."""
        self.awaited = {
            (name, thrifty): awaited_in(route.plan_for(thrifty))
            for name, route in config.routes.items()
            for thrifty in (False, True)
        }
        """By whose silence the hedges of a route go, thrifty or not."""
        self._retire = retire
        self._holders = 1

    def hold(self) -> None:
        """One more request runs on this snapshot."""
        self._holders += 1

    def release(self) -> None:
        """One request less, or a newer snapshot has taken over; the last one out turns off the light."""
        self._holders -= 1
        if self._holders == 0:
            self._retire()

    def route(self, name: str, key: Key | None) -> Route:
        """The route that this key means by that name. Raises IsthmusError(NOT_FOUND or FORBIDDEN)."""
        return route_of(name, key, self.config.routes)

    def visible(self, key: Key | None) -> list[str]:
        """The routes that the key may use."""
        return visible(key, self.config.routes)
