"""Hypothesis strategies for plans, and a driver that runs them against scripted outcomes."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from isthmus.core.errors import Fault, IsthmusError
from isthmus.strategies.plan import CallModel, Fallback, Node, Split
from isthmus.strategies.plan.node import Attempt, Result, Wait
from isthmus.strategies.plan.split import Arm

NAMES = ("a", "b", "c", "d")

calls = st.builds(CallModel, model=st.sampled_from(NAMES), retries=st.integers(0, 3))


def _wider(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    arms = st.lists(st.builds(Arm, plan=inner, weight=st.floats(0.01, 100)), min_size=1, max_size=3)
    return st.one_of(
        st.builds(Fallback, plans=st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(
            Split,
            arms=arms.map(tuple),
            sticky=st.sampled_from([None, "key", "user"]),
            salt=st.text(max_size=3),
        ),
    )


plans: st.SearchStrategy[Node] = st.recursive(calls, _wider, max_leaves=6)

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


def drive(node: Node, answer: Callable[[str], Result]) -> tuple[list[Attempt | Wait], Result]:
    """Every effect of a settled plan, in order, and its result."""
    effects: list[Attempt | Wait] = []
    steps = node.steps()
    reply: Result | None = None
    while True:
        try:
            effect = steps.send(reply)
        except StopIteration as stop:
            return effects, stop.value
        effects.append(effect)
        reply = answer(effect.model) if isinstance(effect, Attempt) else None
