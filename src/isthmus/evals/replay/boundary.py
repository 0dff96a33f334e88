"""Where a request was, or would be: inside your own walls, on machines that you rent, with a provider."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from isthmus.core.portfolio import Kind

_OUTWARD: dict[Kind, int] = {"local": 0, "open": 1, "closed": 2}


class Place(NamedTuple):
    """Where a model runs that receives a request; `veiled` where it sees pseudonyms only."""

    kind: Kind
    zone: str | None
    veiled: bool = False

    def __str__(self) -> str:
        zone = f" in {self.zone}" if self.zone else ""
        return f"{self.kind}{zone}{' with pseudonyms' if self.veiled else ''}"

    def within(self, other: Place) -> bool:
        """True where who is in `other` already has the request: nothing new is let out by coming here.

        It is not farther out, in the same zone, and reads no more. What is local is within anything.
        """
        if self.kind == "local":
            return True
        farther = _OUTWARD[self.kind] > _OUTWARD[other.kind]
        return not farther and self.zone == other.zone and (self.veiled or not other.veiled)


def crossed(after: Collection[Place], before: Collection[Place]) -> list[Place]:
    """Those of the places `after` that are beyond the boundary, and beyond every place of `before`."""
    return [
        place for place in after if place.kind != "local" and not any(place.within(known) for known in before)
    ]


def named(places: Collection[Place]) -> str:
    """The places in words."""
    return ", ".join(sorted(map(str, places))) or "nowhere"
