"""The strategies benchmark: what choosing, cascading and voting are worth on outcomes of real models.

    python -m bench.strategies.run [--data DIR] [--output FILE] [--quick]

Reads the Parquet files of DIR (without it those of `shared/data/routing` beside the repository); a file that
is missing gives rows that were not measured. stdout gets the tables and, as its last line, one JSON object.
Raw results go to bench/results/strategies-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from bench.gateway.peers import BENCH
from bench.gateway.run import commit
from bench.strategies import answers, routers
from bench.strategies.tables import Table, read
from isthmus.bootstrap import static_embedding
from isthmus.core.errors import IsthmusError
from isthmus.routing.learned.embedding import Embedding

DATA = BENCH.parents[1] / "shared/data/routing"
PAIR = ("mmlu", "llama3.1-70b", "gpt-4o")
PAIRS = (
    PAIR,
    ("mmlu", "gpt-4o-mini", "gpt-4o"),
    ("mmlu", "llama3.1-8b", "llama3.1-405b"),
    ("triviaqa", "llama3.1-70b", "gpt-4o"),
    ("triviaqa", "llama3.1-8b", "llama3.1-405b"),
)
WAYS = ("by help for its cost", "by confidence")
PUBLISHED: Mapping[str, Sequence[tuple[str, float, float]]] = {
    "routellm_mmlu": (
        ("RouteLLM SW, published", 0.603, 35.40),
        ("RouteLLM MF, published", 0.597, 35.46),
        ("RouteLLM causal, published", 0.600, 35.49),
        ("RouteLLM BERT, published", 0.572, 41.30),
    ),
    "routellm_gsm8k": (
        ("RouteLLM causal, published", 0.622, 33.64),
        ("RouteLLM SW, published", 0.568, 41.21),
    ),
    "routellm_mt_bench": (("RouteLLM MF, published", 0.802, 13.40),),
}
"""APGR and CPT50 of arXiv 2406.18665v4, tables 1 to 3, trained with labels beside the arena's."""


