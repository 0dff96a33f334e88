"""Choosing before the call: two models by a threshold (RouteLLM's measure), and a pool of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.strategies.tables import Floats, Table
from isthmus.accounting.forecast import priced
from isthmus.catalog.prices import OWN_ENGINE
from isthmus.core.tie import Tie
from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.file import dump
from isthmus.routing.learned.header import Origin
from isthmus.routing.learned.parts import Neighbours, TaskMeans
from isthmus.routing.learned.predictor import Predictor
from isthmus.routing.learned.query import Outcomes, Query, query_of
from isthmus.routing.learned.stack import FEWEST_ROWS, learn
from isthmus.strategies.plan import Choose
from isthmus.strategies.plan.node import Circumstances, Learned

DRAWS = 5
LABELS = 1_500
BINS = 10
DECISIONS = 1_000
NOT_TASKS = frozenset({"", "train", "test", "validation", "valid", "val", "dev"})
"""Splits of these names are no tasks."""


Measures = dict[str, list[float]]


def queries_of(table: Table, embedding: Embedding | None) -> list[Query]:
    """The queries, each with the name of its task: the part of its set (MMLU's subjects), else its set."""
    names = [
        dataset if split in NOT_TASKS else split
        for dataset, split in zip(table.datasets, table.splits, strict=True)
    ]
    return [query_of(prompt, str(name), embedding) for prompt, name in zip(table.prompts, names, strict=True)]


def nameless(queries: Sequence[Query]) -> list[Query]:
    """The queries without the names of their tasks."""
    return [query._replace(task=None) for query in queries]


def apgr(preference: Floats, weak: Floats, strong: Floats) -> tuple[float, float, float]:
    """RouteLLM's APGR, CPT50 and CPT80 (arXiv 2406.18665, routellm/evals/evaluate.py) of sending the queries
    of the highest `preference` to the strong model: eleven shares, trapezoids, linear interpolation."""
    order = np.argsort(-preference, kind="stable")
    gained = np.concatenate(([0.0], np.cumsum((strong - weak)[order])))
    shares = np.linspace(0, 1, BINS + 1)
    recovered = gained[np.round(shares * len(order)).astype(int)] / gained[-1]
    first = [_share_for(recovered, shares, wanted) for wanted in (0.5, 0.8)]
    return float(np.trapezoid(recovered, shares)), *first  # type: ignore[return-value]


def _share_for(recovered: Floats, shares: Floats, wanted: float) -> float:
    at = int(np.argmax(recovered >= wanted))
    low, high = recovered[at - 1], recovered[at]
    return float(100 * (shares[at - 1] + (wanted - low) / (high - low) * (shares[at] - shares[at - 1])))


def two_models(table: Table, embedding: Embedding | None) -> dict[str, Measures] | None:
    """APGR, CPT50 and CPT80 by router, over draws of labels; None where there are too few queries."""
    if len(table.models) != 2 or len(table.scores) < 2 * FEWEST_ROWS:
        return None
    strong = int(table.scores.mean(0).argmax())
    best, other = table.scores[:, strong], table.scores[:, 1 - strong]
    queries = queries_of(table, embedding)
    labels = min(LABELS, len(queries) // 2)
    found: dict[str, Measures] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        order = rng.permutation(len(queries))
        learned, judged = order[:labels], order[labels:]
        for name, preference in _preferences(table, queries, learned, judged, strong, rng):
            measures = apgr(preference, other[judged], best[judged])
            for key, value in zip(("apgr", "cpt50", "cpt80"), measures, strict=True):
                found.setdefault(name, {}).setdefault(key, []).append(value)
    return found


def _preferences(
    table: Table, queries: list[Query], learned: Any, judged: Any, strong: int, rng: np.random.Generator
) -> Iterator[tuple[str, Floats]]:
    known, asked = [queries[at] for at in learned], [queries[at] for at in judged]
    scores = table.scores[learned]
    gain = (scores[:, strong] - scores[:, 1 - strong])[:, None]
    for name, strip in (("stack, tasks named", list), ("stack, text only", nameless)):
        if strip is list and len({query.task for query in known}) < 2:
            continue
        stack = learn(Outcomes(table.models, strip(known), scores), rng)
        qualities, _ = stack.estimates(strip(asked))
        yield name, qualities[:, strong] - qualities[:, 1 - strong]
    if len({query.task for query in known}) > 1:
        yield "task table", TaskMeans.fit(known, gain).predict(asked)[:, 0]
    yield "length", np.array([float(len(table.prompts[at])) for at in judged])
    if known[0].vector is not None:
        yield "kNN", Neighbours.fit(known, gain).predict(asked)[:, 0]
    yield "random", rng.random(len(judged))
    yield "oracle", table.scores[judged, strong] - table.scores[judged, 1 - strong]


def pool(table: Table, embedding: Embedding | None) -> dict[str, list[float]]:
    """The mean score by router over draws of four fifths: the same tasks are learned from and judged by."""
    queries = queries_of(table, embedding)
    found: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        order = rng.permutation(len(queries))
        cut = 4 * len(order) // 5
        learned, judged = order[:cut], order[cut:]
        known, asked = [queries[at] for at in learned], [queries[at] for at in judged]
        scores, real = table.scores[learned], table.scores[judged]
        named = learn(Outcomes(table.models, known, scores), rng)
        picks = {
            "stack, tasks named": named.estimates(asked)[0].argmax(1),
            "same stack, text only": named.estimates(nameless(asked))[0].argmax(1),
            "stack without any names": learn(Outcomes(table.models, nameless(known), scores), rng)
            .estimates(nameless(asked))[0]
            .argmax(1),
            "task table": TaskMeans.fit(known, scores).predict(asked).argmax(1),
            "best single": np.full(len(judged), named.best),
            "random": rng.integers(0, len(table.models), len(judged)),
            "oracle": real.argmax(1),
        }
        if known[0].vector is not None:
            picks["kNN"] = Neighbours.fit(known, scores).predict(asked).argmax(1)
        for name, pick in picks.items():
            found.setdefault(name, []).append(float(real[np.arange(len(pick)), pick].mean()))
    return found


def unseen_tasks(
    table: Table, embedding: Embedding | None, tell: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """By task, of routers that learned from all the others: the points by which they are below the model that
    was best in training. kNN has no gate, to compare with."""
    queries = queries_of(table, embedding)
    tasks = np.array([query.task or "" for query in queries])
    found = {}
    for task in sorted(set(tasks)):
        tell(f"unseen task {task}")
        rng = np.random.default_rng(0)
        here, there = np.flatnonzero(tasks == task), np.flatnonzero(tasks != task)
        known, asked = [queries[at] for at in there], [queries[at] for at in here]
        scores, real = table.scores[there], table.scores[here]
        stack = learn(Outcomes(table.models, known, scores), rng)
        rows = np.arange(len(here))
        best = real[:, stack.best].mean()
        picks = {
            "named": stack.estimates(asked)[0].argmax(1),
            "text only": stack.estimates(nameless(asked))[0].argmax(1),
            "task table": np.full(len(here), stack.best),
        }
        if known[0].vector is not None:
            picks["kNN"] = Neighbours.fit(known, scores).predict(asked).argmax(1)
        found[task] = {name: float(100 * (best - real[rows, pick].mean())) for name, pick in picks.items()}
        found[task]["supported, text only"] = float(stack.estimates(nameless(asked))[1].mean())
    return found


def decision_ms(table: Table, embedding: Embedding | None) -> dict[str, float]:
    """Quantiles of a whole decision, from the prompt to the plan, in milliseconds: wall clock, and processor
    time of the thread."""
    queries = queries_of(table, embedding)
    stack = learn(Outcomes(table.models, queries, table.scores), np.random.default_rng(0))
    stack = stack._replace(embedding=embedding.sha256 if embedding is not None else None)
    tie = Tie(route="bench", models={}, template="", config="")
    origin = Origin(tie=tie, made_at_us=0, outputs=dict.fromkeys(table.models, 100))
    predictor = Predictor(dump(stack, origin), "bench", embedding)
    choose = Choose(among=table.models, by=Learned(file="", sha256="bench"), quality_at_least=0.7)
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(queries), DECISIONS)
    took = np.array([_decide(table, int(at), predictor, choose) for at in chosen])
    wall, own = took[100:].T
    return {
        "p50_wall": float(np.quantile(wall, 0.5)),
        "p95_wall": float(np.quantile(wall, 0.95)),
        "p50_cpu": float(np.quantile(own, 0.5)),
        "p95_cpu": float(np.quantile(own, 0.95)),
        "rows": float(len(queries)),
        "models": float(len(table.models)),
    }


def _decide(table: Table, at: int, predictor: Predictor, choose: Choose) -> tuple[float, float]:
    # Another text each time: nothing of it may be in a cache for having been asked before.
    text, prices = f"{at} {table.prompts[at]}", dict.fromkeys(table.models, OWN_ENGINE)
    wall, own = time.perf_counter(), time.thread_time()
    foresight = priced(predictor.foresee(text, str(table.datasets[at]), len(text) // 4), prices, 0)
    choose.choose(Circumstances(draw=0.0, foreseen=(foresight,)))
    return 1000 * (time.perf_counter() - wall), 1000 * (time.thread_time() - own)
