"""The economics benchmark: the estimator against measured points that it never saw.

    python -m bench.economics.run [--data FILE] [--train FILE] [--write] [--output FILE]

Without `--data` the points of the folder `shared/data/economics` beside the repository are both fitted and
judged, each model by a fit that no point of its architecture went into. Another file of the same columns is
judged by fits to the former. stdout gets a table and, as its last line, one JSON object. `--write` puts the
factors into the package; raw results go to bench/results/economics-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from math import exp, isnan, log, nan
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bench.economics.fit import Fitter, Kind
from bench.economics.points import DATA, Line, Row, identity, memory, read
from bench.gateway.peers import BENCH
from bench.gateway.run import commit
from isthmus.catalog.architectures import Precision, architectures
from isthmus.catalog.hardware import gpus
from isthmus.economics import sizing
from isthmus.economics.sizing.calibrate import Point, sharpened
from isthmus.economics.sizing.estimate import (
    Efficiencies,
    Quantity,
    Spread,
    estimate_of,
    fitted,
    group,
    kin,
)
from isthmus.economics.sizing.memory import GIB, weights_bytes, working_bytes

QUANTITIES: tuple[Quantity, ...] = ("throughput", "tpot", "ttft")
SHIPPED = Path(sizing.__file__).with_name("efficiencies.json")
NOT_FITTED = frozenset({"gpustack_perf_lab"})
"""Sources that publish no engine settings: they are judged, and not learned from."""

FOLDS = 10
_UNKNOWN: dict[Quantity, Spread] = {name: Spread(0.0, 0.0) for name in QUANTITIES}


class Judged(NamedTuple):
    """One row, and the logarithm of the ratio of its estimate to what was measured, by quantity."""

    row: Row
    errors: dict[Quantity, float]


def main() -> None:
    """Fits, judges, prints the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA / "throughput.csv")
    parser.add_argument("--train", type=Path, default=DATA / "throughput.csv")
    parser.add_argument("--write", action="store_true", help="put the factors into the package")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began = datetime.now(UTC)
    judged = read(arguments.data)
    if not judged.rows:
        raise SystemExit(f"bench: no usable row in {arguments.data}: {dict(judged.left_out)}")
    trained = read(arguments.train).rows if arguments.train.exists() else []
    fits: Fits | Shipped = Fits(trained) if trained else Shipped()
    runs = {
        "unseen model": _judged(judged.rows, lambda row: fits.without(kin, row)),
        "unseen GPU": _judged(judged.rows, lambda row: fits.without(_gpu, row)),
        "two points": list(_after_two_points(judged.rows, fits)),
    }
    folded = list(_folded(judged.rows, trained, fits))
    runs["seen model"] = [first for first, _ in folded]
    runs["neighbours"] = [second for _, second in folded]
    accounts = _accounts(DATA / "memory_vllm.csv")
    own = arguments.data == arguments.train
    line = _headline(runs, accounts, None if own else fitted().unseen["throughput"])
    results = {
        "began_at": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "rows": len(judged.rows),
        "left_out": dict(judged.left_out),
        "memory": accounts,
        "models": _by(runs["unseen model"], lambda row: row.point.setting.model.model),
        "gpus": _by(runs["unseen GPU"], lambda row: row.point.setting.gpu.gpu),
        "sources": _by(runs["unseen model"], lambda row: row.source),
        "headline": line,
    }
    if arguments.write and isinstance(fits, Fits):
        SHIPPED.write_bytes(
            msgspec.json.format(msgspec.json.encode(_shipped(fits, runs, line, began)), indent=1)
        )
    output = arguments.output or BENCH / f"results/economics-{began:%Y-%m-%d}.json"
    output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(_table(runs, results), json.dumps(line), sep="\n\n")


class Shipped:
    """What the package holds, where there is nothing to fit to."""

    def without(self, of: Callable[[Any], str], row: Row) -> Efficiencies:
        """The factors without what is the model's own."""
        mine = kin(row.point.setting.model)
        shipped = fitted()
        tpot, ttft = (
            {name: value for name, value in factors.items() if mine not in name}
            for factors in (shipped.tpot, shipped.ttft)
        )
        return msgspec.structs.replace(shipped, tpot=tpot, ttft=ttft)

    def without_points(self, points: Iterable[Point]) -> Efficiencies:
        """The factors as they are: they came of other points."""
        return fitted()


