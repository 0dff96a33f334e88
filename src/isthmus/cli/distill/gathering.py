"""Gathering rows from what a recipe names: the ledger, runs, files, and a teacher who is asked."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from isthmus.bootstrap import open_feedback, open_records, past_configs
from isthmus.cli.distill.asking import Asking
from isthmus.config.config import Config
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.golden import hashes_of
from isthmus.distill.rows import Makers, Row, noting, rows_of_dataset, rows_of_records, rows_of_run
from isthmus.distill.sections import AskTeacher, Collect, FromRecords
from isthmus.distill.variations import asking_for, variations_of
from isthmus.evals.datasets import Dataset, open_dataset
from isthmus.evals.datasets.dataset import hash_of
from isthmus.evals.datasets.from_records import Wish, samples_of
from isthmus.evals.replay.boundary import Portfolio
from isthmus.routing.route import OF_EVALUATIONS
from isthmus.store.records import Where
from isthmus.store.runs import Place, Run

AT_ONCE = 8
"""Requests at once to the teacher."""

_LEFT_OUT = "left out: "


class Gathering:
    """The rows of a recipe, by its sections; `left_out` counts what never became one.

    `folder` is the recipe's: what it names is relative to that.
    """

    def __init__(
        self,
        rule: Collect,
        folder: Path,
        config: Config,
        config_path: Path | None,
        cap_nanousd: int | None,
    ) -> None:
        self.left_out: Counter[str] = Counter()
        self._rule = rule
        self._folder = folder
        self._config = config
        self._config_path = config_path
        self._asking = Asking(config, config_path, cap_nanousd, AT_ONCE)
        self._runs = self._asking.runs
        today = Portfolio(config.models, config.providers)
        past = past_configs(config, config_path).items()
        then = {hash: Portfolio(it.models, it.providers) for hash, it in past}
        self._makers = Makers({**then, config.hash: today}, today)

    def rows(self) -> Iterator[Row]:
        """All rows. Raises IsthmusError where a source cannot be read, or is not complete."""
        for file in self._rule.files:
            dataset = self._opened(file.path)
            known_by = hashes_of(self._folder / file.path, dataset)
            yield from rows_of_dataset(dataset, known_by, file.by == "people", self.left_out)
        if self._rule.records is not None:
            yield from self._of_records(self._rule.records)
        for prefix in self._rule.runs:
            run = self._runs.find(prefix)
            yield from self._of_run(run, self._answering(run))
        if self._rule.ask is not None:
            seeds = self._opened(self._rule.ask.inputs)
            run = self._asked(self._rule.ask, seeds)
            yield from self._of_run(run, self._rule.ask.teacher, (seeds.hash,))

    def _opened(self, name: str) -> Dataset:
        found = open_dataset(self._folder / name)
        for note in found.notes:
            click.echo(f"Note: {found.name}: {note}", err=True)
        return found

    # The ledger

    def _of_records(self, wanted: FromRecords) -> Iterator[Row]:
        where = Where(since_us=_start_us(wanted.since), route=wanted.route, model=wanted.model, outcome="ok")
        recorded = open_records(self._config, self._config_path).scan(where, bodies=True)
        asked = (it for it in recorded if it.mirrors is None and not it.route.startswith(OF_EVALUATIONS))
        noted: dict[str, Any] = {}
        notes: Counter[str] = Counter()
        wish = Wish(score=wanted.score, corrected=wanted.corrected)
        opinions = open_feedback(self._config, self._config_path).of
        # Each row is looked into as a whole, later.
        samples = samples_of(noting(asked, noted), opinions, lambda _, least: least, wish, notes)
        by_score = wanted.score is not None
        yield from rows_of_records(samples, noted, self._makers, self.left_out, by_score=by_score)
        for note, count in notes.items():
            self.left_out["no_sample"] += count * note.startswith(_LEFT_OUT)
            click.echo(f"Note: {note} ({count:,})", err=True)

    # Runs

    def _of_run(self, run: Run, model: str, through: Sequence[str] = ()) -> Iterator[Row]:
        scorer = self._scorer_of(run)
        marks = self._runs.scores(run.id)
        if scorer is not None and scorer not in marks:
            raise IsthmusError(
                Fault.NOT_FOUND,
                f"The run {run.id} has no scores by {scorer!r}.",
                code="unknown_scorer",
                hint=f"It has those by: {', '.join(marks) or 'nobody'}. `isthmus eval score` adds others.",
            )
        yield from rows_of_run(
            run,
            self._runs.samples(run),
            self._runs.answers(run.id),
            marks[scorer] if scorer is not None else {},
            model,
            scorer,
            self._makers,
            self.left_out,
            through,
        )

    def _scorer_of(self, run: Run) -> str | None:
        return self._rule.scorer if self._rule.scorer is not None else next(iter(run.scorers), None)

    def _answering(self, run: Run) -> str:
        """Whose answers in the run are meant."""
        names = [it.name for it in run.models]
        said = self._rule.answers_of
        if said in names:
            return said
        if said is None and len(names) == 1:
            return names[0]
        what = "has several models" if said is None else f"did not ask {said!r}"
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The run {run.id} {what}.",
            code="run_does_not_fit",
            hint=f"Say `answers_of`, one of: {', '.join(names)}.",
        )

    # The teacher

    def _asked(self, asking: AskTeacher, seeds: Dataset) -> Run:
        """The run in which the teacher has answered these, and its own variations of them."""
        varied = self._varied(asking, seeds)
        samples = tuple({it.id: it for it in (*seeds.samples, *varied)}.values())
        dataset = Dataset(name=seeds.name, samples=samples, hash=hash_of(samples))
        scorers = () if self._rule.scorer is None else (self._rule.scorer,)
        request = {"temperature": asking.temperature, "max_tokens": asking.max_tokens}
        request |= {"logprobs": asking.logprobs or None}
        return self._asking.run(dataset, [asking.teacher], request, scorers, asking.repeat)

    def _varied(self, asking: AskTeacher, seeds: Dataset) -> list[Sample]:
        if not asking.variations:
            return []
        tasks = {
            it.id: task for it in seeds.samples if (task := asking_for(it, asking.variations)) is not None
        }
        if not tasks:
            return []
        samples = tuple(tasks.values())
        dataset = Dataset(name=f"{seeds.name}, varied", samples=samples, hash=hash_of(samples))
        run = self._asking.run(dataset, [asking.teacher], {"temperature": asking.temperature})
        answers = self._runs.answers(run.id)
        (candidate,) = run.models
        made: list[Sample] = []
        for seed in seeds.samples:
            kept = answers.get(Place(asking.teacher, tasks[seed.id].id)) if seed.id in tasks else None
            if kept is not None and kept.answered.code is None:
                by = self._makers.of_kept(candidate, kept, "input", run.config_hash)
                made += variations_of(seed, kept.answered, by, asking.variations)
        click.echo(f"{len(made):,} variations of {len(seeds.samples):,} requests.", err=True)
        return made


def _start_us(day: dt.date | None) -> int | None:
    if day is None:
        return None
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    return int(midnight.timestamp()) * 1_000_000
