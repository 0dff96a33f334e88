"""What a strategy is: pure data with a generator that says, step by step, what to do next.

A strategy never calls anything. It yields effects, the interpreter performs them and sends back what came of
them. So a strategy can be tested without a socket, and the interpreter is the only door through which a model
is reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Annotated, ClassVar, Literal, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from isthmus.core.amendment import Amendment
from isthmus.core.calibrator import Calibrator
from isthmus.core.decision import Previous, Silence
from isthmus.core.errors import IsthmusError
from isthmus.core.foresight import Foresight
from isthmus.core.pieces import Piece
from isthmus.core.record import Purpose


class Attempt(msgspec.Struct, frozen=True):
    """Effect: call `model` once and pass its answer on to the client as it comes."""

    model: str
    amendment: Amendment | None = None


class Early(msgspec.Struct, frozen=True, kw_only=True):
    """What the first `tokens` of an answer decide about it, by the mean of their log-probabilities.

    Below `logprob` the rest is not waited for: the answer is cut off, and rejected. From `surely` on it is
    accepted, and streamed at once: nothing else is demanded of it but that it does not begin as a refusal.
    """

    tokens: Annotated[int, Meta(ge=1, le=1024)] = 16
    logprob: Annotated[float, Meta(le=0)] | None = None
    surely: Annotated[float, Meta(le=0)] | None = None

    def words(self) -> str:
        """What is decided so, in words."""
        cut = f"cut off below {self.logprob:g}" if self.logprob is not None else ""
        sure = f"streamed at once from {self.surely:g} on" if self.surely is not None else ""
        decided = ", ".join(filter(None, (cut, sure)))
        return f"not {decided} by the mean log-probability of its first {self.tokens} tokens"


Opening: TypeAlias = Literal["short", "open", "hopeless", "sure"]
"""What the beginning of an answer says: it is too `short` yet, leaves it `open`, or decides."""


class Draft(msgspec.Struct, frozen=True):
    """Effect: call `model` once and keep its answer from the client; see `Result.kept`.

    By `early`, its beginning may decide: it is cut off, and `Kept.whole` is False; or it is passed on to the
    client from there on, like an attempt. `shown` lets the client see it as it comes, all but its end: before
    another answer begins, it is told that this one does not count.
    """

    model: str
    amendment: Amendment | None = None
    purpose: Purpose = "draft"
    early: Early | None = None
    shown: bool = False


class Begin(msgspec.Struct, frozen=True):
    """Effect: start drafts side by side, and go on at once. The answer sent back is None.

    Who begins has to end: `Next` and `CutOff` are about the drafts that were begun last and not cut off yet,
    so that a plan may begin others inside of another. What is still running when the whole plan ends is cut
    off, too.
    """

    drafts: tuple[Draft, ...]


class Next(msgspec.Struct, frozen=True):
    """Effect: wait for whichever of the begun drafts ends next. The answer sent back is its result, with its
    place among them, or None where none is left, or none has ended within `seconds` of their beginning."""

    seconds: float | None = None


class CutOff(msgspec.Struct, frozen=True):
    """Effect: end what is running still of the begun drafts. The answer sent back is None."""


class Race(msgspec.Struct, frozen=True):
    """Effect: attempt `first`; where it has said nothing after `seconds`, attempt `second` beside it. The
    answer of whichever speaks first is passed on, and the other is cut off. With None, `second` is attempted
    only where `first` fails."""

    first: Attempt
    second: Attempt
    seconds: float | None


class Deliver(msgspec.Struct, frozen=True):
    """Effect: a kept answer becomes the client's."""

    kept: Kept


class Assess(msgspec.Struct, frozen=True):
    """Effect: judge a kept answer, given what others said `beside` it, and what its own model said when it
    was asked to check it. The answer sent back is a Verdict."""

    kept: Kept
    by: Acceptance
    beside: tuple[Kept, ...] = ()
    check: Kept | None = None


class Say(msgspec.Struct, frozen=True):
    """Effect: keep in the record what was made of a kept answer. The answer sent back is None."""

    kept: Kept
    verdict: str
    confidence: float | None = None


class Load(msgspec.Struct, frozen=True):
    """Effect: ask how many attempts at `model` are under way in this gateway. The answer sent back is that
    number."""

    model: str


class Wait(msgspec.Struct, frozen=True):
    """Effect: let `seconds` pass. The answer sent back is None."""

    seconds: float


