"""A request as the learned router sees it, and many of them with what came of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.features import Vector, buckets, surface, words_of

Matrix = NDArray[np.float64]


class Query(NamedTuple):
    """One request: its task's name where one is known, its surface, its words, its embedding where there is
    one."""

    task: str | None
    surface: Vector
    words: NDArray[np.intp]
    vector: Vector | None


class Outcomes(NamedTuple):
    """What came of requests that every model was asked: a row of `scores`, from 0 to 1, for each query, a
    column for each of `models`."""

    models: tuple[str, ...]
    queries: Sequence[Query]
    scores: Matrix


def query_of(text: str, task: str | None, embedding: Embedding | None) -> Query:
    """What is seen of a request."""
    vector = embedding.embed(text) if embedding is not None else None
    words = words_of(text)
    return Query(task, surface(text, words), buckets(words), vector)
