"""`choose`: the model that is good enough for the least, or the best for a price, before any is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import msgspec
from msgspec import Meta

from isthmus.core.decision import Previous
from isthmus.core.foresight import Foresight, Outlook
from isthmus.core.money import format_usd, nanousd
from isthmus.strategies.plan.call import CallModel
from isthmus.strategies.plan.fallback import Fallback
from isthmus.strategies.plan.node import Choice, Circumstances, Learned, Node, Steps, once_each


class Choose(Node, frozen=True, kw_only=True, tag_field="strategy", tag="choose"):
    """Ask that model of `from` which suits the request; where it fails, the next best, and so on.

    `by` is the file of a router that `isthmus calibrate` has learned, and that foresees how good each model's
    answer will be. `quality_at_least` takes the cheapest model whose answer is expected to score as much;
    where none is, the best; `minimise` may say so aloud. `cost_at_most` takes the best model that is
    expected to cost no more US dollars for the request; where none is, the cheapest. A model whose price is
    not known comes after those whose price is. A request that is like nothing that was learned from goes to
    the model that is best on the whole. So do all where the router is stale, and `on_stale` is `best`; `warn`
    goes on by it, and says so. Without `by`, and for what has no words to go by, such as an embedding, it is
    the first of `from`.
    """

    keyword: ClassVar[str] = "choose"
    shorthand: ClassVar[str] = "from"

    # `from` is a word of Python's.
    among: Annotated[tuple[str, ...], Meta(min_length=1)] = msgspec.field(name="from")
    by: Learned | None = None
    minimise: Literal["cost"] | None = None
    quality_at_least: Annotated[float, Meta(ge=0, le=1)] | None = None
    cost_at_most: Annotated[float, Meta(gt=0)] | None = None
    on_stale: Literal["best", "warn"] = "best"

    def doubting(self, why: tuple[str, ...]) -> Self:
        """The choice whose router is no longer known to be right, for these reasons as well; as it is without
        one."""
        if self.by is None:
            return self
        by = msgspec.structs.replace(self.by, stale=(*self.by.stale, *why))
        return msgspec.structs.replace(self, by=by)

    def models(self) -> tuple[str, ...]:
        return once_each(list(self.among))

    def renamed(self, name: Callable[[str], str]) -> Self:
        by = self.by
        if by is not None:
            overall = tuple((name(model), quality) for model, quality in by.overall)
            by = msgspec.structs.replace(by, overall=overall)
        return msgspec.structs.replace(self, among=tuple(map(name, self.among)), by=by)

    def prune(self, allowed: Callable[[str], bool]) -> Node | None:
        left = tuple(filter(allowed, self.models()))
        if not left:
            return None
        return CallModel(model=left[0]) if len(left) == 1 else msgspec.structs.replace(self, among=left)

    def plain(self) -> Node:
        return CallModel(model=self.among[0])

    def staying(self, previous: Previous) -> Node | None:
        if previous.model not in self.among:
            return None
        others = tuple(name for name in self.models() if name != previous.model)
        kept = CallModel(model=previous.model)
        return Fallback(plans=(kept, msgspec.structs.replace(self, among=others))) if others else kept

    def words(self) -> str:
        raise AssertionError("a choice is settled by choose() before it is told of")

    def steps(self) -> Steps:
        raise AssertionError("a choice is settled by choose() before it is run")

    def choose(self, circumstances: Circumstances) -> Choice:
        if self.by is not None:
            order, reasons = self._chosen(self.by, circumstances.foreseen)
        else:
            order, reasons = self.models(), (f"choose: {self.among[0]}, the first, as nothing is learned",)
        calls = tuple(CallModel(model=name) for name in order)
        return Choice(calls[0] if len(calls) == 1 else Fallback(plans=calls), reasons=reasons)

    def _chosen(
        self, by: Learned, foreseen: tuple[Foresight, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The models in the order in which they are asked, and why, in words."""
        heeds = not by.stale or self.on_stale == "warn"
        foresight = _foresight(by, foreseen, heeds)
        known = {outlook.model: outlook for outlook in foresight.outlooks}
        outlooks = [known[name] for name in self.models() if name in known]
        # Of models that came to `from` later nothing is known.
        strangers = [name for name in self.models() if name not in known]
        ranking = self._ranking(outlooks, foresight)
        ranked = [outlook.model for outlook in ranking.outlooks]
        order = ranked if self.cost_at_most is not None and ranked else [*ranked, *strangers]
        said = f"choose: {order[0]}, {ranking.why if ranked else 'the first of which nothing is known'}"
        told = tuple(map(_told, outlooks))
        stale = f"{by.file} is stale, as {', and '.join(by.stale)}" if by.stale else ""
        goes_on = (f"{stale}; the route goes on with it",) if by.stale and heeds else ()
        return tuple(order), (*goes_on, said, *told)

    def _ranking(self, outlooks: list[Outlook], foresight: Foresight) -> _Ranking:
        best = sorted(outlooks, key=_by_quality)
        whole = "" if foresight.supported else f" on the whole, as {foresight.why}"
        if self.cost_at_most is not None:
            limit = nanousd(Decimal(str(self.cost_at_most)))
            within = [it for it in best if it.nanousd is not None and it.nanousd <= limit]
            if within:
                return _Ranking(within, f"the best for at most {self.cost_at_most:g} USD{whole}")
            cheapest = sorted(outlooks, key=_by_cost)
            return _Ranking(
                cheapest, f"the cheapest, as none is known to cost at most {self.cost_at_most:g} USD"
            )
        floor = self.quality_at_least
        if floor is None or not foresight.supported:
            return _Ranking(best, f"the best{whole}")
        enough = sorted((it for it in outlooks if it.quality >= floor), key=_by_cost)
        others = [it for it in best if it.quality < floor]
        if not enough:
            return _Ranking(others, f"the best, as none is expected to score {floor:g}")
        how = "the cheapest" if enough[0].nanousd is not None else "the best, and no price is known,"
        return _Ranking([*enough, *others], f"{how} of those expected to score {floor:g}")


class _Ranking(NamedTuple):
    outlooks: list[Outlook]
    why: str


def _foresight(by: Learned, foreseen: tuple[Foresight, ...], heeds: bool) -> Foresight:
    """What is foreseen of the request; where that is nothing, or not to be heeded, what is known on the
    whole."""
    found = next((it for it in foreseen if it.by == by.sha256), None)
    if found is not None and heeds:
        return found
    why = f"{by.file} is stale: {', and '.join(by.stale)}" if not heeds else "nothing was foreseen of it"
    # A price is none of what was learned.
    priced = {it.model: it for it in found.outlooks} if found is not None else {}
    outlooks = [
        msgspec.structs.replace(priced.get(name) or Outlook(name, quality), quality=quality)
        for name, quality in by.overall
    ]
    return Foresight(by=by.sha256, supported=False, why=why, input=0, outlooks=tuple(outlooks))


def _by_quality(outlook: Outlook) -> tuple[float, float]:
    return -outlook.quality, _cost(outlook)


def _by_cost(outlook: Outlook) -> tuple[float, float]:
    return _cost(outlook), -outlook.quality


def _cost(outlook: Outlook) -> float:
    # What is not known is not cheap.
    return math.inf if outlook.nanousd is None else outlook.nanousd


def _told(outlook: Outlook) -> str:
    cost = "at an unknown price" if outlook.nanousd is None else f"for {format_usd(outlook.nanousd)} USD"
    return f"{outlook.model} is expected to score {outlook.quality:.2f} {cost}"