Effect: TypeAlias = Attempt | Draft | Begin | Next | CutOff | Race | Load | Deliver | Assess | Say | Wait


class Kept(msgspec.Struct, frozen=True):
    """The answer of an attempt, kept from the client; not `whole` where it was cut off for its beginning."""

    model: str
    number: int
    pieces: tuple[Piece, ...] = ()
    whole: bool = True


class Result(msgspec.Struct, frozen=True):
    """What came of an attempt. `committed`: some of the answer has gone to the client, so nothing may be
    tried instead. `kept` is the answer of a draft that did not fail, `place` its place among those that were
    begun with it.
    """

    model: str
    error: IsthmusError | None = None
    committed: bool = False
    kept: Kept | None = None
    place: int = 0

    @property
    def final(self) -> bool:
        """True where the request is over: it was answered, or something of an answer has been seen by the
        client.
        """
        return self.error is None or self.committed

    @property
    def hands_over(self) -> bool:
        """True where it failed, and another model may answer yet."""
        return not self.final and self.error is not None and self.error.fault.falls_back


class Verdict(msgspec.Struct, frozen=True):
    """Whether an answer is good enough, how sure that is, and why, in words."""

    accepted: bool
    confidence: float | None
    why: str


Reply: TypeAlias = Result | Verdict | int | None
"""What is sent back to a plan for an effect."""

T = TypeVar("T")

Doing: TypeAlias = Generator[Effect, Reply, T]
"""A part of a plan: it performs effects, and results in a T."""

Steps: TypeAlias = Doing[Result]
"""A whole plan: it performs effects, and the last result is its own."""


def attempted(effect: Effect) -> Doing[Result]:
    """Performs an effect that is answered by a result."""
    result = yield effect
    assert isinstance(result, Result), "an attempt is answered by its result"
    return result


def assessed(effect: Assess) -> Doing[Verdict]:
    """Performs an assessment."""
    verdict = yield effect
    assert isinstance(verdict, Verdict), "an assessment is answered by its verdict"
    return verdict


def changed(steps: Steps, amendment: Amendment) -> Steps:
    """The same steps, with every question amended."""
    return (yield from _mapped(steps, lambda effect: _with(effect, amendment)))


def begun(steps: Steps, early: Early) -> Steps:
    """The same steps, with each draft judged by its beginning."""

    def judged(effect: Effect) -> Effect:
        if not isinstance(effect, Draft):
            return effect
        asked = Amendment(logprobs=True, streamed=True).join(effect.amendment)
        return msgspec.structs.replace(effect, amendment=asked, early=early)

    return (yield from _mapped(steps, judged))


def shown(steps: Steps) -> Steps:
    """The same steps, with each draft of an answer seen by the client as it comes."""

    def seen(effect: Effect) -> Effect:
        if not isinstance(effect, Draft) or effect.purpose != "draft":
            return effect
        return msgspec.structs.replace(effect, shown=True)

    return (yield from _mapped(steps, seen))


def gathered(drafts: tuple[Draft, ...], seconds: float | None = None) -> Doing[list[Result]]:
    """Performs drafts side by side; their results, in their order, as far as they came within `seconds`."""
    yield Begin(drafts)
    results: list[Result] = []
    while (result := (yield Next(seconds))) is not None:
        assert isinstance(result, Result), "a draft is answered by its result"
        results.append(result)
    yield CutOff()
    return sorted(results, key=lambda it: it.place)


def kept(steps: Steps, purpose: Purpose = "draft") -> Steps:
    """The same steps, with the answer kept from the client; it is in the result."""
    reply: Reply = None
    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            ended: Result = stop.value
            return ended
        match effect:
            case Attempt(model, amendment):
                reply = yield Draft(model, amendment, purpose)
            case Draft(early=early):
                # Whoever keeps the whole has not judged it yet: nothing of it is passed on.
                unsure = early and msgspec.structs.replace(early, surely=None)
                reply = yield msgspec.structs.replace(effect, early=unsure, shown=False)
            case Race(first, second):
                # Nobody sees which of two drafts speaks first: the second is for where the first fails.
                result = yield from attempted(Draft(first.model, first.amendment, purpose))
                if result.hands_over:
                    result = yield from attempted(Draft(second.model, second.amendment, purpose))
                reply = result
            case Deliver(answer):
                reply = Result(answer.model, kept=answer)
            case _:
                reply = yield effect


