"""Fits the factors of the rooflines to measured points: nonlinear least squares with priors, in numpy.

Each point's duration is a sum of physical times, each stretched by named factors, so its logarithm has a
simple gradient. Every model, and every model on one GPU by one engine, has an offset of its own with a
prior around zero: what is peculiar to one model does not bend the factors that all share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any, Literal, NamedTuple

import numpy as np

from isthmus.economics.sizing.calibrate import Point
from isthmus.economics.sizing.estimate import group, kin
from isthmus.economics.sizing.roofline import Term, tpot_terms, ttft_terms

Kind = Literal["tpot", "ttft"]


class Belief(NamedTuple):
    """What is thought of a factor's logarithm before any point is seen."""

    mean: float
    deviation: float


BELIEFS: Mapping[str, Belief] = {
    "bandwidth": Belief(0.2, 0.2),
    "bandwidth.4bit": Belief(0.1, 0.2),
    "experts": Belief(0.2, 0.15),
    "cache": Belief(0.2, 0.3),
    "cache.latent": Belief(0.0, 0.4),
    "compute": Belief(0.5, 0.4),
    "experts.compute": Belief(0.5, 0.2),
    "prefill.experts.compute": Belief(0.6, 0.3),
    "prefill.experts.narrow": Belief(0.2, 0.2),
    "attention": Belief(0.5, 0.4),
    "activations": Belief(-0.7, 0.2),
    "activations.experts": Belief(0.0, 0.2),
    "overhead": Belief(log(3.5), 0.6),
    "overhead.experts": Belief(0.0, 0.2),
    "overhead.latent": Belief(0.0, 0.4),
    "overhead.recurrent": Belief(0.0, 0.5),
    "step": Belief(-1.0, 1.0),
    "sequence": Belief(0.0, 1.0),
    "hops": Belief(log(4), 0.7),
    "link": Belief(log(2.5), 0.4),
    "network": Belief(1.0, 0.7),
    "prefill": Belief(0.6, 0.12),
    "prefill.8bit": Belief(0.1, 0.05),
    "prefill.4bit": Belief(0.2, 0.2),
    "prefill.attention": Belief(0.7, 0.15),
    "prefill.overhead": Belief(log(6), 0.7),
    "prefill.overhead.experts": Belief(-0.5, 0.4),
    "prefill.overhead.latent": Belief(2.0, 0.4),
    "prefill.overhead.recurrent": Belief(0.0, 0.7),
    "recurrence": Belief(0.0, 0.7),
    "mixing": Belief(0.0, 0.3),
    "mixing.output": Belief(0.0, 0.15),
    "queue": Belief(0.0, 0.3),
    "queue.lockstep.sglang": Belief(2.0, 0.7),
    "queue.lockstep.trtllm": Belief(1.0, 0.7),
    "queue.lockstep.vllm": Belief(0.0, 0.7),
    "wait": Belief(0.4, 0.4),
    "wait.trtllm": Belief(0.5, 0.7),
    "wait.sglang": Belief(0.5, 0.7),
    "gathering": Belief(-0.3, 0.3),
    "first": Belief(0.5, 0.1),
    "waiting": Belief(-0.7, 0.5),
}
_OF_GENERATION = Belief(0.0, 0.07)
_OTHER = Belief(0.0, 0.15)
# Times to the first token differ by more from model to model than 0.3 would have it: held that close, one
# model's peculiarity bent the factors that all share.
_OFFSETS: Mapping[str, float] = {"tpot": 0.3, "tpot|": 0.1, "ttft": 0.6, "ttft|": 0.3}
_NOISE: Mapping[Kind, tuple[float, Callable[[Any], Any]]] = {
    "tpot": (0.4, lambda error: 1 / np.sqrt(1 + error**2)),
    "ttft": (0.4, lambda error: 1 / (1 + error**2 / 3)),
}
_KNOWN = 0.05
_OF_FIRST = ("prefill", "queue", "wait", "gathering", "first", "recurrence", "mixing", "tpot")
_TERMS: Mapping[Kind, Callable[..., list[Term]]] = {"tpot": tpot_terms, "ttft": ttft_terms}
_ROUNDS = 20


