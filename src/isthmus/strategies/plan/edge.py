"""`edge`: a far model while it can be reached, and a near one meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import msgspec

from isthmus.core.decision import Previous
from isthmus.strategies.plan.fallback import Fallback
from isthmus.strategies.plan.node import Choice, Circumstances, Node, Steps, once_each


class Edge(Node, frozen=True, kw_only=True, tag_field="strategy", tag="edge"):
    """Ask by `far`; where that fails, or is left alone for having failed, ask by `near`.

    Whether it is left alone is its provider's `breaker` to say: after how many failures, for how long, and
    by how few requests at a time it is tried for its first `recovery` seconds. All others stay near.
    """

    keyword: ClassVar[str] = "edge"
    shorthand: ClassVar[str] = "far"

    far: Node
    near: Node

    def models(self) -> tuple[str, ...]:
        return once_each([*self.far.models(), *self.near.models()])

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(self, far=self.far.renamed(name), near=self.near.renamed(name))

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        far, near = self.far.prune(allowed), self.near.prune(allowed)
        if far is None or near is None:
            return far or near
        return Edge(far=far, near=near)

    def plain(self) -> Node:
        return Edge(far=self.far.plain(), near=self.near.plain())

    def staying(self, previous: Previous) -> Node | None:
        far = self.far.staying(previous)
        if far is not None:
            return Edge(far=far, near=self.near)
        near = self.near.staying(previous)
        return Fallback(plans=(near, self.far)) if near is not None else None

    def words(self) -> str:
        return f"{self.far.words()}; and {self.near.words()} while that cannot be reached or is coming back"

    def choose(self, circumstances: Circumstances) -> Choice:
        choice = self._either().choose(circumstances)
        assert isinstance(choice.node, Fallback), "what is drawn of a fallback is one"
        far, near = choice.node.plans
        return msgspec.structs.replace(choice, node=Edge(far=far, near=near))

    def steps(self) -> Steps:
        return (yield from self._either().steps())

    def _either(self) -> Fallback:
        return Fallback(plans=(self.far, self.near))
