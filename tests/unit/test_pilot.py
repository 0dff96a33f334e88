"""Pilot runs over a scripted portfolio: what is asked, kept, taken again and given up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.label import BOTTOM, Label
from isthmus.core.usage import Charge
from isthmus.evals.answers import Remembering
from isthmus.evals.pilot import ENOUGH, Pilot, Tally, request_of, score_all
from isthmus.evals.scorers import scorer_of
from isthmus.store.memory import MemoryRuns
from isthmus.store.runs import Candidate, Kept, Place, Run

Says = Callable[[str, str], Answered]


def charge(nanousd: int | None = 5) -> Charge:
    return Charge(nanousd=nanousd, basis="config", snapshot="s")


def echo(model: str, text: str) -> Answered:
    return Answered(model=model, text=text, charge=charge())


def failing(code: str) -> Says:
    return lambda model, text: Answered(model=model, code=code, error="why")


class Models:
    """A portfolio that counts what it is asked; after `stuck_after` calls it answers no more."""

    def __init__(self, says: Mapping[str, Says], stuck_after: int | None = None) -> None:
        self.says = dict(says)
        self.stuck_after = stuck_after
        self.asked: Counter[tuple[str, str]] = Counter()
        self.most = self._now = 0

    async def __call__(self, model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        text = request["messages"][0]["content"]
        self.asked[model, text] += 1
        self._now += 1
        self.most = max(self.most, self._now)
        if self.stuck_after is not None and self.asked.total() > self.stuck_after:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self._now -= 1
        return self.says[model](model, text)


def samples(count: int, same: bool = False) -> list[Sample]:
    return [
        Sample(
            id=f"s{number}",
            request={"messages": [{"role": "user", "content": "same" if same else f"q{number}"}]},
            target=(f"q{number}",),
        )
        for number in range(count)
    ]


def run_of(work: list[Sample], models: str = "ab", at_us: int = 1, **more: Any) -> Run:
    return Run(
        id=more.pop("id", "run_1"),
        identity="i",
        at_us=at_us,
        dataset="d",
        dataset_hash="h",
        sample_ids=tuple(sample.id for sample in work),
        models=tuple(Candidate(name=name, id=name, provider="p", kind="closed") for name in models),
        scorers=("exact",),
        config_hash="c",
        **more,
    )


async def carry_out(
    run: Run, work: list[Sample], models: Models, runs: MemoryRuns, since_us: int = 0
) -> Tally:
    bases = {it.name: it.name.encode() for it in run.models}
    remembering = Remembering(models, runs, run.id, bases, since_us)
    return await Pilot(run, work, remembering, runs, concurrency=3).ask_all()


async def test_every_sample_is_asked_once_of_every_model() -> None:
    work, runs, models = samples(5), MemoryRuns(), Models({"a": echo, "b": echo})
    run = run_of(work, repeat=2)
    runs.begin(run, work)
    tally = await carry_out(run, work, models, runs)
    assert tally.complete
    assert (tally.asked, tally.again, tally.spent_nanousd) == (20, 0, 100)
    assert set(models.asked.values()) == {2}
    assert models.most <= 6
    assert set(runs.answers("run_1")) == {Place(m, s.id, n) for m in "ab" for s in work for n in (0, 1)}


async def test_what_is_known_is_not_asked_again_and_fresh_runs_ask() -> None:
    work, runs, models = samples(4), MemoryRuns(), Models({"a": echo, "b": echo})
    for name in ("run_1", "run_2"):
        runs.begin(run_of(work, id=name), work)
    await carry_out(run_of(work), work, models, runs)
    second = await carry_out(run_of(work, id="run_2"), work, models, runs)
    assert (second.asked, second.again, second.spent_nanousd) == (0, 8, 0)
    assert runs.answers("run_2") == runs.answers("run_1")
    fresh = await carry_out(run_of(work, id="run_3"), work, models, runs, since_us=2**60)
    assert (fresh.asked, fresh.again) == (8, 0)
    assert set(models.asked.values()) == {2}


async def test_another_label_or_basis_is_another_question() -> None:
    runs, models = MemoryRuns(), Models({"a": echo})
    request = samples(1)[0].request
    for basis, label in ((b"1", BOTTOM), (b"1", Label("internal")), (b"2", BOTTOM), (b"1", BOTTOM)):
        await Remembering(models, runs, "run_1", {"a": basis})("a", request, label)
    assert models.asked.total() == 3


async def test_samples_of_one_text_are_asked_once_even_at_once() -> None:
    work, runs, models = samples(6, same=True), MemoryRuns(), Models({"a": echo})
    run = run_of(work, "a")
    runs.begin(run, work)
    tally = await carry_out(run, work, models, runs)
    assert models.asked.total() == 1
    assert (tally.asked, tally.again) == (1, 5)


async def test_an_interrupted_run_goes_on_where_it_stood() -> None:
    work, runs = samples(20), MemoryRuns()
    run = run_of(work)
    runs.begin(run, work)
    models = Models({"a": echo, "b": echo}, stuck_after=15)
    running = asyncio.create_task(carry_out(run, work, models, runs))
    while len(runs.answers("run_1")) < 10:  # noqa: ASYNC110
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    kept, before = len(runs.answers("run_1")), models.asked.total()
    assert 10 <= kept <= before < 40
    models.stuck_after = None
    tally = await carry_out(run, work, models, runs)
    assert tally.complete
    assert tally.again == kept
    # At most what ran when it was interrupted is asked twice.
    assert models.asked.total() <= 40 + 6


async def test_money_that_is_spent_ends_a_run_that_can_go_on() -> None:
    work, runs = samples(10), MemoryRuns()
    run = run_of(work, "a")
    runs.begin(run, work)
    models = Models({"a": failing("budget_spent")})
    tally = await carry_out(run, work, models, runs)
    assert tally.out_of_money
    assert not tally.complete
    assert runs.answers("run_1") == {}
    assert models.asked.total() <= 3
    models.says["a"] = echo
    assert (await carry_out(run, work, models, runs)).complete


async def test_models_that_the_money_is_enough_for_are_asked_on() -> None:
    work, runs = samples(10), MemoryRuns()
    run = run_of(work)
    runs.begin(run, work)
    tally = await carry_out(run, work, Models({"a": failing("budget_spent"), "b": echo}), runs)
    assert (tally.out_of_money, set(tally.given_up)) == (True, {"a"})
    assert {place.model for place in runs.answers("run_1")} == {"b"}
    assert len(runs.answers("run_1")) == 10


async def test_what_is_not_permitted_is_counted_and_no_failure() -> None:
    work, runs = samples(ENOUGH + 5), MemoryRuns()
    run = run_of(work, "a")
    runs.begin(run, work)
    tally = await carry_out(run, work, Models({"a": failing("no_model_allowed")}), runs)
    assert tally.complete
    assert (tally.not_permitted, tally.failed) == (ENOUGH + 5, 0)


@pytest.mark.parametrize(
    ("code", "most"), [("upstream_error", ENOUGH + 2), ("breaker_open", 3), ("engine_failed", 3)]
)
async def test_a_model_that_dies_is_given_up_and_the_others_go_on(code: str, most: int) -> None:
    work, runs = samples(ENOUGH + 30), MemoryRuns()
    run = run_of(work)
    runs.begin(run, work)
    models = Models({"a": failing(code), "b": echo})
    tally = await carry_out(run, work, models, runs)
    assert set(tally.given_up) == {"a"}
    assert not tally.complete
    assert sum(count for (model, _), count in models.asked.items() if model == "a") <= most
    assert sum(place.model == "b" for place in runs.answers("run_1")) == len(work)


async def test_failures_are_asked_again_when_a_run_goes_on_and_are_never_taken_for_answers() -> None:
    work, runs = samples(3), MemoryRuns()
    run = run_of(work, "a")
    runs.begin(run, work)
    models = Models({"a": failing("timeout")})
    first = await carry_out(run, work, models, runs)
    assert (first.failed, first.complete) == (3, True)
    models.says["a"] = echo
    second = await carry_out(run, work, models, runs)
    assert (second.failed, second.asked) == (0, 3)


async def test_a_store_that_cannot_write_ends_the_run_with_its_error() -> None:
    class Full(MemoryRuns):
        def keep(self, kept: Kept, place: Place | None = None) -> None:
            raise IsthmusError(Fault.UNAVAILABLE, "The disk is full.", code="ledger_unavailable")

    work, runs = samples(10), Full()
    run = run_of(work)
    runs.begin(run, work)
    with pytest.raises(IsthmusError) as failed:
        await carry_out(run, work, Models({"a": echo, "b": echo}), runs)
    assert failed.value.code == "ledger_unavailable"


async def test_answers_are_scored_and_failures_are_worth_nothing() -> None:
    work, runs = samples(4), MemoryRuns()
    run = run_of(work, "abc")
    runs.begin(run, work)
    says = {"a": echo, "b": failing("timeout"), "c": failing("no_model_allowed")}
    await carry_out(run, work, Models(says), runs)
    exact = scorer_of("exact")
    await score_all(run, work, exact, runs)
    scores = runs.scores("run_1")["exact"]
    by_model = {model: {it.value for place, it in scores.items() if place.model == model} for model in "abc"}
    assert by_model == {"a": {1.0}, "b": {0.0}, "c": {None}}


class Strict:
    """A judge that tells the label with which it was asked."""

    name, binary = "strict", False

    def __init__(self) -> None:
        self.labels: list[Label] = []

    async def score(self, sample: Sample, answered: Answered) -> Score:
        self.labels.append(sample.label)
        return Score(value=1.0)


async def test_who_judges_an_answer_is_cleared_for_all_that_was_found_in_its_request() -> None:
    work, runs, strict = samples(1), MemoryRuns(), Strict()
    run = run_of(work, "a")
    runs.begin(run, work)
    found = Label("restricted", frozenset({"pii.name"}))
    says = Models({"a": lambda model, text: Answered(model=model, text=text, label=found)})
    await carry_out(run, work, says, runs)
    await score_all(run, work, strict, runs)
    assert strict.labels == [found]


def test_what_a_run_adds_does_not_change_what_a_sample_says() -> None:
    extra = {"temperature": 0.0, "max_tokens": 5}
    sample = samples(1)[0]
    assert request_of(sample, extra) == {**extra, **sample.request}
    own = msgspec.structs.replace(sample, request={"temperature": 1.0, "max_completion_tokens": 9})
    assert request_of(own, extra) == {"temperature": 1.0, "max_completion_tokens": 9}
