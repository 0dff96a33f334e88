"""A table of outcomes: what each model's answer to each query was worth, and what it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.core.errors import Fault, IsthmusError
from isthmus.evals.datasets.rows import Row, csv_rows, json_array, json_lines, parquet_rows

Floats = NDArray[np.float64]

_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "qid", "query_id", "sample", "id"),
    "model": ("model",),
    "score": ("score", "quality"),
    "confidence": ("confidence", "conf"),
    "cost": ("cost", "cost_usd", "usd"),
    "latency": ("latency", "latency_ms"),
    "task": ("task", "dataset"),
    "prompt": ("prompt", "question", "input"),
    "answer": ("answer", "said"),
}
_NUMBERS = ("score", "confidence", "cost", "latency")


class Outcomes(NamedTuple):
    """Queries that every model has answered: a row for each, a column for each of `models`.

    Scores are from 0 to 1, costs in dollars a request, latencies in milliseconds; what is not known is not a
    number. `answers` are None where the table has none. `left_out` counts queries that some model has not
    answered.
    """

    models: tuple[str, ...]
    tasks: tuple[str | None, ...]
    prompts: tuple[str | None, ...]
    scores: Floats
    confidences: Floats
    costs: Floats
    latencies: Floats
    answers: tuple[tuple[str, ...], ...] | None
    left_out: int

    def among(self, rows: Sequence[int] | NDArray[np.intp]) -> Outcomes:
        """These queries alone."""
        places = [int(row) for row in rows]
        return self._replace(
            tasks=tuple(self.tasks[at] for at in places),
            prompts=tuple(self.prompts[at] for at in places),
            scores=self.scores[places],
            confidences=self.confidences[places],
            costs=self.costs[places],
            latencies=self.latencies[places],
            answers=None if self.answers is None else tuple(self.answers[at] for at in places),
        )

    def followed_by(self, later: Outcomes) -> Outcomes:
        """These queries, and then those of another table with the same models."""
        if later.models != self.models:
            raise _bad(
                "The two tables have not the same models.",
                f"One has {', '.join(self.models)}; the other {', '.join(later.models)}.",
            )
        both = (
            (*self.answers, *later.answers)
            if self.answers is not None and later.answers is not None
            else None
        )
        return self._replace(
            tasks=(*self.tasks, *later.tasks),
            prompts=(*self.prompts, *later.prompts),
            scores=np.vstack((self.scores, later.scores)),
            confidences=np.vstack((self.confidences, later.confidences)),
            costs=np.vstack((self.costs, later.costs)),
            latencies=np.vstack((self.latencies, later.latencies)),
            answers=both,
            left_out=self.left_out + later.left_out,
        )

    def priced(self, prices: Mapping[str, float]) -> Outcomes:
        """With these costs of a request by model, in place of the table's."""
        costs = self.costs.copy()
        for model, usd in prices.items():
            costs[:, self.place(model)] = usd
        return self._replace(costs=costs)

    def place(self, model: str) -> int:
        """The column of a model. Raises IsthmusError (`unknown_model`)."""
        if model not in self.models:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"The table has no model {model!r}.",
                code="unknown_model",
                hint=f"It has {', '.join(self.models)}.",
            )
        return self.models.index(model)


def read_outcomes(path: Path) -> Outcomes:
    """The outcomes in a file of Parquet, CSV, JSON Lines or a JSON array: a row for each query and model.

    Columns: `query`, `model`, `score`, and if there are such `confidence`, `cost_usd`, `latency_ms`, `task`,
    `prompt`, `answer`. A query is told by its task and its id. Raises IsthmusError: `bad_dataset`, with the
    place of what is wrong; `bad_outcomes`; `missing_extra`.
    """
    found: dict[tuple[str | None, str], dict[str, dict[str, Any]]] = {}
    named: dict[str, str] | None = None
    for row in _rows(path):
        if not isinstance(row.value, dict):
            raise _bad(f"{row.where}: This is no row of a table.")
        named = named or _columns(path, row.value)
        key, model, cells = _read(row, named)
        answered = found.setdefault(key, {})
        if model in answered:
            raise _bad(f"{row.where}: {model} has answered this query in an earlier row.")
        answered[model] = cells
    models = tuple(sorted({model for answered in found.values() for model in answered}))
    whole = {key: answered for key, answered in found.items() if len(answered) == len(models)}
    if not whole:
        raise _bad(f"{path}: No query was answered by every model." if found else f"{path}: There is no row.")
    return _outcomes(models, whole, len(found) - len(whole))


def _outcomes(
    models: tuple[str, ...], whole: Mapping[tuple[str | None, str], Mapping[str, dict[str, Any]]], left: int
) -> Outcomes:
    rows = list(whole.values())

    def numbers(name: str) -> Floats:
        return np.array([[row[model].get(name, np.nan) for model in models] for row in rows], float)

    answers = tuple(tuple(row[model].get("answer") or "" for model in models) for row in rows)
    return Outcomes(
        models=models,
        tasks=tuple(task for task, _ in whole),
        prompts=tuple(next((it["prompt"] for it in row.values() if "prompt" in it), None) for row in rows),
        scores=numbers("score"),
        confidences=numbers("confidence"),
        costs=numbers("cost"),
        latencies=numbers("latency"),
        answers=answers if any(map(any, answers)) else None,
        left_out=left,
    )


def _rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            begins = file.read(4)
            if begins == b"PAR1":
                return parquet_rows(path)
            content = (begins + file.read()).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The table {path} cannot be read: {error.strerror or error}.",
            code="outcomes_unreadable",
            hint="Say the path of one file.",
        ) from error
    if content.lstrip()[:1] == b"[":
        return json_array(path, content)
    if content.lstrip()[:1] == b"{":
        return json_lines(path, content)
    return csv_rows(path, content)


def _columns(path: Path, first: Mapping[str, Any]) -> dict[str, str]:
    """Our name of each column that is known."""
    named = {
        given: name
        for name, spellings in _NAMES.items()
        if (given := next((it for it in spellings if it in first), None)) is not None
    }
    missing = [name for name in ("query", "model", "score") if name not in named.values()]
    if missing:
        raise _bad(
            f"{path}: There is no column {', '.join(missing)}.",
            f"The first row has {', '.join(first)}. A row is one query and one model, with a score.",
        )
    # A later row may have what the first one has not.
    return {it: name for name, spellings in _NAMES.items() for it in spellings} | named


def _read(row: Row, named: Mapping[str, str]) -> tuple[tuple[str | None, str], str, dict[str, Any]]:
    cells: dict[str, Any] = {}
    for given, value in row.value.items():
        name = named.get(given)
        if name is not None and value is not None:
            cells.setdefault(name, _number(row.where, given, value) if name in _NUMBERS else str(value))
    for name in ("query", "model", "score"):
        if name not in cells:
            raise _bad(f"{row.where}: This row has no {name}.")
    if not 0 <= cells["score"] <= 1:
        raise _bad(f"{row.where}: A score is from 0 to 1.", "Divide by the highest that there can be.")
    if cells.get("cost", 0) < 0 or cells.get("latency", 0) < 0:
        raise _bad(f"{row.where}: Costs and latencies are not below zero.")
    return (cells.get("task"), cells["query"]), cells["model"], cells


def _number(where: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise _bad(f"{where}: `{name}` is no number.")
    return number


def _bad(message: str, hint: str = "") -> IsthmusError:
    return IsthmusError(Fault.INVALID_REQUEST, message, code="bad_outcomes", hint=hint)
