"""Where a request was, or would be: inside your own walls, on machines that you rent, with a provider."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from isthmus.core.portfolio import Kind, Model, Provider

_OUTWARD: dict[Kind, int] = {"local": 0, "open": 1, "closed": 2}


class Place(NamedTuple):
    """Where a model runs that receives a request; `veiled` where it sees pseudonyms only.

    `host` is who receives it: the host of the provider's URL, or the provider's name where that has none.
    """

    kind: Kind
    zone: str | None
    host: str
    veiled: bool = False

    def __str__(self) -> str:
        zone = f" in {self.zone}" if self.zone else ""
        # Inside of your own walls nobody else receives it.
        host = f" at {self.host}" if self.kind != "local" else ""
        return f"{self.kind}{zone}{host}{' with pseudonyms' if self.veiled else ''}"

    def within(self, other: Place) -> bool:
        """True where who is in `other` already has the request: nothing new is let out by coming here.

        It is the same host, in the same zone, by no kind that is farther out, and reads no more. What is
        local is within anything. A machine that is rented is another party's than a closed provider's.
        """
        if self.kind == "local":
            return True
        there = self.host == other.host and _OUTWARD[self.kind] <= _OUTWARD[other.kind]
        return there and self.zone == other.zone and (self.veiled or not other.veiled)


class Portfolio(NamedTuple):
    """The models of a config, and the providers that run them."""

    models: Mapping[str, Model]
    providers: Mapping[str, Provider]

    def place(self, name: str, veiled: bool = False) -> Place:
        """Where the model of that name runs; one that nobody knows any more runs anywhere, with anybody."""
        model = self.models.get(name)
        if model is None:
            return Place("closed", None, "an unknown host", veiled)
        return Place(model.kind, model.zone, self._host(model), veiled)

    def is_the_same(self, name: str, other: Portfolio) -> bool:
        """True where the other knows the model of that name as the same one in the same place."""
        one, two = self.models[name], other.models[name]
        return (one.provider, one.id, one.weights) == (two.provider, two.id, two.weights) and self.place(
            name
        ) == other.place(name)

    def _host(self, model: Model) -> str:
        provider = self.providers.get(model.provider)
        url = provider.base_url if provider is not None else None
        return (urlsplit(url).hostname if url is not None else None) or model.provider


def crossed(after: Collection[Place], before: Collection[Place]) -> list[Place]:
    """Those of the places `after` that are beyond the boundary, and beyond every place of `before`."""
    return [
        place for place in after if place.kind != "local" and not any(place.within(known) for known in before)
    ]


def named(places: Collection[Place]) -> str:
    """The places in words."""
    return ", ".join(sorted(set(map(str, places)))) or "nowhere"
