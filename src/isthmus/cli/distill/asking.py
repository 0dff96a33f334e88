"""Runs on the way of a recipe or a gate: carried out as `isthmus pilot` would, several within one cap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.bootstrap import open_records, open_runs
from isthmus.cli.pilot import carried_out, user_name
from isthmus.cli.runs import judges_of
from isthmus.config.config import Config
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.money import format_usd
from isthmus.evals.answers import candidate_of
from isthmus.evals.datasets import Dataset
from isthmus.evals.pilot import new_run
from isthmus.store.records import Where
from isthmus.store.runs import Run


class Asking:
    """Asks models of the config; all runs together, and all earlier ones that did the same, keep to the cap.

    A run that has ended is begun anew when a command is repeated, and finds its answers known: what they cost
    then counts now.
    """

    def __init__(self, config: Config, path: Path | None, cap_nanousd: int | None, concurrency: int) -> None:
        self.config = config
        self.runs = open_runs(config, path)
        self._path = path
        self._left_nanousd = cap_nanousd
        self._concurrency = concurrency

    def run(
        self,
        dataset: Dataset,
        models: Sequence[str],
        request: Mapping[str, Any],
        scorers: Sequence[str] = (),
        repeat: int = 1,
    ) -> Run:
        """The run of these models over the dataset, with all asked and scored. Raises IsthmusError
        (`not_complete`) where the money or a model has come to an end before."""
        begun = new_run(
            dataset,
            dataset.samples,
            [candidate_of(self.config, name) for name in dict.fromkeys(models)],
            scorers,
            self.config.hash,
            request={name: value for name, value in request.items() if value is not None},
            repeat=repeat,
            who=user_name(),
        )
        if self._left_nanousd is not None:
            ended = (it for it in self._alike(begun) if it.ended_us is not None)
            self._left_nanousd = max(0, self._left_nanousd - self._cost(ended))
        begun = msgspec.structs.replace(begun, cap_nanousd=self._left_nanousd)
        judges = judges_of(scorers, self.config)
        carried = carried_out(begun, dataset, self.config, self._path, self.runs, judges, self._concurrency)
        run = self.runs.find(carried.id)
        if self._left_nanousd is not None:
            cost = self._cost([run])
            self._left_nanousd = max(0, self._left_nanousd - cost)
            click.echo(f"{run.id} has cost USD {format_usd(cost)}.", err=True)
        if run.ended_us is None:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"The run {run.id} over {dataset.name} is not complete, and nothing is written.",
                code="not_complete",
                hint="Run the same command again: what was answered is kept, and not paid for twice.",
            )
        return run

    def _alike(self, run: Run) -> list[Run]:
        return [it for it in self.runs.list() if it.identity == run.identity]

    def _cost(self, runs: Iterable[Run]) -> int:
        """What these runs have cost, judges included: the ledger knows each request by its run."""
        records = open_records(self.config, self._path)
        return sum(
            record.charge.nanousd or 0
            for run in runs
            for record in records.scan(Where(since_us=run.at_us, key_id=run.id))
            if record.charge is not None
        )
