"""Sharpening an estimate with points that were measured nearby: the surprise at those points is shared. Pure.

The error of the rooflines is taken for a smooth function with a part that all points of a model have, one
that its points on the same GPU, engine and precision have, and one that only near loads have. Given the
errors at measured points, the error elsewhere has a mean and a spread in closed form (kriging).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt
from typing import Literal, NamedTuple

from isthmus.economics.sizing.estimate import (
    Badge,
    Efficiencies,
    Estimate,
    Quantity,
    group,
    kin,
    spreads_of,
    throughput_of,
    tpot_of,
    ttft_of,
)
from isthmus.economics.sizing.roofline import Setting

NEAREST = 24
"""So many of the measured points are looked at: farther ones say little more."""


class Point(NamedTuple):
    """What one replica did in a setting: seconds to the first token, and per further one."""

    setting: Setting
    ttft_s: float
    tpot_s: float


class Kernel(NamedTuple):
    """The variances of an error's parts, and the noise of a measurement."""

    kin: float
    group: float
    load: float
    noise: float


KERNELS: dict[Literal["tpot", "ttft"], Kernel] = {
    "tpot": Kernel(kin=0.02, group=0.02, load=0.02, noise=0.001),
    "ttft": Kernel(kin=0.06, group=0.10, load=0.08, noise=0.01),
}
_REACH = (2.0, 3.0, 3.0, 3.0)
"""How far apart loads are still alike, in powers of two: concurrency, GPUs, input, output."""


class Correction(NamedTuple):
    """What is to be added to the logarithm of an estimate, and what share of its spread remains."""

    shift: float
    share: float


def sharpened(setting: Setting, efficiencies: Efficiencies, points: Sequence[Point]) -> Estimate:
    """The estimate of a setting, given what was measured in others."""
    near = sorted(points, key=lambda point: -_covariance(KERNELS["tpot"], setting, point.setting))[:NEAREST]
    tpot = correction("tpot", setting, near, efficiencies)
    ttft = correction("ttft", setting, near, efficiencies)
    tpot_s = tpot_of(setting, efficiencies) * exp(tpot.shift)
    ttft_s = ttft_of(setting, efficiencies) * exp(ttft.shift)
    spreads = spreads_of(setting, efficiencies)
    shares: dict[Quantity, float] = {"tpot": tpot.share, "ttft": ttft.share, "throughput": tpot.share}
    narrow = {name: spreads[name].narrowed(share) for name, share in shares.items()}
    return Estimate(
        throughput=narrow["throughput"].around(throughput_of(setting, ttft_s, tpot_s)),
        tpot_s=narrow["tpot"].around(tpot_s),
        ttft_s=narrow["ttft"].around(ttft_s),
        badge=badge(setting, points),
    )


def badge(setting: Setting, points: Sequence[Point]) -> Badge:
    """Measured where a point is of this very setting, Interpolated where two are of its group."""
    if any(point.setting == setting for point in points):
        return "Measured"
    alike = sum(group(point.setting) == group(setting) for point in points)
    return "Interpolated" if alike >= 2 else "Estimated"


def correction(
    quantity: Literal["tpot", "ttft"], setting: Setting, points: Sequence[Point], efficiencies: Efficiencies
) -> Correction:
    """What the points say about the error of the estimate of that setting."""
    kernel = KERNELS[quantity]
    whole = _covariance(kernel, setting, setting)
    shared = [_covariance(kernel, setting, point.setting) for point in points]
    if not any(shared):
        return Correction(0.0, 1.0)
    among = [[_covariance(kernel, one.setting, other.setting) for other in points] for one in points]
    for place, row in enumerate(among):
        row[place] += kernel.noise
    errors = [_error(quantity, point, efficiencies) for point in points]
    lower = _cholesky(among)
    by_error, by_shared = _solve(lower, errors), _solve(lower, shared)
    shift = sum(one * other for one, other in zip(by_shared, by_error, strict=True))
    left = whole - sum(one * one for one in by_shared)
    return Correction(shift, sqrt(max(left, kernel.noise) / (whole + kernel.noise)))


def _error(quantity: Literal["tpot", "ttft"], point: Point, efficiencies: Efficiencies) -> float:
    if quantity == "tpot":
        return log(point.tpot_s / tpot_of(point.setting, efficiencies))
    return log(point.ttft_s / ttft_of(point.setting, efficiencies))


def _covariance(kernel: Kernel, one: Setting, other: Setting) -> float:
    if kin(one.model) != kin(other.model):
        return 0.0
    if group(one) != group(other):
        return kernel.kin
    apart = sum(
        (log(a / b, 2) / reach) ** 2 for a, b, reach in zip(_load(one), _load(other), _REACH, strict=True)
    )
    return kernel.kin + kernel.group + kernel.load * exp(-apart / 2)


def _load(setting: Setting) -> tuple[float, ...]:
    return (setting.concurrency, setting.gpus, setting.input, setting.output)


def _cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    lower: list[list[float]] = []
    for place, row in enumerate(matrix):
        line: list[float] = []
        for column in range(place):
            known = sum(a * b for a, b in zip(line, lower[column], strict=False))
            line.append((row[column] - known) / lower[column][column])
        line.append(sqrt(row[place] - sum(value * value for value in line)))
        lower.append(line)
    return lower


def _solve(lower: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """The solution of lower · x = right."""
    solution: list[float] = []
    for row, value in zip(lower, right, strict=True):
        known = sum(a * b for a, b in zip(row, solution, strict=False))
        solution.append((value - known) / row[len(solution)])
    return solution
