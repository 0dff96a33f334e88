"""Pilot runs: every sample is asked of every model, each once, whatever interrupts it.

An answer counts when it is committed to the store. So a run that was killed goes on where it stood, and what
it may have paid for twice is bounded by how many calls ran at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from isthmus.core.evaluation import Answered, Sample, Score, Scorer
from isthmus.evals.answers import NOT_ASKED, NOT_PERMITTED, Remembering
from isthmus.evals.datasets import Dataset
from isthmus.store.runs import Candidate, Kept, Place, Run, Runs

ENOUGH = 20
"""A model that fails so often in a row is given up."""

_HOPELESS = frozenset({"breaker_open", "cost_unbounded", "model_not_permitted"})
_SCORED_AT_ONCE = 16
_MARKED_AT_ONCE = 500


class Tally(msgspec.Struct):
    """How far a run is. `asked` counts the answers that came now, `again` those that were known.

    `spent_nanousd` is what was asked now has cost, as far as prices are known; `unpriced` counts the answers
    whose price is not. `given_up` says of models why they are asked no more; `out_of_money` is True where the
    cap is one of the reasons.
    """

    total: int
    asked: int = 0
    again: int = 0
    failed: int = 0
    not_permitted: int = 0
    spent_nanousd: int = 0
    unpriced: int = 0
    given_up: dict[str, str] = {}
    out_of_money: bool = False

    @property
    def done(self) -> int:
        """How many places have an answer, or a failure."""
        return self.asked + self.again

    @property
    def complete(self) -> bool:
        """True where nothing is left to ask."""
        return self.done == self.total


def new_run(
    dataset: Dataset,
    samples: Sequence[Sample],
    models: Sequence[Candidate],
    scorers: Sequence[str],
    config_hash: str,
    **more: Any,
) -> Run:
    """A run that is about to begin: `more` are further fields of a `Run`.

    What it may spend and who began it are no part of its identity: with more money it goes on.
    """
    now_us = time.time_ns() // 1000
    run = Run(
        id=f"run_{now_us // 1_000_000:08x}{secrets.token_hex(3)}",
        identity="",
        at_us=now_us,
        dataset=dataset.name,
        dataset_hash=dataset.hash,
        sample_ids=tuple(sample.id for sample in samples),
        models=tuple(models),
        scorers=tuple(scorers),
        config_hash=config_hash,
        **more,
    )
    same = msgspec.structs.replace(run, id="", at_us=0, dataset="", cap_nanousd=None, who="", config_hash="")
    identity = hashlib.sha256(msgspec.json.encode(same, order="deterministic")).hexdigest()
    return msgspec.structs.replace(run, identity=identity)


def request_of(sample: Sample, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a sample; what is added to every request of a run does not change what a sample says."""
    said = sample.request
    unsaid = extra.items() if "max_completion_tokens" not in said else _without_limit(extra)
    return {**dict(unsaid), **said}


def _without_limit(extra: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in extra.items() if name != "max_tokens"]


class Pilot:
    """One run, carried out by `ask_all`: whatever has no answer yet is asked, of all models at once.

    Of the models of one provider, `concurrency` requests at most are on their way or not yet written down: so
    many may be asked, and paid for, twice where the process dies.
    """

    def __init__(
        self,
        run: Run,
        samples: Sequence[Sample],
        remembering: Remembering,
        runs: Runs,
        *,
        concurrency: int,
        tell: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        self.tally = Tally(total=len(samples) * len(run.models) * run.repeat, given_up={})
        self._run = run
        self._samples = samples
        self._remembering = remembering
        self._runs = runs
        self._concurrency = concurrency
        self._tell = tell
        self._in_a_row: dict[str, int] = {}
        by_provider = {it.provider: asyncio.Semaphore(concurrency) for it in run.models}
        self._places_of = {it.name: by_provider[it.provider] for it in run.models}

    async def ask_all(self) -> Tally:
        """Ask whatever is left; returns when nothing is, or when money or models have come to an end."""
        there = await asyncio.to_thread(self._runs.answers, self._run.id)
        by_model = [self._places(it.name, there) for it in self._run.models]
        workers = [
            asyncio.ensure_future(self._work(places)) for places in by_model for _ in range(self._concurrency)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._remembering.close()
        return self.tally

    def _places(self, model: str, there: Mapping[Place, Kept]) -> Iterator[tuple[Place, Sample]]:
        """What is to be asked of a model; what has an answer is counted on the way."""
        for nth in range(self._run.repeat):
            for sample in self._samples:
                place = Place(model, sample.id, nth)
                kept = there.get(place)
                if kept is not None and kept.answered.code is None:
                    self.tally.again += 1
                    self._tell(self.tally)
                else:
                    yield place, sample

    async def _work(self, places: Iterator[tuple[Place, Sample]]) -> None:
        for place, sample in places:
            if place.model in self.tally.given_up:
                return
            request = request_of(sample, self._run.request)
            async with self._places_of[place.model]:
                asked = await self._remembering.ask(place.model, request, sample.label, place)
            self._count(place.model, asked.kept.answered, again=asked.again)
            self._tell(self.tally)

    def _count(self, model: str, answered: Answered, *, again: bool) -> None:
        tally = self.tally
        if answered.code in NOT_ASKED:
            tally.out_of_money = True
            tally.given_up.setdefault(model, answered.error or "The cap is reached.")
            return
        tally.again += again
        tally.asked += not again
        if not again and answered.charge is not None:
            tally.spent_nanousd += answered.charge.nanousd or 0
            tally.unpriced += answered.charge.nanousd is None
        if answered.code == NOT_PERMITTED:
            tally.not_permitted += 1
        elif answered.code is not None:
            tally.failed += 1
            self._in_a_row[model] = self._in_a_row.get(model, 0) + 1
            if self._in_a_row[model] >= ENOUGH or _is_hopeless(answered.code):
                tally.given_up.setdefault(model, answered.error or answered.code)
        else:
            self._in_a_row[model] = 0


def _is_hopeless(code: str) -> bool:
    return code in _HOPELESS or code.startswith("engine_")


async def score_all(
    run: Run,
    samples: Sequence[Sample],
    scorer: Scorer,
    runs: Runs,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Score every answer of the run, and mark it anew: what a scorer reads may have changed since.

    What a judge says is remembered as every answer is, so that it is paid for once.
    """
    there = sorted((await asyncio.to_thread(runs.answers, run.id)).items())
    by_id = {sample.id: sample for sample in samples}
    places = asyncio.Semaphore(_SCORED_AT_ONCE)

    async def mark(place: Place, kept: Kept) -> tuple[Place, tuple[str, Score]]:
        async with places:
            return place, (kept.id, await _score(scorer, by_id[place.sample], kept.answered))

    for start in range(0, len(there), _MARKED_AT_ONCE):
        part = there[start : start + _MARKED_AT_ONCE]
        marks = dict(await asyncio.gather(*(mark(*it) for it in part)))
        await asyncio.to_thread(runs.mark, run.id, scorer.name, marks)
        tell(start + len(part), len(there))


async def _score(scorer: Scorer, sample: Sample, answered: Answered) -> Score:
    """How good an answer is; a failure is worth nothing, and of what was never sent nobody can say."""
    if answered.code == NOT_PERMITTED:
        return Score(value=None, why="not permitted")
    if answered.code is not None:
        return Score(value=0.0, why=f"failed: {answered.code}")
    # A judge reads the answer: it may tell of what the sample's text does not, a picture say.
    as_sensitive = msgspec.structs.replace(sample, label=sample.label.join(answered.label))
    return await scorer.score(as_sensitive, answered)
