"""Four ways to guess a target from a query; each is weak, and each is weak in its own way.

A part is fitted to rows of queries and a matrix of targets, one column for each, and predicts a row. All are
linear in the targets, so that what they say of a difference is the difference of what they say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from isthmus.routing.learned.features import BUCKETS
from isthmus.routing.learned.query import Matrix, Query

NEIGHBOURS = 50
"""So many neighbours are heard (arXiv 2505.12601 tunes as much; it was not tuned here)."""

SHARPNESS = 10.0
"""A neighbour's weight is e to the power of so many times its cosine."""

MOST_ROWS = 10_000
"""So many rows are the most that are searched for neighbours: the search is exact, and has to be quick."""

WORDS_RIDGE = 3.0
SURFACE_RIDGE = 50.0

_STEPS = 200
_NEAR_ENOUGH = 1e-4
_FAR = 3.0
_AT_ONCE = 500
_NUMBERS_IN_BLOCK = 1 << 13

Arrays = dict[str, NDArray[np.float32]]


class Part(Protocol):
    """One way to guess."""

    name: str

    @classmethod
    def fit(cls, queries: Sequence[Query], targets: Matrix) -> Self: ...

    @classmethod
    def load(cls, arrays: Arrays) -> Self: ...

    def arrays(self) -> Arrays:
        """What was learned, as `load` takes it."""
        ...

    def predict(self, queries: Sequence[Query]) -> Matrix:
        """The guess of each target, a row for each query."""
        ...


class TaskMeans:
    """The mean of the query's task, drawn to the mean of all the more, the fewer rows it has.

    The prior's weight is estimated for each target: the variance within tasks over that between them, which
    for scores of 0 and 1 is shrinkage by a Beta prior (R. Kleinman, JASA 68 (1973) 46).
    """

    name = "tasks"

    def __init__(self, names: Sequence[str], means: Matrix, overall: Matrix) -> None:
        self._means, self._overall = means, overall
        self.names = list(names)
        self.places = {name: place for place, name in enumerate(self.names)}

    @classmethod
    def fit(cls, queries: Sequence[Query], targets: Matrix) -> Self:
        names = sorted({query.task for query in queries if query.task is not None})
        of = np.array([query.task or "" for query in queries])
        overall = targets.mean(0)
        rows = [targets[of == name] for name in names]
        sizes = np.array([float(len(some)) for some in rows])
        means = np.array([some.mean(0) for some in rows]).reshape(len(names), len(overall))
        weight = _prior_weight(rows, sizes, means)
        heard = sizes[:, None] / (sizes[:, None] + weight)
        return cls(names, overall + heard * (means - overall), overall)

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        names = bytes(arrays["names"].astype(np.uint8)).decode().split("\0")
        return cls(names, arrays["means"].astype(np.float64), arrays["overall"].astype(np.float64))

    def arrays(self) -> Arrays:
        letters = np.frombuffer("\0".join(self.names).encode(), np.uint8)
        return {
            "names": letters.astype(np.float32),
            "means": self._means.astype(np.float32),
            "overall": self._overall.astype(np.float32),
        }

    def predict(self, queries: Sequence[Query]) -> Matrix:
        places = [self.places.get(query.task or "") for query in queries]
        return np.array([self._overall if place is None else self._means[place] for place in places])


def _prior_weight(rows: Sequence[Matrix], sizes: Matrix, means: Matrix) -> Matrix:
    """How many rows the prior counts as, by the method of moments of a one-way random model."""
    total, many = sizes.sum(), len(rows)
    if many < 2 or total <= many:
        return np.full(means.shape[1], np.inf if many < 2 else 1.0)
    within = sum(((some - mean) ** 2).sum(0) for some, mean in zip(rows, means, strict=True)) / (total - many)
    centre = (sizes[:, None] * means).sum(0) / total
    spread = (sizes[:, None] * (means - centre) ** 2).sum(0) - (many - 1) * within
    between = np.maximum(spread / (total - (sizes**2).sum() / total), 1e-6)
    return np.asarray(np.maximum(within, 1e-9) / between)


