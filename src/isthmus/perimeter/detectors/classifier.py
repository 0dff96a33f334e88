"""Texts about a topic, known by a linear classifier that an operator has trained on texts of their own.

Sources: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009; J. Duchi,
E. Hazan, Y. Singer, "Adaptive Subgradient Methods", JMLR 12 (2011), for the logistic regression.
"""

from __future__ import annotations

import base64
import math
import re
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from zlib import crc32

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.lowercase import lowered

WINDOW = 128
"""So many words are judged together, so that a few sentences in a long text are seen."""

SHORTEST = 8
"""What has fewer words is not judged."""

FEWEST = 20
"""So many texts on either side are the least that can be learned from and measured by."""

EPOCHS = 12
"""So often the training goes over its texts."""

_STEP = WINDOW // 2
_BUCKETS = 1 << 16
_RATE = 0.3
_SHRINK = 1e-5
_FAINTEST = 0.2
_WORD = re.compile(r"[\u0e00-\u0eff\u2e80-\ua4ff\uf900-\ufaff]|[^\W\d_\u2e80-\ua4ff]+")


class Measured(msgspec.Struct, frozen=True):
    """How a classifier did on texts that it was not trained on: of so many `about` the topic it `found` some,
    and of so many `other` ones it was `mistaken` in some."""

    about: int
    found: int
    other: int
    mistaken: int


class Model(msgspec.Struct, frozen=True):
    """A trained classifier: a weight for each bucket of hashed words and pairs of words, and no words."""

    bias: float
    weights: Sequence[float]
    measured: Measured

    def dump(self) -> bytes:
        """The model as a file of JSON; the weights are floats of four bytes, little-endian, in base64."""
        weights = base64.b64encode(_little_endian(array("f", self.weights)).tobytes()).decode()
        return msgspec.json.encode(_Saved(self.bias, weights, self.measured)) + b"\n"

    def score(self, words: Sequence[str]) -> float:
        """How likely words in a row are about the topic, in [0, 1]."""
        features = _features(words)
        return _logistic(self.bias + _sum(self.weights, features) / math.sqrt(len(features)))


class _Saved(msgspec.Struct, frozen=True, tag="classifier", tag_field="isthmus"):
    bias: float
    weights: str
    measured: Measured


def load(data: bytes) -> Model:
    """The model that `dump` wrote. Raises ValueError for anything else."""
    try:
        saved = msgspec.json.decode(data, type=_Saved)
        weights = _little_endian(array("f", base64.b64decode(saved.weights, validate=True)))
    except ValueError:
        weights = array("f")
    if len(weights) != _BUCKETS or not all(map(math.isfinite, weights)):
        raise ValueError("This is no classifier of a topic: train it anew.")
    return Model(saved.bias, weights, saved.measured)


def train(about: Sequence[str], other: Sequence[str], sure: float, tick: Callable[[], None]) -> Model:
    """A classifier of what tells the texts `about` a topic from the `other` ones.

    A fifth of the texts is kept from it, and it is measured by them: found is what it scores `sure` or more.
    It calls `tick` after each of the `EPOCHS` rounds. Equal texts give equal models. Raises ValueError for
    too few texts.
    """
    sides = [sorted({(_digest(text), text) for text in some}) for some in (other, about)]
    if min(map(len, sides)) < FEWEST:
        raise ValueError(f"{FEWEST} texts about the topic and {FEWEST} others are the least to learn from.")
    kept = [(text, truth) for truth, side in enumerate(sides) for _, text in side[::5]]
    # Mixed, and in an order that does not depend on that of the files.
    mixed = sorted(
        (digest, text, truth)
        for truth, side in enumerate(sides)
        for number, (digest, text) in enumerate(side)
        if number % 5
    )
    samples = [(_features(words), truth) for _, text, truth in mixed for _, _, words in _windows(text)]
    if len({truth for _, truth in samples}) < len(sides):
        raise ValueError(f"Texts of fewer than {SHORTEST} words are all that one side has.")
    bias, weights = _fitted(samples, tick)
    unmeasured = Model(bias, weights, Measured(0, 0, 0, 0))
    return msgspec.structs.replace(unmeasured, measured=_measured(unmeasured, kept, sure))


class Classifier:
    """Finds what is about a topic, window by window. A finding's kind is `topic.` and `name`."""

    name = "classifier"

    def __init__(self, name: str, model: Model) -> None:
        self._kind = f"topic.{name}"
        self.kinds = frozenset({self._kind})
        self._model = model

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; windows overlap by half."""
        judged = ((start, end, self._model.score(words)) for start, end, words in _windows(text))
        return [
            Finding(self._kind, start, end, self.name, score)
            for start, end, score in judged
            if score >= _FAINTEST
        ]


def _windows(text: str) -> Iterator[tuple[int, int, list[str]]]:
    words = [(match[0], *match.span()) for match in _WORD.finditer(lowered(text))]
    if len(words) < SHORTEST:
        return
    for at in range(0, max(1, len(words) - _STEP), _STEP):
        window = words[at : at + WINDOW]
        yield window[0][1], window[-1][2], [word for word, _, _ in window]


def _features(words: Sequence[str]) -> list[int]:
    """The buckets of the words and of the pairs of neighbours, each once."""
    grams = {*words, *(f"{one} {other}" for one, other in pairwise(words))}
    return sorted({crc32(gram.encode("utf-8", "replace")) % _BUCKETS for gram in grams})


def _fitted(samples: Sequence[tuple[list[int], int]], tick: Callable[[], None]) -> tuple[float, list[float]]:
    """The bias and weights of a logistic regression in which both sides weigh the same."""
    ones = sum(truth for _, truth in samples)
    worth = (len(samples) / (2 * (len(samples) - ones)), len(samples) / (2 * ones))
    weights, squares = [0.0] * _BUCKETS, [1e-6] * _BUCKETS
    bias, bias_squares = 0.0, 1e-6
    for _ in range(EPOCHS):
        for features, truth in samples:
            scale = 1 / math.sqrt(len(features))
            off = (_logistic(bias + _sum(weights, features) * scale) - truth) * worth[truth]
            for bucket in features:
                slope = off * scale + _SHRINK * weights[bucket]
                squares[bucket] += slope * slope
                weights[bucket] -= _RATE * slope / math.sqrt(squares[bucket])
            bias_squares += off * off
            bias -= _RATE * off / math.sqrt(bias_squares)
        tick()
    return bias, weights


def _measured(model: Model, kept: Sequence[tuple[str, int]], sure: float) -> Measured:
    seen = [
        (truth, any(model.score(words) >= sure for _, _, words in _windows(text))) for text, truth in kept
    ]
    return Measured(
        about=sum(truth for truth, _ in seen),
        found=sum(truth and taken for truth, taken in seen),
        other=sum(not truth for truth, _ in seen),
        mistaken=sum(taken and not truth for truth, taken in seen),
    )


def _sum(weights: Sequence[float], features: Sequence[int]) -> float:
    return sum(map(weights.__getitem__, features))


def _logistic(margin: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, margin))))


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _little_endian(values: array[float]) -> array[float]:
    """The values with the bytes that a file has, or back: on most machines it is the same."""
    if sys.byteorder == "big":
        values.byteswap()
    return values
