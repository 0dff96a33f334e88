"""Recorded requests looked at again, by other rules than those that were in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from isthmus.config.config import Config
from isthmus.core.errors import IsthmusError
from isthmus.core.label import Label
from isthmus.core.record import Grounds
from isthmus.gateway.inspection import Inspection
from isthmus.perimeter.policy import by_kind
from isthmus.routing.route import Route, resolve
from isthmus.store.history import Again, Past

_to_grounds = msgspec.json.Decoder(Grounds).decode


class Rescanner:
    """Looks into the requests whose texts were kept; the others stay as they are.

    Headers were not kept: what a provider may have read in them is not looked at.
    """

    def __init__(
        self,
        config: Config,
        inspection: Inspection,
        bodies: Callable[[Sequence[Past]], Mapping[str, bytes]],
    ) -> None:
        self._config = config
        self._inspection = inspection
        self._bodies = bodies
        self._cards: dict[str, frozenset[str]] = {}

    def look(self, some: Sequence[Past]) -> list[Past]:
        """The same requests, with what is seen in them now."""
        if not self._inspection.looks:
            return list(some)
        kept = self._bodies(some)
        return [self._looked_at(past, kept[past.id]) if past.id in kept else past for past in some]

    def _looked_at(self, past: Past, body: bytes) -> Past:
        grounds = Grounds() if past.grounds is None else _to_grounds(past.grounds)
        try:
            route = resolve(grounds.asked or past.route, self._config.routes)
            said = [self._inspection.policy.said(name) for name in grounds.said]
        except IsthmusError:
            # Nothing will be decided, whatever is in it.
            return past
        known = self._inspection.look(
            body,
            [route.floor, grounds.floor, grounds.before, *said],
            talks=past.operation != "embeddings",
            barred=self._barred(route),
        )
        kinds, card = frozenset(by_kind(known.seen)), self._in_card(route, past.operation)
        seen = Again(
            kinds=kinds | card,
            blind=bool(known.seen.blind),
            unlooked=tuple(kind for kind in known.seen.unlooked if kind not in card),
            # What is found in the card was not looked at together with the rest.
            hidden=known.hidden.label if known.hidden is not None and not card else None,
        )
        return past._replace(again=seen)

    def _in_card(self, route: Route, operation: str) -> frozenset[str]:
        """What is found in the route's style card, which is kept with no request."""
        if route.style is None or operation == "embeddings":
            return frozenset()
        known = self._cards.get(route.name)
        if known is None:
            said = {"messages": [{"role": "system", "content": route.style.card}]}
            seen = self._inspection.look(msgspec.json.encode(said), ()).seen
            known = self._cards[route.name] = frozenset(by_kind(seen))
        return known

    def _barred(self, route: Route) -> Callable[[Label], bool]:
        policy = self._inspection.policy
        models = [self._config.models[name] for name in route.models()]
        return lambda label: any(policy.refuses(model, label) is not None for model in models)
