"""A live vote is the one that is simulated, for any panel and any answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.confidence.voting import Panel, vote
from isthmus.core.errors import Fault, IsthmusError
from isthmus.strategies.plan import CallModel, Ensemble
from isthmus.strategies.plan.node import Circumstances, Deliver, Empanelled, Result
from tests.laws.plans import NAMES, drive

numbers = st.sampled_from([0.0, 1.0, 1.0, 3.0])


@st.composite
def drawn(draw: st.DrawFn) -> tuple[Panel, Empanelled]:
    """A panel, and what a config knows of it; members are in the order of their names, as it is learned."""
    members = draw(st.sets(st.sampled_from(NAMES), min_size=3).map(sorted))
    weights = {name: draw(numbers) for name in members}
    best = draw(st.sampled_from([it for it in members if weights[it] == max(weights.values())]))
    others = draw(st.permutations([name for name in NAMES if name != best]))
    overall = ((best, 0.9), *((name, 0.9 - 0.1 * place) for place, name in enumerate(others)))
    panel = Panel(weights=weights, best=best, gain=0, why="")
    return panel, Empanelled(file="p.json", weights=tuple(weights.items()), overall=overall)


answers = st.fixed_dictionaries(dict.fromkeys(NAMES, st.sampled_from(["X", "x.", "Y", "Y", "42", "..."])))
down = st.just(set()) | st.sets(st.sampled_from(NAMES))
FAILED = IsthmusError(Fault.UPSTREAM_AUTHENTICATION, "failed")


def _answered(plan: Ensemble, said: dict[str, str], fail: set[str]) -> str | None:
    settled = plan.choose(Circumstances(draw=0.0)).node
    effects, result = drive(
        settled,
        lambda name: Result(name, FAILED if name in fail else None),
        says=lambda name: said.get(name, name),
    )
    return result.model if isinstance(effects[-1], Deliver) else None


@settings(max_examples=500)
@given(drawn(), answers, down)
def test_a_live_vote_gives_the_answer_of_the_vote_that_is_simulated(
    learned: tuple[Panel, Empanelled], said: dict[str, str], fail: set[str]
) -> None:
    panel, by = learned
    plan = Ensemble(members=NAMES, by=by)
    ballot = vote(panel, {name: "" if name in fail else text for name, text in said.items()})
    if ballot is not None:
        assert _answered(plan, said, fail) == ballot.model


@settings(max_examples=500)
@given(drawn(), answers, down)
def test_with_otherwise_an_answer_is_given_where_the_simulation_finds_all_agree_and_nowhere_else(
    learned: tuple[Panel, Empanelled], said: dict[str, str], fail: set[str]
) -> None:
    panel, by = learned
    plan = Ensemble(members=NAMES, by=by, otherwise=CallModel(model="other"))
    everybody = Panel(weights=dict.fromkeys(NAMES, 1.0), best=panel.best, gain=0, why="")
    ballot = vote(everybody, {name: "" if name in fail else text for name, text in said.items()})
    agreed = ballot.model if ballot is not None and ballot.unanimous else None
    assert _answered(plan, said, fail) == agreed