class Fits:
    """Fits to all rows but some; each is made once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._fitter = Fitter([row.point for row in rows])
        self._usable = np.array([row.source not in NOT_FITTED for row in rows])
        self._made: dict[tuple[bool, ...], Efficiencies] = {}

    def of_all(self) -> Efficiencies:
        """The fit to every row that is learned from."""
        return self._fit(self._usable)

    def without(self, of: Callable[[Any], str], row: Row) -> Efficiencies:
        """The fit to the rows that are of another kind than this one."""
        hidden = of(row.point.setting.model if of is kin else row.point.setting)
        others = [
            of(each.point.setting.model if of is kin else each.point.setting) != hidden for each in self._rows
        ]
        return self._fit(self._usable & np.array(others))

    def without_points(self, points: Iterable[Point]) -> Efficiencies:
        """The fit to the rows of other points."""
        hidden = set(map(identity, points))
        return self._fit(self._usable & np.array([identity(row.point) not in hidden for row in self._rows]))

    def _fit(self, chosen: Any) -> Efficiencies:
        key = tuple(chosen.tolist())
        if key not in self._made:
            print(f"bench: fit {len(self._made) + 1}, {sum(key)} points", file=sys.stderr, flush=True)
            self._made[key] = _efficiencies(self._fitter.factors(chosen))
        return self._made[key]


def _efficiencies(factors: dict[Kind, dict[str, float]]) -> Efficiencies:
    return Efficiencies(
        fitted_on="",
        how="",
        points=0,
        errors={},
        tpot=factors["tpot"],
        ttft=factors["ttft"],
        unseen=_UNKNOWN,
        seen=_UNKNOWN,
        strange=_UNKNOWN,
    )


def _gpu(setting: Any) -> str:
    return str(setting.gpu.gpu)


def _judged(rows: Iterable[Row], efficiencies: Callable[[Row], Efficiencies]) -> list[Judged]:
    return [_judge(row, efficiencies(row), ()) for row in rows]


def _judge(row: Row, efficiencies: Efficiencies, points: Sequence[Point]) -> Judged:
    setting = row.point.setting
    it = sharpened(setting, efficiencies, points) if points else estimate_of(setting, efficiencies)
    return Judged(
        row,
        {
            "throughput": log(it.throughput.middle / row.tokens_per_s),
            "tpot": log(it.tpot_s.middle / row.point.tpot_s),
            "ttft": log(it.ttft_s.middle / row.point.ttft_s),
        },
    )


def _after_two_points(rows: Sequence[Row], fits: Fits | Shipped) -> Iterator[Judged]:
    """Each machine's other rows, told a light and a busy load of it; the model itself is unseen."""
    for members in _by_machine(rows):
        if len(members) < 5:
            continue
        ordered = sorted(members, key=lambda row: (row.point.setting.concurrency, row.point.tpot_s))
        told = (len(ordered) // 4, 3 * len(ordered) // 4)
        efficiencies = fits.without(kin, members[0])
        for nth, row in enumerate(ordered):
            if nth not in told:
                yield _judge(row, efficiencies, [ordered[place].point for place in told])


def _folded(
    rows: Sequence[Row], trained: Sequence[Row], fits: Fits | Shipped
) -> Iterator[tuple[Judged, Judged]]:
    """Each row without and with the measured points of the other nine tenths, and of what was fitted to."""
    for fold in range(FOLDS):
        hidden = rows[fold::FOLDS]
        measured = {identity(row.point): row for row in (*trained, *rows)}
        for row in hidden:
            measured.pop(identity(row.point), None)
        others = list(measured.values())
        efficiencies = fits.without_points(row.point for row in hidden)
        for row in hidden:
            alike = [
                each.point for each in others if kin(each.point.setting.model) == kin(row.point.setting.model)
            ]
            yield _judge(row, efficiencies, ()), _judge(row, efficiencies, alike)


def _by_machine(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each model on so many GPUs of one kind, by one engine, in one precision."""
    machines: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        setting = row.point.setting
        machines.setdefault((setting.model.model, group(setting), setting.gpus), []).append(row)
    return list(machines.values())


def _error(judged: Iterable[Judged], quantity: Quantity) -> float:
    """The median of the absolute relative errors; not a number where nothing was judged."""
    return median([abs(exp(one.errors[quantity]) - 1) for one in judged] or [nan])


def _within(judged: Sequence[Judged], quantity: Quantity) -> float:
    return sum(abs(exp(one.errors[quantity]) - 1) <= 0.25 for one in judged) / max(1, len(judged))


def _spread(judged: Iterable[Judged], quantity: Quantity) -> Spread:
    """The interval that holds four fifths of the true values, and some more: the models are few."""
    cuts = quantiles([-one.errors[quantity] for one in judged], n=11)
    return Spread(round(cuts[0], 4), round(cuts[-1], 4))


def _coverage(judged: Sequence[Judged], shipped: Spread | None) -> float:
    """The share of throughputs inside the interval: the shipped one, or one of other models' errors."""
    by_model: dict[str, list[Judged]] = {}
    for one in judged:
        by_model.setdefault(kin(one.row.point.setting.model), []).append(one)
    inside = 0
    for model, mine in by_model.items():
        others = [one for name, some in by_model.items() if name != model for one in some]
        spread = shipped or _spread(others, "throughput")
        inside += sum(spread.low <= -one.errors["throughput"] <= spread.high for one in mine)
    return inside / len(judged)


def _accounts(path: Path) -> list[dict[str, Any]]:
    """The relative errors of each profile of an engine's memory: of the weights, and of the whole."""
    return [_account(line) for line in memory(path)] if path.exists() else []


def _account(line: Line) -> dict[str, Any]:
    model, parallel = architectures()[line["model"]], int(line["tp"])
    precision = msgspec.convert(line["precision"], Precision)
    weights = weights_bytes(model, precision) / parallel / GIB
    taken = weights + working_bytes(model, parallel) / GIB
    measured = float(line["weights_gib_per_gpu"])
    measured_taken = measured + float(line["activation_gib"]) + float(line["non_torch_gib"])
    return {
        "model": line["model"],
        "gpu": gpus()[line["gpu"]].gpu,
        "tensor_parallel": parallel,
        "weights_error": round(weights / measured - 1, 4),
        "error": round(taken / measured_taken - 1, 4),
    }


def _headline(
    runs: dict[str, list[Judged]], accounts: Sequence[dict[str, Any]], shipped: Spread | None
) -> dict[str, float | None]:
    unseen = runs["unseen model"]
    line = {f"{quantity}_mdape_unseen": _error(unseen, quantity) for quantity in QUANTITIES}
    line["calibrated_mdape"] = _error(runs["two points"], "throughput")
    line["neighbours_mdape"] = _error(runs["neighbours"], "throughput")
    line["coverage80"] = _coverage(unseen, shipped)
    errors = [abs(one[name]) for one in accounts for name in ("error", "weights_error")]
    line["memory_error"] = max(errors, default=nan)
    return {name: None if isnan(value) else round(value, 4) for name, value in line.items()}


def _shipped(
    fits: Fits, runs: dict[str, list[Judged]], line: dict[str, float | None], began: datetime
) -> Efficiencies:
    fit = fits.of_all()
    return msgspec.structs.replace(
        fit,
        fitted_on=f"{began:%Y-%m-%d}",
        how="python -m bench.economics.run --write",
        points=len(runs["unseen model"]),
        errors={name: value for name, value in line.items() if value is not None},
        tpot=_rounded(fit.tpot),
        ttft=_rounded(fit.ttft),
        unseen={quantity: _spread(runs["unseen model"], quantity) for quantity in QUANTITIES},
        seen={quantity: _spread(runs["seen model"], quantity) for quantity in QUANTITIES},
        strange={quantity: _spread(runs["unseen GPU"], quantity) for quantity in QUANTITIES},
    )


def _rounded(factors: dict[str, float]) -> dict[str, float]:
    """The factors, without the offsets of what was not learned from."""
    return {name: round(value, 4) for name, value in factors.items() if ":" not in name or round(value, 4)}


def _by(judged: Sequence[Judged], key: Callable[[Row], str]) -> dict[str, dict[str, float]]:
    parts: dict[str, list[Judged]] = {}
    for one in judged:
        parts.setdefault(key(one.row), []).append(one)
    return {
        name: {"rows": len(some), **{quantity: round(_error(some, quantity), 4) for quantity in QUANTITIES}}
        for name, some in sorted(parts.items())
    }


def _table(runs: dict[str, list[Judged]], results: dict[str, Any]) -> str:
    lines = [f"{'median error':<36}{'rows':>7}{'tokens/s':>10}{'TPOT':>8}{'TTFT':>8}{'within 25 %':>13}"]
    for name, judged in runs.items():
        shares = "".join(f"{_error(judged, quantity):>{width}.3f}" for quantity, width in _WIDTHS.items())
        lines.append(f"{name:<36}{len(judged):>7}{shares}{_within(judged, 'throughput'):>13.2f}")
    for part in ("models", "gpus", "sources"):
        lines.append("")
        for name, errors in results[part].items():
            shares = "".join(f"{errors[quantity]:>{width}.3f}" for quantity, width in _WIDTHS.items())
            lines.append(f"{name:<36}{errors['rows']:>7}{shares}")
    lines.append("")
    for one in results["memory"]:
        name = f"{one['model']} x{one['tensor_parallel']}"
        lines.append(f"{name:<36}{'memory':>7}{one['error']:>+10.3f}{one['weights_error']:>+8.3f} (weights)")
    return "\n".join(lines)


_WIDTHS: dict[Quantity, int] = {"throughput": 10, "tpot": 8, "ttft": 8}


if __name__ == "__main__":
    main()
