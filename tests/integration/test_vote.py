"""A vote, from a pilot to a gateway that serves the panel as it was judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.testing import Fault, Refusal, Script, Simulator
from isthmus.testing.simulator import SimulatorThread
from isthmus.testing.wire import Asked

from .gateway import Answer, Served, config_text
from .learning import STRONG, run, save, served, working_in, working_in_copy

BY = "panels/support.json"
MEMBERS = ("openai/a", "openai/b", "openai/c")
COUNT = 240
DATASET = ("--dataset", "work.jsonl", "--scorer", "exact", "--max-usd", "5", "--max-tokens", "16")
LEARN = ("calibrate", "support", *DATASET)


def text_of(number: int) -> str:
    return f"What is the answer to question {number} ?"


@pytest.fixture(scope="module")
def upstream() -> Iterator[SimulatorThread]:
    with Simulator.thread() as thread:
        yield thread


@pytest.fixture(scope="module")
def learned(upstream: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all members were asked all there is, and a panel was learned from it."""
    folder = tmp_path_factory.mktemp("learned")
    with working_in(folder):
        script(upstream)
        prepare(upstream.url)
        assert "Nothing is learned for this vote" in run("check").output
        found = run(*LEARN, "--html", "out.html")
        assert found.exit_code == 0, found.output
        assert "Vote: with a chance of at least 0.9, it is better than" in found.stdout
        assert f"Written: {BY}. Name it in the ensemble" in found.stderr
        assert "vote of openai/a, openai/b, openai/c" in Path("out.html").read_text()
    return folder


@pytest.fixture
def sim(upstream: SimulatorThread, learned: Path, tmp_path: Path) -> Iterator[SimulatorThread]:
    """The simulator, in a folder where the panel is."""
    with working_in_copy(learned, tmp_path):
        script(upstream)
        yield upstream


def script(sim: SimulatorThread) -> None:
    """Each member is wrong about a quarter of the questions, of its own; about the others all are right."""

    def answers(name: str, place: int) -> Any:
        def says(asked: Asked) -> Script:
            number = int(asked.text.split("question ")[1].split()[0])
            return Script(text=(f"{name} does not know" if number % 4 == place else "good",))

        return says

    for place, name in enumerate("abc"):
        sim.simulator.scripts[name] = answers(name, place)
    sim.simulator.scripts["strong"] = lambda asked: Script(text=("from the strong one",))


def prepare(url: str, **sections: Any) -> None:
    """The config with this vote, and the samples."""
    more = sections.pop("more", {})
    plan = {"ensemble": list(MEMBERS), **sections.pop("vote", {})}
    document = json.loads(config_text(url, {"support": plan}, **sections))
    for name, changed in more.items():
        document["models"][name] |= changed
    save(document, ({"id": f"s{n}", "input": text_of(n), "target": "good"} for n in range(COUNT)))


async def _ask(gateway: Served, number: int) -> Answer:
    messages = [{"role": "user", "content": text_of(number)}]
    answer = await gateway.post("/v1/chat/completions", {"model": "support", "messages": messages})
    assert answer.status == 200, answer.body
    return answer


def _said(answer: Answer) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


def test_a_vote_is_learned_and_serves_as_it_was_judged(sim: SimulatorThread) -> None:
    found = run("calibrate", "support", "--run", "", "--json")
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    assert (trial["verdict"], trial["learned"]) == ("vote", COUNT // 2)
    vote, *singles = trial["policies"]
    (alone,) = (it for it in singles if it["name"] == f"{trial['best']} alone")
    assert (vote["quality"], vote["gain"]) == (1.0, pytest.approx(1 - alone["quality"]))
    assert vote["gain_interval"]["low"] > 0.1
    prepare(sim.url, vote={"by": BY})
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "C10" not in checked.output
    assert f"weighed by {BY}" in run("explain", "support", text_of(1)).stdout
    weights = json.loads(Path(BY).read_text())["panel"]["weights"]
    assert set(weights) == set(MEMBERS)

    async def as_learned(gateway: Served) -> None:
        for number in range(1000, 1004):
            answer = await _ask(gateway, number)
            assert _said(answer) == "good", "where one is wrong the other two say what is right"
            record = await gateway.record(answer)
            assert record.decision is not None
            assert record.decision.plan["weights"] == weights
            (winner,) = (it for it in record.attempts if it.committed)
            right = [name for place, name in enumerate(MEMBERS) if number % 4 != place]
            assert winner.verdict == f"{len(right)} of 3 say the same"
            share = sum(weights[it] for it in right) / sum(weights.values())
            assert winner.confidence == pytest.approx(share)

    served(as_learned)


def test_where_no_vote_is_better_the_best_is_asked_alone(sim: SimulatorThread) -> None:
    sim.simulator.scripts |= dict.fromkeys("bc", sim.simulator.scripts["a"])
    found = run(*LEARN, "--fresh", "--json")
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    assert (trial["verdict"], trial["panel"]["weights"]) == ("the best alone", {trial["best"]: 1.0})
    prepare(sim.url, vote={"by": BY})

    async def alone(gateway: Served) -> None:
        before = len(sim.requests)
        answer = await _ask(gateway, 1)
        assert answer.headers["x-isthmus-model"] == trial["best"]
        assert len(sim.requests) == before + 1
        sim.simulator.scripts["a"] = Script(fault=Fault(refuse=Refusal(status=401)))
        assert (await _ask(gateway, 1)).headers["x-isthmus-model"] != trial["best"]

    served(alone)


@pytest.mark.parametrize(("on_stale", "asks"), [("best", 1), ("warn", 3)])
def test_another_model_makes_a_panel_stale(sim: SimulatorThread, on_stale: str, asks: int) -> None:
    sim.simulator.scripts["b-2"] = sim.simulator.scripts["b"]
    prepare(sim.url, vote={"by": BY, "on_stale": on_stale}, more={MEMBERS[1]: {"id": "b-2"}})
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "C103" in checked.output
    assert f"{MEMBERS[1]} is another model than it was" in checked.output

    best = json.loads(Path(BY).read_text())["panel"]["best"]

    async def as_stale(gateway: Served) -> None:
        before = len(sim.requests)
        answer = await _ask(gateway, 3)
        assert len(sim.requests) == before + asks
        assert answer.headers["x-isthmus-model"] == best, "in whose words all are right"
        assert (await gateway.metrics())['isthmus_calibration_stale{route="support"}'] == 1

    served(as_stale)


def test_with_otherwise_a_learned_vote_escalates_on_any_disagreement(sim: SimulatorThread) -> None:
    prepare(sim.url, vote={"by": BY, "otherwise": STRONG})

    async def strict(gateway: Served) -> None:
        assert _said(await _ask(gateway, 3)) == "good", "all of them are right"
        assert _said(await _ask(gateway, 4)) == "from the strong one"

    served(strict)


def test_who_learns_a_vote_says_what_does_not_fit(sim: SimulatorThread) -> None:
    for option, why in (("--named", "--named is of a choice"), ("--records", "--records is of a choice")):
        more = ("--records", "1d") if option == "--records" else ("--run", "", option)
        refused = run("calibrate", "support", *more)
        assert (refused.exit_code, why in refused.output) == (2, True)
    prepare(sim.url, vote={"combine": "judge", "judge": STRONG})
    assert "has no cascade, no choice and no vote" in run("calibrate", "support", "--run", "").output
    prepare(sim.url, vote={"ensemble": [*MEMBERS, STRONG]})
    assert f"did not ask {STRONG}" in run("calibrate", "support", "--run", "").output
