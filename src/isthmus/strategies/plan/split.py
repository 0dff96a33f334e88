"""`split`: shares of the traffic, by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Annotated, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

from isthmus.core.decision import Previous
from isthmus.core.portfolio import SecretRef
from isthmus.strategies.plan.node import (
    ALMOST_ONE,
    Choice,
    Circumstances,
    Node,
    Steps,
    Weights,
    once_each,
)


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


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """When an arm is stopped by itself: when it is worse than another by more than `margin`, beyond what
    chance explains.

    It answers fewer requests, or its feedback is worse. With `seconds`, also when it answers fewer of them
    within that time; with `usd`, when it answers fewer for no more than that, where both prices are known.
    `margin` is in shares of requests, or points of score. `alpha` is the chance that an arm is ever stopped
    that is no worse, over all comparisons and all time, where people leave the arms, and score them, alike
    often; where the split is sticky, the first request of each key or user counts, and its first score.
    `webhook` is where the URL is found to which that is posted, `env:NAME` or `file:PATH`.
    """

    shorthand: ClassVar[str] = "margin"

    margin: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    seconds: Annotated[float, Meta(gt=0)] | None = None
    usd: Annotated[float, Meta(gt=0)] | None = None
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    webhook: SecretRef | None = None


class Bandit(msgspec.Struct, frozen=True, kw_only=True):
    """Shares that follow the feedback: each arm has as much as it is likely to be the best (Thompson
    sampling).

    The share `explore` of all requests is dealt to all arms alike, so that each is always tried, and what is
    logged tells of any other policy.
    """

    shorthand: ClassVar[str] = "explore"

    explore: Annotated[float, Meta(gt=0, le=1)] = 0.1


class Split(Node, frozen=True, kw_only=True, tag_field="strategy", tag="split"):
    """Send each request down one of `arms`, as often as its weight says.

    `sticky` keeps a `key` or a `user` on the same arm for as long as the weights stay; a caller who is not
    known is drawn afresh each time. `salt` separates experiments, so that two splits do not put the same
    people together. `stop` stops an arm that is worse than another, and `bandit` lets the weights follow what
    people think of the answers; both are for a split that is a route's whole strategy.
    """

    keyword: ClassVar[str] = "split"
    shorthand: ClassVar[str] = "arms"

    arms: Annotated[tuple[Arm, ...], Meta(min_length=1)]
    sticky: Literal["key", "user"] | None = None
    salt: str = ""
    stop: Stop | None = None
    bandit: Bandit | None = None

    @property
    def learns(self) -> bool:
        """True where what its arms weigh may change while it runs."""
        return self.stop is not None or self.bandit is not None

    def subject(self, key: str | None, user: str | None) -> str | None:
        """Who is dealt to an arm and stays there; None where each request is drawn afresh."""
        return {"key": key, "user": user, None: None}[self.sticky]

    def shares(self, weights: Weights, refused: Collection[str]) -> dict[str, float]:
        """How likely each arm is drawn where these `weights` are in force and these models are `refused`.

        An arm of which nothing is left is not among them.
        """
        left = [arm for arm in self.arms if arm.plan.prune(lambda name: name not in refused) is not None]
        _, now = msgspec.structs.replace(self, arms=tuple(left))._weights(weights)
        return {arm.called: weight / sum(now) for arm, weight in zip(left, now, strict=True)}

    def models(self) -> tuple[str, ...]:
        return once_each([model for arm in self.arms for model in arm.plan.models()])

    def renamed(self, name: Callable[[str], str]) -> Self:
        arms = tuple(self._with(arm, arm.plan.renamed(name)) for arm in self.arms)
        return msgspec.structs.replace(self, arms=arms)

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(
            self._with(arm, pruned) for arm in self.arms if (pruned := arm.plan.prune(allowed)) is not None
        )
        if not left:
            return None
        return left[0].plan if len(left) == 1 else msgspec.structs.replace(self, arms=left)

    def _with(self, arm: Arm, plan: Node) -> Arm:
        """The arm with another plan: where something was learned of it, that is known by its name."""
        changed = msgspec.structs.replace(arm, plan=plan)
        if not self.learns or changed.called == arm.called:
            return changed
        return msgspec.structs.replace(changed, name=arm.called)

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
        own, now = self._weights(circumstances.weights)
        at, draw = _drawn(draw, own)
        if not now[at]:
            # Whom a stopped arm had goes elsewhere; all others stay where they are.
            at, draw = _drawn(draw, now)
        chosen = self.arms[at]
        circumstances = msgspec.structs.replace(circumstances, weights=())
        if whose == "requests":
            # What is left of the draw is fresh again: a split inside would else always fall the same way.
            circumstances = msgspec.structs.replace(circumstances, draw=draw)
        inner = chosen.plan.choose(circumstances)
        share = now[at] / sum(now)
        called = ", ".join(chosen.plan.models())
        named = called if chosen.name is None else f"{chosen.name} ({called})"
        reason = f"split: {share:.0%} of {whose} go to {named}"
        arms = (chosen.called, *inner.arms)
        return Choice(inner.node, share * inner.propensity, (reason, *inner.reasons), arms)

    def steps(self) -> Steps:
        raise AssertionError("a split is settled by choose() before it is run")

    def _weights(self, weights: Weights) -> tuple[list[float], list[float]]:
        """What the arms weigh before any is stopped, and what they weigh now."""
        own = [arm.weight for arm in self.arms]
        changed = dict(weights) if self.learns else {}
        now = [changed.get(arm.called, arm.weight) for arm in self.arms]
        if not any(now):
            # What is left of the arms was stopped in favour of others, which this request may not reach.
            return own, own
        return (own if self.bandit is None else now), now

    def _draw(self, circumstances: Circumstances) -> tuple[float, str]:
        """A number in [0, 1), and whose it is in words."""
        unit = self.subject(circumstances.key, circumstances.user)
        if unit is None:
            return circumstances.draw, "requests"
        digest = hashlib.blake2b(f"{self.salt}\0{unit}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64, f"{self.sticky}s"


def _drawn(draw: float, weights: list[float]) -> tuple[int, float]:
    """The place on which a draw falls by these weights, and what is left of the draw, which is fresh
    again."""
    mark = draw * sum(weights)
    for at, weight in enumerate(weights):
        if mark < weight:
            return at, min(mark / weight, ALMOST_ONE)
        mark -= weight
    last = max(at for at, weight in enumerate(weights) if weight)
    return last, ALMOST_ONE