def main() -> None:
    """Measures, prints the tables and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began = datetime.now(UTC)
    embedding, how = _embedding()
    tables = {
        name: read(arguments.data / f"{name}.parquet")
        for name in (*PUBLISHED, "llmrouter_train", "zellinger_cascade", "zeroeval_gsm8k")
    }
    tables["confidence_sciq_boolq"] = read(arguments.data / "confidence_sciq_boolq.parquet")
    tables["confidence_tokens"] = read(arguments.data / "confidence_sciq_boolq.parquet", "token_prob")
    results: dict[str, Any] = {
        "began_at": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "embedding": how,
        "threads": os.environ.get("OPENBLAS_NUM_THREADS", "any"),
    }
    results |= _routers(tables, embedding) | _answers(tables)
    line = _headline(results)
    results["headline"] = line
    output = arguments.output or BENCH / f"results/strategies-{began:%Y-%m-%d}.json"
    output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(_report(results), json.dumps(line), sep="\n\n")


def _tell(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _embedding() -> tuple[Embedding | None, str]:
    try:
        return static_embedding(), "static vectors"
    except IsthmusError as error:
        return None, f"none: {error.text}"


def _routers(tables: Mapping[str, Table | None], embedding: Embedding | None) -> dict[str, Any]:
    found: dict[str, Any] = {"two_models": {}, "pool": None, "unseen_tasks": None, "decision_ms": None}
    for name in PUBLISHED:
        table = tables[name]
        _tell(f"two models: {name}")
        found["two_models"][name] = None if table is None else routers.two_models(table, embedding)
    several = tables["llmrouter_train"]
    if several is not None:
        _tell("a pool of models")
        found["pool"] = routers.pool(several, embedding)
        found["unseen_tasks"] = routers.unseen_tasks(several, embedding, _tell)
    largest = max(
        (it for it in tables.values() if it is not None), key=lambda it: len(it.scores), default=None
    )
    measured = several or largest
    if measured is not None:
        found["decision_ms"] = routers.decision_ms(measured, embedding)
    return found


def _answers(tables: Mapping[str, Table | None]) -> dict[str, Any]:
    found: dict[str, Any] = {"calibration": {}, "violations": {}, "shifted": {}, "cascades": {}, "votes": {}}
    for name, end in (
        ("zellinger_cascade", ""),
        ("confidence_sciq_boolq", ", said"),
        ("confidence_tokens", ", token"),
    ):
        table = tables[name]
        for setting in answers.settings(table, end) if table is not None else ():
            _tell(f"answers: {setting.name}")
            found["calibration"][setting.name] = answers.calibration(setting)
            for risk in answers.RISKS if end != ", said" else ():
                found["violations"][f"{setting.name} at {risk}"] = answers.violations(setting, risk)
                found["shifted"][f"{setting.name} at {risk}"] = answers.shifted(setting, risk)
    cascades = tables["zellinger_cascade"]
    for pair in PAIRS:
        by_way = None if cascades is None else answers.cascade(cascades, *pair)
        found["cascades"] |= {f"{' '.join(pair)}, {how}": it for how, it in (by_way or {}).items()}
    for name in ("zeroeval_gsm8k", "zellinger_cascade"):
        table = tables[name]
        _tell(f"votes: {name}")
        found["votes"] |= {} if table is None else answers.votes(table)
    return found


def _headline(results: Mapping[str, Any]) -> dict[str, float | None]:
    mmlu = results["two_models"]["routellm_mmlu"]
    best = next(
        (mmlu[name] for name in ("stack, tasks named", "stack, text only") if mmlu and name in mmlu), None
    )
    unseen = results["unseen_tasks"]
    said = [it["fitted"] for name, it in results["calibration"].items() if not name.endswith(", said")]
    broken = [max(it["tested"], it["tested_rest"]) for it in results["violations"].values()]
    cascade, plain = (results["cascades"].get(f"{' '.join(PAIR)}, {how}") for how in WAYS)
    line = {
        "apgr_mmlu_1500": None if best is None else np.mean(best["apgr"]),
        "cpt50_mmlu_1500": None if best is None else np.mean(best["cpt50"]),
        "unseen_gap_points": None
        if unseen is None
        else max(it[name] for it in unseen.values() for name in ("named", "text only")),
        "ece_300": np.mean(said) if said else None,
        "ltt_violation_excess": max(broken) - answers.DELTA if broken else None,
        "cascade_cost_share": None if cascade is None else np.mean(cascade["cost_share"]),
        "cascade_gain_points": None if cascade is None else np.mean(cascade["gain_points"]),
        "cascade_cost_share_by_confidence": None if plain is None else np.mean(plain["cost_share"]),
        "vote_gap_points": max((it["gap"] for it in results["votes"].values()), default=None),
        "decide_p95_ms": None if results["decision_ms"] is None else results["decision_ms"]["p95_wall"],
    }
    return {name: None if value is None else round(float(value), 4) for name, value in line.items()}


# Telling


def _report(results: Mapping[str, Any]) -> str:
    parts = [f"embedding: {results['embedding']}; threads: {results['threads']}"]
    for name, rows in results["two_models"].items():
        parts.append(_two_models(name, rows))
    parts += [_pool(results["pool"]), _unseen(results["unseen_tasks"]), _decision(results["decision_ms"])]
    parts += [
        _calibration(results["calibration"]),
        _violations(results["violations"]),
        _shifted(results["shifted"]),
        _cascades(results["cascades"]),
        _votes(results["votes"]),
    ]
    return "\n\n".join(parts)


def _two_models(name: str, rows: Mapping[str, Any] | None) -> str:
    lines = [f"{name:<44}{'APGR':>18}{'CPT50 %':>18}{'CPT80 %':>18}"]
    if rows is None:
        lines.append("not measured")
    for router, it in (rows or {}).items():
        lines.append(f"{router:<44}{_mean(it['apgr'], 3)}{_mean(it['cpt50'], 1)}{_mean(it['cpt80'], 1)}")
    lines += [f"{router:<44}{value:>18.3f}{cpt:>18.1f}" for router, value, cpt in PUBLISHED[name]]
    return "\n".join(lines)


def _pool(rows: Mapping[str, Any] | None) -> str:
    lines = [f"{'a pool, the same tasks':<44}{'score':>18}"]
    lines += [f"{router:<44}{_mean(it, 3)}" for router, it in (rows or {}).items()]
    return "\n".join(lines if rows else [*lines, "not measured"])


def _unseen(rows: Mapping[str, Any] | None) -> str:
    heads = ("named", "text only", "kNN", "supported, text only")
    lines = [
        f"{'points below best single, unseen task':<44}{'named':>10}{'text':>10}{'kNN':>10}{'supported':>11}"
    ]
    for task, it in (rows or {}).items():
        values = "".join(f"{it.get(head, float('nan')):>{10 + (head == heads[-1])}.2f}" for head in heads)
        lines.append(f"{task:<44}{values}")
    return "\n".join(lines if rows else [*lines, "not measured"])


def _decision(it: Mapping[str, float] | None) -> str:
    if it is None:
        return "a decision: not measured"
    return (
        f"a decision among {it['models']:.0f} models, {it['rows']:,.0f} rows learned from: "
        f"p50 {it['p50_wall']:.2f} ms, p95 {it['p95_wall']:.2f} ms by the clock; "
        f"p50 {it['p50_cpu']:.2f} ms, p95 {it['p95_cpu']:.2f} ms of processor time"
    )


def _calibration(rows: Mapping[str, Any]) -> str:
    lines = [f"{'calibration error, 300 labels':<44}{'AUROC':>8}{'raw':>8}{'fitted':>8}{'worst':>8}"]
    for name, it in rows.items():
        lines.append(
            f"{name:<44}{it['auroc']:>8.3f}{it['raw']:>8.3f}{it['fitted']:>8.3f}{it['worst_draw']:>8.3f}"
        )
    return "\n".join(lines if rows else [*lines, "not measured"])


def _violations(rows: Mapping[str, Any]) -> str:
    what = f"promises broken (delta {answers.DELTA}), {answers.RESAMPLES} resamplings"
    lines = [f"{what:<50}{'tested':>8}{'on rest':>9}{'naive':>8}{'on rest':>9}{'accepts':>9}"]
    for name, it in rows.items():
        lines.append(
            f"{name:<50}{it['tested']:>8.3f}{it['tested_rest']:>9.3f}{it['naive']:>8.3f}"
            f"{it['naive_rest']:>9.3f}{it['coverage']:>9.2f}"
        )
    return "\n".join(lines if rows else [*lines, "not measured"])


def _shifted(rows: Mapping[str, Any]) -> str:
    lines = [f"{'calibrated on the training split':<50}{'promised':>9}{'risk':>8}  alarm"]
    for name, it in rows.items():
        if it is not None:
            risk = "-" if it["risk"] is None else f"{it['risk']:.3f}"
            lines.append(f"{name:<50}{it['promised']!s:>9}{risk:>8}  {it['why'] or 'none'}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "not measured"])


def _cascades(rows: Mapping[str, Any]) -> str:
    what = "cascade at the accuracy of the strong"
    lines = [f"{what:<60}{'cost share':>18}{'gain, points':>18}{'escalated':>18}"]
    for name, it in rows.items():
        keys = (("cost_share", 3), ("gain_points", 2), ("escalated", 2))
        lines.append(f"{name:<60}" + "".join(_mean(it[key], digits) for key, digits in keys))
    return "\n".join(lines if rows else [*lines, "not measured"])


def _votes(rows: Mapping[str, Any]) -> str:
    heads = ("mean", "worst", "noise", "majority", "worst", "votes")
    lines = [f"{'points below the best member':<44}" + "".join(f"{head:>10}" for head in heads)]
    for name, it in rows.items():
        keys = ("gap", "worst", "noise", "plain", "plain_worst", "voting")
        lines.append(f"{name:<44}" + "".join(f"{it[key]:>10.2f}" for key in keys))
    return "\n".join(lines if rows else [*lines, "not measured"])


def _mean(values: Sequence[float], digits: int) -> str:
    """The mean, and how far its 95 % interval over the draws reaches (Student's, for few of them)."""
    from scipy.stats import t

    many = len(values)
    reach = float(t.ppf(0.975, many - 1) * np.std(values, ddof=1) / sqrt(many)) if many > 1 else float("nan")
    text = f"{np.mean(values):.{digits}f} ±{reach:.{digits}f}"
    return f"{text:>18}"


if __name__ == "__main__":
    main()
