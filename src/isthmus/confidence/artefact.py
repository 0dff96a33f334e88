"""A calibration as a file: what it was made from, so that what has changed since is seen."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from isthmus.core.calibrator import Calibrator
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.tie import Evidence, Tie

VERSION = 2

_READ = frozenset({1, VERSION})
"""Files of version 1 know nothing of what escalating costs, and say by their silence that it has no part."""


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
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def load(content: bytes) -> Calibration:
    """The calibration that `dump` wrote. Raises IsthmusError (`bad_calibration`)."""
    try:
        found = msgspec.json.decode(content, type=Calibration)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _bad("This is no calibration of Isthmus.") from error
    if found.version not in _READ:
        raise _bad(f"This calibration is of version {found.version}, and up to {VERSION} is read here.")
    return found


def _bad(message: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST, message, code="bad_calibration", hint="Make it anew by calibrating the route."
    )