def _mapped(steps: Steps, change: Callable[[Effect], Effect]) -> Steps:
    reply: Reply = None
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
        case Begin(drafts):
            return Begin(
                tuple(msgspec.structs.replace(it, amendment=amendment.join(it.amendment)) for it in drafts)
            )
        case Race(first, second, seconds):
            first = msgspec.structs.replace(first, amendment=amendment.join(first.amendment))
            second = msgspec.structs.replace(second, amendment=amendment.join(second.amendment))
            return Race(first, second, seconds)
        case _:
            return effect


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration says of a step: accept answers of whom `calibrator` is sure by `threshold` or more.

    `file` is its path, as the config says it, and `sha256` that of what stood there. `asked_at_us` is when
    the first of the answers was given that it was made from. `stale` says what has changed since, so that it
    promises nothing any more; it is empty while it holds.
    """

    file: str
    sha256: str = ""
    asked_at_us: int = 0
    calibrator: Calibrator | None = None
    threshold: float = math.inf
    stale: tuple[str, ...] = ()

    @property
    def weighs_costs(self) -> bool:
        """True where what escalating costs has a part in whether an answer is accepted."""
        return self.calibrator is not None and self.calibrator.escalation is not None

    def words(self) -> str:
        """What it demands, in words."""
        return f"as sure as {self.file} demands" + (" for what escalating costs" if self.weighs_costs else "")

    def __hash__(self) -> int:
        # Weights by name do not hash; the file's hash stands for them.
        return hash((self.file, self.sha256, self.stale))


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What a `choose` knows of its learned router besides what that foresees of a request.

    `file` is its path, as the config says it, and `sha256` that of what stood there. `overall` has the mean
    score of each model that it was learned for, the best one first. `asked_at_us` is when the first of the
    answers was given that it was learned from. `stale` says what has changed since, so that what it foresees
    is no longer known to be true; it is empty while it holds.
    """

    file: str
    sha256: str = ""
    asked_at_us: int = 0
    overall: tuple[tuple[str, float], ...] = ()
    stale: tuple[str, ...] = ()


class Empanelled(msgspec.Struct, frozen=True, kw_only=True):
    """What a vote knows of its learned panel: who votes, with what weight.

    `file` is its path, as the config says it, and `sha256` that of what stood there. `weights` are those of
    the members that vote; where that is one alone, `why` says why. `overall` has the mean score of each model
    that it was learned of, the best one first. `asked_at_us` is when the first of the answers was given that
    it was learned from. `stale` says what has changed since, so that it is no longer known to be right; it is
    empty while it is.
    """

    file: str
    sha256: str = ""
    asked_at_us: int = 0
    weights: tuple[tuple[str, float], ...] = ()
    why: str = "nothing was learned of a vote"
    overall: tuple[tuple[str, float], ...] = ()
    stale: tuple[str, ...] = ()

    def renamed(self, name: Callable[[str], str]) -> Self:
        """This panel with every model in it called by another name."""
        weights, overall = (
            tuple((name(model), number) for model, number in them) for them in (self.weights, self.overall)
        )
        return msgspec.structs.replace(self, weights=weights, overall=overall)


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """What is demanded of an answer; all of it must hold, and something must be said.

    `schema` wants JSON that fits the form that the caller asked for, or any JSON where none was. `refuses`
    `true` takes a refusal for an answer. `complete` `false` takes what was cut short. `logprob` is the least
    mean log-probability of the answer's tokens. `agreement` is the least share of the other answers that say
    the same. `self_check` is the least probability that its own model gives it when it is asked, in a call of
    its own, whether it is right. `calibration` is a file that `isthmus calibrate` made: the answer's
    confidence by it reaches its threshold. `early` says what its first tokens decide already. Of several
    choices (`n`), the words of the first are judged.
    """

    schema: bool = False
    refuses: bool = False
    complete: bool = True
    logprob: Annotated[float, Meta(le=0)] | None = None
    agreement: Annotated[float, Meta(gt=0, le=1)] | None = None
    self_check: Annotated[float, Meta(gt=0, le=1)] | None = None
    calibration: Calibrated | None = None
    early: Early | None = None

    @property
    def reads_logprobs(self) -> bool:
        """True where an answer is judged by the log-probabilities of its tokens."""
        return self.logprob is not None or self.calibration is not None or self.early is not None

    def words(self) -> str:
        """What is demanded, in words."""
        demands = [
            "whole" if self.complete else "",
            "no refusal" if not self.refuses else "",
            "JSON of the form asked for" if self.schema else "",
            f"of a mean log-probability of {self.logprob:g} or more" if self.logprob is not None else "",
            f"the same as {self.agreement:.0%} of the others" if self.agreement is not None else "",
            f"right by its own check with {self.self_check:.0%}" if self.self_check is not None else "",
            self.calibration.words() if self.calibration is not None else "",
            self.early.words() if self.early is not None else "",
        ]
        return ", ".join(filter(None, demands)) or "there at all"

    def demands_nothing(self) -> bool:
        """True where any answer that says something is accepted."""
        return self == Acceptance(refuses=True, complete=False)