def belief(factor: str) -> Belief:
    """The prior of a factor, or of an offset."""
    if factor in BELIEFS:
        return BELIEFS[factor]
    kind, colon, rest = factor.partition(":")
    if colon:
        return Belief(0.0, _OFFSETS[kind + ("|" if "|" in rest else "")])
    return _OF_GENERATION if factor.startswith("bandwidth.") else _OTHER


def offsets(kind: Kind, point: Point) -> tuple[str, str]:
    """The names of the point's own offsets."""
    return f"{kind}:{kin(point.setting.model)}", f"{kind}:{group(point.setting)}"


class Problem:
    """All points' terms of one kind as arrays: made once, fitted to any choice of the points.

    `known` holds factors that another fit has found already: they hardly move.
    """

    def __init__(self, kind: Kind, points: Sequence[Point]) -> None:
        self.kind = kind
        rows = [(_TERMS[kind](point.setting), offsets(kind, point)) for point in points]
        shared = sorted({name for terms, _ in rows for term in terms for name in term.factors})
        own = sorted({name for _, names in rows for name in names})
        self.names = shared + own
        places = {name: place for place, name in enumerate(self.names)}
        terms = [(row, term) for row, (some, _) in enumerate(rows) for term in some if term.seconds > 0]
        self._row = np.array([row for row, _ in terms])
        self._starts = np.flatnonzero(np.diff(self._row, prepend=-1))
        self._log_seconds = np.log([term.seconds for _, term in terms])
        self._powers = np.zeros((len(terms), len(shared)))
        for place, (_, term) in enumerate(terms):
            for name, power in term.factors.items():
                self._powers[place, places[name]] = power
        self._own = np.zeros((len(rows), len(own)))
        for row, (_, names) in enumerate(rows):
            for name in names:
                self._own[row, places[name] - len(shared)] = 1
        self._shared = len(shared)
        self.measured = np.log([getattr(point, f"{kind}_s") for point in points])

    def fit(self, chosen: Any, known: Mapping[str, float]) -> dict[str, float]:
        """The most probable logarithms of all factors and offsets, given the chosen points."""
        mean, deviation = np.array([self._belief(name, known) for name in self.names]).T
        noise, weigh = _NOISE[self.kind]
        factors = mean.copy()
        for _ in range(_ROUNDS):
            predicted, gradient = self._predict(factors)
            error = ((self.measured - predicted) / noise)[chosen]
            slope = (gradient / noise)[chosen]
            # Measurements have gross errors: what is far off counts less.
            weight = weigh(error)
            curvature = slope.T @ (slope * weight[:, None]) + np.diag(deviation**-2)
            pull = slope.T @ (weight * error) - (factors - mean) / deviation**2
            change = np.clip(np.linalg.solve(curvature, pull), -0.5, 0.5)
            factors = factors + change
            if np.abs(change).max() < 3e-3:
                break
        return dict(zip(self.names, factors.tolist(), strict=True))

    def predict(self, factors: Mapping[str, float]) -> Any:
        """The logarithms of all points' durations."""
        return self._predict(np.array([factors[name] for name in self.names]))[0]

    def _belief(self, name: str, known: Mapping[str, float]) -> Belief:
        return Belief(known[name], _KNOWN) if name in known else belief(name)

    def _predict(self, factors: Any) -> tuple[Any, Any]:
        parts = np.exp(self._log_seconds + self._powers @ factors[: self._shared])
        whole = np.add.reduceat(parts, self._starts)
        shares = self._powers * (parts / whole[self._row])[:, None]
        gradient = np.hstack([np.add.reduceat(shares, self._starts, axis=0), self._own])
        return np.log(whole) + self._own @ factors[self._shared :], gradient


class Fitter:
    """Fits both kinds to any choice of the points: first the steps, then what only the first token shows."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._tpot, self._ttft = Problem("tpot", points), Problem("ttft", points)

    def factors(self, chosen: Any) -> dict[Kind, dict[str, float]]:
        """The logarithms of the factors of both kinds."""
        tpot = self._tpot.fit(chosen, {})
        known = {name: value for name, value in tpot.items() if not name.startswith(_OF_FIRST)}
        return {"tpot": tpot, "ttft": self._ttft.fit(chosen, known)}
