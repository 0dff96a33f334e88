"""`ensemble`: several models at once, and one answer made of theirs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import permutations
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.core.amendment import Amendment, turn
from isthmus.core.answers import closed, in_words, says_something
from isthmus.core.decision import Previous
from isthmus.core.pieces import text_of
from isthmus.core.votes import tally
from isthmus.strategies.plan.call import CallModel
from isthmus.strategies.plan.comparison import compared, preferred
from isthmus.strategies.plan.fallback import Fallback
from isthmus.strategies.plan.node import (
    Acceptance,
    Assess,
    Begin,
    Choice,
    Circumstances,
    CutOff,
    Deliver,
    Doing,
    Draft,
    Empanelled,
    Kept,
    Next,
    Node,
    Result,
    Say,
    Steps,
    assessed,
    attempted,
    changed,
    gathered,
    once_each,
)

Combine: TypeAlias = Literal["vote", "judge", "fuse", "first_valid", "critique"]

_LETTERS = "ABCDEFGHIJ"


class Ensemble(Node, frozen=True, kw_only=True, tag_field="strategy", tag="ensemble"):
    """Ask all of `models` at once, and answer by what they say.

    `combine` says how. `vote` takes the answer with the most weight, by `weights`, of equal ones the heaviest
    member's; with `otherwise` only where all of them say the same, and else asks that. `judge` lets the model
    `judge` choose between each two, blind and in both orders. `fuse` lets the model `judge` write the answer
    from theirs. `first_valid` takes the first that is accepted as `accept` says. `critique` asks the first
    model, and where its answer is not accepted, shows it with the complaint to the next. Where none is
    accepted, or nobody answers, `otherwise` is asked, or else what was rejected is given.

    `by` is the file of a panel that `isthmus calibrate` has learned for a vote: who votes, with what weight,
    or who answers alone, where a vote was not shown to be better. With `otherwise` all have to agree all the
    same, and the panel decides where that cannot answer. Where the panel is stale, or not all of it may be
    asked, the best of those that may be answers alone, and where it fails the next best; with `on_stale`
    `warn` a stale panel votes on, and says so.

    No answer, and no judgement, is waited for longer than `within` seconds. What cannot be compared, such as
    an embedding, is asked of the first model alone.
    """

    keyword: ClassVar[str] = "ensemble"
    shorthand: ClassVar[str] = "models"

    members: Annotated[tuple[str, ...], Meta(min_length=1, max_length=len(_LETTERS))] = msgspec.field(
        name="models"
    )
    combine: Combine = "vote"
    judge: str | None = None
    weights: dict[str, Annotated[float, Meta(gt=0)]] = msgspec.field(default_factory=dict)
    by: Empanelled | None = None
    on_stale: Literal["best", "warn"] = "best"
    accept: Acceptance = Acceptance()
    otherwise: Node | None = None
    within: Annotated[float, Meta(gt=0)] = 120.0

    def __hash__(self) -> int:
        # Equal plans are one decision, and a mapping has no hash of its own.
        fields = (getattr(self, name) for name in self.__struct_fields__ if name != "weights")
        return hash((*fields, *sorted(self.weights.items())))

    def seating(self, panel: Empanelled) -> Self:
        """The vote that goes by this panel."""
        return msgspec.structs.replace(self, by=panel)

    def doubting(self, why: tuple[str, ...]) -> Self:
        """The vote whose panel is no longer known to be right, for these reasons as well; as it is without
        one."""
        if self.by is None:
            return self
        return self.seating(msgspec.structs.replace(self.by, stale=(*self.by.stale, *why)))

    def models(self) -> tuple[str, ...]:
        others = [*(self.otherwise.models() if self.otherwise else ()), *([self.judge] if self.judge else [])]
        return once_each([*self.members, *others])

    def renamed(self, name: Callable[[str], str]) -> Self:
        return msgspec.structs.replace(
            self,
            by=self.by if self.by is None else self.by.renamed(name),
            members=tuple(map(name, self.members)),
            judge=self.judge if self.judge is None else name(self.judge),
            weights={name(member): weight for member, weight in self.weights.items()},
            otherwise=self.otherwise if self.otherwise is None else self.otherwise.renamed(name),
        )

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        members = tuple(name for name in self.members if allowed(name))
        otherwise = self.otherwise.prune(allowed) if self.otherwise is not None else None
        judge = self.judge if self.judge is not None and allowed(self.judge) else None
        if not members:
            return otherwise
        judged = self.combine in ("judge", "fuse")
        checked = self.combine in ("first_valid", "critique")
        if (len(members) == 1 and not checked) or (judged and judge is None):
            # Nobody is left to agree with, or to tell them apart.
            return self._alone(members[0], otherwise)
        return msgspec.structs.replace(self, members=members, otherwise=otherwise, judge=judge)

    def _alone(self, member: str, otherwise: Node | None) -> Node:
        """What is left where this member is the only one that may be heard."""
        call = CallModel(model=member)
        if otherwise is None:
            return call
        # One voice agrees with nobody: it has no say where agreement is wanted, and whoever can do without is
        # asked. Where nobody votes, `otherwise` is for where all fail.
        return Fallback(plans=(otherwise, call) if self.combine == "vote" else (call, otherwise))

    def plain(self) -> Node:
        return CallModel(model=self.members[0])

    def staying(self, previous: Previous) -> Node | None:
        if previous.model in self.members or previous.model == self.judge:
            return self
        return self.otherwise.staying(previous) if self.otherwise is not None else None

    def words(self) -> str:
        asked = ", ".join(self.members)
        match self.combine:
            case "vote":
                most = "most" if self.otherwise is None else "all"
                how = f"takes what {most} of them say"
            case "judge":
                how = f"lets {self.judge} choose"
            case "fuse":
                how = f"lets {self.judge} write the answer from theirs"
            case "first_valid":
                how = "takes the first that is " + self.accept.words()
            case "critique":
                return (
                    f"asks {' and then '.join(self.members)}, each shown what was wrong, until one is "
                    f"{self.accept.words()}{self._else()}"
                )
        return f"asks {asked} at once, and {how}{self._else()}"

    def _else(self) -> str:
        return f"; else {self.otherwise.words()}" if self.otherwise is not None else ""

    def choose(self, circumstances: Circumstances) -> Choice:
        node, reasons = (self, ()) if self.by is None else self._seated(self.by)
        if not isinstance(node, Ensemble) or node.otherwise is None:
            return Choice(node, reasons=reasons)
        inner = node.otherwise.choose(circumstances)
        settled = msgspec.structs.replace(node, otherwise=inner.node)
        return msgspec.structs.replace(inner, node=settled, reasons=(*reasons, *inner.reasons))

    def _seated(self, by: Empanelled) -> tuple[Node, tuple[str, ...]]:
        """The vote of the panel, or whoever answers in its place, and why, in words."""
        known = [name for name, _ in by.overall if name in self.members]
        ranked = once_each([*known, *self.members])
        stale = f"{by.file} is stale, as {', and '.join(by.stale)}" if by.stale else ""
        weights = dict(by.weights)
        if stale and self.on_stale == "best":
            why = stale
        elif not weights.keys() <= {*ranked}:
            why = f"not all of the panel of {by.file} may be asked"
        else:
            why = by.why if len(weights) < 2 else ""
        # Of equal weights the best comes first, then whoever does in the panel, as where it was judged.
        voting = ranked[:1] if why else tuple(sorted(weights, key=lambda name: name != ranked[0]))
        goes_on = (f"{stale}; the route goes on with it",) if stale and why != stale else ()
        said = f"{voting[0]} alone, as {why}" if why else f"{', '.join(voting)}, weighed by {by.file}"
        reasons = (*goes_on, f"vote: {said}")
        if self.otherwise is not None:
            # All are asked, and have to agree; who votes is for where `otherwise` fails.
            asked = once_each([*voting, *ranked])
            shares = {name: weights.get(name, 1.0) if name in voting else 0.0 for name in asked}
            return msgspec.structs.replace(self, members=asked, weights=shares, by=None), reasons
        if why:
            calls = tuple(CallModel(model=name) for name in ranked)
            return calls[0] if len(calls) == 1 else Fallback(plans=calls), reasons
        shares = {name: weights[name] for name in voting}
        return msgspec.structs.replace(self, members=voting, weights=shares, by=None), reasons

    def steps(self) -> Steps:
        match self.combine:
            case "vote":
                return (yield from self._vote())
            case "judge":
                return (yield from self._judged())
            case "fuse":
                return (yield from self._fused())
            case "first_valid":
                return (yield from self._first_valid())
            case "critique":
                return (yield from self._critique())

    def _vote(self) -> Steps:
        answers, failed = yield from self._all()
        if not answers:
            return (yield from self._without(failed))
        silent = Counter(self.members) - Counter(kept.model for kept in answers)
        said = [
            *((kept.model, _said(kept)) for kept in answers),
            *((name, None) for name in silent.elements()),
        ]
        found = tally([(self.weights.get(name, 1.0), it) for name, it in said])
        best = answers[found.place]
        told = f"{found.agreeing} of {len(said)} say the same"
        if self.otherwise is not None and not found.unanimous:
            yield Say(best, f"only {told}", found.share)
            result = yield from self.otherwise.steps()
            if not result.hands_over:
                return result
        yield Say(best, told, found.share)
        return (yield from attempted(Deliver(best)))

    def _judged(self) -> Steps:
        assert self.judge is not None, "without a judge this is pruned"
        answers, failed = yield from self._all()
        if not answers:
            return (yield from self._without(failed))
        # Each two are shown in both orders: who judges prefers the first at times, whatever it says.
        pairs = list(permutations(range(len(answers)), 2))
        shown = [compared(self.judge, answers[one], answers[other]) for one, other in pairs]
        results = yield from gathered(tuple(shown), self.within)
        wins = dict.fromkeys(range(len(answers)), 0)
        told = 0
        for result in results:
            one, other = pairs[result.place]
            better = preferred(result.kept)
            if better is not None:
                told += 1
                wins[one if better == "A" else other] += 1
        best = max(wins, key=lambda at: (wins[at], -at))
        if len(answers) > 1:
            games = 2 * (len(answers) - 1)
            silent = f"; {len(pairs) - told} of {len(pairs)} were not decided" if told < len(pairs) else ""
            share = None if silent else wins[best] / games
            yield Say(answers[best], f"preferred in {wins[best]} of {games} comparisons{silent}", share)
        return (yield from attempted(Deliver(answers[best])))

    def _fused(self) -> Steps:
        assert self.judge is not None, "without a writer this is pruned"
        answers, failed = yield from self._all()
        drafts = [text for kept in answers if (text := text_of(kept.pieces))]
        if not answers:
            return (yield from self._without(failed))
        if len(drafts) < 2:
            return (yield from attempted(Deliver(answers[0])))
        result = yield from changed(
            CallModel(model=self.judge).steps(), Amendment(turns=(turn("user", _to_fuse(drafts)),))
        )
        return (yield from attempted(Deliver(answers[0]))) if result.hands_over else result

    def _first_valid(self) -> Steps:
        failed: Result | None = None
        rejected: dict[int, Kept] = {}
        yield Begin(tuple(Draft(name) for name in self.members))
        while (result := (yield Next(self.within))) is not None:
            assert isinstance(result, Result)
            if result.kept is None:
                failed = result
                continue
            verdict = yield from assessed(Assess(result.kept, self.accept))
            if verdict.accepted:
                yield CutOff()
                return (yield from attempted(Deliver(result.kept)))
            rejected[result.place] = result.kept
        yield CutOff()
        return (yield from self._without(failed, rejected[min(rejected)] if rejected else None))

    def _critique(self) -> Steps:
        shown: Amendment | None = None
        failed: Result | None = None
        rejected: Kept | None = None
        for name in self.members:
            results = yield from gathered((Draft(name, shown),), self.within)
            kept = results[0].kept if results else None
            if kept is None:
                failed = results[0] if results else failed
                continue
            verdict = yield from assessed(Assess(kept, self.accept))
            if verdict.accepted:
                return (yield from attempted(Deliver(kept)))
            rejected = kept
            said = turn("assistant", in_words(kept.pieces) or "(nothing)")
            complaint = turn("user", _complaint(verdict.why))
            # Who may not see what another said is asked all the same.
            shown = Amendment(turns=(said, complaint), optional=True)
        return (yield from self._without(failed, rejected))

    def _all(self) -> Doing[tuple[list[Kept], Result | None]]:
        """Every answer that comes in time and says something, in the order of the members, and one of the
        failures. Where none says anything, that is the answer of them all."""
        results = yield from gathered(tuple(Draft(name) for name in self.members), self.within)
        kept = [it.kept for it in results if it.kept is not None]
        failed = next((it for it in results if it.error is not None), None)
        return [it for it in kept if says_something(it.pieces)] or kept, failed

    def _without(self, failed: Result | None, rejected: Kept | None = None) -> Steps:
        """What to do where no member's answer will do: ask on, or give what there is."""
        if self.otherwise is not None:
            result = yield from self.otherwise.steps()
            if rejected is None or not result.hands_over:
                return result
        if rejected is not None:
            return (yield from attempted(Deliver(rejected)))
        if failed is not None:
            return failed
        # Nobody has said anything in time: one of them is waited for, as long as its own timeouts let it.
        return (yield from CallModel(model=self.members[0]).steps())


def _said(kept: Kept) -> Hashable | None:
    """What a vote counts of an answer; None where it says nothing."""
    said = closed(list(kept.pieces))
    return said if any(said) else None


def _to_fuse(drafts: Sequence[str]) -> str:
    listed = "\n\n".join(
        f"Draft {letter}, as JSON: {json.dumps(draft, ensure_ascii=False)}"
        for letter, draft in zip(_LETTERS, drafts, strict=False)
    )
    return (
        f"Other assistants wrote drafts of an answer to the request above:\n\n{listed}\n\n"
        "Write the best answer to the request: take what is right in the drafts, and leave what is wrong. Do "
        "not speak of the drafts."
    )


def _complaint(why: str) -> str:
    return f"That answer will not do: {why}. Answer the request anew, and mend that."
