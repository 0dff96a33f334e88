"""`shadow`: a candidate is asked the same, and no client notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import msgspec

from isthmus.strategies.plan.aside import Accompanied, Aside
from isthmus.strategies.plan.comparison import compared, preferred
from isthmus.strategies.plan.node import (
    Draft,
    Kept,
    Node,
    Say,
    Steps,
    attempted,
    gathered,
    once_each,
)


class Shadow(Accompanied, frozen=True, kw_only=True, tag_field="strategy", tag="shadow"):
    """Answer by the strategy `of`, and then, for a `share` of the requests, ask the model `candidate` the
    same.

    It is asked when the client has its answer, and has a record of its own. The model `judge`
    compares the two answers, blind and in both orders. Both are called like any model: inside the perimeter,
    and paid from the same budgets. Embeddings and counts of tokens have no shadow.
    """

    keyword: ClassVar[str] = "shadow"
    shorthand: ClassVar[str] = "candidate"

    candidate: str
    judge: str | None = None

    def models(self) -> tuple[str, ...]:
        return once_each([*self.of.models(), self.candidate, *([self.judge] if self.judge else [])])

    def renamed(self, name: Callable[[str], str]) -> Self:
        judge = self.judge if self.judge is None else name(self.judge)
        return msgspec.structs.replace(
            self, candidate=name(self.candidate), of=self.of.renamed(name), judge=judge
        )

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        of = self.of.prune(allowed)
        if of is None or not allowed(self.candidate):
            return of
        judge = self.judge if self.judge is not None and allowed(self.judge) else None
        return msgspec.structs.replace(self, of=of, judge=judge)

    def words(self) -> str:
        judged = f", compared by {self.judge}" if self.judge else ""
        return f"{self.of.words()}; and {self.candidate} in its shadow{judged}"

    @property
    def hears(self) -> bool:
        return self.judge is not None or self.of.hears

    def asides(self, answer: Kept | None) -> tuple[Node, ...]:
        return (
            Mirrored(candidate=self.candidate, judge=self.judge, answer=answer),
            *self.of.asides(answer),
        )


class Mirrored(Aside, frozen=True, kw_only=True):
    """What is done in a shadow: ask the candidate, and have its answer compared with the client's."""

    candidate: str
    judge: str | None = None

    @property
    def asked(self) -> str:
        return self.candidate

    def reason(self, of: str) -> str:
        return f"{self.candidate} is asked in the shadow of {of}"

    def models(self) -> tuple[str, ...]:
        return once_each([self.candidate, *([self.judge] if self.judge else [])])

    def steps(self) -> Steps:
        result = yield from attempted(Draft(self.candidate, purpose="shadow"))
        if result.kept is None or self.answer is None or self.judge is None:
            return result
        ours, theirs = result.kept, self.answer
        pairs = (compared(self.judge, ours, theirs), compared(self.judge, theirs, ours))
        judgements = yield from gathered(pairs)
        wins = [preferred(it.kept) == ("A", "B")[it.place] for it in judgements if preferred(it.kept)]
        if len(wins) == len(pairs):
            found = ("worse than", "neither better nor worse than", "better than")[sum(wins)]
            yield Say(ours, f"{found} the answer of {theirs.model}", sum(wins) / len(pairs))
        else:
            yield Say(ours, f"not compared with the answer of {theirs.model}: the judge did not decide")
        return result