class Neighbours:
    """The mean of the nearest rows, weighted by their cosines."""

    name = "neighbours"

    def __init__(self, vectors: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        self._blocks = _in_blocks(vectors)
        self._vectors = self._blocks.reshape(-1, vectors.shape[1])[: len(vectors)]
        self._targets = targets

    @classmethod
    def fit(cls, queries: Sequence[Query], targets: Matrix) -> Self:
        # Rows may stand in the order of their tasks, so that the first of them would be of few.
        kept = np.linspace(0, len(queries) - 1, min(len(queries), MOST_ROWS)).astype(int).tolist()
        vectors = np.array([queries[at].vector for at in kept], np.float32)
        return cls(vectors, targets[kept].astype(np.float32))

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        return cls(arrays["vectors"], arrays["targets"])

    def arrays(self) -> Arrays:
        return {"vectors": self._vectors, "targets": self._targets}

    def predict(self, queries: Sequence[Query]) -> Matrix:
        return self.look(queries)[0]

    def look(self, queries: Sequence[Query]) -> tuple[Matrix, Matrix]:
        """The guess of each target, and the cosine of the nearest row, for each query."""
        looked = [(self._heard(row), row.max()) for rows in self._cosines(queries) for row in rows]
        heard, nearest = zip(*looked, strict=True)
        return np.array(heard, np.float64), np.array(nearest, np.float64)

    def _cosines(self, queries: Sequence[Query]) -> Iterator[NDArray[np.float32]]:
        for at in range(0, len(queries), _AT_ONCE):
            vectors = np.array([query.vector for query in queries[at : at + _AT_ONCE]], np.float32)
            yield vectors @ self._vectors.T if len(vectors) > 1 else self._cosines_of_one(vectors[0])

    def _cosines_of_one(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        return (self._blocks @ vector).reshape(1, -1)[:, : len(self._vectors)]

    def _heard(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        heard = min(NEIGHBOURS, len(cosines))
        # Those that are as near as the last one are heard, too. To find the places at once takes longer.
        near = np.flatnonzero(cosines >= np.partition(cosines, -heard)[-heard])
        weights = np.exp(SHARPNESS * (cosines[near] - 1))
        return np.asarray(weights @ self._targets[near] / weights.sum())


def _in_blocks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows in blocks, the last one filled with nothing.

    For one request a product with all of them would wake threads of BLAS, and wait for them longer than it
    takes: OpenBLAS does so from 9,216 numbers on (interface/gemv.c).
    """
    many, width = rows.shape
    size = max(1, _NUMBERS_IN_BLOCK // width)
    blocks = np.zeros((-(-many // size), size, width), np.float32)
    blocks.reshape(-1, width)[:many] = rows
    return blocks


class Words:
    """A ridge regression on hashed words and pairs of words, weighted by their rarity (tf-idf)."""

    name = "words"

    def __init__(
        self, rarity: NDArray[np.float32], weights: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> None:
        self._rarity, self._weights, self._bias = rarity, weights, bias

    @classmethod
    def fit(cls, queries: Sequence[Query], targets: Matrix) -> Self:
        from scipy import sparse

        sizes = [len(query.words) for query in queries]
        columns = np.concatenate([query.words for query in queries]) if any(sizes) else np.zeros(0, np.intp)
        seen = np.bincount(columns, minlength=BUCKETS)
        rarity = np.where(seen > 0, np.log((1 + len(queries)) / (1 + seen)) + 1, 0).astype(np.float32)
        lengths = np.sqrt([max(float((rarity[it.words] ** 2).sum()), 1e-12) for it in queries])
        values = rarity[columns] / np.repeat(lengths, sizes)
        rows = sparse.csr_matrix(
            (values, columns, np.concatenate(([0], np.cumsum(sizes)))), (len(sizes), BUCKETS)
        )
        bias = targets.mean(0)
        dual = _ridge_dual(rows, targets - bias, WORDS_RIDGE)
        return cls(rarity, np.asarray(rows.T @ dual, np.float32), bias.astype(np.float32))

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        return cls(arrays["rarity"], arrays["weights"], arrays["bias"])

    def arrays(self) -> Arrays:
        return {"rarity": self._rarity, "weights": self._weights, "bias": self._bias}

    def predict(self, queries: Sequence[Query]) -> Matrix:
        return np.array([self._guess(query) for query in queries])

    def known(self, queries: Sequence[Query]) -> Matrix:
        """The share of each query's words and pairs that were seen when this was learned."""
        return np.array([(self._rarity[it.words] > 0).mean() if len(it.words) else 0.0 for it in queries])

    def _guess(self, query: Query) -> Matrix:
        rarity = self._rarity[query.words]
        length = float(np.sqrt(rarity @ rarity))
        if not length:
            return np.asarray(self._bias, np.float64)
        return np.asarray(rarity @ self._weights[query.words] / length + self._bias, np.float64)


def _ridge_dual(rows: Any, targets: Matrix, ridge: float) -> Matrix:
    """The solution of (X Xᵀ + ridge) A = Y by conjugate gradients, which need neither n² memory nor n³ time.

    M. Hestenes, E. Stiefel, J. Res. Nat. Bur. Standards 49 (1952) 409; each column has steps of its own.
    """
    across = rows.T.tocsr()
    found = np.zeros_like(targets)
    rest, way = targets.copy(), targets.copy()
    size = (rest**2).sum(0)
    enough = size * _NEAR_ENOUGH**2
    for _ in range(_STEPS):
        if (size <= enough).all():
            break
        ahead = rows @ (across @ way) + ridge * way
        step = size / np.maximum((way * ahead).sum(0), 1e-300)
        found += step * way
        rest -= step * ahead
        before, size = size, (rest**2).sum(0)
        way = rest + size / np.maximum(before, 1e-300) * way
    return found


class Surface:
    """A ridge regression on the surface's features and their squares."""

    name = "surface"

    def __init__(self, centre: Matrix, scale: Matrix, weights: Matrix, bias: Matrix) -> None:
        self._centre, self._scale, self._weights, self._bias = centre, scale, weights, bias

    @classmethod
    def fit(cls, queries: Sequence[Query], targets: Matrix) -> Self:
        found = np.array([query.surface for query in queries], np.float64)
        centre, scale = found.mean(0), found.std(0) + 1e-6
        rows = _with_squares((found - centre) / scale)
        bias = targets.mean(0)
        inner = rows.T @ rows + SURFACE_RIDGE * np.eye(rows.shape[1])
        return cls(centre, scale, np.linalg.solve(inner, rows.T @ (targets - bias)), bias)

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        return cls(*(arrays[name].astype(np.float64) for name in ("centre", "scale", "weights", "bias")))

    def arrays(self) -> Arrays:
        return {
            "centre": self._centre.astype(np.float32),
            "scale": self._scale.astype(np.float32),
            "weights": self._weights.astype(np.float32),
            "bias": self._bias.astype(np.float32),
        }

    def predict(self, queries: Sequence[Query]) -> Matrix:
        found = np.array([query.surface for query in queries], np.float64)
        rows = _with_squares((found - self._centre) / self._scale)
        return np.asarray(rows @ self._weights + self._bias)


def _with_squares(rows: Matrix) -> Matrix:
    # What lies far outside of what was learned from is not extrapolated to.
    near = np.clip(rows, -_FAR, _FAR)
    return np.concatenate((near, near**2 - 1), axis=-1)


PARTS: tuple[type[TaskMeans] | type[Neighbours] | type[Words] | type[Surface], ...] = (
    TaskMeans,
    Neighbours,
    Words,
    Surface,
)
