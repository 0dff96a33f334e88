"""The parts together: what each model's answer to a request will be worth, and whether that can be said.

The targets are the score of the model that is best on the whole, and by how much each other one is better or
worse: a gain is learned more easily than two scores (arXiv 2604.14251 and our own figures agree). Each part's
guess is put on the scale of its spread, and weighed by how well it did for rows that it had not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.core.errors import Fault, IsthmusError
from isthmus.routing.learned.parts import Neighbours, Part, Surface, TaskMeans, Words
from isthmus.routing.learned.query import Matrix, Outcomes, Query

_Folds = NDArray[np.signedinteger[Any]]

FEWEST_ROWS = 100
"""So many requests are the least that can be learned from."""

FOLDS = 5
SELDOM = 0.05
"""A request counts as unlike all others where so small a share of them is as far from its nearest."""

EQUAL_ROWS = 200
"""The belief that all parts are worth the same counts as so many rows."""

CAUTION = (1.0, 0.5, 0.25, 0.0)
"""What the text says of a request without a task's name is taken by so much of it, at most."""

TOLERATED = 0.0025
"""So much may be lost on the mean of a task that was held out."""

FEWEST_TASKS = 3
"""Of fewer tasks none can be held out."""

FEWEST_OF_TASK = 100
"""Tasks of fewer rows are judged together: a mean of few rows is chance."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What each model's answer will be worth, from 0 to 1.

    Where the request is like nothing that was learned from, `supported` is False and `why` says so: the
    qualities are those of the models on the whole then.
    """

    models: tuple[str, ...]
    qualities: tuple[float, ...]
    supported: bool
    why: str


class Scale(NamedTuple):
    """How the parts' guesses become one: each less its `centre`, over its `spread`, times its `weight`; their
    sum and `mean`. Arrays are part by target, with a dimension between for the queries."""

    centre: Matrix
    spread: Matrix
    weight: Matrix
    mean: Matrix

    def joined(self, guesses: Matrix) -> Matrix:
        """The targets, by guesses that are part by query by target."""
        return np.asarray(self.mean + (self.weight * (guesses - self.centre) / self.spread).sum(0))


class Stack(NamedTuple):
    """What was learned. `best` is the place of the model that is best on the whole, `overall` what each
    scores on the whole.

    `parts` guess by the text, `tasks` by the task's name, where tasks have names; `by_text` and `by_both` are
    their scales. `support` is the least nearness of a request that they are asked about.
    """

    models: tuple[str, ...]
    best: int
    overall: Matrix
    parts: tuple[Part, ...]
    tasks: TaskMeans | None
    by_text: Scale
    by_both: Scale | None
    support: float
    embedding: str | None

    def estimate(self, query: Query) -> Estimate:
        """What each model's answer to it will be worth."""
        qualities, supported = self.estimates([query])
        task_is_new = (
            self.tasks is not None and query.task is not None and query.task not in self.tasks.places
        )
        if supported[0]:
            why = "like what was learned from"
        elif task_is_new:
            why = "its task is none of those that were learned from"
        else:
            why = "it is like nothing that was learned from"
        return Estimate(
            models=self.models,
            qualities=tuple(min(max(it, 0.0), 1.0) for it in qualities[0].tolist()),
            supported=bool(supported[0]),
            why=why,
        )

    def estimates(self, queries: Sequence[Query]) -> tuple[Matrix, NDArray[np.bool_]]:
        """The qualities, a row for each query, and which of them are supported."""
        found, near = guesses(self.parts, queries)
        targets = self.by_text.joined(found)
        if self.by_both is not None and self.tasks is not None:
            named = np.array([query.task is not None for query in queries])
            both = self.by_both.joined(np.concatenate((found, self.tasks.predict(queries)[None])))
            targets = np.where(named[:, None], both, targets)
        supported = self._supported(queries, near)
        return np.where(supported[:, None], _qualities(targets, self.best), self.overall), supported

    def _supported(self, queries: Sequence[Query], near: Matrix) -> NDArray[np.bool_]:
        """Which of them are like what was learned from: their task, where it is named, and their words."""
        if self.tasks is None:
            return near >= self.support
        # A task's name vouches for its requests, and against them.
        named = np.array([query.task is not None for query in queries])
        seen = np.array([query.task in self.tasks.places for query in queries])
        return np.where(named, seen, near >= self.support)


def learn(outcomes: Outcomes, rng: np.random.Generator, embedding: str | None = None) -> Stack:
    """The stack learned from outcomes; `embedding` is the hash of what made their vectors.

    Raises IsthmusError (`too_few_outcomes`).
    """
    queries, scores = outcomes.queries, outcomes.scores
    if len(queries) < FEWEST_ROWS:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{len(queries)} requests with a score of every model are too few to learn from.",
            code="too_few_outcomes",
            hint=f"Get at least {FEWEST_ROWS}, for instance from a pilot run.",
        )
    if scores.shape != (len(queries), len(outcomes.models)) or not np.isfinite(scores).all():
        raise ValueError("there is one score of each model for each query")
    overall = scores.mean(0)
    best = int(overall.argmax())
    targets = _targets(scores, best)
    tasks = np.array([query.task or "" for query in queries])
    many = len(set(tasks)) > 1
    kinds = _kinds(queries)
    folds = rng.permutation(len(queries)) % FOLDS
    unseen, near = _out_of_fold(queries, targets, folds, (*kinds, TaskMeans) if many else kinds)
    by_text = _scale(unseen[: len(kinds)], targets)
    if len(set(tasks)) >= FEWEST_TASKS:
        found, _ = _out_of_fold(queries, targets, _folds_of_tasks(tasks, rng), kinds)
        by_text = _cautious(found, targets, tasks, best)
    return Stack(
        models=outcomes.models,
        best=best,
        overall=overall,
        parts=tuple(kind.fit(queries, targets) for kind in kinds),
        tasks=TaskMeans.fit(queries, targets) if any(tasks) else None,
        by_text=by_text,
        by_both=_scale(unseen, targets) if many else None,
        support=float(np.quantile(near, SELDOM)),
        embedding=embedding,
    )


