"""What a strategy is: pure data with a generator that says, step by step, what to do next.

A strategy never calls anything. It yields effects, the interpreter performs them and sends back what came of
them. So a strategy can be tested without a socket, and the interpreter is the only door through which a model
is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Annotated, ClassVar, Self, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.core.amendment import Amendment
from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.core.record import Purpose


class Attempt(msgspec.Struct, frozen=True):
    """Effect: call `model` once and pass its answer on to the client as it comes."""

    model: str
    amendment: Amendment | None = None


class Draft(msgspec.Struct, frozen=True):
    """Effect: call `model` once and keep its answer from the client; see `Result.kept`."""

    model: str
    amendment: Amendment | None = None
    purpose: Purpose = "draft"


class Begin(msgspec.Struct, frozen=True):
    """Effect: start a draft, and go on at once. The answer sent back is None.

    What is still running when the plan ends is cut off.
    """

    draft: Draft


class Next(msgspec.Struct, frozen=True):
    """Effect: wait for whichever of the begun drafts ends next. The answer sent back is its result, or None
    where none is left, or none has ended within `seconds`."""

    seconds: float | None = None


class Race(msgspec.Struct, frozen=True):
    """Effect: attempt `first`; where it has said nothing after `seconds`, attempt `second` beside it. The
    answer of whichever speaks first is passed on, and the other is cut off."""

    first: Attempt
    second: Attempt
    seconds: float


class Deliver(msgspec.Struct, frozen=True):
    """Effect: a kept answer becomes the client's."""

    kept: Kept


class Assess(msgspec.Struct, frozen=True):
    """Effect: judge a kept answer, given what others said `beside` it. The answer sent back is a Verdict."""

    kept: Kept
    by: Acceptance
    beside: tuple[Kept, ...] = ()


class Say(msgspec.Struct, frozen=True):
    """Effect: keep in the record what was made of a kept answer. The answer sent back is None."""

    kept: Kept
    verdict: str
    confidence: float | None = None


class Wait(msgspec.Struct, frozen=True):
    """Effect: let `seconds` pass. The answer sent back is None."""

    seconds: float


Effect: TypeAlias = Attempt | Draft | Begin | Next | Race | Deliver | Assess | Say | Wait


class Kept(msgspec.Struct, frozen=True):
    """The whole answer of an attempt, kept from the client."""

    model: str
    number: int
    pieces: tuple[Piece, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """What came of an attempt. `committed`: some of the answer has gone to the client, so nothing may be
    tried instead. `kept` is the answer of a draft that did not fail.
    """

    model: str
    error: IsthmusError | None = None
    committed: bool = False
    kept: Kept | None = None

    @property
    def final(self) -> bool:
        """True where the request is over: it was answered, or something of an answer has been seen by the
        client.
        """
        return self.error is None or self.committed


class Verdict(msgspec.Struct, frozen=True):
    """Whether an answer is good enough, how sure that is, and why, in words."""

    accepted: bool
    confidence: float | None
    why: str


Steps: TypeAlias = Generator[Effect, Result | Verdict | None, Result]


def attempted(effect: Effect) -> Generator[Effect, Result | Verdict | None, Result]:
    """Performs an effect that is answered by a result."""
    result = yield effect
    assert isinstance(result, Result), "an attempt is answered by its result"
    return result


def assessed(effect: Assess) -> Generator[Effect, Result | Verdict | None, Verdict]:
    """Performs an assessment."""
    verdict = yield effect
    assert isinstance(verdict, Verdict), "an assessment is answered by its verdict"
    return verdict


def changed(steps: Steps, amendment: Amendment) -> Steps:
    """The same steps, with every question amended."""
    return (yield from _mapped(steps, lambda effect: _with(effect, amendment)))


def kept(steps: Steps, purpose: Purpose = "draft") -> Steps:
    """The same steps, with the answer kept from the client; it is in the result."""
    reply: Result | Verdict | None = None
    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        match effect:
            case Attempt(model, amendment) | Race(Attempt(model, amendment)):
                # Nobody sees which of two drafts speaks first: one will do.
                reply = yield Draft(model, amendment, purpose)
            case Deliver(answer):
                reply = Result(answer.model, kept=answer)
            case _:
                reply = yield effect


def _mapped(steps: Steps, change: Callable[[Effect], Effect]) -> Steps:
    reply: Result | Verdict | None = None
    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        reply = yield change(effect)


def _with(effect: Effect, amendment: Amendment) -> Effect:
    match effect:
        case Attempt() | Draft():
            return msgspec.structs.replace(effect, amendment=amendment.join(effect.amendment))
        case Begin(draft):
            return Begin(msgspec.structs.replace(draft, amendment=amendment.join(draft.amendment)))
        case Race(first, second, seconds):
            first = msgspec.structs.replace(first, amendment=amendment.join(first.amendment))
            second = msgspec.structs.replace(second, amendment=amendment.join(second.amendment))
            return Race(first, second, seconds)
        case _:
            return effect


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """When an answer is good enough. Everything that is said must hold; nothing said accepts what is whole.

    `schema` wants JSON that fits the form that the caller asked for, or any JSON where none was. `refuses`
    False takes no refusal for an answer. `logprob` is the least mean log-probability of the answer's tokens,
    `agreement` the least share of the other answers that say the same. `complete` False takes a truncated
    answer, too.
    """

    schema: bool = False
    refuses: bool = False
    complete: bool = True
    logprob: Annotated[float, Meta(le=0)] | None = None
    agreement: Annotated[float, Meta(gt=0, le=1)] | None = None


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
