"""Pilot runs, whatever fails and whenever they are interrupted: nothing that is kept is asked for twice, and
nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.core.evaluation import Answered, Sample
from isthmus.core.label import BOTTOM, Label
from isthmus.evals.answers import Remembering
from isthmus.evals.pilot import Pilot
from isthmus.store.memory import MemoryRuns
from isthmus.store.runs import Candidate, Place, Run

CONCURRENCY = 3
MODELS = ("a", "b")

codes = st.sampled_from([None, None, None, "timeout", "no_model_allowed"])


class Upstream:
    """Answers what it is told to, after so many turns of the loop."""

    def __init__(self, said: Mapping[tuple[str, str], list[str | None]], turns: int) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.running = 0
        self._said = said
        self._turns = turns

    async def __call__(self, model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        text = request["messages"][0]["content"]
        codes = self._said[model, text]
        code = codes[min(self.asked[model, text], len(codes) - 1)]
        self.asked[model, text] += 1
        self.running += 1
        try:
            for _ in range(self._turns):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        return Answered(model=model, text="" if code else text, code=code, error=code)


@settings(max_examples=40)
@given(st.data())
def test_interrupted_at_will_a_run_asks_nothing_twice_and_loses_nothing(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    samples = [
        Sample(id=f"s{number}", request={"messages": [{"role": "user", "content": f"q{number}"}]})
        for number in range(count)
    ]
    # In the end every question is answered or barred; before, it may fail.
    said = {
        (model, f"q{number}"): [*data.draw(st.lists(codes, max_size=2)), data.draw(st.sampled_from([None]))]
        for model in MODELS
        for number in range(count)
    }
    upstream = Upstream(said, data.draw(st.integers(1, 3)))
    run = Run(
        id="run_1",
        identity="i",
        at_us=1,
        dataset="d",
        dataset_hash="h",
        sample_ids=tuple(it.id for it in samples),
        models=tuple(Candidate(name=it, id=it, provider="p", kind="closed") for it in MODELS),
        scorers=("exact",),
        config_hash="c",
    )
    runs = MemoryRuns()
    runs.begin(run, samples)
    bases = {name: name.encode() for name in MODELS}

    def kept() -> set[tuple[str, str]]:
        there = runs.answers("run_1").items()
        return {(it.model, f"q{it.sample[1:]}") for it, one in there if one.answered.code is None}

    async def carry_out(most: int | None) -> None:
        pilot = Pilot(run, samples, Remembering(upstream, runs, run.id, bases), runs, concurrency=CONCURRENCY)
        running = asyncio.ensure_future(pilot.ask_all())
        enough = upstream.asked.total() + (10**9 if most is None else most)
        while not running.done() and upstream.asked.total() < enough:
            await asyncio.sleep(0)
            assert upstream.running <= CONCURRENCY
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    for most in data.draw(st.lists(st.integers(0, 12), max_size=3)):
        known, before = kept(), Counter(upstream.asked)
        asyncio.run(carry_out(most))
        assert kept() >= known, "what was kept stays"
        assert all(upstream.asked[it] == before[it] for it in known), "and is not asked again"
    for _ in range(4):
        asyncio.run(carry_out(None))
    assert set(runs.answers("run_1")) == {Place(model, it.id) for model in MODELS for it in samples}
    assert kept() == set(said)