Weights: TypeAlias = tuple[tuple[str, float], ...]
"""What some arms of a split weigh, by name."""


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan may depend on besides the config, handed in so that the same circumstances give the same
    plan.

    `draw` is a number in [0, 1) that is fresh for each request; `key` and `user` identify who asks, where
    known. `foreseen` is what learned routers say of the request. `previous` is who answered the conversation
    before, where that is known. `revises` says that the client takes back what it has seen, where it is told
    to. `weights` are those of a split's arms, by name, that have other ones by now than the config says.
    `silences` are those that hedges go by, as far as they are known.
    """

    draw: float
    key: str | None = None
    user: str | None = None
    foreseen: tuple[Foresight, ...] = ()
    previous: Previous | None = None
    revises: bool = False
    weights: Weights = ()
    silences: tuple[Silence, ...] = ()


ALMOST_ONE = math.nextafter(1.0, 0.0)


def within(circumstances: Circumstances, share: float) -> tuple[bool, Circumstances]:
    """Whether the draw falls within a share, and the circumstances for what is drawn after that.

    What is left of a draw is fresh again; a draw inside of another would else always fall the same way.
    """
    draw = circumstances.draw
    inside = draw < share
    left = draw / share if inside else (draw - share) / (1.0 - share)
    return inside, msgspec.structs.replace(circumstances, draw=min(left, ALMOST_ONE))


class Choice(msgspec.Struct, frozen=True):
    """A plan with its alternatives settled: what remains of it, how likely that was, and why, in words.

    `arms` are the names of the arms that were drawn, outer ones first.
    """

    node: Node
    propensity: float = 1.0
    reasons: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy in a plan. Its config keyword is `keyword`; a bare value under that keyword fills the field
    `shorthand`.
    """

    keyword: ClassVar[str]
    shorthand: ClassVar[str]

    casts: ClassVar[bool] = False
    """True where something is done aside; see `asides`."""

    def models(self) -> tuple[str, ...]:
        """Every model that this plan may call, in order, each once."""
        raise NotImplementedError

    def renamed(self, name: Callable[[str], str]) -> Self:
        """This plan with every model in it called by another name."""
        raise NotImplementedError

    def prune(self, allowed: Callable[[str], bool]) -> Self | Node | None:
        """This plan without the models that are not allowed; None where nothing is left."""
        raise NotImplementedError

    def plain(self) -> Node:
        """This plan for what cannot be judged, such as an embedding or a count of tokens."""
        return self

    def staying(self, previous: Previous) -> Node | None:
        """This plan for a conversation that goes on: who answered it before is asked first. None where this
        plan does not ask that model."""
        return self if previous.model in self.models() else None

    def choose(self, circumstances: Circumstances) -> Choice:
        """This plan with every draw made."""
        raise NotImplementedError

    @property
    def certain(self) -> bool:
        """True where `choose` gives the same whatever the circumstances."""
        return False

    def words(self) -> str:
        """What this plan does, in a few words, once its draws are made."""
        raise NotImplementedError

    @property
    def hears(self) -> bool:
        """True where what is done aside needs the client's answer."""
        return False

    def asides(self, answer: Kept | None) -> tuple[Node, ...]:
        """What is done aside once the client has this answer, or one that nobody has heard; see
        `plan.aside`."""
        return ()

    def steps(self) -> Steps:
        """The effects to perform, one after the other; returns the last result."""
        raise NotImplementedError


def once_each(names: list[str]) -> tuple[str, ...]:
    """The names in order of first appearance."""
    return tuple(dict.fromkeys(names))
