"""What a strategy is: pure data with a generator that says, step by step, what to do next.

A strategy never calls anything. It yields effects, the interpreter performs them and sends back what came of
them. So a strategy can be tested without a socket, and the interpreter is the only door through which a model
is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import ClassVar, Self, TypeAlias

import msgspec

from isthmus.core.errors import IsthmusError


class Attempt(msgspec.Struct, frozen=True):
    """Effect: call `model` once and pass its answer on to the client as it comes."""

    model: str


class Wait(msgspec.Struct, frozen=True):
    """Effect: let `seconds` pass. The answer sent back is None."""

    seconds: float


Effect: TypeAlias = Attempt | Wait


class Result(msgspec.Struct, frozen=True):
    """What came of an attempt. `committed`: some of the answer has gone to the client, so nothing may be
    tried instead.
    """

    model: str
    error: IsthmusError | None = None
    committed: bool = False

    @property
    def final(self) -> bool:
        """True where the request is over: it was answered, or something of an answer has been seen by the
        client.
        """
        return self.error is None or self.committed


Steps: TypeAlias = Generator[Effect, Result | None, Result]


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan may depend on besides the config, handed in so that the same circumstances give the same
    plan.

    `draw` is a number in [0, 1) that is fresh for each request; `key` and `user` identify who asks, where
    known.
    """

    draw: float
    key: str | None = None
    user: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """A plan with its alternatives settled: what remains of it, how likely that was, and why, in words."""

    node: Node
    propensity: float = 1.0
    reasons: tuple[str, ...] = ()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy in a plan. Its config keyword is `keyword`; a bare value under that keyword fills the field
    `shorthand`.
    """

    keyword: ClassVar[str]
    shorthand: ClassVar[str]

    def models(self) -> tuple[str, ...]:
        """Every model that this plan may call, in order, each once."""
        raise NotImplementedError

    def prune(self, allowed: Callable[[str], bool]) -> Self | Node | None:
        """This plan without the models that are not allowed; None where nothing is left."""
        raise NotImplementedError

    def choose(self, circumstances: Circumstances) -> Choice:
        """This plan with every draw made."""
        raise NotImplementedError

    def steps(self) -> Steps:
        """The effects to perform, one after the other; returns the last result."""
        raise NotImplementedError


def once_each(names: list[str]) -> tuple[str, ...]:
    """The names in order of first appearance."""
    return tuple(dict.fromkeys(names))
