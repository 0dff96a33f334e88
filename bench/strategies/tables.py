"""The benchmark's data: outcomes of real models, a row for each query and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Table(NamedTuple):
    """Queries that every model answered. `splits` is what a set is parted into (MMLU: the subject)."""

    models: tuple[str, ...]
    datasets: NDArray[np.str_]
    splits: NDArray[np.str_]
    prompts: tuple[str, ...]
    scores: Floats
    confidences: Floats
    costs: Floats
    answers: tuple[tuple[str, ...], ...]

    def among(self, rows: Any) -> Table:
        """Some of the queries."""
        places = np.asarray(rows)
        places = np.flatnonzero(places) if places.dtype == bool else places
        return Table(
            self.models,
            self.datasets[places],
            self.splits[places],
            tuple(self.prompts[at] for at in places),
            self.scores[places],
            self.confidences[places],
            self.costs[places],
            tuple(self.answers[at] for at in places),
        )


def read(path: Path, confidence: str = "conf") -> Table | None:
    """The table of a Parquet file; None where there is no such file, or no such column of confidences."""
    import pyarrow.parquet as parquet

    if not path.exists():
        return None
    columns = parquet.read_table(path).to_pydict()
    if confidence not in columns:
        return None
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for at, key in enumerate(zip(columns["dataset"], columns["qid"], strict=True)):
        rows.setdefault(key, {})[columns["model"][at]] = at
    models = tuple(sorted(set(columns["model"])))
    whole = [row for row in rows.values() if len(row) == len(models)]
    first = [next(iter(row.values())) for row in whole]

    def numbers(name: str) -> Floats:
        values = columns[name]
        return np.array(
            [[np.nan if (it := values[row[model]]) is None else it for model in models] for row in whole],
            float,
        )

    return Table(
        models,
        np.array([columns["dataset"][at] or "" for at in first]),
        np.array([columns["split"][at] or "" for at in first]),
        tuple(columns["prompt"][at] or "" for at in first),
        numbers("score"),
        numbers(confidence),
        numbers("cost_usd"),
        tuple(tuple(columns["answer"][row[model]] or "" for model in models) for row in whole),
    )