def guesses(parts: Sequence[Part], queries: Sequence[Query]) -> tuple[Matrix, Matrix]:
    """What the parts say, part by query by target, and how near each query is to what was learned from: the
    cosine of the nearest row, or without vectors the share of its words that are known."""
    found, near = [], None
    for part in parts:
        if isinstance(part, Neighbours):
            guess, near = part.look(queries)
        else:
            guess = part.predict(queries)
            if isinstance(part, Words) and near is None:
                near = part.known(queries)
        found.append(guess)
    assert near is not None, "every stack knows words"
    return np.array(found), near


def _kinds(queries: Sequence[Query]) -> tuple[type[Neighbours] | type[Words] | type[Surface], ...]:
    embedded = all(query.vector is not None for query in queries)
    return (Neighbours, Words, Surface) if embedded else (Words, Surface)


def _targets(scores: Matrix, best: int) -> Matrix:
    targets = scores - scores[:, [best]]
    targets[:, best] = scores[:, best]
    return targets


def _qualities(targets: Matrix, best: int) -> Matrix:
    qualities = targets + targets[:, [best]]
    qualities[:, best] = targets[:, best]
    return qualities


def _folds_of_tasks(tasks: NDArray[np.str_], rng: np.random.Generator) -> _Folds:
    """Folds that hold whole tasks."""
    names, places = np.unique(tasks, return_inverse=True)
    return np.asarray((rng.permutation(len(names)) % FOLDS)[places])


def _out_of_fold(
    queries: Sequence[Query], targets: Matrix, folds: _Folds, kinds: Sequence[type[Part]]
) -> tuple[Matrix, Matrix]:
    """Each row's guesses and nearness by parts that were fitted to the other folds."""
    found = np.zeros((len(kinds), *targets.shape))
    near = np.zeros(len(queries))
    for fold in np.unique(folds):
        here, there = (np.flatnonzero(it).tolist() for it in (folds == fold, folds != fold))
        learned = [kind.fit([queries[at] for at in there], targets[there]) for kind in kinds]
        asked = [queries[at] for at in here]
        found[:, here], near[here] = guesses(learned, asked)
    return found, near


def _scale(found: Matrix, targets: Matrix) -> Scale:
    """The scale that fits guesses for rows that were not seen.

    Least squares with weights that are not negative (L. Breiman, "Stacked Regressions", Machine Learning 24
    (1996) 49), drawn to equal ones, as many parts on few rows are better off with those.
    """
    from scipy.optimize import nnls

    centre, spread = found.mean(1, keepdims=True), found.std(1, keepdims=True) + 1e-9
    scaled, mean = (found - centre) / spread, targets.mean(0)
    weight = np.zeros((len(found), 1, targets.shape[1]))
    for at, target in enumerate((targets - mean).T):
        parts = scaled[:, :, at].T
        together = parts.mean(1)
        equal = max(float(together @ target) / max(float(together @ together), 1e-9), 0.0) / len(found)
        drawn = np.sqrt(EQUAL_ROWS) * np.eye(len(found))
        rows, wanted = np.vstack((parts, drawn)), np.concatenate((target, drawn.sum(0) * equal))
        weight[:, 0, at] = nnls(rows, wanted)[0]
    return Scale(centre, spread, weight, mean)


def _cautious(found: Matrix, targets: Matrix, tasks: NDArray[np.str_], best: int) -> Scale:
    """The scale by guesses for tasks that were held out, drawn to the means until no task loses by it.

    A request without a task's name may be of any task, also of a new one, and a router that trusts its text
    is often worse there than the best single model.
    """
    scale = _scale(found, targets)
    names, places, counts = np.unique(tasks, return_inverse=True, return_counts=True)
    groups = np.where(counts >= FEWEST_OF_TASK, np.arange(len(names)), -1)[places]
    for share in CAUTION:
        drawn = scale._replace(weight=scale.weight * share)
        gains = _realised(drawn.joined(found), targets, best)
        if min(gains[groups == group].mean() for group in np.unique(groups)) >= -TOLERATED:
            break
    return drawn


def _realised(expected: Matrix, targets: Matrix, best: int) -> Matrix:
    """What taking the model of the highest expected gain has gained, for each row."""
    expected, real = expected.copy(), targets.copy()
    expected[:, best], real[:, best] = 0, 0
    return np.asarray(np.take_along_axis(real, expected.argmax(1)[:, None], 1)[:, 0])
