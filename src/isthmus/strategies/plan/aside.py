"""What is done with a request aside, once its client has been answered, and strategies that have it done."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from isthmus.core.decision import Previous
from isthmus.strategies.plan.node import Choice, Circumstances, Kept, Node, Steps, within


class Accompanied(Node, frozen=True, kw_only=True):
    """Answers as the strategy `of` does; for a `share` of the requests something is done aside, too.

    Embeddings and counts of tokens are only answered.
    """

    casts: ClassVar[bool] = True

    of: Node
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def plain(self) -> Node:
        return self.of.plain()

    def staying(self, previous: Previous) -> Node | None:
        of = self.of.staying(previous)
        return msgspec.structs.replace(self, of=of) if of is not None else None

    def choose(self, circumstances: Circumstances) -> Choice:
        drawn, rest = within(circumstances, self.share)
        inner = self.of.choose(rest)
        if not drawn:
            return inner
        # What is done aside changes nothing of what the client gets, and so not how likely that was.
        return msgspec.structs.replace(inner, node=msgspec.structs.replace(self, of=inner.node))

    def steps(self) -> Steps:
        return (yield from self.of.steps())


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
