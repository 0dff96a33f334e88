"""A calibration or a panel as a file: what it was made from, so that what has changed since is seen."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from isthmus.confidence.voting import Panel
from isthmus.core.calibrator import Calibrator
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.tie import Evidence, Tie

VERSION = 2
PANEL_VERSION = 1

_READ = frozenset({1, VERSION})
"""Files of version 1 know nothing of what escalating costs, and say by their silence that it has no part."""


L = TypeVar("L", "Calibration", "LearnedPanel")


class Calibration(msgspec.Struct, frozen=True, kw_only=True, tag="calibration", tag_field="isthmus"):
    """What was learned of a cascade's first step.

    `asked_at_us` is when the first of the answers was given that it was made from; 0 where nobody knows.
    `evidence` says which they were; None where that was not kept.
    `threshold` accepts answers of at least that confidence; None: there is none to accept by, and `promise`
    says why. `confidences` are quantiles of those that it was tested on, to compare others with.
    """

    version: int = VERSION
    tie: Tie
    made_at_us: int
    asked_at_us: int = 0
    evidence: Evidence | None = None
    calibrator: Calibrator
    threshold: Annotated[float, Meta(ge=0, le=1)] | None
    risk: Literal["added", "accepted"]
    max_risk: float
    delta: float
    promise: str
    labels: int
    confidences: tuple[float, ...]

    def dump(self) -> bytes:
        """The calibration as a file of JSON."""
        return _written(self)


class LearnedPanel(msgspec.Struct, frozen=True, kw_only=True, tag="panel", tag_field="isthmus"):
    """What was learned of a vote: who votes with what weight, or who is better alone.

    `asked_at_us` and `evidence` are as in a calibration. `overall` has the mean score of each model that the
    panel was learned of, by which those are ranked that may be asked. `learned` samples taught it, `tested`
    others judged it.
    """

    version: int = PANEL_VERSION
    tie: Tie
    made_at_us: int
    asked_at_us: int = 0
    evidence: Evidence | None = None
    panel: Panel
    overall: dict[str, float]
    learned: int
    tested: int

    def __post_init__(self) -> None:
        voters = self.panel.weights
        if not voters or self.panel.best not in voters or not voters.keys() <= self.overall.keys():
            raise ValueError("those who vote, and the best of them, are some that it was learned of")

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """The models with their mean scores, the best first; of equal ones that of the panel."""
        return tuple(sorted(self.overall.items(), key=lambda it: (-it[1], it[0] != self.panel.best)))

    def dump(self) -> bytes:
        """The panel as a file of JSON."""
        return _written(self)


def load(content: bytes) -> Calibration:
    """The calibration that `dump` wrote. Raises IsthmusError (`bad_calibration`)."""
    found = _read(content, Calibration, "calibration")
    if found.version not in _READ:
        raise _bad(f"This calibration is of version {found.version}, and up to {VERSION} is read here.")
    return found


def load_panel(content: bytes) -> LearnedPanel:
    """The panel that `dump` wrote. Raises IsthmusError (`bad_calibration`)."""
    found = _read(content, LearnedPanel, "panel")
    if found.version != PANEL_VERSION:
        raise _bad(f"This panel is of version {found.version}, and {PANEL_VERSION} is read here.")
    return found


def _written(learned: Calibration | LearnedPanel) -> bytes:
    return msgspec.json.format(msgspec.json.encode(learned), indent=1) + b"\n"


def _read(content: bytes, kind: type[L], word: str) -> L:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _bad(f"This is no {word} of Isthmus.") from error


def _bad(message: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST, message, code="bad_calibration", hint="Make it anew by calibrating the route."
    )
