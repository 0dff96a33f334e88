"""A model's way from one set of weights to another: shadow, canary, full; or back, where reality objects."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

import msgspec

from isthmus.core.calibrator import Calibrator
from isthmus.core.tie import Tie

Stage: TypeAlias = Literal["shadow", "canary", "full", "rolled back"]
"""How far a version has come: it answers nobody, a share of the requests, all of them, none any more."""

UNDER_WAY: tuple[Stage, ...] = ("shadow", "canary")
"""The stages at which two versions run side by side."""

_DIGITS = 12


class Version(msgspec.Struct, frozen=True):
    """One set of weights of a model.

    `weights` is what is loaded: a name of the catalogue, a file's absolute path, or, where a server of
    others' loads it, the adapter's name there. `sha256` is that of the content, None where only that server
    can read it.
    """

    weights: str
    sha256: str | None = None

    @property
    def id(self) -> str:
        """What tells it from the model's other versions: the beginning of a digest."""
        return (self.sha256 or hashlib.sha256(self.weights.encode()).hexdigest())[:_DIGITS]


def same(one: Version, other: Version) -> bool:
    """True where both are the same weights, wherever they lie."""
    return one.id == other.id


class _Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned for a route of a version's own answers, before it got any traffic.

    `version` is the id of the version. `file` is where it was written, with that SHA-256. `tie` is what it
    holds for, by the names of the config.
    """

    route: str
    version: str
    file: str
    sha256: str
    asked_at_us: int
    tie: Tie


class Recalibrated(_Learned, frozen=True, kw_only=True, tag="calibration"):
    """By what a route's cascade judges the answers of a version. What the file says stands here, and it may
    go."""

    calibrator: Calibrator
    threshold: float


class Relearned(_Learned, frozen=True, kw_only=True, tag="router"):
    """By what a route chooses where a version is one of those that it may ask. Of the file only the beginning
    stands here; it is read where it lies."""

    overall: tuple[tuple[str, float], ...]


class Reempanelled(_Learned, frozen=True, kw_only=True, tag="panel"):
    """Who votes with what weight where a version is one of the members. What the file says stands here, and
    it may go."""

    weights: tuple[tuple[str, float], ...]
    why: str
    overall: tuple[tuple[str, float], ...]


Anew: TypeAlias = Recalibrated | Relearned | Reempanelled


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a rollout: from here on `model` is at `stage`. Turns are added, never changed.

    `ground` are the weights that the config had when the rollout began, `old` those that were in force then,
    and `new` those that are to follow. `share` is how much of the traffic the new ones answer. `why` and
    `who` say what led to the turn; `number` counts all turns, 0 before the store has taken it. `anew` is what
    was learned anew of the versions' answers, for the routes that go by what is learned.
    """

    model: str
    stage: Stage
    share: float
    ground: Version
    old: Version
    new: Version
    why: str
    who: str
    at_us: int
    number: int = 0
    anew: tuple[Anew, ...] = ()

    @property
    def under_way(self) -> bool:
        """True while two versions run side by side."""
        return self.stage in UNDER_WAY

    @property
    def settled(self) -> Version:
        """The version that answers whoever is not drawn for a trial."""
        return self.new if self.stage == "full" else self.old

    def holds_for(self, own: Version) -> bool:
        """True where the turn is still about the model that the config has: its weights are `own`.

        Who writes weights into the config that the rollout does not know has decided otherwise.
        """
        return any(same(own, version) for version in (self.ground, self.old, self.new))

    def then(self, stage: Stage, share: float, *, why: str, who: str, at_us: int) -> Turn:
        """The turn that follows on this one."""
        return msgspec.structs.replace(
            self, stage=stage, share=share, why=why, who=who, at_us=at_us, number=0
        )

    def anew_of(self, route: str, version: Version) -> Anew | None:
        """What that route goes by where this version answers, if it was learned of its own answers."""
        return next((it for it in self.anew if (it.route, it.version) == (route, version.id)), None)

    def words(self) -> str:
        """Where the rollout is, in words."""
        return f"{self.stage} ({self.share:.0%})" if self.stage == "canary" else self.stage
