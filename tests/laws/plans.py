"""Hypothesis strategies for plans, and a driver that runs them against scripted outcomes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from hypothesis import strategies as st

from isthmus.core.decision import Silence
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.foresight import Foresight, Outlook
from isthmus.core.pieces import Finish, TextDelta
from isthmus.strategies.plan import (
    Burst,
    CallModel,
    Cascade,
    Choose,
    Edge,
    Ensemble,
    Fallback,
    Grade,
    Hedge,
    Node,
    Shadow,
    Split,
)
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import (
    Acceptance,
    Assess,
    Attempt,
    Begin,
    Calibrated,
    CutOff,
    Deliver,
    Draft,
    Early,
    Effect,
    Empanelled,
    Kept,
    Learned,
    Load,
    Next,
    Race,
    Reply,
    Result,
    Verdict,
)
from isthmus.strategies.plan.split import Arm, Bandit, Stop

NAMES = ("a", "b", "c", "d")
ROUTERS = ("one", "two")
"""The SHA-256 of learned routers, so to say."""

names = st.sampled_from(NAMES)
calls = st.builds(CallModel, model=names, retries=st.integers(0, 3))
quantiles = st.sampled_from(["p50", "p95"])
hedges = st.builds(Hedge, model=names, beside=names, after=st.floats(0.1, 3) | quantiles)
silences = st.lists(
    st.builds(Silence, model=names, quantile=quantiles, seconds=st.floats(0.1, 3)),
    max_size=4,
    unique_by=lambda it: (it.model, it.quantile),
).map(tuple)
"""What is known of how long models are silent."""

bursts = st.builds(Burst, queue=st.lists(names, min_size=1, max_size=3).map(tuple), at=st.integers(1, 3))


shares = st.floats(0, 1)
overall = st.dictionaries(names, shares, max_size=3).map(lambda known: tuple(known.items()))
routers = st.builds(
    Learned,
    file=st.just("r.router"),
    sha256=st.sampled_from(ROUTERS),
    overall=overall,
    stale=st.sampled_from([(), ("a is another model than it was",)]),
)
choices = st.builds(
    Choose,
    among=st.lists(names, min_size=1, max_size=4).map(tuple),
    by=st.none() | routers,
    quality_at_least=st.none() | shares,
    cost_at_most=st.none() | st.floats(1e-9, 1e-5),
    on_stale=st.sampled_from(["best", "warn"]),
)
outlooks = st.builds(
    Outlook, names, shares, output=st.none() | st.integers(0, 500), nanousd=st.none() | st.integers(0, 20_000)
)


def foresight_by(router: str) -> st.SearchStrategy[Foresight]:
    """What a router may foresee of a request: each model once, some not at all."""
    return st.builds(
        Foresight,
        by=st.just(router),
        supported=st.booleans(),
        why=st.just("so it is"),
        input=st.integers(0, 10_000),
        max_output=st.none() | st.integers(1, 100),
        outlooks=st.lists(outlooks, max_size=4, unique_by=lambda it: it.model).map(tuple),
    )


foresights = st.tuples(*map(foresight_by, ROUTERS))
"""What is foreseen of a request that any router is asked about."""

panels = st.builds(
    Empanelled,
    file=st.just("p.json"),
    weights=st.dictionaries(names, st.floats(0, 5), min_size=1).map(lambda known: tuple(known.items())),
    overall=overall,
    stale=st.sampled_from([(), ("a is another model than it was",)]),
)

calibrations = st.sampled_from(
    [None, Calibrated(file="c.json"), Calibrated(file="c.json", stale=("the config has changed",))]
)


def _wider(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    arms = st.lists(st.builds(Arm, plan=inner, weight=st.floats(0.01, 100)), min_size=1, max_size=3)
    return st.one_of(
        st.builds(Edge, far=inner, near=inner),
        st.builds(Fallback, plans=st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(
            Split,
            arms=arms.map(tuple),
            sticky=st.sampled_from([None, "key", "user"]),
            salt=st.text(max_size=3),
            stop=st.sampled_from([None, Stop()]),
            bandit=st.sampled_from([None, Bandit()]),
        ),
        st.builds(
            Cascade,
            stages=st.lists(
                st.builds(
                    Step,
                    plan=inner,
                    accept=st.builds(
                        Acceptance,
                        self_check=st.sampled_from([None, 0.5]),
                        calibration=calibrations,
                        early=st.sampled_from([None, Early(logprob=-1), Early(surely=-0.1)]),
                    ),
                    context=st.sampled_from(["fresh", "with_attempt"]),
                    among=st.lists(names, max_size=2).map(tuple),
                    samples=st.integers(0, 2),
                ),
                min_size=1,
                max_size=3,
            ).map(tuple),
            unsure=st.sampled_from(["fail", "deliver"]),
            on_stale=st.sampled_from(["strong", "warn"]),
            escalated=st.sampled_from(["stays", "returns"]),
            stream=st.sampled_from(["buffered", "optimistic"]),
        ),
        st.builds(Shadow, candidate=names, of=inner, share=st.floats(0.1, 1), judge=st.none() | names),
        st.builds(Grade, judge=names, of=inner, share=st.floats(0.1, 1)),
        st.builds(
            Ensemble,
            members=st.lists(names, min_size=1, max_size=3).map(tuple),
            combine=st.sampled_from(["vote", "judge", "fuse", "first_valid", "critique"]),
            judge=names,
            by=st.none() | panels,
            on_stale=st.sampled_from(["best", "warn"]),
            otherwise=st.one_of(st.none(), inner),
        ),
    )


plans: st.SearchStrategy[Node] = st.recursive(st.one_of(calls, hedges, bursts, choices), _wider, max_leaves=6)

faults = st.sampled_from(list(Fault))
outcomes = st.one_of(
    st.just("ok"),
    st.tuples(faults, st.booleans(), st.one_of(st.none(), st.floats(0, 100))),
)


def result_of(model: str, outcome: object) -> Result:
    """The result that an outcome, as drawn above, stands for."""
    if outcome == "ok":
        return Result(model)
    fault, committed, retry_after = outcome  # type: ignore[misc]
    return Result(model, IsthmusError(fault, "failed", retry_after_s=retry_after), committed)


def drive(
    node: Node,
    answer: Callable[[str], Result],
    accepts: Callable[[], bool] = lambda: True,
    load: Callable[[], int] = lambda: 0,
    says: Callable[[str], str] = str,
) -> tuple[list[Effect], Result]:
    """Every effect of a settled plan, in order, and its result. A race is won by its first model; what a
    draft `says` is its model's name, unless that is said."""
    effects: list[Effect] = []
    begun: list[list[tuple[int, Draft]]] = []
    steps = node.steps()
    reply: Reply = None

    def draft(effect: Draft) -> Result:
        result = answer(effect.model)
        if not result.final:
            return result
        pieces = (TextDelta(text=says(effect.model)), Finish(reason="stop"))
        return Result(effect.model, kept=Kept(effect.model, len(effects), pieces))

    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            assert not begun, "who begins has to end"
            return effects, stop.value
        effects.append(effect)
        reply = None
        match effect:
            case Attempt(model) | Race(Attempt(model)):
                reply = answer(model)
            case Draft():
                reply = draft(effect)
            case Begin(drafts):
                begun.append(list(enumerate(drafts)))
            case Next():
                place, started = begun[-1].pop(0) if begun[-1] else (0, None)
                reply = msgspec.structs.replace(draft(started), place=place) if started else None
            case CutOff():
                begun.pop()
            case Load():
                reply = load()
            case Assess():
                reply = Verdict(accepts(), None, "so it is")
            case Deliver(kept):
                reply = Result(kept.model, committed=True)


def asked(effects: list[Effect]) -> set[str]:
    """Every model that these effects ask."""
    found: set[str] = set()
    for effect in effects:
        match effect:
            case Attempt(model) | Draft(model):
                found.add(model)
            case Begin(drafts):
                found |= {draft.model for draft in drafts}
            case Race(first, second):
                found |= {first.model, second.model}
    return found
