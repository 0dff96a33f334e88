"""A calibration as a file: what it was made from, so that what has changed since is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from isthmus.core.calibrator import Calibrator
from isthmus.core.errors import Fault, IsthmusError

VERSION = 1


class Tie(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration holds for, and for nothing else.

    `models` has the digest of each model's weights, or its provider's id where nobody can know more.
    `template` is the hash of the route's prompt template, `config` that of what the config
    says of them.
    """

    route: str
    models: Mapping[str, str]
    template: str
    config: str


class Calibration(msgspec.Struct, frozen=True, kw_only=True, tag="calibration", tag_field="isthmus"):
    """What was learned of a cascade's first step.

    `threshold` accepts answers of at least that confidence; None: there is none to accept by, and `promise`
    says why. `confidences` are quantiles of those that it was tested on, `tasks` the counts of their tasks:
    what comes later is compared with them.
    """

    version: int = VERSION
    tie: Tie
    made_at_us: int
    calibrator: Calibrator
    threshold: Annotated[float, Meta(ge=0, le=1)] | None
    risk: Literal["added", "accepted"]
    max_risk: float
    delta: float
    promise: str
    labels: int
    confidences: tuple[float, ...]
    tasks: dict[str, int] = {}

    def dump(self) -> bytes:
        """The calibration as a file of JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def load(content: bytes) -> Calibration:
    """The calibration that `dump` wrote. Raises IsthmusError (`bad_calibration`)."""
    try:
        found = msgspec.json.decode(content, type=Calibration)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _bad("This is no calibration of Isthmus.") from error
    if found.version != VERSION:
        raise _bad(f"This calibration is of version {found.version}, and {VERSION} is read here.")
    return found


def stale(calibration: Calibration, now: Tie) -> tuple[str, ...]:
    """What has changed since, in words; nothing while the calibration holds."""
    then = calibration.tie
    reasons = []
    if then.route != now.route:
        reasons.append(f"it was made for the route {then.route}")
    for name in sorted({*then.models, *now.models}):
        if then.models.get(name) != now.models.get(name):
            reasons.append(f"{name} is another model than it was")
    if then.template != now.template:
        reasons.append("the prompt's template has changed")
    if then.config != now.config:
        reasons.append("the config has changed")
    return tuple(reasons)


def _bad(message: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST, message, code="bad_calibration", hint="Make it anew by calibrating the route."
    )
