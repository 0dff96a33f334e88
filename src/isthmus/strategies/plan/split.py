"""`split`: shares of the traffic, by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from isthmus.core.decision import Previous
from isthmus.strategies.plan.node import ALMOST_ONE, Choice, Circumstances, Node, Steps, once_each


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One share: a `plan` and its `weight` relative to the others.

    `name` is what the record calls it; without one, its models tell.
    """

    plan: Node
    weight: Annotated[float, Meta(gt=0)] = 1.0
    name: str | None = None

    @property
    def called(self) -> str:
        """What the record calls it."""
        return self.name or ", ".join(self.plan.models())


class Split(Node, frozen=True, kw_only=True, tag_field="strategy", tag="split"):
    """Send each request down one of `arms`, as often as its weight says.

    `sticky` keeps a `key` or a `user` on the same arm for as long as the weights stay; a caller who is not
    known is drawn afresh each time. `salt` separates experiments, so that two splits do not put the same
    people together.
    """

    keyword: ClassVar[str] = "split"
    shorthand: ClassVar[str] = "arms"

    arms: Annotated[tuple[Arm, ...], Meta(min_length=1)]
    sticky: Literal["key", "user"] | None = None
    salt: str = ""

    def models(self) -> tuple[str, ...]:
        return once_each([model for arm in self.arms for model in arm.plan.models()])

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(
            msgspec.structs.replace(arm, plan=pruned)
            for arm in self.arms
            if (pruned := arm.plan.prune(allowed)) is not None
        )
        if not left:
            return None
        return left[0].plan if len(left) == 1 else Split(arms=left, sticky=self.sticky, salt=self.salt)

    def plain(self) -> Node:
        arms = tuple(msgspec.structs.replace(arm, plan=arm.plan.plain()) for arm in self.arms)
        return msgspec.structs.replace(self, arms=arms)

    def staying(self, previous: Previous) -> Node | None:
        # Several arms may call the model: the one that was drawn counts.
        known = sorted(self.arms, key=lambda arm: arm.called not in previous.arms)
        for arm in known:
            plan = arm.plan.staying(previous)
            if plan is not None:
                stays = msgspec.structs.replace(arm, plan=plan, name=arm.called)
                return msgspec.structs.replace(self, arms=(stays,))
        return None

    def words(self) -> str:
        raise AssertionError("a split is settled by choose() before it is told of")

    def choose(self, circumstances: Circumstances) -> Choice:
        draw, whose = self._draw(circumstances)
        total = sum(arm.weight for arm in self.arms)
        mark = draw * total
        chosen = self.arms[-1]
        for arm in self.arms:
            if mark < arm.weight:
                chosen = arm
                break
            mark -= arm.weight
        if whose == "requests":
            # What is left of the draw is fresh again: a split inside would else always fall the same way.
            left = min(mark / chosen.weight, ALMOST_ONE)
            circumstances = msgspec.structs.replace(circumstances, draw=left)
        inner = chosen.plan.choose(circumstances)
        share = chosen.weight / total
        called = ", ".join(chosen.plan.models())
        named = called if chosen.name is None else f"{chosen.name} ({called})"
        reason = f"split: {share:.0%} of {whose} go to {named}"
        arms = (chosen.called, *inner.arms)
        return Choice(inner.node, share * inner.propensity, (reason, *inner.reasons), arms)

    def steps(self) -> Steps:
        raise AssertionError("a split is settled by choose() before it is run")

    def _draw(self, circumstances: Circumstances) -> tuple[float, str]:
        """A number in [0, 1), and whose it is in words."""
        unit = {"key": circumstances.key, "user": circumstances.user, None: None}[self.sticky]
        if unit is None:
            return circumstances.draw, "requests"
        digest = hashlib.blake2b(f"{self.salt}\0{unit}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64, f"{self.sticky}s"
