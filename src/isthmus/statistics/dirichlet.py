"""The mean of points whose weights are drawn evenly from all that sum to one (a uniform Dirichlet law).

The weights are independent exponential variables over their sum. So the chance that the mean is below c is
the chance that the sum of G (z - c) is, with z the points and G exponential: its transform is a product, and
is inverted along a line through the saddle point, where nothing oscillates. S. O. Rice, Distribution of
quadratic forms in normal random variables: evaluation by numerical integration, SIAM J. Sci. Stat. Comput. 1
(1980) 438; the trapezoidal rule converges exponentially there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

_STEP = 0.04
_NEGLIGIBLE = 30.0
_EDGE = 1e-13
_SAME = 1e-9

Points = NDArray[np.float64]


def chance_below(points: Points, bound: float) -> float:
    """The chance that the mean of the points, so weighted, is at most `bound`."""
    places, counts = np.unique(points, return_counts=True)
    return _chance_below(places, counts, bound)


def quantile(points: Points, share: float) -> float:
    """The value at or below which the mean of the points, so weighted, is with a chance of `share`."""
    places, counts = np.unique(points, return_counts=True)
    low, high = float(places[0]), float(places[-1])
    if high - low < _SAME:
        return low
    found: float = brentq(lambda bound: _chance_below(places, counts, bound) - share, low, high, xtol=_SAME)
    return found


def _chance_below(places: Points, counts: NDArray[np.int64], bound: float) -> float:
    if bound >= places[-1]:
        return 1.0
    if bound - places[0] < _SAME:
        return 0.0
    # Distances as shares of the lowest point's, which is 1; those above the bound are negative.
    far = (places - bound) / (places[0] - bound)
    saddle: float = brentq(
        lambda x: float((counts * far / (1 - x * far)).sum()) - 1 / x, _EDGE, 1 - _EDGE, xtol=1e-12
    )
    bent = far / (1 - saddle * far)
    height = -float(counts @ np.log1p(-saddle * far))
    width = 1 / np.sqrt(float(counts @ bent**2) + 1 / saddle**2)
    end = 8 * width
    while float(counts @ np.log1p((end * bent) ** 2)) < 2 * _NEGLIGIBLE:
        end *= 2
    steps = np.arange(0.0, np.arcsinh(end / width) + _STEP, _STEP)
    up = width * np.sinh(steps)
    turned = np.outer(up, bent)
    size = np.exp(height - 0.5 * (np.log1p(turned**2) @ counts))
    angle = np.arctan(turned) @ counts
    # The real part of exp(i angle) / (saddle + i up).
    heights = size * (saddle * np.cos(angle) + up * np.sin(angle)) / (saddle**2 + up**2)
    parts = heights * width * np.cosh(steps) * _STEP
    parts[0] /= 2
    return float(min(1.0, max(0.0, parts.sum() / np.pi)))
