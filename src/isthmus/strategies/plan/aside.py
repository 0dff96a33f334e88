"""What is done with a request aside, once its client has been answered."""

from __future__ import annotations

from isthmus.strategies.plan.node import Kept, Node


class Aside(Node, frozen=True, kw_only=True):
    """A plan that no client waits for. It has a record of its own, is called inside of the perimeter, and is
    paid from the same budgets.

    `answer` is what the client was answered, None where that was not heard.
    """

    answer: Kept | None = None

    @property
    def asked(self) -> str:
        """The model that it is about: the one that its record names."""
        raise NotImplementedError

    def reason(self, of: str) -> str:
        """Why it is carried out, in words; `of` is the id of the request."""
        raise NotImplementedError
